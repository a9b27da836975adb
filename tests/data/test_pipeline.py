"""Training batches can be stopped and gone on with anywhere; evaluation reads all images once."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from grain._src.python.dataset.transformations import process_prefetch
from PIL import Image

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.dataset import Task, trainval_task, with_inputs
from dedn_jax.data.pictures.pictures import Pictures, PictureTransform
from dedn_jax.data.pipeline import (
    READ_HERE,
    Reading,
    Shard,
    TrainBatches,
    evaluation_batches,
    read_ahead,
)
from dedn_jax.data.prepared.build import build
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sampler import Sampler
from dedn_jax.errors import InputError, ProcessesError
from tests.helpers.forks import Forked
from tests.helpers.outputs import all_output, next_line, whole
from tests.helpers.tasks import CHANNELS, IMAGES, REGIONS, make_task

STEPS = 25


def make_sampler(task: Task, balanced: bool = True, seed: int = 3) -> Sampler:
    return Sampler(task.train, task.labels[task.train], 8, balanced, seed, 0)


def as_lists(batches: object) -> list[tuple[list, list]]:
    return [(f.tolist(), y.tolist()) for f, y in batches]  # type: ignore[attr-defined]


@pytest.mark.parametrize("balanced", [True, False])
def test_batches_are_the_samplers(balanced: bool) -> None:
    task = make_task()
    sampler = make_sampler(task, balanced)
    batches = list(TrainBatches(task, sampler, STEPS))
    assert len(batches) == STEPS
    for step, (features, labels) in enumerate(batches):
        images = sampler(step)
        assert features.shape == (8, CHANNELS, REGIONS)
        assert features.dtype == np.float32
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(features[:, 0, 0], images)
        np.testing.assert_array_equal(labels, images % 6)


def test_deterministic() -> None:
    task = make_task()
    first = as_lists(TrainBatches(task, make_sampler(task), STEPS))
    assert as_lists(TrainBatches(task, make_sampler(task), STEPS)) == first
    assert as_lists(TrainBatches(task, make_sampler(task, seed=4), STEPS)) != first


@pytest.mark.parametrize("done", [0, 1, 2, 3, 13, STEPS - 1, STEPS])
def test_a_training_that_goes_on(done: int) -> None:
    task = make_task()
    whole = as_lists(TrainBatches(task, make_sampler(task), STEPS))
    iterator = TrainBatches(task, make_sampler(task), STEPS)
    assert as_lists(next(iterator) for _ in range(done)) == whole[:done]
    # Batches that were read ahead are not lost.
    assert as_lists(TrainBatches(task, make_sampler(task), STEPS, done=done)) == whole[done:]
    assert as_lists(iterator) == whole[done:]


@pytest.mark.parametrize("count", [1, 6, 7, 8, 20])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_evaluation_batches(count: int, batch_size: int) -> None:
    images = np.random.default_rng(0).permutation(IMAGES)[:count]
    found: list[float] = []
    for features, valid in evaluation_batches(make_task().inputs, images, batch_size):
        assert features.shape == (batch_size, CHANNELS, REGIONS)  # one shape: compiled once
        assert 1 <= valid <= batch_size
        found += features[:valid, 0, 0].tolist()
    assert found == images.tolist()


# Pictures, read by worker processes and by several processes.

AUGMENTED = PictureTransform(40, 32, True, 0.08, 0.5)
PICTURE_STEPS = 8
READ_A_SHARD = """
import sys
import numpy as np
from dedn_jax.data.pictures.pictures import Pictures, PictureTransform
from dedn_jax.data.pipeline import Reading, Shard, TrainBatches
from dedn_jax.data.dataset import trainval_task, with_inputs
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sampler import Sampler

folder, out, process, processes = sys.argv[1:]
prepared = open_prepared(folder)
pictures = Pictures(
    prepared.pictures, PictureTransform(40, 32, True, 0.08, 0.5), prepared.digest
)
task = trainval_task(with_inputs(prepared.annotations, pictures))
sampler = Sampler(task.train, task.labels[task.train], 7, False, 3, 0)
shard = Shard(int(process), int(processes))
batches = list(TrainBatches(task, sampler, 8, Reading(shard=shard)))
np.savez(out, inputs=[x for x, _ in batches], labels=[y for _, y in batches])
"""
WAIT_WITH_A_WORKER = """
import time
import numpy as np
from dedn_jax.data.features.maps import InMemoryFeatures
from dedn_jax.data.pipeline import Reading, evaluation_batches

os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Python says that semaphores are left
maps = InMemoryFeatures(np.zeros((4, 3, 2), np.float32))
batches = evaluation_batches(maps, np.zeros(1000, int), 1, Reading(workers=1))
next(batches)
print("reading", flush=True)
time.sleep(100)
"""


LEAVES_A_BATCH = """
import numpy as np
from dedn_jax.data.features.maps import InMemoryFeatures
from dedn_jax.data.pipeline import Reading, evaluation_batches

maps = InMemoryFeatures(np.ones((4, 64, 49), np.float32))
batches = list(evaluation_batches(maps, np.arange(4), 1, Reading(workers=1)))
{first}
cycle = [batches[:2]]
cycle.append(cycle)
del batches[:{gone}], cycle
print("done", flush=True)
"""
WHILE_COLLECTING = """
import gc, threading, time

class Slow:
    def __init__(self):
        self.cycle = self

    def __del__(self):
        collecting.set()
        time.sleep(1)

collecting = threading.Event()
Slow()
threading.Thread(target=gc.collect, daemon=True).start()
assert collecting.wait(60)
"""


def picture_files() -> list[tuple[bytes, str]]:
    """A picture of its own colours for each image."""
    files = []
    for i in range(IMAGES):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((60, 48)).save(file, "JPEG")
        files.append((file.getvalue(), f"{i}.jpg"))
    return files


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are given the same as always, in forks of a process that has imported what they do.

    As long as they read a few batches, they take most of their time to import it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dedn_jax.data.pipeline"])
    mp = SimpleNamespace(get_context=lambda _: context)
    monkeypatch.setattr(process_prefetch, "mp", mp)


@pytest.fixture(scope="module")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = make_task()
    unseen = task.eval_unseen
    annotations = Annotations(
        source="made up",
        labels=task.labels,
        class_embeddings=task.class_embeddings,
        word_vectors=np.eye(6, dtype=np.float32),
        trainval=task.train[4:],
        test_seen=task.train[:4],
        test_unseen=unseen,
        class_names=tuple("abcdef"),
        attribute_names=tuple("uvwxyz"),
    )
    pictures = [Picture(name, encoded=data) for data, name in picture_files()]
    made_up = PictureSet("made_up", annotations, pictures)
    return build(made_up, tmp_path_factory.mktemp("sets")).folder


@pytest.fixture(scope="module")
def picture_task(prepared_folder: Path) -> Task:
    prepared = open_prepared(prepared_folder)
    pictures = Pictures(prepared.pictures, AUGMENTED, prepared.digest)
    return trainval_task(with_inputs(prepared.annotations, pictures))


def picture_sampler(task: Task) -> Sampler:
    return Sampler(task.train, task.labels[task.train], 7, False, 3, 0)


def picture_batches(task: Task, reading: Reading = READ_HERE, done: int = 0) -> TrainBatches:
    return TrainBatches(task, picture_sampler(task), PICTURE_STEPS, reading, done)


def assert_equal_batches(found: Any, expected: Any) -> None:
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        for a, b in zip(own, other, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_pictures_are_augmented_anew_in_every_step(picture_task: Task) -> None:
    seen: dict[int, set[bytes]] = {}
    sampler = picture_sampler(picture_task)
    for step, (inputs, labels) in enumerate(picture_batches(picture_task)):
        assert inputs.shape == (7, 32, 32, 3)
        assert inputs.dtype == np.uint8
        images = sampler(step)
        np.testing.assert_array_equal(labels, picture_task.labels[images])
        for image, picture in zip(images.tolist(), inputs, strict=True):
            assert picture.tobytes() not in seen.setdefault(image, set())
            seen[image].add(picture.tobytes())
    assert max(map(len, seen.values())) > 1


@pytest.mark.usefixtures("forked_workers")
def test_workers_change_nothing(picture_task: Task) -> None:
    whole = list(picture_batches(picture_task))
    one = picture_batches(picture_task, Reading(workers=1))
    assert_equal_batches([*one], whole)
    # Gone on with other numbers of workers.
    for workers, done in ((2, 3), (0, 5)):
        assert_equal_batches(picture_batches(picture_task, Reading(workers), done), whole[done:])
    two = picture_batches(picture_task, Reading(workers=2))
    assert_equal_batches(two, whole)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 9])  # 9: more than images in a batch
def test_shards_put_together_are_the_whole(picture_task: Task, processes: int) -> None:
    parts = [
        list(picture_batches(picture_task, Reading(shard=Shard(process, processes))))
        for process in range(processes)
    ]
    assert max(len(p[0][1]) for p in parts) == -(-7 // processes)
    together = [
        tuple(np.concatenate([p[step][i] for p in parts]) for i in range(2))
        for step in range(PICTURE_STEPS)
    ]
    assert_equal_batches(together, picture_batches(picture_task))


def test_processes_that_each_read_their_shard(
    picture_task: Task, prepared_folder: Path, tmp_path: Path
) -> None:
    files = [tmp_path / f"{process}.npz" for process in range(2)]
    started = [
        Forked("-c", READ_A_SHARD, str(prepared_folder), str(file), str(i), "2")
        for i, file in enumerate(files)
    ]
    for process in started:
        _, messages = process.communicate(timeout=60)
        assert process.returncode == 0, messages
    first, second = (np.load(file) for file in files)
    assert first["inputs"].shape == (PICTURE_STEPS, 4, 32, 32, 3)
    assert second["inputs"].shape == (PICTURE_STEPS, 3, 32, 32, 3)
    together = [
        tuple(np.concatenate([part[name][step] for part in (first, second)]) for name in first)
        for step in range(PICTURE_STEPS)
    ]
    assert_equal_batches(together, picture_batches(picture_task))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("forked_workers")
def test_a_damaged_picture_in_a_worker_is_one_line(workers: int) -> None:
    files = picture_files()
    files[9] = (files[9][0][:200], "class/broken.jpg")
    pictures = Pictures(files, AUGMENTED, "")
    batches = evaluation_batches(pictures, np.arange(20), 4, Reading(workers))
    found = [next(batches)[0], next(batches)[0]]
    np.testing.assert_array_equal(np.concatenate(found), pictures[np.arange(8)])
    with pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value).startswith("class/broken.jpg: the ")
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()  # the error has ended them


def test_evaluation_batches_of_workers() -> None:
    """Every image once; workers leave JAX's devices and this process's signals alone, and end."""

    class Spy:  # defined here, it is sent to the workers whole: they cannot import tests
        def __len__(self) -> int:
            return IMAGES

        def __getitem__(self, indices: np.ndarray) -> np.ndarray:
            import os
            import sys

            import numpy as np

            bridge = sys.modules.get("jax._src.xla_bridge")
            devices = len(bridge._backends) if bridge else 0
            tools = [name in sys.modules for name in ("tensorflow", "torch")]
            row = [os.getpid(), devices, sum(tools)]
            return np.asarray([[i, *row] for i in indices.tolist()])

    images = np.random.default_rng(0).permutation(IMAGES)[:47]
    batches = evaluation_batches(Spy(), images, 4, Reading(workers=2))  # type: ignore[arg-type]
    found, workers = [], set()
    for inputs, valid in batches:
        assert inputs.shape == (4, 4)
        found += inputs[:valid, 0].tolist()
        assert not inputs[:, 2:].any()
        workers |= set(inputs[:, 1].tolist())
        if len(found) == 12:
            assert len(workers) == 2 and os.getpid() not in workers
            for worker in workers:  # as Ctrl-C in a terminal, and schedulers, do
                os.kill(worker, signal.SIGINT)
                os.kill(worker, signal.SIGTERM)
    assert found == images.tolist()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("first", "gone"),
    [("", 2), (WHILE_COLLECTING, 4)],
    ids=["in a cycle and global", "in a cycle while another thread collects"],
)
def test_no_shared_memory_is_left_at_the_end(first: str, gone: int, tmp_path: Path) -> None:
    """Batches that are there when a process ends: Python would warn of leaks behind results."""
    with all_output(LEAVES_A_BATCH.format(first=first, gone=gone), tmp_path) as (_, output):
        assert whole(output) == "done\n"


@pytest.mark.usefixtures("forked_workers")
def test_workers_end_when_batches_are_dropped() -> None:
    task = make_task()
    batches = TrainBatches(task, make_sampler(task), 10**6, Reading(workers=1))
    next(batches)
    assert len(multiprocessing.active_children()) == 1
    del batches
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_that_is_killed_is_one_line() -> None:
    """As the system does when memory runs out."""
    task = make_task()
    batches = TrainBatches(task, make_sampler(task), 10**6, Reading(workers=1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(ProcessesError, match=r"config.data.workers=1\) was killed by SIGKILL: the"):
        list(itertools.islice(batches, 1000))  # what it had read ahead is there still
    assert not multiprocessing.active_children()


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with all_output(WAIT_WITH_A_WORKER, tmp_path) as (parent, output):
        assert next_line(output) == "reading\n"
        parent.kill()
        assert not next_line(output, 20)  # nobody is left who could print: the worker neither


def test_reading_ahead_keeps_the_order_and_its_distance() -> None:
    """However long the readings take, and however many there are."""
    read: list[int] = []

    def slow(item: str) -> str:
        time.sleep(0.002 * (len(item) % 3))
        read.append(len(item))
        return item

    items = ["x" * i for i in range(200)]
    results = read_ahead(items, slow, 8)
    for i, result in zip(range(100), results, strict=False):
        assert result == items[i]
        threads = os.cpu_count() or 1
        assert len(read) <= i + 1 + max(8, threads) + threads
    assert list(results) == items[100:]
    assert list(read_ahead([], slow, 8)) == []


def test_reading_ahead_passes_errors_on() -> None:
    results = read_ahead([1, 2, 0, 3], lambda x: 6 // x, 2)
    assert [next(results), next(results)] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
