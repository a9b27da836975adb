"""The page of an explanation: one HTML file that needs nothing else."""

from __future__ import annotations

from dedn_jax.inference.explain.bars import leading_channels, shown_attributes, signed, span
from dedn_jax.inference.explain.decomposition import CHANNEL, EXPERTS, Decomposition
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.inference.explain.fragments import (
    STYLE,
    attention_figure,
    bar_rows,
    bar_table,
    image,
    parts_table,
)
from dedn_jax.inference.html import document, label, text

_RANKED = 5  # candidates listed

_STYLE = """
td.kind { white-space: nowrap; }
.top { display: grid; grid-template-columns: minmax(0, 18rem) minmax(0, 1fr); gap: 1.5rem;
  align-items: start; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.5rem; }
.channels { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr));
  gap: 1.5rem; }
@media (max-width: 36rem) { .top { grid-template-columns: minmax(0, 1fr); } }
"""


def page(explanation: Explanation, name: str, top: int) -> str:
    """The page.

    Args:
      explanation: of a picture.
      name: of the picture.
      top: how many attributes and channels are shown of each kind.
    """
    e, against = explanation, explanation.against_name
    title = f"Why {e.class_name}?"
    sections = [
        _head(e, name),
        _parts(f"What adds up to the score of {e.class_name}", e, e.score, top),
    ]
    if e.difference is not None and against is not None:
        note = f"To the right: for {e.class_name}. To the left: for {against}."
        why = f"Why {e.class_name} and not {against}"
        sections.append(_parts(why, e, e.difference, top, note))
    sections += [_attention(e, top), _channels(e, top)]
    body = "\n".join([f"<h1>{label(title)}</h1>", *sections])
    return document(f"{title} {name}", body, _STYLE + STYLE)


def _head(e: Explanation, name: str) -> str:
    rows = "".join(
        f"<tr{' class=chosen' if k == e.explained else ''}>"
        f'<th scope="row">{label(e.class_names[k])}</th>'
        f"<td class=kind>{'seen' if e.seen[k] else 'unseen'}</td>"
        f'<td class="number">{e.scores[k]:.3f}</td></tr>'
        for k in e.ranked()
        if k in (*e.ranked()[:_RANKED], e.explained, e.against)
    )
    m = e.mixing
    gamma = f" Unseen classes are given gamma, {m.gamma:.3f}." if m.gamma else ""
    picture = image(e.picture, f"The picture {name}, as the model saw it")
    return (
        f'<div class="top"><figure>{picture}<figcaption class="note">{text(name)}, as the model '
        "saw it</figcaption></figure><div><table><thead><tr>"
        '<th scope="col">class</th><th scope="col"></th><th scope="col">score</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f'<p class="note">Of {len(e.class_names)} classes. A score is {m.expert_mix:.0%} the '
        f"coarse expert's and {1 - m.expert_mix:.0%} the fine one's; of each, {m.region_mix:.0%} "
        f"the region branch's and {1 - m.region_mix:.0%} the channel branch's.{gamma}</p>"
        "</div></div>"
    )


def _parts(title: str, e: Explanation, parts: Decomposition, top: int, note: str = "") -> str:
    note = f'<p class="note">{label(note)}</p>' if note else ""
    table = parts_table(parts, e.attribute_names, top)
    return f"<section><h2>{label(title)}</h2>{note}{table}</section>"


def _attention(e: Explanation, top: int) -> str:
    figures = "".join(attention_figure(e, a) for a in shown_attributes(e, top))
    return (
        "<section><h2>Where the experts look</h2>"
        '<p class="note">Attention of the region branch for the leading attributes, with one '
        "colour scale for both experts: 1 is what every region would have if all had the "
        f'same.</p><div class="maps">{figures}</div></section>'
    )


def _channels(e: Explanation, top: int) -> str:
    both = leading_channels(e, top)
    ends = span([bar for channels in both for bar in channels])
    tables = "".join(
        bar_table(f"{expert} expert", bar_rows(channels, ends))
        for expert, channels in zip(EXPERTS, both, strict=True)
    )
    count = e.channel_attention.shape[-1]
    even = ", ".join(
        f"{signed(part / count)} ({expert})"
        for expert, part in zip(EXPERTS, e.score.parts[:, CHANNEL].sum(-1).tolist(), strict=True)
    )
    return (
        "<section><h2>Strongest channels</h2>"
        f'<p class="note">The channel branches\' part of the score of {label(e.class_name)}, '
        "shared out over the feature map's channels by each attribute's attention to them. Shared "
        f'evenly over all {count}, a channel would have {even}.</p><div class="channels">{tables}'
        "</div></section>"
    )
