"""Writes reports: of a run, of several side by side, of a sweep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dedn_jax.errors import InputError
from dedn_jax.files import check_output, write_atomically, write_json
from dedn_jax.inference.report.analysis import Analysis, analyse
from dedn_jax.inference.report.facts import dataset_name, facts_of, versions
from dedn_jax.inference.report.figures import (
    Curve,
    CurvePoint,
    Learning,
    draw_learning,
    draw_seen_unseen,
)
from dedn_jax.inference.report.page import run_page
from dedn_jax.inference.report.samples import samples
from dedn_jax.inference.report.several import Reported, result_rows, several_page
from dedn_jax.inference.report.sweep_page import rows_note, sweep_page, sweep_rows
from dedn_jax.inference.report.tables import attributes_csv, classes_csv, table_tex
from dedn_jax.paths import local_path
from dedn_jax.sweep.folder import SWEEP_FILE, read_identity
from dedn_jax.sweep.result_file import read_sweep_result
from dedn_jax.training.evaluation import AUSUC
from dedn_jax.training.logs import read_lines
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.selection import METRIC_KEYS

PAGE = "index.html"
_SWEEP_FILES = ("report.json", "table.tex", PAGE)
_DRAWN = 1e30  # losses up to it
_RUN_FILES = (*_SWEEP_FILES, "classes.csv", "attributes.csv")


def write_report(run: TrainingRun, out: str | Path | None = None) -> Path:
    """Writes a finished run's report: a page, `report.json`, `classes.csv`, `attributes.csv`,
    `table.tex`.

    Examples:
      >>> write_report(run).as_posix()
      'runs/mine/report/index.html'

    Args:
      run: a finished run.
      out: folder to write to; None: `report` in the run's work directory.

    Returns:
      The page.

    Raises:
      InputError: the run is not finished, its data set cannot be loaded, or the folder cannot be
        written to.
    """
    return write_reports([run], local_path(out) if out else run.workdir.path / "report")


def write_reports(runs: Sequence[TrainingRun], out: Path) -> Path:
    """Writes the report of finished runs, several side by side.

    Args:
      runs: in the order of the tables.
      out: folder to write to.

    Returns:
      The page.

    Raises:
      InputError: as `write_report`.
    """
    _check_folder(out, _RUN_FILES)
    reported = {}
    for run, name in zip(runs, _names(runs), strict=True):
        analysis = analyse(run)
        facts = dataclasses.replace(facts_of(run), run=name)
        figures = _figures({name: (run, analysis)})
        reported[name] = Reported(facts, analysis, figures, samples(run, analysis))
    if len(runs) == 1:
        (one,) = reported.values()
        page = run_page(*one)
    else:
        both = zip(reported.items(), runs, strict=True)
        figures = _figures({name: (run, one.analysis) for (name, one), run in both})
        names = sorted({one.facts.dataset for one in reported.values()})
        page = several_page(f"DEDN on {', '.join(names)}: {len(runs)} runs", reported, figures)
    analyses = {name: one.analysis for name, one in reported.items()}
    rows = [row for name, analysis in analyses.items() for row in result_rows(name, analysis)]
    write_json(out / "report.json", {"runs": [_json(one) for one in reported.values()]})
    _write(out / "classes.csv", classes_csv(analyses))
    _write(out / "attributes.csv", attributes_csv(analyses))
    _write(out / "table.tex", table_tex(rows))
    _write(out / PAGE, page)
    return out / PAGE


def write_sweep_report(path: Path, out: Path | None = None, *, show_test: bool = False) -> Path:
    """Writes the report of a finished sweep: a page, `report.json` and `table.tex`.

    Args:
      path: the sweep's work directory.
      out: folder to write to; None: `report` in it.
      show_test: the test sets of every point, not of the best by validation alone.

    Returns:
      The page.

    Raises:
      InputError: the sweep is not finished, or the folder cannot be written to.
    """
    file = path / "result.json"
    if not file.is_file():
        raise InputError(
            f"{file}: missing, the sweep is not finished; give its command again to resume it"
        )
    out = out or path / "report"
    _check_folder(out, _SWEEP_FILES)
    result, identity = read_sweep_result(file), read_identity(path / SWEEP_FILE)
    data = identity["config"]["data"]
    name = dataset_name(data["format"], data["path"])
    facts = {
        "Config": identity["config"],
        "Fingerprint of the data": identity["dataset"],
        "Versions": versions(),
    }
    rows = sweep_rows(result, show_test=show_test)
    note = rows_note(result, show_test=show_test)
    folder = path.resolve().name
    title = f"DEDN on {name}: {folder if 'sweep' in folder.casefold() else f'sweep {folder}'}"
    page = sweep_page(title, result, facts, show_test=show_test)
    write_json(out / "report.json", {"sweep": folder, "dataset": name, **result})
    _write(out / "table.tex", table_tex(rows, note))
    _write(out / PAGE, page)
    return out / PAGE


def _names(runs: Sequence[TrainingRun]) -> list[str]:
    """Names of work directories, with as many of the folders above as tell them apart."""
    paths = [run.workdir.path.resolve() for run in runs]
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-depth:]) for p in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError("--workdir: the same run is given twice; give each once")


def _figures(runs: dict[str, tuple[TrainingRun, Analysis]]) -> dict[str, str]:
    """`curve` and `learning`, where there is something to draw."""
    found = {}
    curves = [c for name, (_, a) in runs.items() for c in _curves(name, a, len(runs) > 1)]
    if curves:
        found["curve"] = draw_seen_unseen(curves)
    learning = [_learning(name, run) for name, (run, _) in runs.items()]
    if any(one.evaluations or one.losses for one in learning):
        found["learning"] = draw_learning(learning)
    return found


def _curves(name: str, analysis: Analysis, several: bool) -> list[Curve]:
    """Of one run alone both mixings with all points; beside others what is reported."""
    if several:
        kind = "calibrated" if analysis.calibrated else "fixed"
        if kind not in analysis.curves:
            return []
        point = _point(analysis, kind, f"{name}, {kind}")
        return [Curve(name, analysis.curves[kind], [point])]
    labels = {"fixed": "fixed mixes", "calibrated": "calibrated mixes"}
    found = []
    for kind, curve in analysis.curves.items():
        mixing = analysis.fixed if kind == "fixed" else analysis.reported
        text = f"{kind} gamma {mixing.gamma:.3g}"
        points = [_point(analysis, kind, text)]
        if analysis.reported is mixing:
            at = int(curve.harmonic_mean.argmax())
            h = curve.harmonic_mean[at]
            best = f"best of the test curve: H {h:.1f} (test-best)"
            points.append(CurvePoint(curve.unseen[at], curve.seen[at], best))
        found.append(Curve(labels[kind], curve, points))
    return found


def _point(analysis: Analysis, kind: str, text: str) -> CurvePoint:
    metrics = analysis.result["test" if kind == "fixed" else "test_calibrated"]["fused"]
    return CurvePoint(metrics["U"], metrics["S"], f"{text}: H {metrics['H']:.1f}")


def _learning(name: str, run: TrainingRun) -> Learning:
    records = read_lines(run.workdir.metrics_file)
    evaluations = [
        r
        for r in records
        if isinstance(r.get("evaluated_on"), str)
        and isinstance(r.get("fused"), dict)
        and all(isinstance(v, float) and 0 <= v <= 100 for v in r["fused"].values())
    ]
    losses: dict[str, tuple[list[int], list[float]]] = {}
    for r in records:
        # Matplotlib overflows long before floats do.
        if isinstance(r.get("loss"), float) and not abs(r["loss"]) > _DRAWN:
            steps, values = losses.setdefault(r["phase"], ([], []))
            steps.append(r["step"])
            values.append(r["loss"])
    selected = None
    if evaluations:
        selected = run.result.get("validation", run.result)["selected_step"]
    label = evaluations[0]["evaluated_on"] if evaluations else ""
    metric = METRIC_KEYS[run.config.selection.metric]
    return Learning(name, label, evaluations, losses, selected, metric)


def _json(one: Reported) -> dict[str, Any]:
    analysis = one.analysis
    return {
        "run": one.facts.run,
        "dataset": one.facts.dataset,
        "chance": analysis.chance,
        **analysis.result,
        "curves": {
            kind: {
                "gaps": curve.gaps.tolist(),
                "unseen": curve.unseen.tolist(),
                "seen": curve.seen.tolist(),
                AUSUC: curve.area,
            }
            for kind, curve in analysis.curves.items()
        },
        "per_class": [dataclasses.asdict(c) for c in analysis.classes],
        "confusions": [dataclasses.asdict(c) for c in analysis.confusions],
        "experts": {kind: dataclasses.asdict(a) for kind, a in analysis.agreement.items()},
        "attributes": [
            {
                "name": a.name,
                "group": a.group,
                "classes": a.classes,
                **{
                    expert: {"average_precision": _number(ap), "auc": _number(auc)}
                    for expert, (ap, auc) in (("coarse", a.coarse), ("fine", a.fine))
                },
            }
            for a in analysis.attributes
        ],
        "config": one.facts.config,
        "fingerprint": one.facts.fingerprint,
        "versions": one.facts.versions,
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _check_folder(out: Path, names: Sequence[str]) -> None:
    for name in names:
        check_output(out / name, Path(name).suffix)


def _write(path: Path, content: str) -> None:
    write_atomically(path, content.encode())
