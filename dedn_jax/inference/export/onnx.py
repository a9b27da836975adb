"""A model as ONNX, converted by jax2onnx and checked against ONNX Runtime."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import write_atomically
from dedn_jax.inference.export.function import (
    INPUTS,
    OUTPUTS,
    Exportable,
    InputKind,
    check_outputs,
    exportable,
)
from dedn_jax.training.run import TrainingRun

_TOLERANCE = 1e-4
_MAX_BYTES = 2**31 - 1  # of a protocol buffer


def export_onnx(run: TrainingRun, path: Path, kind: InputKind = "auto") -> None:
    """Writes an `.onnx` file of the model, for any number of images and classes.

    Its inputs and outputs are named as in `Exportable`; the metadata of the file has the
    description, the class embeddings and which classes are unseen, as JSON.

    Args:
      run: a finished run.
      path: the file to write.
      kind: see `exportable`.

    Raises:
      InputError: as `exportable`; the extra `onnx` is not installed; an operation cannot be
        converted; or ONNX Runtime gives other numbers than the model.
    """
    _require()
    found = exportable(run, kind)
    with run.computing():
        proto = _converted(found, path)
        expected = jax.jit(found.function)(*found.examples())
    unseen = (~found.candidates.seen).astype(int)
    for key, value in (
        ("description", found.description),
        ("class_embeddings", found.candidates.embeddings.tolist()),
        ("unseen", unseen.tolist()),
    ):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    if proto.ByteSize() > _MAX_BYTES:
        raise InputError(
            f"{path}: the model has {proto.ByteSize()} bytes, an ONNX file at most {_MAX_BYTES}; "
            "export it with --format=stablehlo"
        )
    content = proto.SerializeToString()
    check_outputs(expected, _run(content, found), _TOLERANCE, str(path))
    write_atomically(path, content)


def _require() -> None:
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format=onnx: {error.name} is not installed; run: pip install 'dedn-jax[onnx]'"
        ) from error


def _converted(found: Exportable, path: Path) -> Any:
    import jax2onnx

    # It warns of inner values whose types it leaves out; the check below is what counts.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        return jax2onnx.to_onnx(
            found.function,
            found.shapes(),
            model_name="dedn",
            input_names=INPUTS,
            output_names=OUTPUTS,
        )
    except Exception as error:  # converters raise anything for what they do not know
        raise InputError(
            f"{path}: the model cannot be converted to ONNX ({one_line(error)}); export it with "
            "--format=stablehlo"
        ) from error


def _run(content: bytes, found: Exportable) -> tuple[np.ndarray, ...]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return tuple(session.run(OUTPUTS, dict(zip(INPUTS, found.examples(), strict=True))))
