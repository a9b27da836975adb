"""A plan as a table to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HEADS = (
    *("slice", "batch", "memory/chip", "fits", "GFLOP/chip", "GB moved", "sent (GB)"),
    *("floor ms (bound)", "ms/step (bound)", "steps/s", "all steps", "chip-hours", "price"),
    "compiled in",
)
_RESIDENCY = {
    "replicated": "resident on every chip",
    "sharded": "resident, sharded over the chips",
    "never": "streamed from the host",
}
_NAMES = {"train": "train step", "extract": "extraction step (backbone forward)"}


def plan_text(plan: dict[str, Any]) -> str:
    """The problem, a table for each program, and notes on its rows."""
    p = plan["problem"]
    inputs = f"{p['picture']} x {p['picture']} pictures" if p["picture"] else f"{p['dtype']} maps"
    lines = [
        f"{p['source']}: {p['images']} images, {p['classes']} classes, {p['attributes']} "
        f"attributes in {len(p['groups'])} groups, C={p['channels']}, R={p['regions']}, {inputs}"
    ]
    for job in dict.fromkeys(row["job"] for row in plan["rows"]):
        rows = [row for row in plan["rows"] if row["job"] == job]
        cells = [_HEADS, *map(_cells, rows)]
        priced = any("price" in row for row in rows)
        shown = [i for i, head in enumerate(_HEADS) if head != "price" or priced]
        cells = [[line[i] for i in shown] for line in cells]
        lines += ["", f"{_NAMES[job]}:", "", *_table(cells)]
        notes = [f"{row['topology']}: {note}" for row in rows for note in _notes(row)]
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Such as `12 s`, `3.4 min`, `5.6 h`."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, padded so that it reads as plain text too."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def _cells(row: dict[str, Any]) -> list[str]:
    batch = str(row["batch"])
    if row["batch_padded"] != row["batch"]:
        batch += f" -> {row['batch_padded']}"
    memory = f"{row['memory_needed'] / 1e9:.2f} of {row['memory'] / 1e9:.1f} GB"
    cells = [f"{row['topology']} ({row['chips']})", batch, memory, "yes" if row["fits"] else "NO"]
    if "floor" not in row:
        return [*cells, *["-"] * (len(_HEADS) - len(cells))]
    floor, c = row["floor"], row["compiled"]
    traffic = row["schedule"] or c.get("launches")
    moved = traffic["read"] + traffic["written"] if traffic else floor["moved"]
    word = "estimate, " if row["estimate"] else ""
    sent, rate = sum(t["bytes"] for t in c["collectives"].values()), 1 / row["step_seconds"]
    return [
        *cells,
        f"{floor['flops'] / 1e9:.1f}",
        f"{moved / 1e9:.2f}",
        f"{sent / 1e9:.3f}",
        f"{1e3 * floor['seconds']:.3f} ({floor['bound']})",
        f"{1e3 * row['step_seconds']:.3f} ({word}{row['bound']})",
        f"{rate:.0f}" if rate > 10 else f"{rate:.2f}",
        f"{row['steps']}: {duration(row['total_seconds'])}",
        f"{row['chip_hours']:.3g}",
        f"{row['price']:.3g}" if "price" in row else "-",
        duration(c["compile_seconds"]),
    ]


def _notes(row: dict[str, Any]) -> list[str]:
    """What the table has no room for."""
    c, notes = row["compiled"], []
    if not row["fits"]:
        needed, have = row["memory_needed"] / 1e9, row["memory"] / 1e9
        # The compiler stops at the first array that does not fit.
        least = "at least " if "needed" in c else ""
        notes.append(f"does not fit: needs {least}{needed:.2f} GB of {have:.2f} GB a chip.")
        if row.get("instead"):
            notes.append(f"instead: {'; '.join(row['instead'])}.")
    if "floor" not in row:
        return notes
    parts = {
        "arguments": c["arguments"],
        "temporaries": c["temporaries"],
        "new outputs": c["outputs"] - c["aliased"],
        "code": c["code"],
    }
    memory = ", ".join(f"{k} {v / 1e6:.1f} MB" for k, v in parts.items())
    sent = ", ".join(
        f"{t['count']} {kind} of {t['bytes'] / 1e6:.1f} MB in all"
        for kind, t in c["collectives"].items()
    )
    notes.append(f"{memory}; {sent or 'no collectives'}.")
    if "residency" in row:
        where = _RESIDENCY[row["residency"]]
        notes.append(f"{row['feature_bytes'] / 1e9:.2f} GB of feature maps, {where}.")
    if schedule := row["schedule"]:
        parts_ms = (
            f"{key} {1e3 * schedule[key]:.3g}"
            for key in ("compute", "memory", "exchange", "latency")
        )
        notes.append(
            f"{', '.join(parts_ms)} ms, each as if alone, in {schedule['operations']} "
            "operations; the compiler's own schedule, not measured."
        )
        if schedule["kernels"]:
            notes.append(
                f"{schedule['kernels']} fused kernels have no schedule; the floor of attention "
                "stands for them."
            )
    if row["estimate"]:
        notes += _gpu_notes(row)
    notes += [f"hint: {hint}." for hint in row.get("hints", ())]
    if c["unknown_loops"]:
        notes.append(f"{c['unknown_loops']} loops of unknown length are counted once.")
    return notes


def _gpu_notes(row: dict[str, Any]) -> list[str]:
    """What XLA launches on a GPU, and what its assembler says."""
    parts, c = row["estimate"], row["compiled"]
    launches, kernels = c["launches"], c["assembled"]
    spilling = ", ".join(f"{k} {v} bytes" for k, v in kernels["spilling"].items())
    return [
        f"{launches['launches']} launches a step, {launches['in_loops']} of them in loops; "
        f"{kernels['kernels']} kernels, {kernels['with_matrix_units']} use the matrix units, at "
        f"most {kernels['most_registers']} registers, "
        + (f"spilled: {spilling}." if spilling else "nothing spilled."),
        "an estimate, neither scheduled nor measured: products at their peak "
        f"{1e3 * parts['compute']:.3g} ms or all operands through main memory "
        f"{1e3 * parts['memory']:.3g} ms, and {1e3 * parts['latency']:.3g} ms for the launches.",
    ]
