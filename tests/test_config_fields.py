"""Every field of the config is listed with its default and its comment."""

from __future__ import annotations

import pytest

from dedn_jax.cli.main import main
from dedn_jax.config import base_config, flat_fields
from dedn_jax.config_fields import config_fields


def test_all_fields_in_the_order_of_the_file() -> None:
    fields = {field.name: field for field in config_fields()}
    known = flat_fields(base_config().to_dict())
    assert {name: f.default for name, f in fields.items() if f.default is not None} == known
    assert fields["seed"].comment == ""
    assert fields["train.evaluate_every"].comment == "steps; 0: once an epoch"
    assert fields["data.format"].comment.startswith("published_hdf5; prepared (`dedn data build`)")
    assert "clusters:N" in fields["data.groups"].comment
    assert fields["loss.distillation"].comment.startswith("How the experts teach each other")
    assert fields["loss.distillation.kl"].comment == "bidirectional KL"
    assert fields["loss.distillation.kl.temperature"].default == 2.0
    names = list(fields)
    assert names[:2] == ["seed", "data"] and names[-1] == "predict.expert_mix"


def test_help_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help-config"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in flat_fields(base_config().to_dict()):
        assert f"--config.{name}=" in text
    assert all(len(line) <= 100 for line in text.splitlines())
