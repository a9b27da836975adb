"""Recipes: the published constants, overrides, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dedn_jax.config import base_config, find_config, load_config
from dedn_jax.errors import InputError

# The table of published recipes: epochs, calibration weight, balanced, region mix (c_mix), expert
# mix (e_mix), rank (h), margin (t), groups, clipped embeddings.
PUBLISHED = {
    "cub_gzsl": (80, 0.0, True, 0.8, 0.9, 0, 3.0, "cub", False),
    "cub_zsl": (80, 0.18, True, 0.6, 0.9, 0, 3.0, "cub", False),
    "sun_gzsl": (80, 0.0, False, 0.95, 0.3, 256, 2.0, "sun_released", False),
    "sun_zsl": (80, 0.0, False, 0.95, 0.3, 128, 2.0, "sun_released", False),
    "awa2_gzsl": (20, 0.11, True, 0.8, 0.5, 0, 2.0, "awa2", True),
    "awa2_zsl": (20, 0.11, False, 0.8, 0.5, 0, 2.0, "awa2", True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name):
    config = load_config(name)
    found = (
        config.train.epochs,
        config.loss.calibration_weight,
        config.train.balanced,
        config.predict.region_mix,
        config.predict.expert_mix,
        config.model.rank,
        config.loss.margin,
        config.data.groups,
        config.data.clip_negative_embeddings,
    )
    assert found == PUBLISHED[name]
    assert config.selection.metric == ("t1" if name.endswith("_zsl") else "harmonic_mean")
    # What all six share.
    assert config.train.batch_size == 50
    assert (config.loss.bias, config.loss.margin_aware) == (1.0, True)
    distillation = config.loss.distillation
    assert (distillation.name, distillation.schedule) == ("agreement", "constant")
    assert (distillation.agreement.weight, config.loss.alignment_weight) == (0.1, 0.001)
    assert config.optimizer.to_dict() == {
        "name": "rmsprop",
        "learning_rate": 1e-4,
        "decay": 0.99,
        "epsilon": 1e-8,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "final_fraction": 0.0,
        "clip_norm": 0.0,
        "ema_decay": 0.0,
        "scale_with_batch": False,
        "reference_batch": 50,
    }


def test_recipes_do_not_share_state():
    one, other = base_config(), base_config()
    one.train.epochs = 3
    assert other.train.epochs == 80


def test_overrides():
    config = load_config(
        "cub_gzsl",
        [
            "--config.train.epochs=3",
            "--config.optimizer.learning_rate=1e-3",
            "--config.data.path=a b.hdf5",
            "--config.train.balanced=false",
            "--noconfig.loss.margin_aware",
            "--config.data.groups=0-8,9-11;12-311",
        ],
    )
    assert config.train.epochs == 3
    assert config.optimizer.learning_rate == 1e-3
    assert config.data.path == "a b.hdf5"
    assert config.train.balanced is False
    assert config.loss.margin_aware is False
    assert config.data.groups == "0-8,9-11;12-311"
    assert load_config("cub_gzsl").train.epochs == 80


def test_overrides_as_a_mapping():
    """Typed values, with the checks and the outcome that flags have."""
    values = {
        "train.epochs": 3,
        "optimizer.learning_rate": 1e-3,
        "loss.margin": 2,
        "data.path": Path("a b.hdf5"),
        "train.balanced": False,
    }
    config = load_config("cub_gzsl", values)
    assert config == load_config("cub_gzsl", [f"--config.{k}={v}" for k, v in values.items()])
    assert type(config.loss.margin) is float
    assert config.data.path == "a b.hdf5"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train.epoch", 3, "unknown field config.train.epoch; known fields: train.epochs"),
        (
            "train",
            {"epochs": 3},
            r"unknown field config.train; known fields: train.balanced, train.b",
        ),
        ("epochs", 3, "unknown field config.epochs; known fields: "),
        ("train.epochs", "3", "config.train.epochs='3' of type str, expected int"),
        ("train.epochs", 3.0, "config.train.epochs=3.0 of type float, expected int"),
        ("train.epochs", True, "config.train.epochs=True of type bool, expected int"),
        ("train.balanced", 1, "config.train.balanced=1 of type int, expected bool"),
        ("data.path", None, "config.data.path=None of type NoneType, expected str"),
        ("loss.margin", float("nan"), "config.loss.margin=nan, expected a finite number"),
        ("train.epochs", 0, "config.train.epochs=0, expected at least 1"),
        ("data.format", "csv", "data.format='csv', expected one of published_hdf5, stor"),
    ],
)
def test_refused_values(field, value, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config("cub_gzsl", {field: value})
    assert str(caught.value).startswith("recipe cub_gzsl: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overrides", [(), ["--config.seed=3"], {"seed": 3}], ids=str)
@pytest.mark.parametrize("recipe", ["base", "cub_gzsl"])
def test_config_is_locked(recipe, overrides):
    config = load_config(recipe, overrides)
    with pytest.raises(AttributeError):
        config.train.epoch = 3
    with pytest.raises(AttributeError):
        config.sed = 3
    assert load_config(recipe).seed == 0  # nothing of it stays


def test_the_config_of_a_run_repeats_it(tmp_path):
    path = tmp_path / "config.json"
    config = load_config("sun_gzsl", {"train.epochs": 3})
    saved = config.to_dict()
    path.write_text(json.dumps(saved))
    assert load_config(path).to_dict() == saved
    again = load_config(path, ["--config.seed=7"])
    assert again.to_dict() == saved | {"seed": 7}
    del saved["evaluate"]  # as an older version may have written it
    path.write_text(json.dumps(saved))
    assert load_config(path).to_dict() == config.to_dict()
    for wrong, message in (
        ({"train": 3}, "not a config of this version"),
        ({"train": {"epochs": -1}}, "config.train.epochs=-1, expected"),
        ({"no_such": 1}, "not a config of this version"),
    ):
        path.write_text(json.dumps(saved | wrong))
        with pytest.raises(InputError, match=f"^{path}: {message}"):
            load_config(path)


def test_find_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config(): ...\n")
    assert find_config(str(path)) == path
    assert find_config("cub_zsl").name == find_config("CUB_ZSL").name == "cub_zsl.py"
    assert find_config("cub_zsl.py") == find_config("configs/cub_zsl.py").resolve()


def test_own_recipe(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dedn_jax.config import base_config\n"
        "def get_config():\n"
        "    config = base_config()\n"
        "    config.train.epochs = 7\n"
        "    return config\n"
    )
    assert load_config(str(path)).train.epochs == 7
    assert list(tmp_path.iterdir()) == [path]  # no bytecode beside the user's file


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.epoch=3", "unknown field config.train.epoch; known fields: train.epochs"),
        ("--config.nothing.epochs=3", "unknown field config.nothing.epochs; known fields: "),
        ("--config.train.epochs=many", "many"),
        ("--config.train.epochs=1.5", "1.5"),
        ("--config.train.balanced=perhaps", "perhaps"),
        ("--other=3", "unexpected argument --other=3, expected --config.section.field=value"),
        ("stray", "unexpected argument stray"),
        ("--config.train.epochs=0", "config.train.epochs=0, expected at least 1"),
        ("--config.train.batch_size=-1", "config.train.batch_size=-1, expected at least 1"),
        ("--config.evaluate.batch_size=0", "config.evaluate.batch_size=0, expected at least 1"),
        ("--config.train.log_every=-1", "config.train.log_every=-1, expected at least 1"),
        ("--config.train.checkpoints_kept=0", "train.checkpoints_kept=0, expected at least 1"),
        ("--config.train.evaluate_every=-1", r"train.evaluate_every=-1, expected 0 \(once"),
        ("--config.seed=-1", "config.seed=-1, expected 0 to 2"),
        ("--config.model.rank=-1", "model.rank=-1, expected 0"),
        ("--config.loss.distillation.kl.temperature=0", "kl.temperature=0.0, expected more than 0"),
        ("--config.loss.distillation.js.weight=-0.1", "js.weight=-0.1, expected 0 or more"),
        ("--config.loss.distillation.name=kl+none", "expected none, or one or several joined by +"),
        ("--config.loss.distillation.name=kl+kl", "expected none, or one or several joined by +"),
        ("--config.loss.distillation.schedule=late", "one of constant, warmup, ramp"),
        ("--config.loss.distillation.schedule_epochs=-1", "schedule_epochs=-1.0, expected 0"),
        ("--config.loss.distillation.balanced_kl.emphasis=0.5", "expected 1 or more"),
        ("--config.loss.distillation.confident.drop=1", "expected a share from 0 to below 1"),
        ("--config.model.experts=medium", "one of both, coarse, fine"),
        ("--config.model.branches=all", "one of both, region, channel"),
        ("--config.predict.region_mix=1.1", "predict.region_mix=1.1, expected a number from 0"),
        ("--config.predict.expert_mix=nan", "predict.expert_mix=nan, expected a finite number"),
        ("--config.optimizer.learning_rate=0", "learning_rate=0.0, expected more than 0"),
        ("--config.optimizer.momentum=1", "momentum=1.0, expected a number from 0 to below 1"),
        ("--config.optimizer.name=adam", "name='adam', expected one of rmsprop, adamw, sgd, lion"),
        ("--config.optimizer.schedule=step", "schedule='step', expected one of constant, cosine"),
        ("--config.optimizer.warmup_epochs=-1", r"epochs=-1.0, expected 0 to below config.train"),
        ("--config.optimizer.warmup_epochs=80", r"=80.0, expected 0 to below .*epochs=\d+$"),
        ("--config.optimizer.final_fraction=2", "final_fraction=2.0, expected a number from 0 to"),
        ("--config.optimizer.clip_norm=-1", "clip_norm=-1.0, expected 0 or more"),
        ("--config.optimizer.weight_decay=-1", "weight_decay=-1.0, expected 0 or more"),
        ("--config.optimizer.ema_decay=1", "ema_decay=1.0, expected a number from 0 to below 1"),
        ("--config.optimizer.reference_batch=0", "reference_batch=0, expected at least 1"),
        ("--config.selection.validation_classes=1", "=1.0, expected a share between 0 and 1"),
        ("--config.data.format=csv", "data.format='csv', expected one of published_hdf5, stor"),
        ("--config.data.dtype=float64", "data.dtype='float64', expected one of float32, bf"),
        ("--config.selection.protocol=best", "'best', expected one of validation, last, test-b"),
        ("--config.selection.metric=h", "'h', expected one of harmonic_mean, t1"),
        ("--config.selection.refit=no", "'no', expected one of retrain, continue"),
        ("--config.loss.distillation.agreement.weight=nan", "weight=nan, expected a finite"),
        ("--config.distribution.attribute_shards=0", "attribute_shards=0, expected at least 1"),
        (f"--config.train.epochs={10**21}", "train.epochs=10{21}, expected at most 1000000$"),
        ("--config.train.epochs=3.5", "epochs=3.5: expected a whole number, such as 3$"),
        ("--config.loss.margin=wide", "margin=wide: expected a number, such as 0.5$"),
        ("--config.picture.augment=maybe", "augment=maybe: expected true or false$"),
        (f"--config.train.epochs={'9' * 10**5}", "cannot apply --config.train.epochs=999"),
        ("--config.model.rank=1000000000", "model.rank=1000000000, expected at most 4096"),
        ("--config.evaluate.batch_size=2000000", "batch_size=2000000, expected at most 1000000"),
        ("--config.optimizer.learning_rate=1e10", "=10000000000.0, expected at most 1000000000"),
        ("--config.data.path=" + "x" * 10**5, "data.path='x{199}, expected text of at most"),
        ("--config.data.path=a\0b", "expected text of at most 65536 characters without NUL"),
        ("--config.optimizer.learning_rate=inf", "learning_rate=inf, expected a finite number"),
    ],
)
def test_refused_overrides(override, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config("cub_gzsl", [override])
    assert str(caught.value).startswith("recipe cub_gzsl: ")
    assert "\n" not in str(caught.value)


def test_pmap_keeps_nothing_on_the_device():
    pmap = "--config.distribution.strategy=pmap"
    load_config("cub_gzsl", [pmap])
    with pytest.raises(InputError, match=r"state='sharded', expected auto or replicated with"):
        load_config("cub_gzsl", [pmap, "--config.distribution.state=sharded"])
    with pytest.raises(InputError, match=r"data\.on_device='replicated', expected auto or never"):
        load_config("cub_gzsl", [pmap, "--config.data.on_device=replicated"])


@pytest.mark.parametrize("name", ["nothing", "configs/nothing.py", "elsewhere/cub_gzsl", ""])
def test_unknown_recipe(name):
    with pytest.raises(InputError, match=r"^no recipe .*one of awa2_gzsl, .*sun_zsl"):
        load_config(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", r"mine.py: no function get_config\(\)"),
        ("def get_config(:\n", "mine.py: running it raised SyntaxError: "),
        ("import no_such_module\n", "mine.py: running it raised ModuleNotFoundError: No module"),
        ("def get_config():\n    return 3\n", "mine.py.* must return a ConfigDict, got int"),
        ("def get_config():\n    raise ValueError('no')\n", "mine.py.*no"),
    ],
)
def test_broken_recipe(tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_config(str(path))


def test_recipe_without_a_section(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'a': 1})\n"
    )
    with pytest.raises(
        InputError, match=r"mine.py: unknown field config.a; known fields: backbone, "
    ):
        load_config(str(path))


def test_a_schedule_of_distillation_does_not_begin_again() -> None:
    flags = ["--config.loss.distillation.schedule=ramp", "--config.selection.refit=continue"]
    with pytest.raises(
        InputError, match=r"schedule='ramp', expected constant with config.selection"
    ):
        load_config("cub_gzsl", flags)
    load_config("cub_gzsl", [*flags, "--config.selection.protocol=last"])
