"""Reads and writes the files of `torch.save` as NumPy arrays; only writing needs PyTorch."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import atomic_file
from dedn_jax.paths import local_path
from dedn_jax.torch_pickles import Tensor, read_saved

_MAX_BYTES = 8 * 2**30  # the largest published model is under 0.1 GiB


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

    PyTorch need not be installed. A checkpoint that holds more beside `"state_dict"` is read for
    that alone.

    Args:
      path: the file, in today's format or that before PyTorch 1.6.

    Returns:
      Arrays by name, in host memory.

    Raises:
      InputError: no such file, another format, code inside it, or a value that is not a
        plain tensor.
    """
    path = local_path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a file written by torch.save")
    try:
        saved = read_saved(path)
        loaded = saved.value
        if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
            loaded = loaded["state_dict"]
        if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
            raise InputError(
                f"{path}: holds a {type(loaded).__name__}, expected a state_dict (names to tensors)"
            )
        for key, value in loaded.items():
            if not isinstance(value, Tensor):
                raise InputError(
                    f"{path}: {key} is a {type(value).__name__}, expected a tensor; save the "
                    "model's state_dict() alone"
                )
        # A few stored bytes can stand for a huge tensor (stride 0): counted before copying.
        total = sum(tensor.nbytes for tensor in loaded.values())
        if total > _MAX_BYTES:
            raise InputError(f"{path}: {total} bytes of tensors, expected at most {_MAX_BYTES}")
        return {key: t.array(saved.values_of(t.storage)) for key, t in loaded.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a readable file of tensors ({one_line(error)}); it is damaged or holds "
            "more than tensors; save it again with torch.save(model.state_dict())"
        ) from error


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
