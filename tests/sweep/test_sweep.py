"""Whole sweeps on a tiny file: each model is that of a training; results and directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import dedn_jax.training.run
from dedn_jax.errors import InputError
from dedn_jax.inference.run import train
from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.logs import read_lines
from dedn_jax.training.network import make_network
from dedn_jax.training.phases import TEST_BEST_LABEL
from dedn_jax.training.profiling import Profile
from tests.helpers.tiny import tiny_config, write_tiny
from tests.sweep.common import FIELDS, GRID, PROTOCOLS, SEEDS, assert_model_is, losses, read


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

    monkeypatch.setattr(dedn_jax.training.run, "make_network", other_seed)
    train(config, runs / "other")
    assert_model_is(swept / "points" / "1", model, runs / "other")


def test_profile(config: ConfigDict, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "profiled"
    with Profile.from_flag("2:3", path / "tensorboard") as profile:
        run_sweep(config, path, SEEDS, ["selection.protocol=last"], callbacks=[profile])
    said = [s for s in capsys.readouterr().err.splitlines() if "profile: " in s]
    assert len(said) == 1 and "traced steps 2 to 3 of phase final" in said[0]
    (file,) = (path / "tensorboard" / "plugins" / "profile").glob("*/perfetto_trace.json.gz")
    assert file.stat().st_size > 1000


def test_the_result(swept: Path) -> None:
    result = read(swept)
    assert result["seeds"] == [0, 1, 2]
    assert "validation split" in result["shared"]
    assert [p["fields"] for p in result["points"]] == [
        {"selection.protocol": name} for name in PROTOCOLS
    ]
    assert (swept / "sweep.png").stat().st_size > 1000
    for point in result["points"]:
        assert point["diverged_at"] == [None] * SEEDS
        values = [m["fused"]["H"] for m in point["test"]]
        assert point["fused"]["H"]["values"] == values
        assert point["fused"]["H"]["mean"] == pytest.approx(np.mean(values))
        assert ("fused_calibrated" in point) == (point["protocol"] == "validation")
    calibrated = result["points"][PROTOCOLS.index("validation")]
    values = [m["fused"]["AUSUC"] for m in calibrated["test_calibrated"]]
    assert calibrated["fused_calibrated"]["AUSUC"]["values"] == values
    lines = losses(swept / "points" / "0").values()
    assert all(len(set(line["loss"])) == SEEDS for line in lines)  # seeds differ


def test_by_test_best_every_model_has_its_own_best_steps(swept: Path) -> None:
    folder = swept / "points" / str(PROTOCOLS.index("test-best"))
    point = read(folder)
    assert point["selected_by"] == TEST_BEST_LABEL
    looks = [line for line in read_lines(folder / "metrics.jsonl") if "models" in line]
    assert {line["evaluated_on"] for line in looks} == {TEST_BEST_LABEL}
    best_t1 = point["test_best_t1"]
    assert len({best["step"] for best in best_t1}) > 1
    for model in range(SEEDS):
        by_step = {line["step"]: line["models"][model] for line in looks}
        h, t1 = ({step: m["fused"][k] for step, m in by_step.items()} for k in ("H", "T1"))
        step = max(h, key=lambda step: h[step])  # the first of the best
        assert point["selected_step"][model] == step
        assert point["test"][model] == by_step[step]
        step = max(t1, key=lambda step: t1[step])
        assert best_t1[model] == {"T1": t1[step], "step": step}


@pytest.mark.slow
def test_on_from_the_selected_parameters(data: Path, runs: Path) -> None:
    """`refit=continue`: every model goes on from its own step, for its own number of steps."""
    own = tiny_config(data, **FIELDS, selection__refit="continue", selection__continue_epochs=0.6)
    run_sweep(own, runs / "continued", SEEDS)
    train(own, runs / "continue")
    point = runs / "continued" / "points" / "0"
    assert_model_is(point, 0, runs / "continue")
    steps = read(point)["steps"]
    assert len(set(steps)) > 1


def test_the_directory_belongs_to_one_sweep(
    swept: Path, config: ConfigDict, data: Path, tmp_path: Path
) -> None:
    before = (swept / "result.json").read_bytes()
    assert run_sweep(config, swept, SEEDS, GRID) == read(swept)  # nothing is trained
    with pytest.raises(InputError, match=r"another sweep \(seeds=3 there, 4 now\)"):
        run_sweep(config, swept, 4, GRID)
    with pytest.raises(InputError, match=r"another sweep \(grid="):
        run_sweep(config, swept, SEEDS, ["loss.bias=1,2"])
    with pytest.raises(InputError, match=r"another sweep \(train.epochs=12 there, 3 now\)"):
        run_sweep(tiny_config(data, **{**FIELDS, "train__epochs": 3}), swept, SEEDS, GRID)
    moved = write_tiny(tmp_path / "moved.hdf5")
    assert run_sweep(tiny_config(moved, **FIELDS), swept, SEEDS, GRID) == read(swept)
    other = write_tiny(tmp_path / "other.hdf5", seed=1)
    with pytest.raises(InputError, match="a sweep on another data set"):
        run_sweep(tiny_config(other, **FIELDS), swept, SEEDS, GRID)
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train(config, swept)
    with pytest.raises(InputError, match="is not empty and holds no sweep"):
        run_sweep(config, tmp_path, SEEDS, GRID)
    assert (swept / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("seeds", "fields", "message"),
    [
        (0, {}, "--seeds=0, expected at least 1"),
        (2, {"seed": 2**32 - 1}, "the last seed would be 4294967296"),
        (2, {"distribution__strategy": "pmap"}, "a sweep shards models"),
        (2, {"distribution__attribute_shards": 2}, "shards models, not attributes"),
        (2, {"distribution__state": "sharded"}, "state=sharded: a sweep shards models"),
        (2, {"data__source": "images", "data__format": "demo"}, "trains from features"),
    ],
)
def test_refused(
    data: Path, tmp_path: Path, seeds: int, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(tiny_config(data, **fields), tmp_path / "sweep", seeds)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"config": {}}, "config of type dict, expected what dedn_jax.load_config gives"),
        ({"workdir": None}, "workdir of type NoneType, expected the path of a work directory"),
        ({"dataset": "x.hdf5"}, "dataset of type str, expected a dedn_jax.GZSLDataset or None"),
        ({"seeds": 2.0}, "--seeds=2.0, expected a whole number of at least 1"),
    ],
)
def test_arguments_of_a_wrong_type(
    given: dict[str, Any], message: str, config: ConfigDict, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"config": config, "workdir": tmp_path / "w", "seeds": 2}
    with pytest.raises(InputError, match=message):
        run_sweep(**(arguments | given))
    assert not (tmp_path / "w").exists()
