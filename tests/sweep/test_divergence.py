"""Models that diverge: they end there, are counted and left out, and change nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import dedn_jax.sweep.point
from dedn_jax.sweep import layout
from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.logs import read_lines
from dedn_jax.training.network import make_network
from tests.helpers.shared import made_once
from tests.helpers.tiny import light_config
from tests.sweep.common import FIELDS, GRID, PROTOCOLS, SEEDS, interrupted_sweep, read, saved_arrays

# By SGD, whose steps are as long as the gradients, the parameters grow tenfold from step to step
# until the loss overflows.
RATES = ["optimizer.learning_rate=30,0.003"]
SHORT: dict[str, object] = {
    **FIELDS,
    "train__epochs": 4,
}


def parameters(point: Path) -> list[np.ndarray]:
    return saved_arrays(point / "final" / "selected")


def assert_all_finite(point: Path) -> None:
    """In whatever was saved."""
    folders = [*point.glob("*/selected"), *point.glob("*/checkpoints/*/*")]
    saved = [p for p in folders if p.name in ("state", "selected")]
    assert len(saved) >= 3
    for folder in saved:
        assert all(np.isfinite(x).all() for x in saved_arrays(folder))


@contextlib.contextmanager
def one_hurt() -> Iterator[None]:
    """In it, seed 1 begins with parameters that no loss can be computed with."""

    def make(config: ConfigDict, *rest: Any) -> Any:
        network = make_network(config, *rest)
        if config.seed != 1:
            return network
        return network._replace(params=jax.tree.map(lambda x: x * 1e18, network.params))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedn_jax.sweep.point, "make_network", make)
        yield


def assert_others_same(point: Path, whole: Path) -> None:
    """Parameters and test metrics, bit for bit."""
    for model in (0, 2):
        assert read(point)["test"][model] == read(whole)["test"][model]
    for a, b in zip(parameters(point), parameters(whole), strict=True):
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]])


def assert_other_results_same(point: Path, whole: Path) -> None:
    """Bit for bit."""
    found, expected = read(point), read(whole)
    assert found["diverged_at"] == [None, 1, None]
    assert found["steps"][1] == 0 and found["selected_step"][1] is None
    assert found["test"][1] is None
    values = [expected["test"][model]["fused"]["H"] for model in (0, 2)]
    assert found["fused"]["H"]["values"] == values
    assert found["fused"]["H"]["mean"] == pytest.approx(np.mean(values))
    for name in ("steps", "selected_step", "validation", "test_best_t1"):
        for model in (0, 2) if name in expected else ():
            assert found[name][model] == expected[name][model]
    theirs = {(r["phase"], r["step"], len(r)): r for r in read_lines(whole / "metrics.jsonl")}
    lines = read_lines(point / "metrics.jsonl")
    assert len(lines) >= 0.8 * len(theirs)  # seed 1 may have trained on after the others
    for line in lines:
        for name, of_models in line.items():
            if isinstance(of_models, list):
                other = theirs[line["phase"], line["step"], len(line)][name]
                assert of_models == [other[0], None, other[2]]


def test_the_other_models_are_what_they_were(data: Path, runs: Path) -> None:
    """By all protocols."""
    config = light_config(data, **SHORT)
    run_sweep(config, runs / "whole", SEEDS, GRID)
    with one_hurt():
        run_sweep(config, runs / "hurt", SEEDS, GRID)
    for number, protocol in enumerate(PROTOCOLS):
        point, whole = (runs / name / "points" / str(number) for name in ("hurt", "whole"))
        assert_other_results_same(point, whole)
        assert_others_same(point, whole)
        assert_all_finite(point)
        if protocol == "validation":
            assert read(point)["validation"][1] == {"steps": 0, "diverged_at": 1}
        if protocol == "test-best":
            assert read(point)["test_best_t1"][1] is None


@pytest.mark.slow
def test_so_they_are_in_the_same_operations(
    data: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on accelerators."""
    monkeypatch.setattr(layout, "one_by_one", lambda: False)
    own = light_config(data, **SHORT, selection__protocol="last", data__on_device="replicated")
    run_sweep(own, runs / "beside", SEEDS)
    with one_hurt():
        run_sweep(own, runs / "beside_hurt", SEEDS)
    point, whole = (runs / name / "points" / "0" for name in ("beside_hurt", "beside"))
    assert read(point)["diverged_at"] == [None, 1, None]
    assert_others_same(point, whole)


@pytest.fixture(scope="module")
def rates(data: Path) -> ConfigDict:
    fields = SHORT | {"train__epochs": 5, "train__log_every": 1, "selection__protocol": "last"}
    fields |= {"optimizer__name": "sgd", "data__on_device": "replicated"}
    return light_config(data, **fields, train__steps_per_call=5)


@pytest.fixture(scope="module")
def hopeless(rates: ConfigDict, shared: Path) -> Path:
    """A grid of which one learning rate is far too high, with a model that is hurt besides."""
    with one_hurt():
        made_once(shared / "hopeless", lambda folder: run_sweep(rates, folder, SEEDS, RATES))
    return shared / "hopeless"


def test_a_point_of_which_all_models_diverge(hopeless: Path) -> None:
    """It is recorded with the steps, and the next one is trained."""
    bad, good = read(hopeless)["points"]
    assert good["diverged_at"] == [None, 1, None]
    assert good["fused"]["T1"]["mean"] > 0
    assert bad["fused"] == {} and bad["test"] == [None] * SEEDS
    assert bad["steps"] == [at - 1 for at in bad["diverged_at"]]
    point = hopeless / "points" / "0"
    assert_all_finite(point)
    norms = [line["parameter_norm"] for line in read_lines(point / "metrics.jsonl")]
    assert len(norms) == max(bad["steps"])
    for model, steps in enumerate(bad["steps"]):
        of_model = [norm[model] for norm in norms]
        assert None not in of_model[:steps] and set(of_model[steps:]) <= {None}
        if model == 1:
            continue
        assert steps > 5  # in the second call of the program
        # What is kept is what the last step that counts has left.
        kept = np.sqrt(sum((np.float64(p[model]) ** 2).sum() for p in parameters(point)))
        assert kept == pytest.approx(of_model[steps - 1], rel=1e-5)


def test_resumed_after_one_has_diverged(
    hopeless: Path, rates: ConfigDict, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mark is saved; each is said once."""
    path, said = runs / "hopeless_interrupted", ""
    with one_hurt():
        interrupted_sweep(1, "step 5 of 20 of phase final of point 1/2", rates, path, RATES)
        said += capsys.readouterr().err
        assert said.count("diverged: seed 1 at step 1 ") == 1
        run_sweep(rates, path, SEEDS, RATES)
    lines = (said + capsys.readouterr().err).splitlines()
    said = "\n".join(line for line in lines if "final of point 1/2: diverged" in line)
    for seed, at in enumerate(read(hopeless)["points"][0]["diverged_at"]):
        assert said.count(f"seed {seed} at step {at}") == 1
    assert read(path) == read(hopeless)
    for number in "01":
        mine, theirs = (p / "points" / number / "metrics.jsonl" for p in (path, hopeless))
        assert read_lines(mine) == read_lines(theirs)
