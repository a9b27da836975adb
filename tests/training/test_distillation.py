"""`config.loss.distillation`: its sections, weights, schedules, what is logged, dropped regions."""

from __future__ import annotations

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dedn_jax.config import base_config, load_config
from dedn_jax.inference.run import train
from dedn_jax.model.distillation import OBJECTIVES, Peers, bidirectional_kl
from dedn_jax.training.distillation import ALWAYS_LOGGED, Distillation
from dedn_jax.training.logs import read_lines
from dedn_jax.training.objective import Objective, objective_terms
from dedn_jax.training.views import kept_regions
from tests.helpers.tiny import tiny_config
from tests.model.distillation.made_up import arrays_of, peers_of, said


def configured(**fields: object) -> ConfigDict:
    return load_config("base", {f"loss.distillation.{k}": v for k, v in fields.items()})


def objective(**fields: object) -> Objective:
    return Objective.from_config(configured(**fields))


@pytest.fixture(scope="module")
def peers() -> Peers:
    return peers_of(arrays_of(said()))


def test_every_objective_has_a_section_of_the_config() -> None:
    section = base_config().loss.distillation.to_dict()
    assert {name for name, fields in section.items() if isinstance(fields, dict)} == set(OBJECTIVES)
    for name, function in OBJECTIVES.items():
        arguments = set(inspect.signature(function).parameters) - {"peers"}
        if "options" in arguments:  # those of the function that takes scores
            inner = set(inspect.signature(bidirectional_kl).parameters)
            arguments = arguments - {"options"} | inner - {"coarse", "fine", "mean"}
        assert section[name].keys() == {"weight", *arguments}
        assert section[name]["weight"] > 0
    # By their names these would be fields of the section itself.
    assert not set(OBJECTIVES) & {"name", "none", "schedule", "schedule_epochs"}


@pytest.mark.parametrize("factor", [None, 0.25])
def test_objectives_joined_by_plus_add_up(peers: Peers, factor: float | None) -> None:
    names = "kl + relational+dual_head"
    weights = {"kl.weight": 0.7, "relational.weight": 3.0, "dual_head.weight": 0.05}
    of_step = None if factor is None else jnp.float32(factor)
    found = objective_terms(peers, objective(name=names, **weights), of_step)
    without = objective_terms(peers, objective(name="none"))
    added = 0.7 * found["kl"] + 3.0 * found["relational"] + 0.05 * found["dual_head"]
    added = added if factor is None else factor * added
    assert float(found["loss"]) == pytest.approx(float(without["loss"] + added), rel=1e-6)
    assert float(added) > 0.1


def test_terms_without_a_weight(peers: Peers) -> None:
    """The three cheap ones are logged all the same, the others are not computed."""
    none = objective_terms(peers, objective(name="none"))
    weights = {"js.weight": 2.0, "sinkhorn.weight": 0.0}
    off = objective_terms(peers, objective(name="js+sinkhorn", **weights))
    others = set(none) - set(OBJECTIVES)
    assert "cross_entropy_fine" in others
    for terms in (none, off):
        assert set(terms) - others == set(ALWAYS_LOGGED)
        for name in ALWAYS_LOGGED:
            expected = OBJECTIVES[name](peers, **objective().distillation.options[name])
            assert float(terms[name]) == pytest.approx(float(expected), rel=1e-6)
    assert float(off["loss"]) == pytest.approx(float(none["loss"] + 2 * off["js"]), rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("warmup", [0.1, 0.5, 1.0, 1.0]), ("ramp", np.exp([-4.05, -1.25, 0.0, 0.0]))],
)
def test_weights_rise(schedule: str, expected: list[float]) -> None:
    """Two epochs of five steps: the first step, the fifth, the tenth, and one long after."""
    config = configured(name="kl", schedule=schedule, schedule_epochs=2.0)
    rising = Distillation.from_config(config, steps_per_epoch=5)
    found = [rising.factor(jnp.int32(step)) for step in (0, 4, 9, 1000)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    config.loss.distillation.schedule_epochs = 0.0
    at_once = Distillation.from_config(config, steps_per_epoch=5)
    assert float(at_once.factor(jnp.int32(0))) == 1


def test_weights_that_do_not_rise() -> None:
    assert objective(name="kl").distillation.factor(jnp.int32(0)) is None
    assert objective(name="none", schedule="ramp").distillation.factor(jnp.int32(0)) is None


def test_every_term_is_logged(data: Path, tmp_path: Path) -> None:
    fields: dict[str, object] = {
        "loss__distillation__name": "sinkhorn+confident",
        "loss__distillation__schedule": "warmup",
        "loss__distillation__schedule_epochs": 1,
    }
    fields |= {"data__groups": "single", "selection__protocol": "last"}  # compiles sooner
    config = tiny_config(data, train__epochs=2, train__log_every=1, **fields)
    train(config, tmp_path / "run")
    lines = [x for x in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in x]
    assert len(lines) == 8  # 48 images in batches of 12
    for line in lines:
        d = config.loss.distillation
        factor = min(line["step"] / 4, 1)
        assert line["distillation_factor"] == pytest.approx(factor)
        total = line["cross_entropy_coarse"] + line["cross_entropy_fine"]
        for expert in ("coarse", "fine"):
            total += config.loss.calibration_weight * line[f"calibration_{expert}"]
            total += config.loss.alignment_weight * line[f"alignment_{expert}"]
        for name in ("sinkhorn", "confident"):
            total += factor * d[name].weight * line[name]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert all(line[name] > 0 for name in ALWAYS_LOGGED)
        assert not {"selective", "relational"} & line.keys()


def drop(seed: int, step: int, maps: jax.Array, share: float = 0.3) -> np.ndarray:
    return np.asarray(kept_regions(seed, jnp.int32(step), maps, share, None))


def test_regions_are_dropped_at_their_share() -> None:
    maps = jnp.zeros((300, 2, 100))
    for share in (0.1, 0.3, 0.5):
        kept = drop(0, 0, maps, share)
        assert kept.shape == (300, 100)
        deviation = np.sqrt(share * (1 - share) / kept.size)
        assert abs(kept.mean() - (1 - share)) < 5 * deviation
        assert len(np.unique(kept, axis=0)) == 300  # every image its own
    assert drop(0, 0, maps, 0.0).all()


def test_regions_are_dropped_anew() -> None:
    maps = jnp.zeros((4, 2, 50))
    first = drop(0, 0, maps)
    np.testing.assert_array_equal(drop(0, 0, maps), first)
    for other in (drop(1, 0, maps), drop(0, 1, maps)):
        assert 0.2 < (other != first).mean() < 0.65  # 0.42 by chance


@pytest.mark.parametrize("shards", [2, 6])
def test_regions_dropped_do_not_depend_on_the_devices(shards: int) -> None:
    maps = jnp.zeros((12, 2, 9))
    parts = jax.vmap(
        lambda part: kept_regions(3, jnp.int32(7), part, 0.3, "data"), axis_name="data"
    )(maps.reshape(shards, 12 // shards, 2, 9))
    np.testing.assert_array_equal(parts.reshape(12, 9), drop(3, 7, maps))
