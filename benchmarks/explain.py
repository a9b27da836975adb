"""`dedn explain`: the latency of one picture, and where it goes.

  python -m benchmarks.explain --workdir=RUN PICTURE [--rounds=9] [--json=OUT]
      [--config.backbone.weights=FILE ...]

From the file to its explanation (what `Run.explain` and the page in the browser wait for), and to
the four files that are written. Models are loaded and compiled before. All take turns, so that
noise hits them alike.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.common import Call, environment, interleaved, spread, text_table
from dedn_jax.inference.explain.explanation import explain
from dedn_jax.inference.explain.figures import draw_attention, draw_scores
from dedn_jax.inference.explain.look import look
from dedn_jax.inference.explain.page import page
from dedn_jax.inference.explain.writing import write_explanation
from dedn_jax.inference.run import Run, open_run

_TOP = 8  # as `dedn explain` shows


def measure(run: Run, picture: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of the whole and of its parts."""
    scorer, candidates, mixing = run.picture_scorer, run.candidates, run.mixing()
    pixels, looked = scorer.decode(picture), look(scorer, picture)
    explanation = run.explain(picture)
    with tempfile.TemporaryDirectory() as folder:

        def written() -> Path:
            found = run.explain(picture)
            return write_explanation(found, Path(folder), "one", picture.name, _TOP)

        calls: dict[str, Call] = {
            "explanation": lambda: run.explain(picture),
            "  decoding, resizing": lambda: scorer.decode(picture),
            "  backbone, experts, attention": lambda: scorer.attention(pixels[None]),
            "  taking the score apart": lambda: explain(looked, candidates, mixing),
            "explanation and its files": written,
            "  page": lambda: page(explanation, picture.name, _TOP),
            "  JSON": lambda: json.dumps(explanation.to_json(), indent=2),
            "  scores as PNG": lambda: draw_scores(explanation, _TOP),
            "  attention as PNG": lambda: draw_attention(explanation, _TOP),
        }
        times = interleaved(calls, rounds)
    rows = [{"name": n, **spread([1e3 * s for s in values])} for n, values in times.items()]
    return {
        "environment": environment(),
        "problem": f"a picture to {scorer.transform.crop} x {scorer.transform.crop}, "
        f"{type(scorer.model.backbone).__name__}, {len(candidates.attribute_names)} attributes, "
        f"{len(candidates.names)} classes, {rounds} rounds",
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [report["environment"], report["problem"], "ms"]
    return "\n".join([*lines, *text_table(report["rows"], ("name", "median", "low", "high"))])


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, help="of a finished run")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args, overrides = parser.parse_known_args(argv)
    report = measure(
        open_run(args.workdir, overrides), args.picture, positive("--rounds", args.rounds)
    )
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("explain", main)
