"""What a work directory holds is read by later versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax.config import base_config
from dedn_jax.files import write_json
from dedn_jax.training.workdir import Workdir


@pytest.mark.parametrize(("old", "new"), [("always", "replicated"), ("cut", "sharded")])
def test_a_config_with_the_old_names_of_residency(tmp_path: Path, old: str, new: str) -> None:
    saved = base_config().to_dict()
    saved["data"]["on_device"] = old
    write_json(tmp_path / "config.json", saved)
    assert Workdir(tmp_path).load_config().data.on_device == new
