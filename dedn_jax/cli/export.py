"""`dedn export`."""

from __future__ import annotations

import argparse
from typing import Any

from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.cli.arguments import output_flag, workdir_flag
from dedn_jax.errors import InputError

# The suffix of each format's file.
_FORMATS = {
    "published": ".pt",
    "safetensors": ".safetensors",
    "backbone": ".safetensors",
    "stablehlo": ".zip",
    "onnx": ".onnx",
}
_INPUTS = ("auto", "pictures", "features")


def add_export(jobs: Any) -> None:
    """Adds `dedn export` to the jobs."""
    export = jobs.add_parser(
        "export",
        help="write a run's model for other programs",
        description="Writes the selected parameters of a run as a state_dict that the published "
        "PyTorch code loads or as safetensors, a trained backbone as a file of weights, or the "
        "whole model as StableHLO (loads with JAX alone, on CPU, CUDA and TPU) or ONNX, with class "
        "embeddings and gamma as inputs. What a format cannot hold is said.",
    )
    export.add_argument("--workdir", required=True, type=workdir_flag, help="directory of the run")
    export.add_argument(
        "--out",
        required=True,
        type=output_flag,
        help="the file to write: " + ", ".join(f"{s} for {f}" for f, s in _FORMATS.items()),
    )
    export.add_argument("--format", choices=_FORMATS, default="published", help="of the file")
    export.add_argument(
        "--input",
        choices=_INPUTS,
        default="auto",
        help="what the model of stablehlo and onnx takes; auto: pictures where the run's backbone "
        "is known (--config.backbone.weights=FILE), else feature maps",
    )
    export.set_defaults(run=_export, overrides=True)


def _export(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.files import check_output
    from dedn_jax.inference.export.left_out import left_out
    from dedn_jax.inference.run import open_run

    check_output(args.out, _FORMATS[args.format])
    if args.input != "auto" and args.format not in ("stablehlo", "onnx"):
        raise InputError(
            f"--input={args.input}: --format={args.format} holds parameters alone and takes no "
            "input; leave it out"
        )
    run = open_run(args.workdir, overrides)
    if args.format == "published":
        from dedn_jax.inference.export.published import export_published_weights

        export_published_weights(run, args.out)
    elif args.format == "safetensors":
        from dedn_jax.inference.export.safetensors import export_safetensors

        export_safetensors(run, args.out)
    elif args.format == "backbone":
        from dedn_jax.inference.export.backbone import export_backbone

        export_backbone(run, args.out)
    elif args.format == "stablehlo":
        from dedn_jax.inference.export.stablehlo import export_stablehlo

        export_stablehlo(run, args.out, args.input)
    else:
        from dedn_jax.inference.export.onnx import export_onnx

        export_onnx(run, args.out, args.input)
    print(with_addresses(f"Wrote {args.out}"))
    for line in left_out(run, args.format, args.input):
        print(f"Not in it: {line}")
