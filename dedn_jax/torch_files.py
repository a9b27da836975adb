"""Reads and writes the files of `torch.save` as NumPy arrays.

They are pickles; PyTorch's weights-only unpickler reads them without running code.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dedn_jax.errors import InputError
from dedn_jax.files import atomic_file

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


def read_state_dict(path: str | Path, *, legacy: bool = False) -> dict[str, np.ndarray]:
    """Reads a file that `torch.save(model.state_dict(), path)` wrote, without running its pickle.

    Args:
      path: the file.
      legacy: whether it may be in the format before PyTorch 1.6, which is not a zip archive.

    Returns:
      Arrays by published name, in host memory.

    Raises:
      InputError: no such file, another format, code inside it, or a value that is not a
        plain tensor.
    """
    require_torch()
    import torch

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a file written by torch.save")
    if not legacy or zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they repeat what the error says
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file raises is the file's fault
        raise InputError(
            f"{path}: refused by PyTorch's weights-only reader ({type(error).__name__}); it is "
            "damaged or holds more than tensors; save it again with torch.save(model.state_dict())"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise InputError(
            f"{path}: holds a {type(loaded).__name__}, expected a state_dict (names to tensors)"
        )
    arrays, total = {}, 0
    for key, value in loaded.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path}: {key} is a {type(value).__name__}, expected a tensor; save the model's "
                "state_dict() alone"
            )
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise InputError(f"{path}: {key} is not a plain dense tensor")
        # A few stored bytes can stand for a huge tensor (stride 0): count before copying.
        total += value.numel() * value.element_size()
        if total > _MAX_BYTES:
            raise InputError(f"{path}: more than {_MAX_BYTES} bytes of tensors (at {key})")
        try:
            arrays[key] = np.array(value.detach().resolve_conj().resolve_neg().numpy())
        except TypeError as error:
            raise InputError(
                f"{path}: {key} is {value.dtype}, expected float16, float32 or float64"
            ) from error
    return arrays


def write_state_dict(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a file that `torch.load` reads; the file appears complete or not at all.

    Raises:
      InputError: PyTorch is not installed, or the folder cannot be written.
    """
    require_torch()
    import torch

    path = Path(path)
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in state_dict.items()}
    try:
        with atomic_file(path) as file:
            torch.save(tensors, file)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _check_archive(path: Path) -> None:
    """Requires an uncompressed zip archive of plausible size, before PyTorch opens it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InputError(
            f"{path}: not a zip archive as torch.save writes it since PyTorch 1.6; load it there "
            "and save its state_dict() again"
        ) from error
    size = sum(member.file_size for member in members)
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if size > _MAX_BYTES or not stored:
        raise InputError(
            f"{path}: {size} bytes unpacked, {'stored' if stored else 'compressed'}; expected at "
            f"most {_MAX_BYTES}, stored as torch.save does"
        )
