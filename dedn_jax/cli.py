"""The `dedn` command: one thin subcommand per job."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dedn_jax import __version__
from dedn_jax.errors import InputError
from dedn_jax.interrupt import Interrupted

# Every job's modules are imported when it runs: `dedn --help` need not wait for JAX.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dedn",
        description="Dual Expert Distillation Network for generalized zero-shot learning",
    )
    parser.add_argument("--version", action="version", version=f"dedn-jax {__version__}")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    for add in (_add_train, _add_evaluate, _add_demo, _add_export, _add_data, _add_compare):
        add(jobs)
    return parser


def _add_train(jobs: Any) -> None:
    train = jobs.add_parser(
        "train",
        help="train by a recipe, or resume",
        description="Trains by a recipe into a work directory; the same command resumes an "
        "interrupted run. Override any field: --config.train.epochs=40",
    )
    _add_config(train)
    train.add_argument("--workdir", required=True, type=_path, help="directory of the run")
    train.set_defaults(run=_train, overrides=True)


def _add_evaluate(jobs: Any) -> None:
    evaluate = jobs.add_parser(
        "evaluate",
        help="U, S, H, T1 of a trained run on its test sets",
        description="Evaluates a finished run, or with --weights a state_dict of the published "
        "code under the run's config. Fields that change no number can be overridden: "
        "--config.data.path=FILE",
    )
    evaluate.add_argument("--workdir", required=True, type=_path, help="directory of the run")
    evaluate.add_argument("--weights", type=_path, help="published state_dict (.pt) to evaluate")
    evaluate.add_argument("--batch-size", type=int, help="images at a time; changes no number")
    evaluate.add_argument("--json", type=_path, help="write the numbers here as well")
    evaluate.set_defaults(run=_evaluate, overrides=True)


def _add_demo(jobs: Any) -> None:
    demo = jobs.add_parser(
        "demo",
        help="draw the built-in data set, train, evaluate, report",
        description="Runs configs/demo.py from pictures to a report.",
    )
    demo.add_argument(
        "--workdir", type=_path, default=Path("runs/demo"), help="directory of the run"
    )
    demo.set_defaults(run=_demo, overrides=True)


def _add_export(jobs: Any) -> None:
    export = jobs.add_parser(
        "export",
        help="write a run's model as a state_dict of the published code",
        description="Writes the selected parameters of a run so that the published PyTorch code "
        "loads them.",
    )
    export.add_argument("--workdir", required=True, type=_path, help="directory of the run")
    export.add_argument("--out", required=True, type=_path, help="the .pt file to write")
    export.set_defaults(run=_export, overrides=True)


def _add_data(jobs: Any) -> None:
    data = jobs.add_parser("data", help="check splits, build word vectors")
    data_jobs = data.add_subparsers(dest="data_job", required=True, metavar="JOB")
    check = data_jobs.add_parser(
        "check",
        help="read a data set's xlsa17 files and compare its splits with the published ones",
        description="Reads att_splits.mat and res101.mat, checks them, and compares the number of "
        "images of every split with the published one.",
    )
    check.add_argument("name", help="CUB, SUN, AWA2, AWA1 or APY")
    check.add_argument("--xlsa17", required=True, type=_path, help="the folder xlsa17/data")
    check.set_defaults(run=_data_check, overrides=False)
    vectors = data_jobs.add_parser(
        "wordvectors",
        help="word vectors of attributes from a GloVe text file",
        description="Averages the GloVe vectors of the words of every attribute name; the result "
        "is for --config.data.word_vectors.",
    )
    vectors.add_argument("--glove", required=True, type=_path, help="a GloVe text file")
    vectors.add_argument("--attributes", required=True, type=_path, help="text, one name a line")
    vectors.add_argument("--out", required=True, type=_path, help="the .npy file to write")
    vectors.set_defaults(run=_data_wordvectors, overrides=False)


def _add_compare(jobs: Any) -> None:
    compare = jobs.add_parser(
        "compare",
        help="run the published PyTorch code beside ours and report the differences",
        description="Runs a checkout of the published code (zjrao/DEDN) beside ours on the same "
        "weights and batches: outputs, losses, gradients, parameters after some steps, step times.",
    )
    compare.add_argument("--reference-dir", required=True, type=_path, help="the checkout")
    compare.add_argument("--recipe", default="cub_gzsl", help="which recipe (default: cub_gzsl)")
    compare.add_argument("--features", type=_path, help="published HDF5; default: random features")
    compare.add_argument("--channels", type=int, default=1024, help="of random features")
    compare.add_argument("--side", type=int, default=7, help="of random features: side x side")
    compare.add_argument("--steps", type=int, default=20, help="optimiser steps (default: 20)")
    compare.add_argument(
        "--float64",
        action="store_true",
        help="also run the published code in float64, to see how far its own rounding carries it",
    )
    compare.add_argument("--json", type=_path, help="write the report here as well")
    compare.set_defaults(run=_compare, overrides=True)


def _path(text: str) -> Path:
    """A path flag; the shell leaves the `~` of `--flag=~/x` to us."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, help="recipe file or name, such as configs/cub_gzsl.py"
    )


def _train(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.config import load_config
    from dedn_jax.train import result_text, train

    print(result_text(train(load_config(args.config, overrides), args.workdir)))


def _evaluate(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.evaluate import metrics_table
    from dedn_jax.files import check_output, write_json
    from dedn_jax.run import evaluate_run

    if args.json:
        check_output(args.json)
    report = evaluate_run(args.workdir, overrides, weights=args.weights, batch_size=args.batch_size)
    print(f"Test sets ({report['protocol']}), percent:")
    print(metrics_table(report["test"]))
    print(json.dumps(report))
    if args.json:
        write_json(args.json, report)


def _demo(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.config import load_config
    from dedn_jax.report import write_report
    from dedn_jax.train import result_text, train

    result = train(load_config("demo", overrides), args.workdir)
    print(result_text(result))
    print(f"Report: {write_report(args.workdir)}")


def _export(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.files import check_output
    from dedn_jax.run import export_run

    check_output(args.out, ".pt")
    export_run(args.workdir, args.out, overrides)
    print(f"Wrote {args.out}")


def _data_check(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.data.xlsa17 import count_differences, read_xlsa17

    splits = read_xlsa17(args.xlsa17, args.name)
    for name in ("trainval", "test_seen", "test_unseen"):
        print(f"{name:<12}{len(getattr(splits, name)):6d} images")
    differences = count_differences(splits, args.name)
    print("\n".join(differences) or "as published")


def _data_wordvectors(args: argparse.Namespace, _: list[str]) -> None:
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


def _compare(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.compare import compare, comparison_text
    from dedn_jax.config import load_config
    from dedn_jax.files import check_output, write_json

    if args.json:
        check_output(args.json)
    for name in ("steps", "channels", "side"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}={getattr(args, name)}, expected at least 1")
    report = compare(
        args.reference_dir,
        load_config(args.recipe, overrides),
        features=args.features,
        steps=args.steps,
        channels=args.channels,
        side=args.side,
        float64=args.float64,
    )
    print(comparison_text(report))
    if args.json:
        write_json(args.json, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    0: done; 2: a mistake the message tells how to mend; 128 + N: stopped by signal N with
    everything saved, so that a scheduler can tell an interruption from an end.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    strange = [a for a in rest if not (args.overrides and a.startswith("--config."))]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    try:
        args.run(args, rest)
    except InputError as error:
        print(f"dedn: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"dedn: {error}", file=sys.stderr)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        print("dedn: stopped", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        print(f"dedn: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        print(f"dedn: {name}{error.strerror or error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
