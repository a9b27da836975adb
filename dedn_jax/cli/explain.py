"""`dedn explain` and `dedn localise`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
from typing import Any

from dedn_jax.cli.arguments import (
    add_attributes,
    add_candidates,
    add_pictures,
    check_candidates,
    chosen_candidates,
    output_flag,
    path_flag,
    run_candidates,
    workdir_flag,
)
from dedn_jax.errors import InputError

_MOST_SHOWN = 100  # attributes: a page of 200 maps is large enough

_EXPLAIN = """\
Says why pictures get their classes: one HTML page a picture, with its figures as PNG files and all
numbers as JSON.

A class score is the sum of what every attribute adds to it, in both branches of both experts:
attribute score times the class's attribute, times the shares of expert and branch; gamma comes on
top for an unseen class. The same for the difference of two scores says why it is this class and not
that one. Region attention shows where the experts look for the leading attributes.

Backbone and new classes are given as for `dedn predict`.

Exit status: 1 where pictures could not be read, which are named and skipped."""

_LOCALISE = """\
Measures on CUB whether attention peaks at the part that an attribute is of, as the Attribute
Prototype Network does (arXiv 2008.08290): for each family of a part's attributes, the peak of the
attribute with the highest score against the part's annotated point, in boxes of a quarter of the
bird's bounding box, by an IoU of more than a half.

Without pictures, those of the run's unseen classes in CUB_200_2011/images are taken.

Exit status: 1 where pictures could not be read, which are named and skipped."""


def add_explain(jobs: Any) -> None:
    """Adds `dedn explain` to the jobs."""
    explain = jobs.add_parser(
        "explain",
        help="why a picture gets its class, and where the experts look",
        description=_EXPLAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    explain.add_argument("--workdir", required=True, type=workdir_flag, help="directory of the run")
    add_pictures(explain, "+")
    explain.add_argument(
        "--out", required=True, type=path_flag, metavar="FOLDER", help="where to write"
    )
    explain.add_argument(
        "--top", type=int, default=8, help="attributes and channels to show (default: 8)"
    )
    explain.add_argument(
        "--class",
        dest="explained",
        metavar="NAME",
        help="the class to explain (default: that with the best score)",
    )
    explain.add_argument(
        "--against",
        metavar="NAME",
        help="the class to compare it with (default: the best of the others)",
    )
    add_candidates(explain)
    explain.set_defaults(run=_explain, overrides=True)


def add_localise(jobs: Any) -> None:
    """Adds `dedn localise` to the jobs."""
    localise = jobs.add_parser(
        "localise",
        help="whether attention finds the parts that CUB annotates",
        description=_LOCALISE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    localise.add_argument(
        "--workdir", required=True, type=workdir_flag, help="directory of the run"
    )
    add_pictures(localise, "*")
    localise.add_argument(
        "--parts",
        required=True,
        type=path_flag,
        metavar="FOLDER",
        help="CUB_200_2011/parts; images.txt and bounding_boxes.txt are read beside it",
    )
    add_attributes(localise)
    localise.add_argument("--json", type=output_flag, help="also write the numbers to this file")
    localise.set_defaults(run=_localise, overrides=True)


def _explain(args: argparse.Namespace, overrides: list[str]) -> int:
    from dedn_jax.inference.explain.writing import explain_to_files
    from dedn_jax.inference.picture_files import find_pictures
    from dedn_jax.inference.run import open_run

    if not 1 <= args.top <= _MOST_SHOWN:
        raise InputError(f"--top={args.top}, expected 1 to {_MOST_SHOWN}")
    check_candidates(args)
    run = open_run(args.workdir, overrides)
    pictures = find_pictures(args.pictures)
    skipped = explain_to_files(
        run,
        pictures,
        chosen_candidates(args, run_candidates(args, run)),
        args.out,
        top=args.top,
        explained=args.explained,
        against=args.against,
    )
    return 1 if skipped else 0


def _localise(args: argparse.Namespace, overrides: list[str]) -> int:
    from dedn_jax.files import check_output, write_json
    from dedn_jax.inference.explain.localise import localise_run
    from dedn_jax.inference.run import open_run

    if args.json:
        check_output(args.json)
    run = open_run(args.workdir, overrides)
    found, skipped = localise_run(run, run_candidates(args, run), args.parts, args.pictures)
    print(found.table())
    if args.json:
        write_json(args.json, found.to_json())
    return 1 if skipped else 0
