"""Loads a recipe from `configs/`; checks what type checks cannot."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict, config_flags

from dedn_jax.errors import InputError, one_line

SELECTION_PROTOCOLS = ("validation", "last", "test-best")
SELECTION_METRICS = ("harmonic_mean", "t1")
REFITS = ("retrain", "continue")
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
FEATURE_DTYPES = ("float32", "bfloat16", "float16")
DATA_SOURCES = ("features", "images")
DATA_FORMATS = ("published_hdf5", "store", "prepared", "demo")
KERNELS = ("auto", "xla", "pallas")
STRATEGIES = ("jit", "pmap")
RESIDENCIES = ("auto", "replicated", "sharded", "never")
BACKBONE_DTYPES = ("float32", "bfloat16")

_RECIPE = "a recipe is a Python file as configs/base.py is one"


def _configs_dir() -> Path:
    """The folder of recipes: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "base.py").is_file():
            return folder
    raise InputError(
        f"no folder configs/ with base.py beside or inside {package}; reinstall dedn-jax"
    )


def find_config(name_or_path: str) -> Path:
    """The file of a recipe: a path, or the bare name of a recipe that comes with the package.

    Raises:
      InputError: no such file or recipe.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = _configs_dir()
    candidate = known / f"{path.stem}.py"
    bare = path.parent in (Path("."), Path("configs")) and path.suffix in ("", ".py")
    if bare and candidate.is_file():
        return candidate
    names = ", ".join(sorted(p.stem for p in known.glob("*.py")))
    raise InputError(f"--config: no file {name_or_path!r}; give a path, or one of {names}")


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dedn_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--config: {path} is not a Python file; {_RECIPE}")
    module = importlib.util.module_from_spec(spec)
    # A recipe is the user's own code, run like any other Python they write.
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        reason = one_line(error)
        raise InputError(
            f"--config: {path} cannot be run: {type(error).__name__}: {reason}; {_RECIPE}"
        ) from error
    finally:
        sys.dont_write_bytecode = bytecode
    if not hasattr(module, "get_config"):
        raise InputError(f"--config: {path} has no function get_config(); {_RECIPE}")
    return module


def base_config() -> ConfigDict:
    """A fresh copy of `configs/base.py`, which every recipe starts from.

    Locked: setting a field that is not there is an error, not a new field.
    """
    config: ConfigDict = _import_file(_configs_dir() / "base.py").get_config()
    return config.lock()


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads a recipe and applies overrides.

    Args:
      name_or_path: a file, or a bare recipe name such as `cub_gzsl`.
      overrides: flags in ml_collections' form, `--config.train.epochs=3`.

    Raises:
      InputError: unknown recipe, unknown field, a value of the wrong type or outside its range.
    """
    path = find_config(name_or_path)
    module = _import_file(path)
    try:
        config = module.get_config()
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"{path}: get_config(): {type(error).__name__}: {_reason(error)}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config() returns a {type(config).__name__}, no ConfigDict")
    return apply_overrides(config, overrides, str(path))


def apply_overrides(config: ConfigDict, overrides: Sequence[str], where: str) -> ConfigDict:
    """`config` with `--config.section.field=value` flags applied, and checked.

    Raises:
      InputError: unknown field, a value of the wrong type or outside its range.
    """
    check_config(config, where)
    values = flags.FlagValues()
    argv = ["dedn", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: cannot apply {' '.join(overrides)}: {_reason(error)}"
        ) from error
    if rest[1:]:
        raise InputError(f"{where}: unexpected arguments {' '.join(rest[1:])}")
    changed: ConfigDict = values["config"].value
    check_config(changed, where)
    return changed


def _reason(error: BaseException) -> str:
    """On one line. ml_collections wraps an error in another, whose text is then no text."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.split())


def _check_fields(config: ConfigDict, base: ConfigDict, where: str, prefix: str = "") -> None:
    """Raises InputError unless `config` has just the fields of `base`, of their types."""
    if extra := sorted(set(config) - set(base)):
        raise InputError(
            f"{where}: config.{prefix}{extra[0]} is no field; known: "
            f"{', '.join(prefix + name for name in base)}"
        )
    for name, default in base.items():
        field = f"{prefix}{name}"
        if name not in config or isinstance(default, ConfigDict) > isinstance(
            config[name], ConfigDict
        ):
            raise InputError(
                f"{where}: config.{field} is missing; start the recipe from "
                "dedn_jax.config.base_config()"
            )
        value = config[name]
        if isinstance(default, ConfigDict):
            _check_fields(value, default, where, f"{field}.")
        elif type(value) is not type(default) and not (
            isinstance(default, float) and type(value) is int
        ):
            raise InputError(
                f"{where}: config.{field}={value!r}, expected a {type(default).__name__}"
            )
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: config.{field}={value}, expected a finite number")


def _check_pictures(config: ConfigDict, require: Callable[[bool, str, str], None]) -> None:
    pictures = config.data.source == "images"
    by_format = {
        "published_hdf5": ("features",),
        "store": ("features",),
        "prepared": DATA_SOURCES,
        "demo": ("images",),
    }
    sources = by_format[config.data.format]
    require(
        config.data.source in sources,
        "data.source",
        f"{' or '.join(sources)} with config.data.format={config.data.format}",
    )
    require(
        config.data.workers == 0 or (pictures and config.data.workers > 0),
        "data.workers",
        "0, or with config.data.source=images more: only pictures have work for them",
    )
    require(
        not config.data.features or (config.data.format == "prepared" and not pictures),
        "data.features",
        "nothing; it is for config.data.format=prepared with config.data.source=features",
    )
    p = config.picture
    require(p.crop >= 32, "picture.crop", "at least 32 pixels")
    require(p.resize >= p.crop, "picture.resize", f"at least config.picture.crop={p.crop}")
    require(0 < p.smallest_area <= 1, "picture.smallest_area", "a share above 0, at most 1")
    require(0 <= p.flip_probability <= 1, "picture.flip_probability", "a number from 0 to 1")
    require(
        not (p.augment and not pictures),
        "picture.augment",
        "false with features; set config.data.source=images",
    )
    trained = config.backbone.trained
    require(
        not (trained and not pictures),
        "backbone.trained",
        "false with features; set config.data.source=images",
    )
    require(config.backbone.learning_rate > 0, "backbone.learning_rate", "more than 0")


def check_config(config: ConfigDict, where: str) -> None:
    """Checks ranges and choices of every field that has them.

    Raises:
      InputError: names the field, the value found and the values allowed.
    """

    def require(ok: bool, field: str, expected: str) -> None:
        if not ok:
            value = config
            for part in field.split("."):
                value = value[part]
            raise InputError(f"{where}: config.{field}={value!r}, expected {expected}")

    def one_of(field: str, choices: Sequence[str]) -> None:
        value = config
        for part in field.split("."):
            value = value[part]
        require(value in choices, field, "one of " + ", ".join(choices))

    _check_fields(config, base_config(), where)
    one_of("data.source", DATA_SOURCES)
    one_of("data.format", DATA_FORMATS)
    one_of("data.on_device", RESIDENCIES)
    one_of("backbone.dtype", BACKBONE_DTYPES)
    one_of("distribution.strategy", STRATEGIES)
    require(
        config.data.on_device in ("auto", "never") or config.distribution.strategy == "jit",
        "data.on_device",
        "auto or never with config.distribution.strategy=pmap, which is sent its batches",
    )
    shards = config.distribution.attribute_shards
    require(shards >= 1, "distribution.attribute_shards", "at least 1")
    require(
        shards == 1 or config.distribution.strategy == "jit",
        "distribution.attribute_shards",
        "1 with config.distribution.strategy=pmap, which cuts batches alone",
    )
    _check_pictures(config, require)
    one_of("data.dtype", FEATURE_DTYPES)
    one_of("selection.protocol", SELECTION_PROTOCOLS)
    one_of("selection.metric", SELECTION_METRICS)
    one_of("selection.refit", REFITS)
    one_of("model.precision", PRECISIONS)
    one_of("model.kernel", KERNELS)
    require(0 <= config.seed < 2**32, "seed", "0 to 2**32 - 1")
    for name in (
        *("epochs", "batch_size", "steps_per_call"),
        *("log_every", "checkpoint_every", "checkpoints_kept"),
    ):
        require(config.train[name] >= 1, f"train.{name}", "at least 1")
    require(config.train.evaluate_every >= 0, "train.evaluate_every", "0 (once an epoch) or more")
    require(config.evaluate.batch_size >= 1, "evaluate.batch_size", "at least 1")
    require(config.model.rank >= 0, "model.rank", "0 (full rank) or more")
    for name in ("calibration_weight", "agreement_weight", "alignment_weight", "kl_weight"):
        require(config.loss[name] >= 0, f"loss.{name}", "0 or more")
    require(config.loss.kl_temperature > 0, "loss.kl_temperature", "more than 0")
    for name in ("region_mix", "expert_mix"):
        require(0 <= config.predict[name] <= 1, f"predict.{name}", "a number from 0 to 1")
    for name in ("validation_classes", "validation_images", "continue_epochs"):
        require(0 < config.selection[name] < 1, f"selection.{name}", "a share between 0 and 1")
    for name in ("learning_rate", "epsilon"):
        require(config.optimizer[name] > 0, f"optimizer.{name}", "more than 0")
    for name in ("decay", "momentum"):
        require(0 <= config.optimizer[name] < 1, f"optimizer.{name}", "a number from 0 to below 1")
    require(config.optimizer.weight_decay >= 0, "optimizer.weight_decay", "0 or more")
