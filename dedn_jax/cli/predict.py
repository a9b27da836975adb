"""`dedn predict`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
from typing import Any

from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.cli.arguments import (
    add_candidates,
    add_pictures,
    add_processes,
    check_candidates,
    chosen_candidates,
    join_processes,
    joins_processes,
    output_flag,
    run_candidates,
    workdir_flag,
)
from dedn_jax.errors import InputError

_DESCRIPTION = """\
Names the most likely classes of pictures, and the attributes that speak for the best of them.

A class score is the mixture of both experts, gamma added to unseen classes: as calibrated on
validation classes, else as the config says. The probability is the softmax of the scores over all
candidate classes: how far a class is ahead, not how often that is right. The attributes are those
that add most to the best class's score over the mean score of the candidates, in each expert.

Pictures pass through the backbone and the transform that the run's features were made with. A
feature store records them, and asks for the weights alone (--config.backbone.weights=FILE); for a
published HDF5 file --config.backbone.name, --config.picture.resize and --config.picture.crop may
have to be given as well.

New classes need no training: a row of attributes describes each. --write-classes writes the run's
own classes as such a file, to start from.

Exit status: 1 where pictures could not be read, which are named and skipped."""


def add_predict(jobs: Any) -> None:
    """Adds `dedn predict` to the jobs."""
    predict = jobs.add_parser(
        "predict",
        help="classes and attributes of new pictures",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("--workdir", required=True, type=workdir_flag, help="directory of the run")
    add_pictures(predict, "*")
    predict.add_argument(
        "--top", type=int, default=5, help="classes to name for each picture (default: 5)"
    )
    add_candidates(predict)
    predict.add_argument(
        "--write-classes",
        type=output_flag,
        metavar="FILE",
        help="write the run's classes to this CSV file for --classes, and end",
    )
    predict.add_argument(
        "--json",
        type=output_flag,
        metavar="FILE",
        help="write the predictions to this file, or -: an object with `pictures` (for each its "
        "classes and the strongest attributes), `skipped`, and the run and its mixing",
    )
    predict.add_argument(
        "--csv", type=output_flag, metavar="FILE", help="the same as CSV, a row for each class"
    )
    predict.add_argument(
        "--batch-size", type=int, help="pictures at a time (default: config.evaluate.batch_size)"
    )
    predict.add_argument(
        "--strict", action="store_true", help="stop at the first picture that cannot be read"
    )
    add_processes(predict)
    predict.set_defaults(run=_predict, overrides=True)


def _predict(args: argparse.Namespace, overrides: list[str]) -> int:
    from dedn_jax.files import check_output
    from dedn_jax.inference.classes_file import write_classes
    from dedn_jax.inference.picture_files import find_pictures
    from dedn_jax.inference.predict_processes import predict_by_processes
    from dedn_jax.inference.prediction_files import check_outputs
    from dedn_jax.inference.run import open_run

    _check(args)
    check_outputs(args.json, args.csv)
    if args.write_classes:
        check_output(args.write_classes, ".csv")
    join_processes(args)
    run = open_run(args.workdir, overrides)
    candidates = run_candidates(args, run)
    if args.write_classes:
        write_classes(
            args.write_classes, candidates.names, candidates.embeddings, candidates.attribute_names
        )
        count = len(candidates.names)
        print(with_addresses(f"Wrote {args.write_classes}: {count} classes"))
        return 0
    files = find_pictures(args.pictures)
    skipped = predict_by_processes(
        run,
        files,
        chosen_candidates(args, candidates),
        top=args.top,
        batch_size=args.batch_size,
        json_file=args.json,
        csv_file=args.csv,
        strict=args.strict,
    )
    return 1 if skipped else 0


def _check(args: argparse.Namespace) -> None:
    for flag, value in (("--top", args.top), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{flag}={value}, expected at least 1")
    check_candidates(args)
    if args.write_classes and joins_processes(args):
        raise InputError(f"--write-classes={args.write_classes}: one process writes it")
    if args.write_classes and args.pictures:
        raise InputError(
            f"--write-classes={args.write_classes}: given with pictures, which it does not look "
            "at; give one or the other"
        )
    if not args.write_classes and not args.pictures:
        raise InputError("no pictures: give files or folders, or --write-classes=FILE.csv")
