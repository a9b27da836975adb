"""The train step's benchmarks at tiny sizes."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import step_memory, step_sides, step_sizes, train_step
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.interop.our_side import OurSide

REFERENCE = os.environ.get("DEDN_REFERENCE_DIR", "")
TINY = ["--sizes=awa2", "--channels=8", "--side=2", "--classes=6,2"]
OURS = ["ours", "ours, normalising", "ours, indexing", "ours, features on the device"]
BFLOAT16 = ["ours, bfloat16", "ours, bfloat16, features on the device"]
PORT = ["port, eager", "port, torch.compile"]
PUBLISHED = ["published", "published, indexing"]


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """On one thread, since many spin on a busy machine; compiling without g++, which takes long."""
    import torch

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "_PEAK_SIZE", 64)
    monkeypatch.setattr(train_step, "_COPIED", 256)


def measured(path: Path, *flags: str) -> dict:
    train_step.main([*TINY, "--rounds=2", f"--json={path}", *flags])
    (report,) = read_json(path)["sizes"]
    assert report["gflop"] > 0 and report["peak_gflop_per_s"] > 0 and report["copy_gb_per_s"] > 0
    for row in report["rows"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["peak_share"] > 0
        assert row["steps_per_call"] == (32 if "device" in row["side"] else 1)
    # The sampler's batches, not the config's 50: 6 classes, 8 images of each.
    assert report["batch_mb"] == pytest.approx(48 * 8 * 4 * 4 / 1e6)
    return report


def assert_losses_agree(report: dict, *, but: str = "") -> None:
    """And the weights move: the second step's losses are other ones, of another batch."""
    losses = [row["losses"] for row in report["rows"] if row["side"] != but]
    assert all(found == pytest.approx(losses[0], rel=1e-4) for found in losses)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=1e-4)


@pytest.mark.slow
def test_ours_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "multiplies_bfloat16", lambda: True)
    report = measured(tmp_path / "report.json", "--bfloat16")
    assert [row["side"] for row in report["rows"]] == OURS + BFLOAT16
    *exact, rounded, on_device = (row["losses"] for row in report["rows"])
    assert rounded == pytest.approx(exact[0], rel=2e-2)
    assert rounded != pytest.approx(exact[0], rel=1e-6)
    assert on_device == pytest.approx(rounded, rel=1e-4)
    report["rows"] = report["rows"][: len(OURS)]
    assert_losses_agree(report)
    assert all(row["ratio"] is None for row in report["rows"])
    assert list(report["left_out"]) == ["port"]
    assert "left out: port: PyTorch is not installed" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.torch
def test_the_port_without_a_compiler(
    torch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no g++\nin PATH")

    def at_hand(ours: OurSide, made: step_sizes.MadeUp) -> dict[str, train_step.Side]:
        return {OURS[0]: train_step.Side(step_sides.ours_at_hand(ours, made), PUBLISHED[0])}

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    monkeypatch.setattr(train_step, "our_sides", at_hand)  # the others take long to compile
    report = measured(tmp_path / "report.json")
    assert [row["side"] for row in report["rows"]] == [PORT[0], OURS[0]]
    assert_losses_agree(report)
    assert report["left_out"] == {PORT[1]: "no g++ in PATH"}


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.usefixtures("torch")
@pytest.mark.skipif(
    not REFERENCE, reason="DEDN_REFERENCE_DIR does not name a checkout of zjrao/DEDN"
)
def test_all_sides(tmp_path: Path) -> None:
    report = measured(tmp_path / "report.json", f"--reference-dir={REFERENCE}")
    rows = {row["side"]: row for row in report["rows"]}
    assert list(rows) == [*PUBLISHED, *PORT, *OURS]
    assert not report["left_out"]
    # It draws batches of its own.
    assert_losses_agree(report, but=PUBLISHED[1])
    for name, row in rows.items():
        base = PUBLISHED["indexing" in name or "device" in name]
        assert row["to"] == base
        assert row["ratio"] == pytest.approx(rows[base]["median"] / row["median"])


def test_a_processor_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "multiplies_bfloat16", lambda: False)
    with pytest.raises(InputError, match=r"^--bfloat16: this processor has no instructions"):
        train_step.main([*TINY, "--bfloat16"])


def test_a_side_that_computes_something_else() -> None:
    def side(*losses: float) -> train_step.Side:
        return train_step.Side(lambda number: losses[number], "a")

    train_step.first_losses({"a": side(1.0, 2.0), "b": side(1.00005, 2.0)})
    train_step.first_losses({"a": side(1.0, 2.0), "b": side(3.0, 2.0)._replace(same_batches=False)})
    with pytest.raises(InputError, match=r"^b: loss 2\.1 in step 1, a has 2$"):
        train_step.first_losses({"a": side(1.0, 2.0), "b": side(1.0, 2.1)})
    with pytest.raises(InputError, match="b: loss nan"):
        train_step.first_losses({"a": side(1.0, 2.0), "b": side(float("nan"), 2.0)})


def test_sizes() -> None:
    assert {name: (s.channels, s.side) for name, s in step_sizes.SIZES.items()} == {
        "small": (1024, 7),
        "cub": (2048, 14),
        "sun": (2048, 14),
        "awa2": (2048, 7),
    }
    made = step_sizes.make_up(step_sizes.Size("x", "cub", 8, 1, (75, 25)), most_bytes=32 * 200)
    assert made.features.shape == (200, 8, 1, 1)  # what fits
    made = step_sizes.make_up(step_sizes.Size("x", "cub", 8, 1, (75, 25)), most_bytes=0)
    assert made.features.shape == (150, 8, 1, 1)  # two of every class
    assert len(made.problem.batches[0][1]) == 50
    with pytest.raises(InputError, match="--sizes=cub,flo, expected some of small, cub, sun, awa2"):
        train_step.main(["--sizes=cub,flo"])
    with pytest.raises(InputError, match="--classes=0, expected at least 1"):
        train_step.main(["--classes=0,3"])


@pytest.mark.slow
def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    step_memory.main([*TINY, "--steps=1", f"--json={path}"])
    (row,) = read_json(path)["rows"]
    assert (row["size"], row["side"]) == ("awa2", "ours")
    assert 0 < row["imports_mb"] < row["built_mb"] < row["peak_mb"]
    assert row["steps_mb"] == pytest.approx(row["peak_mb"] - row["built_mb"])
    assert "resident memory in MB" in capsys.readouterr().out
