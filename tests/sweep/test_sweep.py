"""Whole sweeps on a tiny file: each model is that of a training; resuming, directories, devices."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import dedn_jax.sweep.run
import dedn_jax.train
from dedn_jax.checkpoint import load_params
from dedn_jax.errors import InputError
from dedn_jax.interrupt import Interrupted
from dedn_jax.logs import read_lines
from dedn_jax.network import make_network
from dedn_jax.sweep.run import sweep
from dedn_jax.train import train
from tests.test_train import tiny_config, write_tiny

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS = 3
PROTOCOLS = ("last", "validation")
GRID = ["selection.protocol=last,validation"]
FIELDS: dict[str, object] = {
    "train__epochs": 12,
    "train__evaluate_every": 3,
    "train__log_every": 4,
    "train__checkpoint_every": 10,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny.hdf5")


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all runs, which then share the programs compiled beside them."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.1)
    yield tmp_path_factory.mktemp("runs")
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def config(data: Path) -> ConfigDict:
    return tiny_config(data, **FIELDS)


@pytest.fixture(scope="module")
def swept(config: ConfigDict, runs: Path) -> Path:
    """Three seeds by both protocols."""
    path = runs / "swept"
    sweep(config, path, SEEDS, GRID)
    return path


def read(path: Path) -> dict[str, Any]:
    return json.loads((path / "result.json").read_text())


def assert_model_is(point: Path, model: int, run: Path) -> None:
    """A model of a sweep's point has the losses, the selection and the metrics of a training."""
    found, expected = read(point), read(run)
    assert found["test"][model] == expected["test"]
    assert found["steps"][model] == expected["steps"]
    assert found["selected_step"][model] == expected["selected_step"]
    if "validation" in expected:
        assert found["validation"][model] == expected["validation"]
    theirs = {(r["phase"], r["step"]): r for r in read_lines(run / "metrics.jsonl")}
    compared = 0
    for line in read_lines(point / "metrics.jsonl"):
        other = theirs.get((line["phase"], line["step"]))
        if "loss" not in line or other is None or "loss" not in other:
            continue
        for name in ("loss", "agreement", "parameter_norm"):
            assert line[name][model] == pytest.approx(other[name], rel=1e-4, abs=1e-6)
        compared += 1
    assert compared >= len(theirs) / 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_first_model_is_that_of_train(
    swept: Path, config: ConfigDict, protocol: str, runs: Path
) -> None:
    own = ConfigDict(config.to_dict())
    own.selection.protocol = protocol
    train(own, runs / protocol)
    assert_model_is(swept / "points" / str(PROTOCOLS.index(protocol)), 0, runs / protocol)


def test_another_model_has_its_own_parameters_and_steps(
    swept: Path, config: ConfigDict, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a training on the batches of seed 0 that begins with another seed's parameters."""
    steps = read(swept / "points" / "1")["steps"]
    assert len(set(steps)) > 1  # so that one of them waits for the others
    model = int(np.argmin(steps)) or int(np.argmax(steps))

    def other_seed(config: ConfigDict, *rest: Any) -> Any:
        own = ConfigDict(config.to_dict())
        own.seed = model
        return make_network(own, *rest)

    monkeypatch.setattr(dedn_jax.train, "make_network", other_seed)
    train(config, runs / "other")
    assert_model_is(swept / "points" / "1", model, runs / "other")


def test_the_result(swept: Path) -> None:
    result = read(swept)
    assert result["seeds"] == [0, 1, 2]
    assert "validation split" in result["shared"]
    assert [p["fields"] for p in result["points"]] == [
        {"selection.protocol": name} for name in PROTOCOLS
    ]
    assert (swept / "sweep.png").stat().st_size > 1000
    for point in result["points"]:
        values = [m["fused"]["H"] for m in point["test"]]
        assert point["fused"]["H"]["values"] == values
        assert point["fused"]["H"]["mean"] == pytest.approx(np.mean(values))
    lines = read_lines(swept / "points" / "0" / "metrics.jsonl")
    assert all(len(set(line["loss"])) == SEEDS for line in lines)  # seeds differ


def test_on_from_the_selected_parameters(data: Path, runs: Path) -> None:
    """`refit=continue`, and a sweep of one is a training."""
    fields = {**FIELDS, "train__epochs": 6, "selection__refit": "continue"}
    own = tiny_config(data, **fields, selection__continue_epochs=0.6)
    sweep(own, runs / "continued", 1)
    train(own, runs / "continue")
    assert_model_is(runs / "continued" / "points" / "0", 0, runs / "continue")
    (point,) = read(runs / "continued")["points"]
    assert point["fused"]["H"]["interval"] is None


class StopAfter:
    """A request to stop that comes at the `calls`-th look, as SIGTERM does."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    @property
    def signal_number(self) -> int:
        self._left -= 1
        return 15 if self._left < 0 else 0


def test_interrupted_and_resumed(
    swept: Path, config: ConfigDict, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit the same numbers, however often it was stopped; finished points are kept."""
    path = runs / "interrupted"
    for calls, message in (
        (17, "step 17 of 48 of phase final point 1/2"),
        (31, "before point 2 of 2"),
        (13, "step 13 of 30 of phase validation point 2/2"),
    ):

        @contextlib.contextmanager
        def stopping(calls: int = calls) -> Iterator[StopAfter]:
            yield StopAfter(calls)

        with monkeypatch.context() as patch:
            patch.setattr(dedn_jax.sweep.run, "stop_on_signals", stopping)
            with pytest.raises(Interrupted, match=message):
                sweep(config, path, SEEDS, GRID)
    assert not (path / "result.json").exists()
    first = path / "points" / "0" / "result.json"
    written = first.stat().st_mtime_ns
    sweep(config, path, SEEDS, GRID)
    assert first.stat().st_mtime_ns == written
    assert read(path) == read(swept)
    for number in "01":
        mine, theirs = (p / "points" / number / "metrics.jsonl" for p in (path, swept))
        assert mine.read_bytes() == theirs.read_bytes()


def test_the_directory_belongs_to_one_sweep(
    swept: Path, config: ConfigDict, data: Path, tmp_path: Path
) -> None:
    before = (swept / "result.json").read_bytes()
    assert sweep(config, swept, SEEDS, GRID) == read(swept)  # nothing is trained
    with pytest.raises(InputError, match=r"another sweep \(seeds=3 there, 4 now\)"):
        sweep(config, swept, 4, GRID)
    with pytest.raises(InputError, match=r"another sweep \(grid="):
        sweep(config, swept, SEEDS, ["loss.bias=1,2"])
    with pytest.raises(InputError, match=r"another sweep \(train.epochs=12 there, 3 now\)"):
        sweep(tiny_config(data, **{**FIELDS, "train__epochs": 3}), swept, SEEDS, GRID)
    moved = write_tiny(tmp_path / "moved.hdf5")
    assert sweep(tiny_config(moved, **FIELDS), swept, SEEDS, GRID) == read(swept)
    other = write_tiny(tmp_path / "other.hdf5", seed=1)
    with pytest.raises(InputError, match="a sweep on another data set"):
        sweep(tiny_config(other, **FIELDS), swept, SEEDS, GRID)
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train(config, swept)
    with pytest.raises(InputError, match="is not empty and holds no sweep"):
        sweep(config, tmp_path, SEEDS, GRID)
    assert (swept / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("seeds", "fields", "message"),
    [
        (0, {}, "--seeds=0, expected at least 1"),
        (2, {"seed": 2**32 - 1}, "leaves no room"),
        (2, {"distribution__strategy": "pmap"}, "a sweep shares out models"),
        (2, {"data__source": "images", "data__format": "demo"}, "trains from features"),
    ],
)
def test_refused(
    data: Path, tmp_path: Path, seeds: int, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        sweep(tiny_config(data, **fields), tmp_path / "sweep", seeds)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "sweep").exists()


# RMSprop divides gradients by their own size: rounding in those that are almost nothing would
# become whole steps. A large ε leaves them as small as they are.
SHORT: dict[str, object] = {
    "train__epochs": 3,
    "train__log_every": 1,
    "selection__protocol": "last",
    "optimizer__learning_rate": 1e-2,
    "optimizer__epsilon": 1.0,
}
SCRIPT = f"""
import sys
from dedn_jax.sweep.run import sweep
from tests.test_train import tiny_config
import jax
assert jax.device_count() == 8
_, data, folder = sys.argv
# Cut among the devices, several steps a call; and three models, which each device has all of.
fields = {SHORT}
more = dict(data__on_device="always", train__steps_per_call=5)
sweep(tiny_config(data, **fields, **more), folder + "/cut", 8)
sweep(tiny_config(data, **fields), folder + "/whole", 3)
"""


def test_eight_devices(data: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(data), str(tmp_path)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "each computes all of them" in done.stderr
    sweep(tiny_config(data, **SHORT), tmp_path / "one", 8)
    expected, params = (f(tmp_path / "one") for f in (read, selected))
    for name, models in (("cut", 8), ("whole", 3)):
        found = read(tmp_path / name)
        assert found["points"][0]["test"] == expected["points"][0]["test"][:models]
        for a, b in zip(selected(tmp_path / name), params, strict=True):
            np.testing.assert_allclose(a, b[:models], rtol=0, atol=1e-5)
        lines = [read_lines(tmp_path / n / "points" / "0" / "metrics.jsonl") for n in (name, "one")]
        assert len(lines[0]) == len(lines[1]) == 12
        for mine, theirs in zip(*lines, strict=True):
            np.testing.assert_allclose(mine["loss"], theirs["loss"][:models], rtol=1e-5)


def selected(folder: Path) -> list[np.ndarray]:
    """The final parameters of a sweep's first point, restored onto this process's device."""
    path = folder / "points" / "0" / "final" / "selected"
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one), tree)
    return [np.asarray(x) for x in jax.tree.leaves(load_params(path, like))]
