"""Damage to files: random, and what people who mean harm write into formats."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

_EDGES = [0, 1, 0x7F, 0x80, 0xFF]
_SIZES = [0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
# In place of any value of JSON. Written as text where JSON's own writer would not.
_JSON = [
    *("null", "true", "false", "0", "-1", "1", "0.5", "1e308", "-1e308", "1e999", "NaN"),
    *("Infinity", '""', "[]", "{}", '"x"', '"../../x"', '"/etc/passwd"', '"a\\u0000b"'),
    *('"\\ud800"', '"\\u001b[31m"', '"$\\\\frac{"', '"<script>"', "[[]]", "[null]", '[{"a": 1}]'),
    *('"%s%n"', '"=1+1"', str(2**63), str(-(2**63)), str(10**21), str(2**31), "1000000000"),
    *("9" * 5000, "[" * 500 + "]" * 500, "[" * 100_000, '{"a":' * 2000 + "1" + "}" * 2000),
    '"' + "x" * 100_000 + '"',
]

_MARKER = "\uf8ff" * 3


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four changes, by its format where that is known."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [_bytes]
    if data[:1] in (b"{", b"["):
        ways += [_json] * 3
    if data[:4] == b"PK\x03\x04":
        ways += [_zip] * 2
    if b"\n" in data[:2000] and all(byte >= 9 for byte in data[:200]):
        ways += [_lines] * 2
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        try:
            data = rng.choice(ways)(data, rng)
        except Exception:  # an earlier change left no file of that format
            data = _bytes(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, insertions, repetitions, and sizes at their edges."""
    # Headers are where sizes are.
    end = rng.choice((min(len(data), 64), min(len(data), 512), len(data)))
    at = rng.randrange(end + 1)
    kind = rng.randrange(8)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.choice((1, 8, 100))) + data[at:]
    if kind == 2:
        return data[:at] + data[at + rng.choice((1, 4, 64, 1000)) :]
    if kind == 3:
        part = data[at : at + rng.choice((4, 64, 1000))]
        return data[:at] + part * rng.choice((2, 50)) + data[at:]
    if kind == 4:
        size = rng.choice(_SIZES)
        width = rng.choice((2, 4, 8))
        packed = (size % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big")))
        return data[:at] + packed + data[at + width :]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20)) if data else 0):
        place = rng.randrange(max(end, 1))
        changed[place] = rng.choice((rng.randrange(256), rng.choice(_EDGES)))
    return bytes(changed)


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Lines and cells of a text left out, repeated, exchanged, or filled with something else."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 2:
        lines[at] = lines[at] * rng.choice((0, 2, 500))
    else:
        separator = next((s for s in (b",", b"\t", b" ") if s in lines[at]), b",")
        cells = lines[at].split(separator)
        value = rng.choice((*_JSON, "1e400", "-nan", "٣", "\ufeff", '"', "'", ";")).encode()
        cells[rng.randrange(len(cells))] = value
        lines[at] = separator.join(cells)
    return b"\n".join(lines)


def _json(data: bytes, rng: random.Random) -> bytes:
    """A value, chosen at random, left out or replaced; in JSON lines, of one line."""
    if b"\n{" in data:
        lines = data.split(b"\n")
        at = rng.randrange(len(lines))
        lines[at] = _json(lines[at], rng) if lines[at] else b"{}"
        return b"\n".join(lines)
    value = json.loads(data)
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        inner = stack.pop()
        keys = inner.keys() if isinstance(inner, dict) else range(len(inner))
        for key in keys:
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                stack.append(inner[key])
    if not places:
        return rng.choice(_JSON).encode()
    inner, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, list):
        inner.extend([inner[key]] * rng.choice((1, 1000)))
    elif kind == 1:
        inner[rng.choice(("x", "__class__", "", "a.b", "\ud800"))] = inner[key]
    else:
        inner[key] = _MARKER
        return json.dumps(value).replace(json.dumps(_MARKER), rng.choice(_JSON)).encode()
    return json.dumps(value).encode()


def _zip(data: bytes, rng: random.Random) -> bytes:
    """A member changed, or what the archive says about one: method, flags, sizes, name."""
    kind = rng.randrange(3)
    if kind == 0:
        return _rezipped(data, rng)
    changed = bytearray(data)
    signature, offsets = rng.choice(
        (
            (b"PK\x01\x02", ((8, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4))),
            (b"PK\x03\x04", ((6, 2), (8, 2), (18, 4), (22, 4), (26, 2), (28, 2))),
        )
    )
    starts = [i for i in range(len(data)) if data.startswith(signature, i)]
    offset, width = rng.choice(offsets)
    place = rng.choice(starts) + offset
    value = rng.choice((0, 1, 8, 9, 12, 14, 93, 95, 99, 0xFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 2**30))
    changed[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(changed)


def _rezipped(data: bytes, rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        members = old.infolist()
        chosen = rng.randrange(len(members))
        for number, member in enumerate(members):
            content, name = old.read(member), member.filename
            if number == chosen:
                kind = rng.randrange(5)
                if kind == 0:
                    continue
                if kind == 1:
                    name = rng.choice(("../x", "/x", "x" * 60_000, "a\\b", "con", name.upper()))
                elif kind == 2:
                    content = b"\0" * 2**24
                else:
                    content = mutate(content, rng)
            new.writestr(name, content, member.compress_type)
    return out.getvalue()
