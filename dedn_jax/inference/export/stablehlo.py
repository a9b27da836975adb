"""A model as StableHLO, which JAX loads on its own: no code of this package, no JAX version."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
from jax import export

from dedn_jax.files import atomic_file
from dedn_jax.inference.export.function import InputKind, check_outputs, exportable
from dedn_jax.training.run import TrainingRun

PLATFORMS = ("cpu", "cuda", "tpu")
# Members of the file.
MODEL, DESCRIPTION, CLASSES = "model.stablehlo", "model.json", "classes.npz"
_TOLERANCE = 1e-5
_TIME = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes


def export_stablehlo(run: TrainingRun, path: Path, kind: InputKind = "auto") -> None:
    """Writes a `.zip` of the model, for any number of images and classes, on CPU, CUDA and TPU.

    `model.stablehlo` is what `jax.export.deserialize` reads; `model.json` says what goes in and
    comes out; `classes.npz` has the run's class embeddings and which classes are unseen. One file,
    so that they cannot be separated; not compressed, since weights hardly are compressible.
    `examples/load_stablehlo.py` loads it with JAX and NumPy alone.

    Args:
      run: a finished run.
      path: the `.zip` to write.
      kind: see `exportable`.

    Raises:
      InputError: as `exportable`, or the file would differ from the model.
    """
    found = exportable(run, kind)
    with run.computing():
        exported = export.export(jax.jit(found.function), platforms=PLATFORMS)(*found.shapes())
        serialized = bytes(exported.serialize())
        examples = found.examples()
        expected = jax.jit(found.function)(*examples)
        again = export.deserialize(bytearray(serialized)).call(*examples)
    check_outputs(expected, again, _TOLERANCE, str(path))
    classes = io.BytesIO()
    np.savez(
        classes,
        class_embeddings=found.candidates.embeddings,
        unseen=(~found.candidates.seen).astype(np.float32),
    )
    members = {
        DESCRIPTION: (json.dumps(found.description, indent=2) + "\n").encode(),
        CLASSES: classes.getvalue(),
        MODEL: serialized,
    }
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content)
