"""The pieces of HTML on the page. Names come from files and from people: they are shown as text."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import UInt8

from dedn_jax.data.pictures.decoding import decode
from dedn_jax.data.pictures.transforms import standard
from dedn_jax.inference.explain.bars import bars, rest, span
from dedn_jax.inference.explain.decomposition import EXPERTS
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.inference.explain.fragments import (
    STYLE,
    attention_figure,
    bar_rows,
    bar_table,
    image,
    key,
    sum_rows,
)
from dedn_jax.inference.html import TABLE_STYLE, text
from dedn_jax.inference.predictions import Predictions
from dedn_jax.serve.examples import Example

_RANKED = 6  # classes listed, besides the designed ones
_ATTRIBUTES = 6  # of each expert
_THUMBNAIL = 96  # pixels

PIECES_STYLE = f"""
font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; overflow-wrap: anywhere;
{TABLE_STYLE}{STYLE}
h1 {{ font-size: 1.5rem; font-weight: 650; line-height: 1.25; margin: 0 0 .2rem; }}
h2 {{ font-size: 1.15rem; font-weight: 650; margin: .4rem 0 .2rem; }}
h3 {{ font-size: 1rem; font-weight: 650; margin: .4rem 0; }}
p {{ margin: .2rem 0; }}
code {{ font: .9em monospace; }}
b {{ font-weight: 650; }}
.note {{ color: #555; font-size: .9rem; }}
.alert {{ color: #8f1d14; font-weight: 600; }}
.experts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: .5rem 2rem; }}
.tag {{ font-size: .78rem; padding: 0 .45em; border-radius: 1em; border: 1px solid #b9b9b9;
  color: #444; white-space: nowrap; }}
.tag.designed {{ background: #0072b2; border-color: #0072b2; color: #fff; }}
.ranking thead th {{ white-space: nowrap; }} .ranking thead th:nth-child(2) {{ text-align: left; }}
.ranking tbody th {{ min-width: min(12rem, 30vw); }} .ranking .tag {{ margin-left: .2em; }}
td.share {{ width: 15%; padding-right: 0; }}
td.share i {{ display: block; height: .6rem; border-radius: 2px;
  background: #0072b2; min-width: 1px; }}
.examples {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(64px, 1fr));
  gap: 6px; }}
.examples button {{ padding: 0; border: 2px solid transparent; border-radius: 6px;
  background: none; cursor: pointer; }}
.examples button:hover, .examples button:focus-visible {{ border-color: #0072b2; }}
.shown {{ max-width: 22rem; }}
.maps {{ max-width: 44rem; }}
a {{ color: #005a8d; text-decoration: underline; }}
@media (max-width: 36rem) {{ .ranking .share, .ranking thead th:last-child {{ display: none; }} }}
"""


NO_PICTURE = '<p class="note">Drop a picture to see whether it is recognised.</p>'


def heading(run: str, seen: int, unseen: int, attributes: int) -> str:
    """The title, and what the run knows."""
    return (
        "<h1>What is in the picture, and why?</h1>"
        f'<p class="note">DEDN, run {text(run)}: {seen} seen and {unseen} unseen classes, '
        f"{attributes} attributes. Pictures stay in this program's memory; nothing is written "
        "or sent on.</p>"
    )


def alert(message: str) -> str:
    """What went wrong, or nothing."""
    return f'<p class="alert" role="alert">{text(message)}</p>' if message else ""


def example_buttons(examples: Sequence[Example]) -> str:
    """A small picture for each example, to press."""
    if not examples:
        return ""
    buttons = "".join(
        f'<button type="button" data-example="{i}" title="{text(one.class_name)}">'
        f"{image(_thumbnail(one), f'Example: {one.class_name}')}</button>"
        for i, one in enumerate(examples)
    )
    return (
        '<p class="note">or one of the run\'s test pictures</p>'
        f'<div class="examples">{buttons}</div>'
    )


def shown_picture(pixels: UInt8[np.ndarray, "crop crop 3"]) -> str:
    """The picture as the model saw it."""
    drawn = image(pixels, "The picture, as the model saw it")
    return f'<figure class="shown">{drawn}<figcaption class="note">as the model saw it</figcaption>'


def ranking_table(ranking: Predictions, designed: Collection[str]) -> str:
    """The best classes and all designed ones, with their ranks."""
    rows, greatest = [], float(ranking.probabilities[0, 0])
    for rank, k in enumerate(ranking.classes[0].tolist()):
        name = ranking.class_names[k]
        own = name in designed
        if rank >= _RANKED and not own:
            continue
        share = float(ranking.probabilities[0, rank])
        rows.append(
            f"<tr{' class=chosen' if own else ''}><td class=number>{rank + 1}</td>"
            f'<th scope="row">{text(name)} {_tag(own, bool(ranking.seen[k]))}</th>'
            f'<td class="number">{ranking.scores[0, rank]:.3f}</td>'
            f'<td class="number">{_percent(share)}</td>'
            f'<td class="share"><i style="width:{100 * share / greatest:.1f}%"></i></td></tr>'
        )
    return (
        '<table class="ranking"><thead><tr><th scope="col">rank</th><th scope="col">class</th>'
        '<th scope="col">score</th><th scope="col">probability</th><th scope="col"></th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
        f'<p class="note">Of {len(ranking.class_names)} classes. The probability says how far a '
        "class is ahead, not how often that is right.</p>"
    )


def verdict(ranking: Predictions, name: str) -> str:
    """Whether the model recognises the picture as a designed class."""
    names = [ranking.class_names[k] for k in ranking.classes[0]]
    rank = names.index(name)
    numbers = (
        f"score {ranking.scores[0, rank]:.3f}, probability "
        f"{_percent(float(ranking.probabilities[0, rank]))}"
    )
    if not rank:
        found = f"The picture is recognised as <b>{text(name)}</b>: rank 1 of {len(names)}"
    else:
        behind = ranking.scores[0, 0] - ranking.scores[0, rank]
        found = (
            f"<b>{text(name)}</b> has rank {rank + 1} of {len(names)}, {behind:.3f} behind "
            f"{text(names[0])}"
        )
    return f'<p class="verdict" role="status">{found} ({numbers}).</p>'


def expert_tables(e: Explanation) -> str:
    """The leading attributes of both experts, side by side, and what they add to the score."""
    parts = [e.score.of_expert(expert) for expert in range(len(EXPERTS))]
    drawn = [bars(one, e.attribute_names, _ATTRIBUTES) for one in parts]
    ends = span([bar for lines in drawn for bar in lines])
    shares = (e.mixing.expert_mix, 1 - e.mixing.expert_mix)
    tables = []
    for expert, share, one, lines in zip(EXPERTS, shares, parts, drawn, strict=True):
        table = '<p class="note">The run\'s mixing gives it no share of the score.</p>'
        if share:
            sums = sum_rows(rest(one, _ATTRIBUTES))
            table = bar_table("attribute", bar_rows(lines, ends), sums)
        tables.append(f"<div><h3>{expert} expert, a share of {100 * share:.0f} %</h3>{table}</div>")
    gamma = f", and gamma, {e.score.gamma:.3f}, for an unseen class" if e.score.gamma else ""
    return (
        f'<p class="note">Both experts add up to the score of <b>{text(e.class_name)}</b>{gamma}: '
        f'<b>{e.score.total:.3f}</b>.</p>{key()}<div class="experts">{"".join(tables)}</div>'
    )


def attention(e: Explanation, attribute: int) -> str:
    """Where both experts look for an attribute."""
    against = e.against_name
    other = f"; the difference is that from {text(against)}" if against is not None else ""
    return (
        f'<div class="maps">{attention_figure(e, attribute)}</div>'
        '<p class="note">Attention of the region branch: 1 is what every region would have if all '
        f"had the same. Parts are those of {text(e.class_name)}{other}.</p>"
    )


def kept_classes(names: Sequence[str], csv: str) -> str:
    """The kept classes, and a link that saves them as a file."""
    if not names:
        return ""
    data = base64.b64encode(csv.encode()).decode()
    listed = ", ".join(f"<b>{text(name)}</b>" for name in names)
    return (
        f"<p>Kept: {listed}.</p>"
        f'<p><a download="classes.csv" href="data:text/csv;charset=utf-8;base64,{data}">Save as '
        "classes.csv</a>, for <code>dedn predict --classes=classes.csv</code></p>"
    )


def _thumbnail(example: Example) -> UInt8[np.ndarray, "side side 3"]:
    pixels = decode(example.encoded, example.class_name, upright=True)
    return standard(pixels, _THUMBNAIL, _THUMBNAIL)


def _tag(own: bool, seen: bool) -> str:
    if own:
        return '<span class="tag designed">designed</span>'
    return f'<span class="tag">{"seen" if seen else "unseen"}</span>'


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
