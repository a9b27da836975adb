"""What a work directory holds is read by later versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax.config import base_config
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.training.workdir import Workdir


@pytest.mark.parametrize(("old", "new"), [("always", "replicated"), ("cut", "sharded")])
def test_a_config_with_the_old_names_of_residency(tmp_path: Path, old: str, new: str) -> None:
    saved = base_config().to_dict()
    saved["data"]["on_device"] = old
    write_json(tmp_path / "config.json", saved)
    assert Workdir(tmp_path).load_config().data.on_device == new


def test_a_run_from_before_a_field_was_there(tmp_path: Path) -> None:
    """It had the base's value; another value is another run."""
    saved = base_config().to_dict()
    del saved["loss"]["kl_weight"]
    write_json(tmp_path / "config.json", saved)
    config = base_config()
    Workdir(tmp_path).check_config(config)
    config.loss.kl_weight = 0.5
    with pytest.raises(InputError, match=r"another config \(loss.kl_weight=0.0 there, 0.5 now\)"):
        Workdir(tmp_path).check_config(config)


@pytest.mark.parametrize("data", [3, None, {"on_device": []}, {"path": {}}, {"no_such": 1}])
def test_a_damaged_config(tmp_path: Path, data: object) -> None:
    write_json(tmp_path / "config.json", base_config().to_dict() | {"data": data})
    with pytest.raises(InputError, match="not a config of this version"):
        Workdir(tmp_path).load_config()
