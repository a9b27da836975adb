"""A run's report: one HTML page with its numbers, a curve, and pictures with predictions."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.data.pictures.sheet import PICTURES, Row, draw_sheet
from dedn_jax.files import read_json, write_atomically
from dedn_jax.training.evaluation import EXPERTS, METRICS
from dedn_jax.training.logs import read_lines
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.workdir import Workdir

_COLORS = {"U": "#d1495b", "S": "#00798c", "H": "#2e4057", "T1": "#edae49"}
_RIGHT, _WRONG = "#2a7f3f", "#b3261e"
_CLASSES_SHOWN = 12  # large data sets have hundreds
_DPI = 110


def write_report(run: TrainingRun) -> Path:
    """Writes `report/index.html` and its pictures into a finished run's work directory.

    The contact sheet is drawn where the run was trained from pictures.

    Example:
      >>> write_report(run).as_posix()
      'runs/mine/report/index.html'

    Returns:
      The page.

    Raises:
      InputError: the run is not finished.
    """
    result = run.result  # says so if the run is not finished
    folder = run.workdir.path / "report"
    folder.mkdir(exist_ok=True)
    pictures = []
    if draw_curve(run.workdir, folder / "curve.png"):
        pictures.append(("curve.png", "U, S, H and T1 of the fused score while training"))
    if isinstance(run.dataset.inputs, Pictures) and len(run.dataset.test_unseen):
        predictions = _predict(run, run.dataset.test_unseen)
        draw_contact_sheet(run, predictions, folder / "contact_sheet.png")
        pictures.append(
            (
                "contact_sheet.png",
                "Test pictures of unseen classes, one class a row, with what the fused score "
                "chooses among all classes: green is right, red is wrong",
            )
        )
    page = folder / "index.html"
    write_atomically(page, _page(run, result, pictures).encode())
    return page


def chance(dataset: GZSLDataset) -> float:
    """H in percent of a uniform choice among seen and unseen classes: U = S = H = 100/classes."""
    return 100.0 / (len(dataset.seen_classes) + len(dataset.unseen_classes))


def draw_curve(workdir: Workdir, path: Path) -> bool:
    """Draws the evaluations of the phase that was selected on; False where there were none."""
    evaluations = [r for r in read_lines(workdir.metrics_file) if "evaluated_on" in r]
    if not evaluations:
        return False
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    steps = [r["step"] for r in evaluations]
    for metric in METRICS:
        axes.plot(
            steps, [r["fused"][metric] for r in evaluations], color=_COLORS[metric], label=metric
        )
    best = read_json(workdir.phase(evaluations[0]["phase"]) / "result.json")["selected_step"]
    axes.axvline(best, color="0.6", linestyle=":", label=f"selected: step {best}")
    axes.set(
        xlabel="step",
        ylabel="percent",
        ylim=(0, 100),
        title=f"Fused score on {evaluations[0]['evaluated_on']}",
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", ncols=2, frameon=False)
    figure.savefig(path, dpi=_DPI)
    return True


def draw_contact_sheet(run: TrainingRun, predictions: np.ndarray, path: Path) -> None:
    """Pictures of every unseen class with their predicted classes.

    Args:
      run: a run that was trained from pictures.
      predictions: `[unseen test images]` class ids.
      path: PNG to write.
    """
    dataset = run.dataset
    labels = dataset.labels[dataset.test_unseen]
    rows = []
    for k in np.unique(labels)[:_CLASSES_SHOWN]:
        chosen = np.flatnonzero(labels == k)[:PICTURES]
        rows.append(
            Row(
                dataset.class_names[k],
                list(dataset.inputs[dataset.test_unseen[chosen]]),
                captions=[
                    (dataset.class_names[p], _RIGHT if p == k else _WRONG)
                    for p in predictions[chosen]
                ],
            )
        )
    write_atomically(path, draw_sheet(rows))


def _predict(run: TrainingRun, images: np.ndarray) -> np.ndarray:
    """Class ids that the fused score predicts among all classes."""
    scores = run.scores
    chosen = scores.class_ids[scores.mixed(Mixing.from_config(run.config)).argmax(1)]
    return chosen[np.isin(scores.images, images)]


def _cell(value: float | None) -> str:
    return "<td>-</td>" if value is None else f"<td>{value:.1f}</td>"


def _page(run: TrainingRun, result: dict, pictures: list[tuple[str, str]]) -> str:
    dataset = run.dataset
    head = "".join(f"<th>{m}</th>" for m in METRICS)
    rows = "".join(
        f"<tr><th>{expert}</th>"
        + "".join(_cell(result["test"][expert].get(m)) for m in METRICS)
        + "</tr>"
        for expert in EXPERTS
    )
    figures = "".join(
        f'<figure><img src="{name}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for name, caption in pictures
    )
    facts = html.escape(
        f"{len(dataset.labels)} images, {len(dataset.seen_classes)} seen and "
        f"{len(dataset.unseen_classes)} unseen classes, {dataset.num_attributes} attributes in "
        f"{len(run.groups.names)} groups ({', '.join(run.groups.names)}). "
        f"Selected by {result['selected_by']}; {result['steps']} steps; seed {result['seed']}. "
        f"Choosing by chance gives U = S = H = {chance(dataset):.1f}."
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>DEDN: {html.escape(dataset.source)}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }}
  table {{ border-collapse: collapse; }}
  th, td {{ padding: .25rem 1rem; text-align: right; border-bottom: 1px solid #ddd; }}
  figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }} figcaption {{ color: #555; }}
</style>
<h1>DEDN on {html.escape(dataset.source)}</h1>
<p>{facts}</p>
<table><tr><th>percent, test sets</th>{head}</tr>{rows}</table>
<p>U, S: accuracy per class, averaged over unseen and seen classes; H: their harmonic mean;
T1: unseen pictures, choosing among unseen classes alone.</p>
{figures}
</html>
"""
