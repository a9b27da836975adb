"""The grid: which points it has, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.sweep.points import Grid, make_points

CONFIG = load_config("base", ["--config.data.path=x.hdf5"])


def test_all_combinations() -> None:
    points = make_points(CONFIG, ["loss.bias=1,2.5", "selection.protocol=last,test-best"])
    assert [str(p) for p in points] == [
        "loss.bias=1.0, selection.protocol=last",
        "loss.bias=1.0, selection.protocol=test-best",
        "loss.bias=2.5, selection.protocol=last",
        "loss.bias=2.5, selection.protocol=test-best",
    ]
    assert points[3].config.loss.bias == 2.5
    assert points[3].config.selection.protocol == "test-best"
    assert load_config("base", ["--config.data.path=x.hdf5"]) == CONFIG  # untouched


def test_values_by_field() -> None:
    """As the flags, in Python's types."""
    grid = {"loss.bias": np.array([1.0, 2.5]), "selection.protocol": ("last", "test-best")}
    flags = ["loss.bias=1,2.5", "selection.protocol=last,test-best"]
    assert make_points(CONFIG, grid) == make_points(CONFIG, flags)
    assert make_points(CONFIG, {}) == make_points(CONFIG, [])


def test_without_a_grid_there_is_one_point() -> None:
    (point,) = make_points(CONFIG, [])
    assert point.fields == {} and point.config == CONFIG


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["loss.bais=1"], r"unknown field config.loss.bais; known fields: loss.bias"),
        (["los.bias=1"], r"unknown field config.los.bias; known fields: loss.bias"),
        (["loss.bias.x=1"], r"unknown field config.loss.bias.x; known fields: loss.bias"),
        (["loss=1"], r"unknown field config.loss; known fields: loss.alignment_weight, loss.b"),
        (["loss.bias"], r"expected section.field=a,b,c"),
        (["loss.bias="], r"expected section.field=a,b,c"),
        (["loss.bias=1,,2"], r"expected section.field=a,b,c"),
        (["loss.bias=1,two"], r"--grid: cannot apply --config.loss.bias=two"),
        (["train.epochs=1.5"], r"--grid: cannot apply --config.train.epochs=1.5"),
        (["train.epochs=3,0"], r"config.train.epochs=0, expected at least 1"),
        (["loss.bias=1,2,1.0"], r"a value is given twice"),
        (["loss.bias=1", "loss.bias=2"], r"config.loss.bias is given twice"),
        (["data.dtype=float16"], r"config.data.dtype would make it another data set"),
        (["seed=1,2"], r"config.seed is what --seeds varies"),
        (["backbone.name=resnet18"], r"config.backbone.name has no effect on features"),
        (["distribution.strategy=jit,pmap"], r"config.distribution.strategy changes no number"),
        (["train.log_every=1,2"], r"config.train.log_every changes no number"),
        ({"loss.bais": [1]}, r"unknown field config.loss.bais; known fields: loss.bias"),
        ({"loss.bias": [1, "two"]}, r"grid: config.loss.bias='two' of type str, expected float"),
        ({"loss.bias": 1.0}, r"grid loss.bias=1.0 of type float, expected a list of values"),
        ({"loss.bias": "1,2"}, r"of type str, expected a list of values"),
        ({"loss.bias": []}, r"grid loss.bias=\[\]: no value; give at least one"),
        ({"loss.bias": [1, 1.0]}, r"a value is given twice"),
        ({"train.epochs": [0]}, r"config.train.epochs=0, expected at least 1"),
        ({"data.dtype": ["float16"]}, r"config.data.dtype would make it another data set"),
        ({3: [1]}, r"a field of the grid"),
    ],
)
def test_refused(grid: Grid, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_points(CONFIG, grid)
    assert len(str(caught.value).splitlines()) == 1
