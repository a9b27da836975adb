"""A backbone that a run trained, as a file of weights for `config.backbone.weights`."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import save

from dedn_jax.errors import InputError
from dedn_jax.files import write_atomically
from dedn_jax.model.backbones.written import stored_arrays
from dedn_jax.model.picture_model import PictureModel
from dedn_jax.training.run import TrainingRun
from dedn_jax.version import __version__


def trained_backbone(run: TrainingRun) -> bool:
    """Whether the run trained its backbone with the experts."""
    return run.config.data.source == "images" and run.config.backbone.trained


def export_backbone(run: TrainingRun, path: Path) -> None:
    """Writes the selected backbone as `.safetensors`, for extraction and for other programs.

    Names are those of the first kind of file that the backbone reads (torchvision's of a ResNet),
    or ours; see `stored_arrays`. The metadata say what pictures pass through before it.

    Args:
      run: a finished run that trained its backbone.
      path: the file to write.

    Raises:
      InputError: the run is not finished, or did not train a backbone.
    """
    choice = run.config.backbone
    if not trained_backbone(run):
        whose = choice.weights or f"the weights of {choice.name} that its features were made with"
        raise InputError(
            f"{run.workdir.config_file}: the run trained no backbone (config.data.source="
            f"{run.config.data.source}, config.backbone.trained={choice.trained}); take {whose}"
        )
    model = run.model
    assert isinstance(model, PictureModel)
    metadata = {
        "format": "dedn-jax",
        "version": __version__,
        "backbone": json.dumps({k: choice[k] for k in ("name", "dtype", "class_token")}),
        "mean": json.dumps(model.backbone.mean),
        "std": json.dumps(model.backbone.std),
        "picture": json.dumps({k: run.config.picture[k] for k in ("resize", "crop")}),
    }
    write_atomically(path, save(stored_arrays(model.backbone), metadata))
