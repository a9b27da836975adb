"""What a format cannot hold of a run's model, said wherever a file of it is written or read."""

from __future__ import annotations

import shlex
from typing import Literal

from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.inference.export.backbone import trained_backbone
from dedn_jax.inference.export.function import InputKind, takes_feature_maps
from dedn_jax.training.run import TrainingRun

Format = Literal["published", "safetensors", "stablehlo", "onnx", "backbone"]


def left_out(run: TrainingRun, file_format: Format, kind: InputKind = "auto") -> list[str]:
    """What of the model is not in an exported file, and where it is; a line each.

    Args:
      run: a finished run.
      file_format: of the file.
      kind: what the model of `stablehlo` and `onnx` takes.
    """
    if file_format == "backbone":
        return ["both experts, which --format=published or safetensors writes"]
    lines = []
    whole = file_format in ("stablehlo", "onnx")
    trained = trained_backbone(run)
    if trained and file_format == "published":
        workdir = shlex.quote(str(run.workdir.path))
        lines.append(
            "the backbone, which the run trained: the file is for feature maps of that one. Write "
            f"it with `dedn export --workdir={workdir} --format=backbone --out=FILE.safetensors`, "
            "and extract features by --config.backbone.weights=FILE.safetensors"
        )
    elif not trained and (not whole or takes_feature_maps(run, kind)):
        lines.append(_frozen(run))
    if file_format == "published" and run.calibration is not None:
        m = run.calibration.mixing["fused"]
        lines.append(
            f"the calibrated gamma {m.gamma:.3g}, expert_mix {m.expert_mix:.3g} and region_mix "
            f"{m.region_mix:.3g}: the file has the fixed bias {run.config.loss.bias:g}, and the "
            "published code mixes by constants of its own"
        )
    return lines


def _frozen(run: TrainingRun) -> str:
    choice = run.config.backbone
    if isinstance(run.outline.inputs, Pictures):
        weights = run.network.weights
        digest = f", SHA-256 {weights.sha256}" if weights else ""
        return f"the backbone: {choice.name} as it was ({choice.weights}{digest})"
    recorded = run.outline.inputs.origin.get("backbone")
    if isinstance(recorded, dict):
        return f"the backbone: {recorded.get('name')} of SHA-256 {recorded.get('sha256')}"
    return "the backbone that the run's feature maps were made with"
