"""`dedn evaluate`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.cli.arguments import (
    add_attributes,
    add_processes,
    join_processes,
    output_flag,
    path_flag,
    run_candidates,
    workdir_flag,
)
from dedn_jax.errors import InputError

if TYPE_CHECKING:
    from flax import nnx

    from dedn_jax.inference.run import Run
    from dedn_jax.training.evaluation import Metrics


def add_evaluate(jobs: Any) -> None:
    """Adds `dedn evaluate` to the jobs."""
    evaluate = jobs.add_parser(
        "evaluate",
        help="U, S, H, T1 and AUSUC of a trained run on its test sets",
        description="Evaluates a finished run, with the fixed bias and mixes and, where the run is "
        "calibrated, with those; or with --weights other parameters under the run's config. Fields "
        "that do not change the numbers can be overridden: --config.data.path=FILE; and those of "
        "the prediction, --config.loss.bias, --config.predict.region_mix, "
        "--config.predict.expert_mix and --config.model.precision, which the result then says",
    )
    evaluate.add_argument(
        "--workdir", required=True, type=workdir_flag, help="directory of the run"
    )
    evaluate.add_argument(
        "--weights",
        type=path_flag,
        help="a published state_dict (.pt), or the .safetensors of `dedn export`, to evaluate",
    )
    evaluate.add_argument(
        "--batch-size", type=int, help="images per batch; the numbers stay the same"
    )
    add_attributes(evaluate)
    evaluate.add_argument(
        "--classes",
        type=path_flag,
        metavar="FILE",
        help="choose among these as well: new classes as for `dedn predict`, a CSV file with the "
        "header name,<attribute>,... and a row for each",
    )
    evaluate.add_argument(
        "--scores",
        type=output_flag,
        help="also write the class and attribute scores of every test image to this .npz file",
    )
    evaluate.add_argument("--json", type=output_flag, help="also write the numbers to this file")
    add_processes(evaluate)
    evaluate.set_defaults(run=_evaluate, overrides=True)


def _evaluate(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.inference.new_classes import metrics_among
    from dedn_jax.inference.run import open_run
    from dedn_jax.parallel.agreement import check_agreement
    from dedn_jax.parallel.mesh import Layout
    from dedn_jax.parallel.processes import is_main
    from dedn_jax.training.workdir import agreed_fields

    _check_evaluate(args)
    join_processes(args)
    run = open_run(args.workdir, overrides, predicting=True)
    check_agreement(
        "what they evaluate",
        agreed_fields(run.config, run.dataset.fingerprint())
        | {"--weights": args.weights, "--batch-size": args.batch_size},
    )
    weights = _weights(args, run)
    # Weights from elsewhere are not what the run was calibrated for.
    calibration = None if args.weights else run.calibration
    # Classes that cannot be used show before the work.
    candidates = run_candidates(args, run).with_new(args.classes) if args.classes else None
    metrics, scores = run.evaluate_with_scores(
        weights, batch_size=args.batch_size, layout=Layout.of_devices()
    )
    if not is_main():
        return
    class_names, added = run.dataset.class_names, run.added_classes
    if candidates:
        metrics, scores = metrics_among(run, candidates, scores, metrics)
        new = candidates.names[len(run.candidates.names) :]
        class_names, added = class_names + new, added + new
    if added:
        print(f"Chosen among {len(scores.class_ids)} classes, {len(added)} new since training.")
    report = _report(args, run, metrics, calibration.apply(scores) if calibration else None)
    if added:
        report["new_classes"] = list(added)
    if args.scores:
        scores.save(args.scores, class_names, run.dataset.attribute_names)
        print(with_addresses(f"Scores: {args.scores}"))
    print(json.dumps(report))
    if args.json:
        from dedn_jax.files import write_json

        write_json(args.json, report)


def _weights(args: argparse.Namespace, run: Run) -> nnx.State | None:
    """Parameters in place of the run's, if the flags name some."""
    from dedn_jax.inference.export.backbone import trained_backbone
    from dedn_jax.inference.export.published import read_published_weights
    from dedn_jax.inference.export.safetensors import read_safetensors

    if not args.weights:
        return None
    own = args.weights.suffix == ".safetensors"
    weights = (read_safetensors if own else read_published_weights)(run, args.weights)
    if not own and trained_backbone(run):
        print(f"{args.weights} has no backbone: evaluated with the one that the run trained")
    return weights


def _report(
    args: argparse.Namespace, run: Run, metrics: Metrics, calibrated: Metrics | None
) -> dict[str, object]:
    """The numbers, printed as tables as well."""
    from dedn_jax.training.protocol import calibrated_text, test_text

    protocol = "given weights" if args.weights else run.config.selection.protocol
    report: dict[str, object] = {
        "protocol": protocol,
        "weights": str(args.weights) if args.weights else "selected",
        "images": len(run.dataset.test_seen) + len(run.dataset.test_unseen),
        "test": metrics,
    }
    if changed := run.workdir.changed_predictions(run.config):
        report["changed"] = changed
        values = (f"{field}={v['now']} (the run: {v['run']})" for field, v in changed.items())
        protocol += f"; not the run's result: changed {', '.join(values)}"
    print("\n".join(test_text(metrics, protocol)))
    if calibrated is not None:
        report["test_calibrated"] = calibrated
        print("\n".join(["", *calibrated_text(run.result["calibration"], calibrated)]))
    elif run.calibration:
        print("Fixed gamma and mixes alone: the run's calibration is of its selected weights.")
    return report


def _check_evaluate(args: argparse.Namespace) -> None:
    from dedn_jax.files import check_output

    if args.json:
        check_output(args.json)
    if args.scores:
        check_output(args.scores, ".npz")
    if args.batch_size is not None and args.batch_size < 1:
        raise InputError(f"--batch-size={args.batch_size}, expected at least 1")
    if args.attributes and not args.classes:
        raise InputError("--attributes: names what --classes describes; give that as well")
