"""Recipes: reads a config from `configs/` or a file, applies overrides, checks every field."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from absl import flags
from ml_collections import ConfigDict, config_flags

from dedn_jax.buckets.inputs import input_path
from dedn_jax.config_ranges import WEIGHTS_PACKAGE, check_ranges
from dedn_jax.errors import InputError, one_line
from dedn_jax.files import read_json
from dedn_jax.paths import bucket_address, local_path
from dedn_jax.saved_config import no_config, upgraded

# As flags, `--config.train.epochs=3`, or as a mapping, `{"train.epochs": 3}`.
Overrides = Sequence[str] | Mapping[str, object]

_RECIPE = "write it like configs/base.py, with a function get_config() that returns a ConfigDict"
_SHOWN = 400  # characters of flags and of reasons in messages
# Files and folders; they may be addresses in buckets.
_PATHS = {
    *("data.path", "data.features", "data.class_embeddings", "data.word_vectors"),
    *("backbone.weights", "teacher.workdir", "train.init_from"),
}
# How flags are read, and what to write.
_READERS: dict[type, tuple[Callable[[str], object], str]] = {
    int: (flags.IntegerParser().parse, "a whole number, such as 3"),
    float: (flags.FloatParser().parse, "a number, such as 0.5"),
    bool: (flags.BooleanParser().parse, "true or false"),
}
_FLAG = re.compile(r"--?(?:no)?config\.([^=]+)(?:=.*)?", re.DOTALL)


def _configs_dir() -> Path:
    """The folder of recipes: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "base.py").is_file():
            return folder
    raise InputError(f"{package}: no configs/base.py inside or beside it; reinstall dedn-jax")


def find_config(name_or_path: str | Path, kind: Literal["recipe", "ablations"] = "recipe") -> Path:
    """The file of a recipe: a path, or the bare name of one that comes with the package.

    Args:
      name_or_path: a path, or a name in any case.
      kind: recipes are in `configs/`, ablations in `configs/ablations/`.

    Raises:
      InputError: no such file.
    """
    path = input_path(name_or_path or ".")  # without a name none is found
    if path.is_file():
        return path
    folder = Path("configs") if kind == "recipe" else Path("configs", kind)
    known = _configs_dir() / folder.relative_to("configs")
    candidate = known / f"{path.stem.lower()}.py"
    bare = path.parent in (Path("."), folder) and path.suffix in ("", ".py")
    if bare and candidate.is_file():
        return candidate
    names = ", ".join(recipe_names(kind))
    other = ", the config.json of a run," if kind == "recipe" else ""
    raise InputError(
        f"no {kind} {str(name_or_path)!r}; give a Python file{other} or one of {names}"
    )


def recipe_names(kind: Literal["recipe", "ablations"] = "recipe") -> list[str]:
    """The names of the recipes, or of the ablations, that come with the package."""
    folder = _configs_dir() / ("" if kind == "recipe" else kind)
    return sorted(path.stem for path in folder.glob("*.py"))


def _import_file(path: Path, function: str, hint: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dedn_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file; {hint}")
    module = importlib.util.module_from_spec(spec)
    # A recipe is the user's own code, run like any other Python they write.
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # `sys.exit(0)` would look like a finished job
        reason = one_line(error)
        raise InputError(
            f"{path}: running it raised {type(error).__name__}: {reason}; {hint}"
        ) from error
    finally:
        sys.dont_write_bytecode = bytecode
    if not hasattr(module, function):
        raise InputError(f"{path}: no function {function}(); {hint}")
    return module


def run_config_file(path: Path, function: str, hint: str) -> object:
    """What a function of a Python file returns.

    Args:
      path: the file, the user's own code.
      function: its name.
      hint: how to write such a file, for messages.

    Raises:
      InputError: the file cannot be run, lacks the function, or raises an error.
    """
    module = _import_file(path, function, hint)
    try:
        return getattr(module, function)()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's code may raise anything
        raise InputError(
            f"{path}: {function}() raised {type(error).__name__}: {_reason(error)}; {hint}"
        ) from error


def base_file() -> Path:
    """Where `configs/base.py` is."""
    return _configs_dir() / "base.py"


def base_config() -> ConfigDict:
    """A fresh copy of `configs/base.py`, which every recipe starts from.

    It is locked: setting a field that does not exist raises an error.

    Examples:
      A recipe in a file of your own:

      >>> def get_config():
      ...     config = base_config()
      ...     config.data.path = "features.hdf5"
      ...     config.train.epochs = 30
      ...     return config
      >>> get_config().optimizer.momentum
      0.9
    """
    return _base().copy_and_resolve_references()


@functools.cache
def _base() -> ConfigDict:
    """Run once, and not for every recipe, check and override."""
    module = _import_file(base_file(), "get_config", _RECIPE)
    config: ConfigDict = module.get_config()
    return config.lock()


def load_config(name_or_path: str | Path, overrides: Overrides = ()) -> ConfigDict:
    """Reads a recipe and applies overrides; the config is locked.

    Examples:
      >>> config = load_config("cub_gzsl", {"train.epochs": 40, "data.path": "features.hdf5"})
      >>> config.train.epochs, config.loss.margin
      (40, 3.0)

    Args:
      name_or_path: a Python file with a `get_config()`, the name of a recipe in `configs/`, or the
        `config.json` of a run, to repeat it.
      overrides: fields to change: a mapping from dotted names to values, or flags as on the command
        line, `["--config.train.epochs=40"]`. `configs/base.py` explains every field.

    Raises:
      InputError: unknown recipe, unknown field, a value of the wrong type or outside its range.
    """
    path = find_config(name_or_path)
    if path.suffix == ".json":
        return apply_overrides(read_config(path), overrides, str(path))
    config = run_config_file(path, "get_config", _RECIPE)
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"{path}: get_config() must return a ConfigDict, got {type(config).__name__}; {_RECIPE}"
        )
    ours = path.parent == _configs_dir()
    return apply_overrides(config, overrides, f"recipe {path.stem}" if ours else str(path))


def read_config(path: Path) -> ConfigDict:
    """The config in the `config.json` of a run; fields that its version lacked as in the base.

    Raises:
      InputError: the file holds no config.
    """
    config = base_config()
    try:
        config.update(upgraded(read_json(path), path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise no_config(path, error) from error
    return config


def apply_overrides(config: ConfigDict, overrides: Overrides, where: str) -> ConfigDict:
    """`config` with `overrides` applied, and checked.

    Args:
      config: a config with the fields of `configs/base.py`; changed in place, and locked.
      overrides: as `load_config`.
      where: what messages begin with.

    Raises:
      InputError: unknown field, a value of the wrong type or outside its range.
    """
    check_config(config, where)
    known = flat_fields(config.to_dict())
    for field in override_fields(overrides, where):
        if field not in known:
            raise InputError(f"{where}: {unknown_field(field, known)}")
    if isinstance(overrides, Mapping):
        for field, value in overrides.items():
            *section, name = field.split(".")
            holder = config
            for part in section:
                holder = holder[part]
            value = os.fspath(value) if isinstance(value, os.PathLike) else value
            _check_value(value, known[field], field, where)
            holder[name] = value
    elif overrides:
        _apply_flags(config, overrides, where)
    check_config(config, where)
    return config.lock()


class _Unprinted(ConfigDict):
    """Has no text: absl asks for that of every default, which takes longer than all the rest."""

    def __str__(self) -> str:
        return ""


def _apply_flags(config: ConfigDict, overrides: Sequence[str], where: str) -> None:
    values = flags.FlagValues()
    argv = ["dedn", *overrides]
    try:
        config_flags.DEFINE_config_dict(
            "config", _Unprinted(config), flag_values=values, sys_argv=argv
        )
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        refused = _refused_number(config, overrides)
        shown, reason = refused or (" ".join(overrides), _reason(error))
        raise InputError(f"{where}: cannot apply {shown[:_SHOWN]}: {reason[:_SHOWN]}") from error
    config.update(values["config"].value)


def _refused_number(config: ConfigDict, overrides: Sequence[str]) -> tuple[str, str] | None:
    """The first flag whose value should be a number or a truth value and is none, and why."""
    known = flat_fields(config.to_dict())
    for flag in overrides:
        field, given, text = flag.lstrip("-").removeprefix("config.").partition("=")
        kind = type(known.get(field))
        if not given or kind not in _READERS:
            continue
        reader, expected = _READERS[kind]
        try:
            reader(text)
        except (TypeError, ValueError):
            return flag, f"expected {expected}"
    return None


def override_fields(overrides: Overrides, where: str) -> list[str]:
    """The dotted names that `overrides` set.

    Raises:
      InputError: something else than a `--config.` flag.
    """
    if isinstance(overrides, Mapping):
        return list(overrides)
    names = []
    for flag in overrides:
        match = _FLAG.fullmatch(flag)
        if not match:
            raise InputError(
                f"{where}: unexpected argument {flag}, expected --config.section.field=value"
            )
        names.append(match[1])
    return names


def unknown_field(field: str, known: Iterable[str]) -> str:
    """The message about a field that does not exist: the nearest names, or the section's."""
    known = list(known)
    section = field.rpartition(".")[0]
    near = difflib.get_close_matches(field, known, n=4, cutoff=0.75)
    if not near:
        # The names one level below, so that a section of sections stays one line.
        above = next((p for p in (field, section) if any(n.startswith(f"{p}.") for n in known)), "")
        depth = above.count(".") + 2 if above else 1
        below = (n for n in known if not above or n.startswith(f"{above}."))
        near = list(dict.fromkeys(".".join(n.split(".")[:depth]) for n in below))
    return (
        f"unknown field config.{field}; known fields: {', '.join(near)} "
        "(`dedn train --help-config` lists all)"
    )


def with_absolute_paths(config: ConfigDict) -> dict[str, Any]:
    """The fields of a checked config as a tree; its files and folders by their absolute paths."""
    tree: dict[str, Any] = config.to_dict()
    for field in _PATHS:
        section, name = field.split(".")
        value = tree[section][name]
        if value and value != WEIGHTS_PACKAGE and not bucket_address(value):
            tree[section][name] = os.path.abspath(local_path(value))
    return tree


def flat_fields(tree: dict, prefix: str = "") -> dict[str, object]:
    """A tree of dicts as one, by names such as `train.epochs`."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= flat_fields(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _reason(error: BaseException) -> str:
    """Its message on one line. ml_collections wraps the error that has one in another."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.split())


def _check_fields(config: ConfigDict, base: ConfigDict, where: str, prefix: str = "") -> None:
    """Raises InputError unless `config` has exactly the fields of `base`, of their types."""
    if extra := sorted(set(config) - set(base)):
        known = flat_fields(base_config().to_dict())
        raise InputError(f"{where}: {unknown_field(prefix + extra[0], known)}")
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
        else:
            _check_value(value, default, field, where)


def _check_value(value: object, default: object, field: str, where: str) -> None:
    """Raises InputError unless `value` has the type of `default`; an int may be a float's."""
    integer = isinstance(default, float) and type(value) is int
    if type(value) is not type(default) and not integer:
        raise InputError(
            f"{where}: config.{field}={value!r} of type {type(value).__name__}, expected "
            f"{type(default).__name__}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: config.{field}={value}, expected a finite number")


def check_config(config: ConfigDict, where: str) -> None:
    """Checks the fields of a config, their types, ranges and choices.

    Raises:
      InputError: names the field, the value found and the values allowed.
    """
    _check_fields(config, base_config(), where)
    _check_paths(config, where)
    check_ranges(config, where)


def _check_paths(config: ConfigDict, where: str) -> None:
    """Raises InputError where a field is the address of storage that is not mounted."""
    for field, value in flat_fields(config.to_dict()).items():
        if value and isinstance(value, str):
            try:
                if field in _PATHS and bucket_address(value):
                    continue
                local_path(value)
            except InputError as error:
                raise InputError(f"{where}: config.{field}={error}") from error
