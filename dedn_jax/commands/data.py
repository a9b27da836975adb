"""`dedn data`: build, check, show, wordvectors."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_jax.commands.arguments import path_flag
from dedn_jax.errors import InputError

if TYPE_CHECKING:
    from dedn_jax.data.builders.picture_set import Picture, PictureSet

_BENCHMARKS = ("CUB", "SUN", "AWA2", "AWA1", "APY")
_NAMES = f"{', '.join(_BENCHMARKS)}, demo, or folder for classes of your own"


def add_data(jobs: Any) -> None:
    data = jobs.add_parser("data", help="prepared picture sets, their checks, word vectors")
    data_jobs = data.add_subparsers(dest="data_job", required=True, metavar="JOB")
    _add_build(data_jobs)
    _add_check(data_jobs)
    _add_show(data_jobs)
    _add_wordvectors(data_jobs)


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
    build.add_argument("--overwrite", action="store_true", help="replace an earlier build")
    build.set_defaults(run=_build, overrides=False)


def _add_check(jobs: Any) -> None:
    check = jobs.add_parser(
        "check",
        help="compare splits with the published ones, list pictures that are not in order",
        description="Reads a data set's folders as `build` does, compares the number of images of "
        "every split with the published one, and decodes every picture.",
    )
    _add_source(check)
    check.add_argument("--splits-only", action="store_true", help="do not look at the pictures")
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


def _add_wordvectors(jobs: Any) -> None:
    vectors = jobs.add_parser(
        "wordvectors",
        help="word vectors of attributes from a GloVe text file",
        description="Averages the GloVe vectors of the words of every attribute name; the result "
        "is for --word-vectors or --config.data.word_vectors.",
    )
    vectors.add_argument("--glove", required=True, type=path_flag, help="a GloVe text file")
    vectors.add_argument("--attributes", required=True, type=path_flag, help="one name a line")
    vectors.add_argument("--out", required=True, type=path_flag, help="the .npy file to write")
    vectors.set_defaults(run=_wordvectors, overrides=False)


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
    parser.add_argument("--word-vectors", type=path_flag, help=".npy or pickled array")
    parser.add_argument("--seed", type=int, default=0, help="folder: of the test-seen draw")
    parser.add_argument(
        "--test-share",
        type=float,
        default=0.2,
        help="folder: share of a seen class's pictures kept for testing",
    )


def _read(args: argparse.Namespace) -> PictureSet:
    from dedn_jax.data.builders.benchmark import read_benchmark
    from dedn_jax.data.builders.demo import demo_picture_set
    from dedn_jax.data.builders.folder import read_folder

    _check_name(args.name)
    if args.name == "folder":
        return read_folder(args.root, seed=args.seed, test_share=args.test_share)
    if args.name == "demo":
        return demo_picture_set()
    return read_benchmark(args.name, args.root, word_vectors=args.word_vectors, xlsa17=args.xlsa17)


def _check_name(name: str) -> None:
    if name not in (*_BENCHMARKS, "demo", "folder"):
        raise InputError(f"{name}: no data set of that name; expected {_NAMES}")


def _build(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.builders.tfds_builder import build
    from dedn_jax.data.fetch import fetch_dataset

    if args.download:
        for fetched in fetch_dataset(args.name, args.root, keep_archives=args.keep_archives):
            state = f"SHA-256 {fetched.sha256}" if fetched.new else "was there"
            print(f"{fetched.archive.file_name}: {state}; in {fetched.folder}")
    folder = build(_read(args), args.out, overwrite=args.overwrite)
    print(f"Wrote {folder}; train with --config.data.format=prepared --config.data.path={folder}")


def _check(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.annotations import Annotations
    from dedn_jax.data.xlsa17 import Xlsa17, count_differences, read_xlsa17

    _check_name(args.name)
    splits: Xlsa17 | Annotations
    if args.name in _BENCHMARKS:
        splits = read_xlsa17(args.xlsa17 or args.root / "xlsa17" / "data", args.name)
    else:
        splits = _read(args).annotations
    for name in ("trainval", "test_seen", "test_unseen"):
        print(f"{name:<12}{len(getattr(splits, name)):6d} images")
    if isinstance(splits, Xlsa17):
        print("\n".join(count_differences(splits, args.name)) or "as published")
    if not args.splits_only:
        _check_pictures(_read(args))


def _check_pictures(picture_set: PictureSet) -> None:
    from dedn_jax.data.inspection import inspect_pictures, table

    pictures = picture_set.pictures
    report = inspect_pictures(((p.name, _as_built(p)) for p in pictures), len(pictures))
    print(table(report))
    broken = [*report.listed["unreadable"], *report.listed["truncated"]]
    if broken:
        name, problem = broken[0]
        raise InputError(
            f"{picture_set.annotations.source}: {len(broken)} of {len(pictures)} pictures cannot "
            f"be used; the first is {name}: {problem}"
        )


def _as_built(picture: Picture) -> bytes:
    """What `build` would store, or what it would refuse: the report says why, and goes on."""
    try:
        return picture.read()
    except InputError:
        return picture.stored()


def _show(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.contact_sheet import draw_contact_sheets
    from dedn_jax.data.prepared import open_prepared

    pages = draw_contact_sheets(open_prepared(args.prepared), args.out)
    print(f"Wrote {len(pages)} pages: {pages[0]}" + (f" to {pages[-1].name}" if pages[1:] else ""))


def _wordvectors(args: argparse.Namespace, _: list[str]) -> None:
    import numpy as np

    from dedn_jax.data.attribute_names import read_attribute_names
    from dedn_jax.data.glove import word_vectors_from_glove
    from dedn_jax.files import atomic_file, check_output

    check_output(args.out, ".npy")
    found = word_vectors_from_glove(args.glove, read_attribute_names(args.attributes))
    with atomic_file(args.out) as file:
        np.save(file, found.vectors)
    print(f"Wrote {args.out}: {found.vectors.shape[0]} vectors of {found.vectors.shape[1]}")
    for word, parts in found.compounds.items():
        print(f"{word!r} is not in the file; taken as {' + '.join(parts)}")
    for name, words in found.unknown_words.items():
        print(f"{name!r}: not in the file, left out: {', '.join(words)}")
