"""Training that starts from the parameters of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.inference.run import open_run, train
from dedn_jax.interop.convert import state_to_nested
from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.checkpoint import load_params
from tests.helpers.tiny import ONE_NETWORK, arrays, light_config, tiny_config, write_tiny
from tests.training.common import Finished

SLOW = {"optimizer__learning_rate": 1e-5, "optimizer__name": "sgd", "train__epochs": 1}


def test_every_phase_starts_from_the_same_phase_of_the_other_run(
    finished: Callable[..., Finished], data: Path, tmp_path: Path
) -> None:
    other = finished("validation", **ONE_NETWORK).path
    config = light_config(data, train__init_from=str(other), **SLOW)
    run = train(config, tmp_path / "run")
    like = run.network.params
    for phase in ("validation", "final"):
        found, there, drawn = (
            jax.tree.leaves(p)
            for p in (
                load_params(tmp_path / "run" / phase / "selected", like),
                load_params(other / phase / "selected", like),
                like,
            )
        )
        for a, b, c in zip(found, there, drawn, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)
            assert np.abs(np.asarray(a) - np.asarray(c)).max() > 1e-2
    sha256 = read_json(tmp_path / "run" / "dataset.json")["init_from"]
    assert len(sha256) == 64
    # Evaluating needs the other run no more; going on from another one is refused.
    moved = open_run(tmp_path / "run", {"train.init_from": "elsewhere"})
    assert moved.evaluate() == run.result["test"]
    config.train.init_from = str(tmp_path / "run")
    with pytest.raises(InputError, match=r"on another data set \(differs in init_from\)"):
        train(config, tmp_path / "run")


def test_a_run_on_another_data_set_gives_all_but_its_word_vectors(
    finished: Callable[..., Finished], data: Path, tmp_path: Path
) -> None:
    other = finished("last").path
    config = tiny_config(write_tiny(tmp_path / "other.hdf5", seed=5), **SLOW)
    config.train.init_from = str(other)
    train(config, tmp_path / "run")  # its validation classes are others: all is allowed
    found, there = arrays(tmp_path / "run"), arrays(other)
    own = state_to_nested(open_run(tmp_path / "run").network.params)
    np.testing.assert_allclose(
        found["coarse.word_vectors"], own["coarse"]["word_vectors"], atol=1e-3
    )
    for name in found:
        if not name.endswith("word_vectors"):
            np.testing.assert_allclose(found[name], there[name], atol=1e-3, err_msg=name)


def test_what_cannot_be_started_from(
    finished: Callable[..., Finished],
    data: Path,
    tmp_path: Path,
) -> None:
    def refused(message: str, **fields: object) -> None:
        with pytest.raises(InputError, match=message):
            train(tiny_config(data, **fields), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    last, validation = (str(finished(p).path) for p in ("last", "validation"))
    refused(rf"config\.train\.init_from={tmp_path}: holds no run", train__init_from=str(tmp_path))
    refused(r"init_from=.*: it must have set .* protocol is last", train__init_from=last)
    refused(r"same validation .* seed=0 there, 5 here", train__init_from=validation, seed=5)
    refused(
        r"config\.train\.init_from: .* another model: fine\.\d\.word_vectors has shape",
        train__init_from=last,
        selection__protocol="last",
        data__groups="0-1;2-5",
    )
    refused(
        r"another model: coarse\.channel_\w+ has shape \(5, 4\) there, none here",
        train__init_from=last,
        selection__protocol="last",
        model__branches="region",
    )
    config = tiny_config(data, train__init_from=last, selection__protocol="last")
    with pytest.raises(InputError, match=r"config\.train\.init_from=.*leave it empty"):
        run_sweep(config, tmp_path / "sweep", 2)
