"""`dedn data`: build, check, show, wordvectors."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_jax.cli.arguments import path_flag
from dedn_jax.cli.word_vectors import add_wordvectors
from dedn_jax.errors import InputError

if TYPE_CHECKING:
    from dedn_jax.data.prepared.picture_set import Picture, PictureSet

_BENCHMARKS = ("CUB", "SUN", "AWA2", "AWA1", "APY", "FLO")
SET_NAMES = (*_BENCHMARKS, "demo", "folder")  # beside names of sets in their layout
_OWN = "sets of your own in their layout"
_NAMES = (
    f"{', '.join(_BENCHMARKS)}, demo, folder for classes of your own, or NAME for a set in the "
    "layout of xlsa17: xlsa17/data/NAME/{att_splits,res101}.mat, pictures in NAME/"
)
# Flags that not all sets take, and those that do.
_ONLY_FOR = {
    "xlsa17": (*_BENCHMARKS, _OWN),
    "word_vectors": (*_BENCHMARKS, _OWN, "folder"),
    "seed": ("folder",),
    "test_share": ("folder",),
    "test_list": ("folder",),
    "download": ("CUB", "SUN", "AWA2"),
}


def add_data(jobs: Any) -> None:
    """Adds `dedn data` to the jobs."""
    data = jobs.add_parser("data", help="prepared picture sets, their checks, word vectors")
    data_jobs = data.add_subparsers(dest="data_job", required=True, metavar="JOB")
    _add_build(data_jobs)
    _add_check(data_jobs)
    _add_show(data_jobs)
    add_wordvectors(data_jobs)


def _add_build(jobs: Any) -> None:
    build = jobs.add_parser(
        "build",
        help="pictures, splits and attributes into one prepared set",
        description="Reads a data set's folders, checks them, and writes a TensorFlow Datasets "
        "folder of ArrayRecord files for config.data.path.",
    )
    _add_source(build)
    build.add_argument("--out", type=path_flag, default=Path("prepared"), help="parent folder")
    build.add_argument("--download", action="store_true", help="first fetch the official archives")
    build.add_argument("--keep-archives", action="store_true", help="do not remove them afterwards")
    build.add_argument(
        "--sha256",
        action="append",
        metavar="FILE=HEX",
        help="what an archive's SHA-256 must be, such as xlsa17.zip=...; once for each archive",
    )
    build.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="list the pictures that cannot be decoded and leave them out, rather than refuse",
    )
    build.add_argument("--overwrite", action="store_true", help="replace an earlier build")
    build.set_defaults(run=_build, overrides=False)


def _add_check(jobs: Any) -> None:
    check = jobs.add_parser(
        "check",
        help="compare splits with the published ones, list damaged or unusual pictures",
        description="Reads a data set's folders as `build` does, compares the number of images of "
        "every split with the published one, and decodes every picture.",
    )
    _add_source(check)
    check.add_argument("--splits-only", action="store_true", help="do not read the pictures")
    check.set_defaults(run=_check, overrides=False)


def _add_show(jobs: Any) -> None:
    show = jobs.add_parser(
        "show",
        help="contact sheets: pictures of every class with its strongest attributes",
        description="Draws a prepared set, ten classes a page.",
    )
    show.add_argument("prepared", type=path_flag, help="a folder that `dedn data build` wrote")
    show.add_argument("--out", required=True, type=path_flag, help="folder for the pages")
    show.set_defaults(run=_show, overrides=False)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help=_NAMES)
    parser.add_argument(
        "--root",
        type=path_flag,
        default=Path("data"),
        help="the folder with CUB/CUB_200_2011 and so on and xlsa17/data; for `folder` the one "
        "with pictures/ and attributes.csv (default: data)",
    )
    parser.add_argument("--xlsa17", type=path_flag, help="xlsa17/data, where it is elsewhere")
    parser.add_argument(
        "--word-vectors",
        type=path_flag,
        help=".npy, .npz, or pickled array or dict of arrays by attribute",
    )
    parser.add_argument(
        "--seed", type=int, help="folder: of the choice of test-seen pictures (default: 0)"
    )
    parser.add_argument(
        "--test-share",
        type=float,
        help="folder: share of a seen class's pictures kept for testing (default: 0.2)",
    )
    parser.add_argument(
        "--test-list",
        type=path_flag,
        metavar="FILE",
        help="folder: the pictures of seen classes to test with, class/file, one a line (default: "
        "test.txt in the folder, else drawn)",
    )


def _read(args: argparse.Namespace) -> PictureSet:
    from dedn_jax.data.sources.benchmark import read_benchmark
    from dedn_jax.data.sources.demo import demo_picture_set
    from dedn_jax.data.sources.folder import read_folder

    if args.name == "folder":
        return read_folder(
            args.root,
            seed=args.seed,
            test_share=args.test_share,
            test_list=args.test_list,
            word_vectors=args.word_vectors,
        )
    if args.name == "demo":
        return demo_picture_set()
    return read_benchmark(args.name, args.root, word_vectors=args.word_vectors, xlsa17=args.xlsa17)


def _kind(args: argparse.Namespace) -> str:
    """A benchmark's name, `demo`, `folder`, or `_OWN`.

    Raises:
      InputError: no such data set.
    """
    from dedn_jax.data.published import own_spelling
    from dedn_jax.data.sources.xlsa17 import entry_named

    args.name = own_spelling(args.name)
    if args.name.lower() in ("demo", "folder"):
        args.name = args.name.lower()
    if args.name in (*_BENCHMARKS, "demo", "folder"):
        return args.name
    file = entry_named(_splits(args), args.name) / "att_splits.mat"
    if not file.is_file():
        raise InputError(
            f"{args.name}: unknown data set, and there is no {file}; expected {_NAMES}"
        )
    return _OWN


def _splits(args: argparse.Namespace) -> Path:
    return args.xlsa17 or args.root / "xlsa17" / "data"


def _check_flags(args: argparse.Namespace) -> None:
    """Refuses flags that would be ignored."""
    kind = _kind(args)
    for name, sets in _ONLY_FOR.items():
        value = getattr(args, name, None)
        if value is None or value is False or kind in sets:
            continue
        flag = f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        raise InputError(
            f"{flag}: does not apply to {args.name}, only to {', '.join(sets)}; leave it out"
        )
    for name in ("keep_archives", "sha256"):
        if getattr(args, name, None) and not args.download:
            raise InputError(
                f"--{name.replace('_', '-')}: only applies to downloaded archives; add --download, "
                "or leave it out"
            )


def _build(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.prepared.build import build
    from dedn_jax.data.prepared.decodable import inspect_set, without_unreadable

    _check_flags(args)
    if args.download:
        _download(args)
    picture_set = _read(args)
    facts = None
    if args.skip_unreadable:
        facts = inspect_set(picture_set)
        for found in facts:
            if found and found.problem:
                print(f"left out: {found.problem}")
        picture_set, facts = without_unreadable(picture_set, facts)
    folder, new = build(picture_set, args.out, overwrite=args.overwrite, facts=facts)
    for line in picture_set.origins:
        print(line)
    state = f"Wrote {folder}" if new else f"{folder} is built already"
    print(f"{state}; train with --config.data.format=prepared --config.data.path={folder}")


def _download(args: argparse.Namespace) -> None:
    from dedn_jax.data.sources.benchmark_words import find_word_vectors
    from dedn_jax.data.sources.fetch import fetch_dataset
    from dedn_jax.data.sources.word_vectors import read_word_vectors

    hashes = _hashes(args.sha256 or [])
    # No archive holds them: rather now than after gigabytes.
    read_word_vectors(find_word_vectors(args.name, args.root, args.word_vectors))
    for fetched in fetch_dataset(
        args.name, args.root, keep_archives=args.keep_archives, sha256=hashes
    ):
        state = f"SHA-256 {fetched.sha256}" if fetched.new else "was there"
        print(f"{fetched.archive.file_name}: {state}; in {fetched.folder}")


def _hashes(texts: list[str]) -> dict[str, str]:
    """By file name, from the values of --sha256."""
    hashes: dict[str, str] = {}
    for text in texts:
        file, _, value = text.partition("=")
        if not file or not re.fullmatch("[0-9a-fA-F]{64}", value):
            raise InputError(
                f"--sha256={text[:200]!r}: expected a file name, = and 64 hexadecimal digits"
            )
        if file in hashes:
            raise InputError(f"--sha256: two hashes for {file}; give one")
        hashes[file] = value
    return hashes


def _check(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.sources.counts import counts_table
    from dedn_jax.data.sources.xlsa17 import read_xlsa17

    _check_flags(args)
    if args.name not in ("demo", "folder"):
        # Before the pictures: splits can be compared where there are none.
        splits = read_xlsa17(_splits(args), args.name)
        print(counts_table(splits, args.name if args.name in _BENCHMARKS else None))
        if args.splits_only:
            return
        picture_set = _read(args)
    else:
        picture_set = _read(args)
        print(counts_table(picture_set.annotations))
    for line in picture_set.origins:
        print(line)
    if not args.splits_only:
        _check_pictures(picture_set)


def _check_pictures(picture_set: PictureSet) -> None:
    from dedn_jax.data.prepared.decodable import shared_pictures
    from dedn_jax.data.prepared.inspection import inspect_pictures, table

    pictures = picture_set.pictures
    report = inspect_pictures(((p.name, _as_built(p)) for p in pictures), len(pictures))
    print(table(report))
    for line in shared_pictures(picture_set.annotations, report.facts):
        print(line)
    broken = [*report.listed["unreadable"], *report.listed["truncated"]]
    if broken:
        name, problem = broken[0]
        raise InputError(
            f"{picture_set.annotations.source}: {len(broken)} of {len(pictures)} pictures cannot "
            f"be used; the first is {name}: {problem}"
        )


def _as_built(picture: Picture) -> bytes:
    """What `build` would store, or the file it would refuse: the report says why."""
    try:
        return picture.read()
    except InputError:
        return picture.stored()


def _show(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.prepared.contact_sheet import draw_contact_sheets
    from dedn_jax.data.prepared.reader import open_prepared

    pages = draw_contact_sheets(open_prepared(args.prepared), args.out)
    print(f"Wrote {len(pages)} pages: {pages[0]}" + (f" to {pages[-1].name}" if pages[1:] else ""))
