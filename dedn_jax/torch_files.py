"""Reads and writes the files of `torch.save` as NumPy arrays; only writing needs PyTorch."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import ZIP_MAGIC, what_it_is
from dedn_jax.files import atomic_file
from dedn_jax.paths import local_path
from dedn_jax.torch_pickles import Saved, Tensor, Unread, read_saved

# What checkpoints call the state_dict of the model, where they hold others as well (an average of
# it, a discriminator); the first that is there is taken.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network")
_DEPTH = 3
_MAX_BYTES = 8 * 2**30  # the largest published model is under 0.1 GiB
_ADVICE = "save its tensors with torch.save(model.state_dict())"


def require_torch() -> None:
    """Checks that PyTorch, an optional extra, is installed.

    Raises:
      InputError: it is not.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise InputError(
            "PyTorch is not installed, and this needs it; run: pip install 'dedn-jax[torch]'"
        ) from error


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a file that `torch.save(model.state_dict(), path)` wrote, without running its pickle.

    PyTorch need not be installed. Of a checkpoint that holds more, such as an optimiser's state and
    the arguments of a training, the state_dict is read alone.

    Args:
      path: the file, in today's format or that before PyTorch 1.6.

    Returns:
      Arrays by name, in host memory.

    Raises:
      InputError: no such file, another format, no state_dict in it or several, or an object in
        place of a tensor.
    """
    path = local_path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a file written by torch.save")
    _check_whole(path)
    try:
        saved = read_saved(path)
        loaded = _state_dict(saved.value, path)
        # A few stored bytes can stand for a huge tensor (stride 0): counted before copying.
        total = sum(tensor.nbytes for tensor in loaded.values())
        if total > _MAX_BYTES:
            raise InputError(f"{path}: {total} bytes of tensors, expected at most {_MAX_BYTES}")
        return _arrays(loaded, saved)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a readable file of tensors ({one_line(error)}); "
            f"{what_it_is(path, ZIP_MAGIC) or _ADVICE}"
        ) from error


def _check_whole(path: Path) -> None:
    """Raises InputError where a file begins as an archive and has not its end."""
    try:
        with path.open("rb") as file:
            begun = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        if not begun or zipfile.is_zipfile(path):
            return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    raise InputError(
        f"{path}: cut short: it begins as a file of torch.save, and its end is missing; copy or "
        "download it again"
    )


def _arrays(tensors: Mapping[str, Tensor], saved: Saved) -> dict[str, np.ndarray]:
    """The values of tensors, every storage read once: many can be views of a large one."""
    of: dict[str, list[str]] = {}
    for key, tensor in tensors.items():
        of.setdefault(tensor.storage.key, []).append(key)
    found: dict[str, np.ndarray] = {}
    for keys in of.values():
        values = saved.values_of(tensors[keys[0]].storage)
        found |= {key: tensors[key].array(values) for key in keys}
    return {key: found[key] for key in tensors}


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of the state_dict in what a file holds, by name.

    Raises:
      InputError: there is none, there are several, or one has an object in place of a tensor.
    """
    found = _state_dicts(value)
    if not found:
        raise InputError(
            f"{path}: holds {_content(value)}, expected a state_dict (names to tensors); save it "
            "with torch.save(model.state_dict(), FILE)"
        )
    chosen = next((found[name] for name in ("", *_WRAPPERS) if name in found), None)
    if chosen is None:
        if len(found) > 1:
            raise InputError(
                f"{path}: holds several state_dicts ({', '.join(map(_quoted, found))}); save the "
                "one to use alone"
            )
        (chosen,) = found.values()
    for key, one in chosen.items():
        if isinstance(one, Unread) and not type(one).__name__.startswith("numpy."):
            raise InputError(
                f"{path}: {_quoted(key)} is a {type(one).__name__}, expected a tensor; save the "
                "model's state_dict() alone"
            )
    return {key: one for key, one in chosen.items() if isinstance(one, Tensor)}


def _state_dicts(value: Any) -> dict[str, dict]:
    """Dicts that hold mostly tensors by text, by the last name on the way to them.

    Each is looked at once, however many names it has: one may even hold itself.
    """
    found: dict[str, dict] = {}
    seen: set[int] = set()
    level = [("", value)]
    for _ in range(_DEPTH + 1):
        below: list[tuple[str, Any]] = []
        for name, one in level:
            if id(one) in seen or not isinstance(one, dict):
                continue
            seen.add(id(one))
            if not all(isinstance(key, str) for key in one):
                continue
            if sum(isinstance(v, Tensor) for v in one.values()) > len(one) / 2:
                found[name] = one
            else:
                below += one.items()
        level = below
    return found


def _content(value: Any) -> str:
    """What a file holds in place of a state_dict, for messages."""
    if not isinstance(value, dict) or not value:
        return f"a {type(value).__name__}"
    named = [f"{_quoted(key)} ({type(one).__name__})" for key, one in list(value.items())[:5]]
    return ", ".join(named) + ("" if len(value) <= 5 else f" and {len(value) - 5} more")


def _quoted(key: object) -> str:
    return repr(str(key)[:64])


def write_state_dict(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a file that `torch.load` reads; the file appears complete or not at all.

    Raises:
      InputError: PyTorch is not installed, or the folder cannot be written.
    """
    require_torch()
    import torch

    path = local_path(path)
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in state_dict.items()}
    try:
        with atomic_file(path) as file:
            torch.save(tensors, file)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
