"""`dedn features`: extract, import, check."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
from typing import Any

from dedn_jax.cli.arguments import add_config, add_processes, join_processes, path_flag
from dedn_jax.errors import InputError

_DTYPES = ("float16", "bfloat16", "float32")


def add_features(jobs: Any) -> None:
    """Adds `dedn features` to the jobs."""
    features = jobs.add_parser("features", help="feature stores: extract, import, check")
    feature_jobs = features.add_subparsers(dest="features_job", required=True, metavar="JOB")
    extract = feature_jobs.add_parser(
        "extract",
        help="run a backbone over a data set's pictures",
        description="Writes the feature maps of all pictures of config.data.path, made by "
        "config.backbone, to a store for config.data.features; the same command resumes.",
    )
    add_config(extract)
    _add_store(extract)
    extract.add_argument(
        "--shard-images", type=int, default=0, help="pictures in a shard (default: about 64 MB)"
    )
    add_processes(extract)
    extract.set_defaults(run=_extract, overrides=True)

    importing = feature_jobs.add_parser(
        "import",
        help="turn a published HDF5 file of feature maps into a store",
        description="Reads the layout that the published code trains from, block by block.",
    )
    importing.add_argument("file", type=path_flag, help="the HDF5 file")
    _add_store(importing)
    importing.add_argument("--word-vectors", type=path_flag, help="in place of the file's own")
    importing.set_defaults(run=_import, overrides=False)

    check = feature_jobs.add_parser(
        "check",
        help="verify a store's files against its manifest",
        description="Reads every shard and compares its SHA-256 with the manifest.",
    )
    check.add_argument("store", type=path_flag, help="the store's folder")
    check.set_defaults(run=_check, overrides=False)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=path_flag, help="the store's folder")
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="float16", help="of stored values (default: float16)"
    )
    parser.add_argument(
        "--raw", action="store_true", help="as the backbone gives them, not L2-normalised"
    )


def _extract(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.config import load_config
    from dedn_jax.inference.extract import extract_features
    from dedn_jax.training.interrupt import StopOnSignals

    config = load_config(args.config, overrides)
    if config.data.format not in ("prepared", "demo"):
        raise InputError(
            f"config.data.format={config.data.format!r}: features are extracted from pictures; set "
            "--config.data.format=prepared and --config.data.path to what `dedn data build` wrote"
        )
    if args.shard_images < 0:
        raise InputError(f"--shard-images={args.shard_images}, expected 0 or more")
    join_processes(args)
    store = extract_features(
        config,
        args.out,
        dtype=args.dtype,
        normalized=not args.raw,
        shard_images=args.shard_images,
        stop=StopOnSignals(),
    )
    print(
        f"Wrote {store}; train with --config.data.features={store}, or from the store alone with "
        f"--config.data.format=store --config.data.path={store}"
    )


def _import(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.features.store.import_hdf5 import import_hdf5

    store = import_hdf5(
        args.file,
        args.out,
        dtype=args.dtype,
        normalized=not args.raw,
        word_vectors=args.word_vectors or "",
    )
    print(f"Wrote {store}; train with --config.data.format=store --config.data.path={store}")


def _check(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.features.store.reader import open_store
    from dedn_jax.data.features.store.verification import verify

    store = open_store(args.store)
    verify(store)
    m = store.manifest
    print(
        f"{m.images} images, {m.channels} channels, {m.grid[0]} x {m.grid[1]} regions"
        f"{' and the class token' if m.class_token else ''}, {m.dtype}"
        f"{', normalised' if m.normalized else ''}; {m.origin}; every shard is as it was written"
    )
