"""`dedn evaluate`, `predict` and `sweep` by several processes: the numbers of one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from dedn_jax.cli.main import main
from dedn_jax.files import read_json
from dedn_jax.inference.predict_processes import predict_by_processes
from dedn_jax.inference.run import open_run
from dedn_jax.parallel import processes
from dedn_jax.parallel.limits import LONGEST_TIMEOUT, MEETING_TIMEOUT
from dedn_jax.training.environment import started
from dedn_jax.training.logs import read_lines
from tests.helpers.devices import process_flags, xla_flags
from tests.helpers.forks import Forked
from tests.helpers.jobs import do_jobs
from tests.helpers.tiny import ONE_NETWORK_FLAGS
from tests.made_up import picture_folder, prepared_folder, published_file

TRAIN = [
    "--config.train.epochs=3",
    "--config.train.batch_size=6",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=5",
]
PICTURES = [
    "--config=demo",
    "--config.data.format=prepared",
    "--config.data.groups=single",
    "--config.picture.resize=32",
    "--config.picture.crop=32",
    "--config.selection.protocol=last",
    "--config.evaluate.batch_size=5",
    *TRAIN,
]


def together(*job: str, processes: int = 2, status: int = 0) -> list[str]:
    """Runs a job in several processes, which end with that status; what each printed."""
    several = [
        Forked("-m", "dedn_jax", *job, *own, XLA_FLAGS=xla_flags(quick=False))
        for own in process_flags(processes)
    ]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in several]
    assert [code for *_, code in ended] == [status] * processes, ended
    # An error that nobody expects ends a process with status 1, as pictures that are skipped do.
    assert not any("Traceback" in errors for _, errors, _ in ended), ended
    return [output for output, *_ in ended]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on pictures; what it learns matters to no test, nor how it is compiled."""
    folder = tmp_path_factory.mktemp("pictures")
    data = f"--config.data.path={prepared_folder(folder)}"
    do_jobs(["train", f"--workdir={folder / 'run'}", data, *PICTURES])
    return folder / "run"


def test_evaluate(run: Path, tmp_path: Path) -> None:
    job = ["evaluate", f"--workdir={run}"]
    assert main([*job, f"--json={tmp_path / 'one.json'}"]) == 0
    printed = together(*job, f"--json={tmp_path / 'two.json'}")
    one, two = (read_json(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert one == two
    assert "Test sets" in printed[0]
    assert "Test sets" not in printed[1]


def test_predict(run: Path, tmp_path: Path) -> None:
    """One file of all predictions, in the order of the pictures; parts are not left."""
    pictures = picture_folder(tmp_path / "pictures", 2)
    (pictures / "none.jpg").write_text("no picture")
    job = ["predict", f"--workdir={run}", str(pictures), "--top=2"]
    out = {name: tmp_path / name for name in ("one", "two")}
    for folder in out.values():
        folder.mkdir()
    assert main([*job, f"--json={out['one'] / 'p.json'}", f"--csv={out['one'] / 'p.csv'}"]) == 1
    files = (f"--json={out['two'] / 'p.json'}", f"--csv={out['two'] / 'p.csv'}")
    printed = together(*job, *files, status=1)
    assert [sum(".jpg" in line for line in text.splitlines()) for text in printed] == [7, 9]
    assert sorted(p.name for p in out["two"].iterdir()) == ["p.csv", "p.json"]
    one, two = (read_json(folder / "p.json") for folder in out.values())
    assert one["skipped"] == two["skipped"] and len(two["skipped"]) == 1
    assert one["mixing"] == two["mixing"]
    assert len(two["pictures"]) == 16
    for mine, theirs in zip(two["pictures"], one["pictures"], strict=True):
        assert mine["picture"] == theirs["picture"]
        for a, b in zip(mine["classes"], theirs["classes"], strict=True):
            assert (a["name"], a["seen"]) == (b["name"], b["seen"])
            assert a["score"] == pytest.approx(b["score"], rel=1e-5)
    rows = [list(csv.reader((folder / "p.csv").open())) for folder in out.values()]
    assert [row[:4] for row in rows[0]] == [row[:4] for row in rows[1]]
    assert len(rows[1]) == 1 + 16 * 2


def test_a_slow_share_is_waited_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For days, before anything that has a limit of its own, such as CPUs' collectives of 30 s."""
    met: list[tuple[str, float]] = []

    def barrier(name: str, seconds: float = MEETING_TIMEOUT) -> None:
        met.append((name, seconds))

    def most(value: int) -> int:
        met.append(("max", 0))
        return value

    monkeypatch.setattr(processes, "process", lambda: (0, 2))
    monkeypatch.setattr(processes, "barrier", barrier)
    monkeypatch.setattr(processes, "max_over_processes", most)
    pictures = [str(path) for path in picture_folder(tmp_path, 1).rglob("*.jpg")]
    opened = open_run(run)
    files: dict[str, Any] = {"json_file": None, "csv_file": None}
    assert predict_by_processes(opened, pictures, opened.candidates, top=1, **files) == 0
    assert met[:2] == [("all shares are predicted", LONGEST_TIMEOUT), ("max", 0)]


def test_predict_writes_files_where_there_are_several(run: Path, tmp_path: Path) -> None:
    pictures = picture_folder(tmp_path / "pictures", 1)
    job = ["predict", f"--workdir={run}", str(pictures), "--json=-"]
    together(*job, status=2)
    assert main([*job[:2], "--write-classes=c.csv", "--distributed"]) == 2


@pytest.mark.parametrize(
    ("seeds", "protocol"),
    [
        (2, "last"),
        pytest.param(2, "validation", marks=pytest.mark.slow),
        pytest.param(3, "last", marks=pytest.mark.slow),
    ],
    ids=["sharded", "sharded, two phases", "replicated"],
)
def test_sweep(seeds: int, protocol: str, tmp_path: Path) -> None:
    """Models sharded over the processes, or all of them in each."""
    flags = [
        "--config=base",
        *ONE_NETWORK_FLAGS,
        f"--config.data.path={published_file(tmp_path / 'features.hdf5')}",
        "--config.train.balanced=false",
        f"--config.selection.protocol={protocol}",
        "--config.optimizer.learning_rate=1e-4",
        f"--seeds={seeds}",
        *TRAIN,
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["sweep", f"--workdir={one}", *flags]) == 0
    printed = together("sweep", f"--workdir={two}", *flags)
    assert "config" in printed[0]
    assert "config" not in printed[1]
    mine, theirs = read_json(two / "result.json"), read_json(one / "result.json")
    assert mine == theirs
    point = Path("points") / "0" / "metrics.jsonl"
    lines, expected = read_lines(two / point), read_lines(one / point)
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for a, b in zip(lines, expected, strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert started(two) == [1]
    assert read_json(two / "starts" / "1" / "environment.json")["processes"] == 2
