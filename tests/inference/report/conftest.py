"""Finished runs to report: from features whose names are hostile, and the demo's from pictures."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest

from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.load import load_dataset
from dedn_jax.data.sources import demo
from dedn_jax.inference.run import Run, train
from tests.helpers.tiny import tiny_config, write_tiny

HOSTILE = ("<script>alert(1)</script>", "a $x_1$ & b", "=cmd()", "two\nlines", '"quoted"', "50%")


@pytest.fixture(scope="package")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> GZSLDataset:
    path = write_tiny(tmp_path_factory.mktemp("data") / "tiny.hdf5")
    data = load_dataset(tiny_config(path))
    return dataclasses.replace(
        data, class_names=(*HOSTILE, "six", "seven"), attribute_names=HOSTILE, source="arrays"
    )


@pytest.fixture(scope="package")
def runs(dataset: GZSLDataset, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """By `validation`, `last` and `test-best`."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        train(
            tiny_config(Path("nowhere.hdf5"), selection__protocol=protocol),
            folder / protocol,
            dataset=dataset,
        )
        for protocol in ("validation", "last", "test-best")
    ]


@pytest.fixture(scope="package")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One epoch on the demo set, drawn small and with fewer pictures."""
    folder = tmp_path_factory.mktemp("demo")
    flags = ["train.epochs=1", "data.groups=single", "picture.resize=32", "picture.crop=32"]
    overrides = [f"--config.{flag}" for flag in (f"data.path={folder}/cache", *flags)]
    small = functools.partial(demo.demo_pictures, image_size=32, images_per_class=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "demo_pictures", small)
        return train(load_config("demo", overrides), folder / "run")
