"""The worker on the CPU as eight devices: the same way as for TPUs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import pytest

from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.parallel.mesh import Layout
from dedn_jax.plan.compile import CPU_DEVICES, compile_program
from dedn_jax.plan.count import Flops
from dedn_jax.plan.programs import train_program
from dedn_jax.plan.sizes import Sizes
from tests.helpers.shared import made_once, shared_folder

# The channel branch takes one image after another: more channels than twice the regions.
_LOOPED = Sizes("", 1000, 1200, 40, 12, 64, 9, (tuple(range(12)),), 30, "float32", 0, 16)
_DENSE = dataclasses.replace(_LOOPED, channels=48, regions=40, classes=64, word_dim=128)


def _ask(sizes: Sizes, *flags: str, residency: str = "never", job: str = "train") -> dict[str, Any]:
    config = load_config("cub_gzsl", flags)
    request = {
        "platform": "cpu",
        "topology": "cpu",
        "job": job,
        "config": config.to_dict(),
        "sizes": dataclasses.asdict(sizes),
        "images": 32,
        "residency": residency,
    }
    return compile_program(request, 120)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a step whose maps are sent to the devices, with no more flags."""
    answer: dict[str, Any] = made_once(
        shared_folder(tmp_path_factory, "plan") / "sent", lambda _: _ask(_LOOPED)
    )
    return answer


def _flops(sizes: Sizes) -> Flops:
    """Of a step of five images on one device."""
    layout = Layout.of_devices(jax.devices()[:1])
    return train_program(load_config("cub_gzsl"), sizes, 5, layout).flops()


@pytest.mark.parametrize(
    "sizes",
    [_LOOPED, _DENSE, dataclasses.replace(_LOOPED, channels=400, regions=25)],
)
def test_counted_flops_are_those_of_the_formulas(sizes: Sizes) -> None:
    p, b = sizes, 5
    counted = _flops(p)
    pooling = 32 * b * p.attributes * p.channels * p.regions
    folding = 24 * p.attributes * p.word_dim * (p.channels + p.regions)
    scores = 8 * b * p.classes * p.attributes
    looped = p.channels > 2 * p.regions
    # One image after another, the coefficients of the gradient are added up over images at last.
    added = 8 * b * p.attributes * p.regions if looped else 0
    assert counted.total == pooling + folding + scores + added
    assert (counted.inside, counted.trips) == ((pooling // 2, b) if looped else (0, 0))


def test_mapped_step_on_eight_devices(sent: dict[str, Any]) -> None:
    answer = sent
    assert answer["chips"] == CPU_DEVICES
    # Gradients and the values of the loss terms are added up, in one way or another.
    p = _LOOPED
    parameters = 4 * 2 * (p.attributes * p.word_dim + p.word_dim * 2 * (p.channels + p.regions))
    assert set(answer["collectives"]) == {"all-reduce"}
    rows = 4 * 2 * 2 * p.attributes * (p.channels + p.regions)
    assert rows < parameters  # so that the gradients of the folded rows are added up
    assert 0 <= answer["collectives"]["all-reduce"]["bytes"] - rows < 200
    # One of them has the whole gradient, and next to nothing is left for others.
    assert answer["collectives"]["all-reduce"]["largest"] >= rows
    assert (answer["parameters"], answer["state"]) == (parameters, 3 * parameters + 4)
    # What takes an argument's place: parameters, two slots of the optimiser and the step.
    assert answer["aliased"] == 3 * parameters + 4


@pytest.mark.parametrize(
    ("flags", "slots", "counts"),
    [
        (["name=rmsprop"], 2, 0),
        pytest.param(["name=adamw"], 2, 1, marks=pytest.mark.slow),
        pytest.param(["name=sgd"], 1, 0, marks=pytest.mark.slow),
        pytest.param(["name=lion"], 1, 1, marks=pytest.mark.slow),
        pytest.param(["name=sgd", "schedule=cosine", "clip_norm=1"], 1, 1, marks=pytest.mark.slow),
        (["name=adamw", "ema_decay=0.9"], 3, 2),
    ],
)
def test_state_of_the_optimisers(flags: list[str], slots: int, counts: int) -> None:
    """Slots as large as the parameters, and counts of steps."""
    config = load_config("cub_gzsl", [f"--config.optimizer.{flag}" for flag in flags])
    layout = Layout.of_devices(jax.devices()[:1])
    compiled = train_program(config, _LOOPED, _LOOPED.batch, layout).lower(layout).compile()
    p = _LOOPED
    parameters = 4 * 2 * (p.attributes * p.word_dim + p.word_dim * 2 * (p.channels + p.regions))
    assert compiled.memory_analysis().alias_size_in_bytes == (1 + slots) * parameters + 4 * (
        1 + counts
    )


@pytest.mark.slow
def test_attribute_shards(sent: dict[str, Any]) -> None:
    """Two parts of the batch, four of the rows: the same work, and scores are gathered."""
    found = _ask(_LOOPED, "--config.distribution.attribute_shards=4")
    p = _LOOPED
    scores = 8 * p.classes * p.attributes  # by every chip of a part's images
    folding = 24 * p.attributes * p.word_dim * (p.channels + p.regions)
    flops = [a["flops"] for a in (sent, found)]
    # 4 images with all rows, 16 images with a quarter of them.
    assert flops[0] - flops[1] == folding - folding // 4 + (4 - 16) * scores
    # Both branches' scores of 16 images and 24 rows, forward and backward.
    assert found["collectives"]["all-gather"]["bytes"] == 2 * 16 * 2 * p.attributes * 4
    assert found["collectives"]["all-reduce"]["bytes"] > 0
    with pytest.raises(InputError, match="attribute_shards=3 does not fit 8 devices, 8 in"):
        _ask(_LOOPED, "--config.distribution.attribute_shards=3")


@pytest.mark.parametrize(
    "residency", [pytest.param("replicated", marks=pytest.mark.slow), "sharded"]
)
def test_maps_that_stay_on_the_devices(residency: str, sent: dict[str, Any]) -> None:
    """The same work; the maps are in memory, and where they are cut one sum hands them out."""
    p = _LOOPED
    found = _ask(p, residency=residency)
    for count in ("flops", "aliased"):
        assert found[count] == sent[count]
    image = 4 * p.channels * p.regions
    tiles = 4 * -(-p.regions // 8) * 8 * -(-p.channels // 128) * 128
    # A shard ends with a map of zeros.
    rows = p.stored // CPU_DEVICES + 1 if residency == "sharded" else p.stored
    here = rows * tiles
    assert (sent["resident"], found["resident"]) == (0, here)
    # Indices take the place of the batch's maps.
    added = found["arguments"] - sent["arguments"]
    assert added == here - 32 // CPU_DEVICES * (image - 4)
    assert found["collectives"]["all-reduce"] == sent["collectives"]["all-reduce"]
    others = {k: v["bytes"] for k, v in found["collectives"].items() if k != "all-reduce"}
    expected = (
        {"all-gather": 32 * 4, "reduce-scatter": 32 * tiles} if residency == "sharded" else {}
    )
    assert others == expected


def test_products_of_bfloat16_are_told_apart() -> None:
    """They take one pass of the matrix unit, whatever precision the others have."""
    p = dataclasses.replace(_LOOPED, dtype="bfloat16")
    flops = _flops(p)
    assert flops.bfloat16 == 32 * 5 * p.attributes * p.channels * p.regions
    assert flops.total > flops.bfloat16
    exact = _flops(_LOOPED)
    assert (exact.total, exact.bfloat16) == (flops.total, 0)


def test_attention_alone() -> None:
    """Value and gradient of the rows of a batch on one device; nothing is exchanged."""
    found = _ask(_LOOPED, job="attention")
    p, images = _LOOPED, 32
    pooling = 32 * images * p.attributes * p.channels * p.regions
    assert pooling <= found["flops"] < 1.3 * pooling
    assert found["collectives"] == {}
    rows = 4 * 2 * 2 * p.attributes * (p.channels + p.regions)
    pooled = 4 * 2 * images * 2 * p.attributes
    assert found["arguments"] == rows + 4 * images * p.channels * p.regions + pooled
    assert "schedule" not in found  # only TPUs have one
