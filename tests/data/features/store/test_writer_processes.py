"""Making a store in several processes: kills at any moment, and memory."""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import pytest

WRITE = """
import sys, time
from pathlib import Path
from dedn_jax.data.features.store.writer import StoreWriter

folder, process, processes, finish = sys.argv[1], *map(int, sys.argv[2:5])
plan = make_plan(images=120, channels=64, grid=(14, 14))
maps = make_features(plan, range(4))  # one for all shards: making them would take the time
print("ready", flush=True)
with StoreWriter(folder, plan, make_annotations(120)) as writer:
    for shard in writer.missing(process, processes):
        writer.write(shard, maps + np.float32(shard))
    if finish:
        writer.finish()
"""


def test_two_processes_and_kills_give_the_same_bytes(tmp_path, start_python, content):
    def run(folder, process=0, processes=1, finish=1):
        started = start_python(WRITE, folder, process, processes, finish)
        assert started.stdout.readline() == "ready\n", started.stderr.read()
        return started

    def end(started):
        _, stderr = started.communicate(timeout=60)
        assert started.returncode == 0, stderr

    one = run(tmp_path / "one")
    began = time.perf_counter()
    end(one)
    duration = time.perf_counter() - began
    expected = content(tmp_path / "one")
    assert len(expected) == 32

    both = [run(tmp_path / "two", i, 2, finish=0) for i in (0, 1)]
    for started in both:
        end(started)
    end(run(tmp_path / "two"))
    assert content(tmp_path / "two") == expected

    rng = random.Random(int(os.environ.get("DEDN_KILL_SEED", "0")))
    killed = 0
    for _ in range(6):
        started = run(tmp_path / "killed")
        time.sleep(rng.uniform(0, duration / 3))
        started.kill()
        started.communicate()
        killed += started.returncode == -signal.SIGKILL
    assert killed
    end(run(tmp_path / "killed"))
    assert content(tmp_path / "killed") == expected


# Every call that changes the folder is a moment to be killed at: before it, and half-way through a
# write. Children are forked: hundreds of processes would take minutes to start.
KILL_ANYWHERE = """
import builtins, fcntl, os, shutil, signal, sys
from pathlib import Path
from dedn_jax.data.features.store import writer as module
from dedn_jax.data.features.store.writer import StoreWriter

base = Path(sys.argv[1])
plan = make_plan(images=10)

def write(folder):
    with StoreWriter(folder, plan, make_annotations(10)) as writer:
        for shard in writer.missing():
            writer.write(shard, make_features(plan, writer.image_range(shard)))
        writer.finish()

def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}

def hooked(function, left):
    def call(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

def child(folder, moment):
    left = [moment]
    for where, name in ((os, "fsync"), (os, "replace"), (os, "chmod"), (os, "unlink"),
                        (os, "mkdir"), (os, "fdopen"), (os, "open"),
                        (fcntl, "flock")):
        setattr(where, name, hooked(getattr(where, name), left))
    encoded = StoreWriter._encoded
    StoreWriter._encoded = hooked(encoded, left)
    write(folder)

write(base / "whole")
expected = content(base / "whole")
moment, kills, states = 0, 0, set()
while True:
    moment += 1
    folder = base / f"killed {moment}"
    process = os.fork()
    if not process:
        try:
            child(folder, moment)
        finally:
            os._exit(0)
    status = os.waitpid(process, 0)[1]
    if not os.WIFSIGNALED(status):
        break
    kills += 1
    if folder.exists():
        states.add(tuple(sorted(n.rsplit(".npy.", 1)[0] for n in content(folder))))
    write(folder)
    assert content(folder) == expected, (moment, sorted(content(folder)))
    shutil.rmtree(folder)
assert content(folder) == expected
print(kills, len(states))
"""


def test_killed_at_every_step(tmp_path, start_python):
    process = start_python(KILL_ANYWHERE, tmp_path)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    kills, states = map(int, stdout.split())
    assert kills > 40
    assert states > 10


MEMORY = """
import sys
from dedn_jax.data.features.store.reader import open_store
from dedn_jax.data.features.store.writer import StoreWriter

def peak():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("VmHWM:"))

images = int(sys.argv[2])
plan = make_plan(images=images, channels=256, grid=(14, 14), shard_images=80, normalized=False)
maps = make_features(plan, range(4))
with StoreWriter(sys.argv[1], plan, make_annotations(images)) as writer:
    for shard in writer.missing():
        writer.write(shard, np.tile(maps, (20, 1, 1)))
    writer.finish()
print(peak())
features = open_store(sys.argv[1]).features("float32")
rng = np.random.default_rng(0)
for batch in np.array_split(rng.permutation(images), images // 16):
    features[batch]
print(peak())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_images(tmp_path, start_python):
    peaks = []
    for images in (400, 1600):  # 40 and 160 MB
        process = start_python(MEMORY, tmp_path / str(images), images)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        peaks.append([int(x) for x in stdout.split()])
        for file in (tmp_path / str(images)).iterdir():
            file.unlink()
    for small, large in zip(*peaks, strict=True):
        assert large - small < 15e6
