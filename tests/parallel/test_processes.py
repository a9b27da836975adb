"""The same run on one device, on eight, by `jit` and by `pmap`, and on several processes."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.inference.run import open_run
from dedn_jax.parallel.mesh import Layout
from dedn_jax.training.logs import read_lines
from tests.helpers.devices import process_flags, xla_flags
from tests.helpers.forks import Forked
from tests.helpers.jobs import do_jobs, wait_for_steps
from tests.made_up import prepared_folder, published_file

FLAGS = [
    "--config=base",
    "--config.train.epochs=5",  # 54 images, batches of 10: 27 steps
    "--config.train.batch_size=10",
    "--config.train.balanced=false",
    "--config.data.groups=0;1-3;4-5",
    "--config.train.checkpoint_every=25",
    "--config.train.log_every=1",
    "--config.optimizer.learning_rate=1e-4",
    # RMSprop divides by a gradient's size: where that is rounding alone, so is the step.
    "--config.optimizer.epsilon=1e-3",
    "--config.optimizer.warmup_epochs=0.5",
    "--config.optimizer.clip_norm=0.5",
    "--config.optimizer.ema_decay=0.5",
    "--config.selection.protocol=last",
]


def start(folder: Path, flags: list[str], devices: int = 1) -> Forked:
    job = ["-m", "dedn_jax", "train", f"--workdir={folder}", *flags]
    return Forked(*job, XLA_FLAGS=xla_flags(devices))


def finish(*processes: Forked) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def start_several(folder: Path, flags: list[str], processes: int) -> list[Forked]:
    return [start(folder, [*flags, *own]) for own in process_flags(processes)]


def parameters(folder: Path) -> list[np.ndarray]:
    """The selected parameters, restored by this process on its own device."""
    return [np.asarray(x) for x in jax.tree.leaves(open_run(folder).params)]


def assert_same(folder: Path, other: Path) -> None:
    """Parameters within 5e-6 of the largest in their array, metrics and losses equal."""
    for a, b in zip(parameters(folder), parameters(other), strict=True):
        assert np.abs(a - b).max() <= 5e-6 * np.abs(a).max(), other.name
    mine, theirs = (read_json(f / "result.json")["test"] for f in (folder, other))
    assert mine == theirs, other.name
    mine, theirs = (read_lines(f / "metrics.jsonl") for f in (folder, other))
    assert [r["step"] for r in mine] == [r["step"] for r in theirs], other.name
    for a, b in zip(mine, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), other.name


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = published_file(tmp_path_factory.mktemp("data") / "features.hdf5")
    return [*FLAGS, f"--config.data.path={path}"]


@pytest.fixture(scope="module")
def one(features: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one device."""
    folder = tmp_path_factory.mktemp("one") / "run"
    finish(start(folder, features))
    return folder


# A batch of 10 is filled up to 16 rows for eight devices.
EIGHT_DEVICES = {
    "jit": [],
    "pmap": ["--config.distribution.strategy=pmap"],
    # Four parts of a batch and two of the rows, of which the sets have 6, 1, 3 and 2.
    "attributes_cut": [
        "--config.distribution.attribute_shards=2",
        "--config.data.on_device=sharded",
    ],
    "state": [
        "--config.distribution.state=sharded",
        "--config.data.on_device=sharded",
        "--config.train.steps_per_call=7",
    ],
}
MORE_ON_EIGHT = {
    "on_device": ["--config.data.on_device=replicated", "--config.train.steps_per_call=7"],
    "sharded": ["--config.data.on_device=sharded", "--config.train.steps_per_call=7"],
    "attributes": ["--config.distribution.attribute_shards=8"],
}
TWO_PROCESSES = {"jit": [], "sharded": ["--config.data.on_device=sharded"]}
MORE_BY_TWO = {
    "pmap": ["--config.distribution.strategy=pmap"],
    # With attributes shared out between processes, those that do so read the same images.
    "attributes": ["--config.distribution.attribute_shards=2"],
}
FOUR_PROCESSES = {"jit": [], "state": ["--config.distribution.state=sharded"]}


@pytest.mark.parametrize(
    ("cases", "devices", "processes"),
    [
        (EIGHT_DEVICES, 8, 1),
        (TWO_PROCESSES, 1, 2),
        pytest.param(MORE_ON_EIGHT, 8, 1, marks=pytest.mark.slow),
        pytest.param(MORE_BY_TWO, 1, 2, marks=pytest.mark.slow),
        pytest.param(FOUR_PROCESSES, 1, 4, marks=pytest.mark.slow),
    ],
    ids=["eight devices", "two processes", "more on eight", "more by two", "four processes"],
)
def test_as_on_one_device(
    one: Path,
    features: list[str],
    cases: dict[str, list[str]],
    devices: int,
    processes: int,
    tmp_path: Path,
) -> None:
    """One case after the other: they share most of what a process does before its first step."""
    runs = [
        ["train", f"--workdir={tmp_path / name}", *features, *more] for name, more in cases.items()
    ]
    do_jobs(*runs, devices=devices, processes=processes)
    for name in cases:
        assert_same(one, tmp_path / name)


def test_shards_that_do_not_fit(features: list[str], tmp_path: Path) -> None:
    more = [f"--workdir={tmp_path / 'run'}", "--config.distribution.attribute_shards=3"]
    with pytest.raises(InputError, match="attribute_shards=3 does not fit 1 devices"):
        Layout.of_devices(attribute_shards=3)
    assert main(["train", *features, *more]) == 2
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a layout asks of a device."""

    id: int
    process_index: int


def test_devices_of_a_process_lie_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a TPU pod, where the numbers of a host's chips do not follow each other."""
    chips = [Chip(i, (i // 2 % 2) + 2 * (i // 8)) for i in range(16)]  # 0 1 4 5 on the first
    monkeypatch.setattr("dedn_jax.parallel.mesh.Mesh", lambda devices, names: devices)
    mesh = Layout.of_devices(chips, attribute_shards=2).mesh
    assert [[c.process_index for c in row] for row in mesh] == [
        [p, p] for p in (0, 0, 1, 1, 2, 2, 3, 3)
    ]
    assert [c.id for c in mesh[0]] + [c.id for c in mesh[1]] == [0, 1, 4, 5]


@pytest.mark.slow
def test_a_checkpoint_of_four_processes_goes_on_anywhere(
    one: Path, features: list[str], tmp_path: Path
) -> None:
    several = start_several(tmp_path / "four", features, 4)
    lines = functools.partial(read_lines, tmp_path / "four" / "metrics.jsonl")
    wait_for_steps(tmp_path / "four", 12, several)
    several[3].send_signal(signal.SIGTERM)  # one is told to stop: all save and stop
    for process in several:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 128 + signal.SIGTERM, errors
    assert 0 < len(lines()) < 27
    shutil.copytree(tmp_path / "four", tmp_path / "eight")
    finish(start(tmp_path / "four", features))
    sharded = [*features, "--config.distribution.state=sharded"]
    finish(start(tmp_path / "eight", sharded, devices=8))
    assert_same(one, tmp_path / "four")
    assert_same(one, tmp_path / "eight")


@pytest.mark.slow
def test_several_stop_within_an_evaluation(tmp_path: Path) -> None:
    """All at the same batch; the run that goes on evaluates first."""
    flags = [
        *(*FLAGS, f"--config.data.path={published_file(tmp_path / 'features.hdf5', 480)}"),
        "--config.model.experts=coarse",
        "--config.selection.protocol=test-best",
        "--config.train.epochs=1",  # 27 steps
        "--config.train.evaluate_every=9",
        "--config.evaluate.batch_size=1",  # 210 of them
    ]
    finish(start(tmp_path / "one", flags))
    several = start_several(tmp_path / "two", flags, 2)
    lines = functools.partial(read_lines, tmp_path / "two" / "metrics.jsonl")
    deadline = time.monotonic() + 240
    while (not lines() or lines()[-1]["step"] < 18) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "evaluated_on" not in lines()[-1]  # it has begun
    several[1].send_signal(signal.SIGTERM)
    for process in several:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 128 + signal.SIGTERM, errors
        assert "dedn: stopped at step 18 of 27 of phase final" in errors
    assert [r["step"] for r in lines() if "evaluated_on" in r] == [9]
    finish(*start_several(tmp_path / "two", flags, 2))
    expected = read_lines(tmp_path / "one" / "metrics.jsonl")
    assert [r["step"] for r in lines()] == [r["step"] for r in expected]
    looks, theirs = ([r for r in found if "evaluated_on" in r] for found in (lines(), expected))
    assert looks == theirs and len(looks) == 3
    mine = read_json(tmp_path / "two" / "result.json")
    assert mine == read_json(tmp_path / "one" / "result.json")


def test_a_process_that_dies_takes_the_run_down(
    one: Path, features: list[str], tmp_path: Path
) -> None:
    flags = [*features, "--config.train.epochs=10", "--config.train.checkpoint_every=10"]
    dies, other = start_several(tmp_path / "run", flags, 2)[::-1]
    lines = functools.partial(read_lines, tmp_path / "run" / "metrics.jsonl")
    wait_for_steps(tmp_path / "run", 15, [dies, other])
    dies.kill()
    _, errors = other.communicate(timeout=90)  # JAX alone would wait for minutes
    assert other.returncode == 1, errors[-2000:]
    # Which of the two comes first depends on what it waits for.
    said = ("dedn: another process of this run has ended", "dedn: process 1")
    assert errors.strip().splitlines()[-1].startswith(said)
    assert "Traceback" not in errors
    dies.communicate()
    assert 15 <= len(lines()) < 54
    # Started again, they go on from the last checkpoint to where they would have come.
    finish(*start_several(tmp_path / "run", flags, 2))
    assert [line["step"] for line in lines()] == [*range(1, 55)]
    for mine, theirs in zip(lines(), read_lines(one / "metrics.jsonl"), strict=False):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.slow
def test_pictures_on_eight_devices(tmp_path: Path) -> None:
    flags = [
        "--config=demo",
        "--config.data.format=prepared",
        "--config.data.groups=single",
        f"--config.data.path={prepared_folder(tmp_path)}",
        "--config.picture.resize=32",
        "--config.picture.crop=32",
        "--config.train.epochs=3",
        "--config.train.batch_size=6",
        "--config.train.log_every=1",
        "--config.selection.protocol=last",
    ]
    finish(start(tmp_path / "one", flags))
    finish(start(tmp_path / "eight", flags, devices=8))
    one, eight = (read_lines(tmp_path / n / "metrics.jsonl") for n in ("one", "eight"))
    for a, b in zip(one, eight, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


def test_numbers_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["train", "--config=base", "--workdir=w", "--coordinator=localhost:1", "--processes=2"]
    assert main(flags) == 2
    assert "give all of --coordinator, --processes and --process" in capsys.readouterr().err
    assert main([*flags, "--process=2"]) == 2
    assert "--process=2, expected 0 to 1" in capsys.readouterr().err
