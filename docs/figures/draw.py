"""Draws the figures of the documentation, the creature's from a finished run on the demo set.

dedn demo --workdir=runs/demo
python docs/figures/draw.py --workdir=runs/demo
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

import dedn_jax
from dedn_jax.inference.explain.figures import draw_attention, draw_scores

HERE = Path(__file__).parent
ATTRIBUTES = 3
BOX = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "linewidth": 1}
# Text, left, bottom, width, height, colour.
BOXES = [
    ("picture", 0.1, 1.75, 1.1, 0.7, "0.92"),
    ("backbone\n(frozen)", 1.6, 1.75, 1.1, 0.7, "0.92"),
    ("feature map\n$F$: channels × regions", 3.1, 1.75, 1.75, 0.7, "0.92"),
    (
        "coarse expert\nall attributes\nregions and channels",
        5.35,
        2.55,
        2.15,
        1.0,
        "#cfe3f3",
    ),
    (
        "fine expert\na subnetwork a group\nregions and channels",
        5.35,
        0.6,
        2.15,
        1.0,
        "#f8d9bf",
    ),
    ("attribute\nscores $p_c$", 7.95, 2.7, 1.15, 0.7, "#cfe3f3"),
    ("attribute\nscores $p_f$", 7.95, 0.75, 1.15, 0.7, "#f8d9bf"),
    ("class scores\n$s_c = p_c Z^T + d$", 9.5, 2.7, 1.5, 0.7, "#cfe3f3"),
    ("class scores\n$s_f = p_f Z^T + d$", 9.5, 0.75, 1.5, 0.7, "#f8d9bf"),
    ("fused\n$m\\,s_c + (1-m)\\,s_f$", 11.45, 1.75, 1.55, 0.7, "0.92"),
]
ARROWS = [
    *((1.22, 2.1, 1.58, 2.1), (2.72, 2.1, 3.08, 2.1), (4.87, 2.25, 5.33, 2.9)),
    *((4.87, 1.95, 5.33, 1.2), (7.52, 3.05, 7.93, 3.05), (7.52, 1.1, 7.93, 1.1)),
    *((9.12, 3.05, 9.48, 3.05), (9.12, 1.1, 9.48, 1.1), (11.02, 2.9, 11.43, 2.3)),
    (11.02, 1.25, 11.43, 1.9),
]


def draw_creature(workdir: Path) -> None:
    """A creature of a class that was not trained on: the picture, why, and where both look."""
    run = dedn_jax.open_run(workdir)
    data = run.dataset
    picture = data.inputs[data.test_unseen[:1]][0]
    why = run.explain(picture)
    Image.fromarray(np.asarray(picture)).save(HERE / "creature.png")
    for name, png in ("why", draw_scores(why, 8)), ("attention", draw_attention(why, ATTRIBUTES)):
        with Image.open(io.BytesIO(png)) as figure:  # a third of the size, looks the same
            figure.convert("RGB").quantize(256).save(HERE / f"creature_{name}.png", optimize=True)
    print(f"a {data.class_names[data.labels[data.test_unseen[0]]]}, taken for a {why.class_name}")


def draw_network(axes: Axes) -> None:
    """From a picture to class scores."""
    for text, left, bottom, width, height, colour in BOXES:
        axes.add_patch(FancyBboxPatch((left, bottom), width, height, fc=colour, ec="0.4", **BOX))
        axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=8)
    for x, y, to_x, to_y in ARROWS:
        axes.annotate("", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "->", "color": "0.3"})
    teach = {"arrowstyle": "<->", "color": "#b03030", "linewidth": 1.5}
    axes.annotate("", (10.25, 2.66), (10.25, 1.49), arrowprops=teach)
    axes.text(10.18, 2.07, "distillation", color="#b03030", ha="right", va="center", fontsize=8)
    axes.text(
        6.43,
        2.07,
        "each starts from word vectors\nof the attributes",
        ha="center",
        va="center",
        fontsize=7,
    )
    axes.set_xlim(0, 13.1)
    axes.set_ylim(0.4, 3.75)
    axes.set_aspect("equal")
    axes.axis("off")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a run on the demo set")
    draw_creature(parser.parse_args().workdir)
    figure = Figure(figsize=(10, 2.7), layout="constrained")
    draw_network(figure.subplots())
    figure.savefig(HERE / "network.png", dpi=130)


if __name__ == "__main__":
    main()
