"""Draws one creature in its landscape, from its traits and a random generator.

Everything is drawn at three times the size and downsampled by averaging, which antialiases edges;
shading and outlines are flat, as on the plates of a field guide. Parts can be told apart by local
detail, as in photographs: a head has an eye, a wing has feather lines, a leg has a foot.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from dedn_jax.demo.landscape import draw_landscape
from dedn_jax.demo.painting import (
    CREST,
    HORN,
    INK,
    PALETTE,
    Canvas,
    Color,
    Points,
    ellipse,
    luma,
    mix,
    ribbon,
    smooth,
    turned,
    varied,
)

_SUPERSAMPLING = 3


def draw_creature(
    traits: Mapping[str, str], generator: np.random.Generator, image_size: int
) -> np.ndarray:
    """A picture ``[image_size, image_size, 3]`` uint8 of a creature with the given traits.

    ``traits`` maps every name in ``anatomy.TRAITS`` to one of its values. Pose, light, background
    clutter and small variations of colour and proportion come from ``generator``.
    """
    size = image_size * _SUPERSAMPLING
    scale = size * generator.uniform(0.162, 0.2)
    leg = {"short": 0.5, "long": 1.0}[traits["leg_length"]] * generator.uniform(0.9, 1.1)
    body_radii = _body_radii(traits["body_shape"], generator)
    foot_y = -0.8 * body_radii[1] - leg
    # The feet stand on a line in the lower part of the picture, whatever the size of the creature.
    center = np.array(
        [
            size * generator.uniform(0.44, 0.56),
            size * generator.uniform(0.85, 0.93) + foot_y * scale,
        ]
    )
    flip = -1.0 if generator.random() < 0.5 else 1.0
    angle = np.deg2rad(generator.uniform(-9.0, 9.0))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[flip * cos, -flip * sin], [-sin, -cos]])

    image = draw_landscape(traits["ground"], size, generator)
    canvas = Canvas(image, matrix, center, scale, generator)
    _draw_parts(canvas, traits, body_radii, leg, generator)
    return _photograph(canvas.image, generator)


def _photograph(image: Image.Image, generator: np.random.Generator) -> np.ndarray:
    """Downsamples, then varies the light: exposure, tint, a gradient and grain. uint8."""
    pixels = np.asarray(image.reduce(_SUPERSAMPLING), np.float64)
    size = len(pixels)
    exposure = generator.uniform(0.82, 1.1)
    warmth = generator.uniform(-0.05, 0.05)
    slope = generator.uniform(-0.09, 0.09, 2)
    ramp = np.linspace(-1.0, 1.0, size)
    light = exposure * (1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :])
    pixels = pixels * light[..., None] * np.array([1 + warmth, 1.0, 1 - warmth])
    pixels += generator.normal(0.0, 2.5, (size, size, 1))
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


# --- the creature ---------------------------------------------------------------------------------


def _body_radii(shape: str, generator: np.random.Generator) -> tuple[float, float]:
    rx, ry = {"round": (0.86, 0.82), "slender": (1.25, 0.5), "boxy": (0.98, 0.68)}[shape]
    return rx * generator.uniform(0.95, 1.06), ry * generator.uniform(0.95, 1.06)


def _draw_parts(
    canvas: Canvas,
    traits: Mapping[str, str],
    body_radii: tuple[float, float],
    leg: float,
    generator: np.random.Generator,
) -> None:
    """All parts, back to front."""
    rx, ry = body_radii
    color = {
        part: varied(PALETTE[traits[f"{part}_color"]], generator)
        for part in ("body", "head", "wing", "tail", "leg")
    }
    flap = generator.uniform(-12.0, 14.0)
    head = (0.86 * rx + 0.28, 0.62 * ry + 0.5 + generator.uniform(-0.06, 0.06))

    _legs(canvas, traits, color["leg"], body_radii, leg, near=False)
    _wing(canvas, traits, color["wing"], (0.2, 0.6 * ry), flap - 34.0, near=False)
    _tail(canvas, traits["tail_shape"], color["tail"], (-0.86 * rx, 0.12 * ry), generator)
    _legs(canvas, traits, color["leg"], body_radii, leg, near=True)
    neck = np.linspace((0.55 * rx, 0.25 * ry), head, 6)
    canvas.part(ribbon(neck, 0.62, 0.42), color["body"])
    _body(canvas, traits, color["body"], body_radii, generator)
    _head(canvas, traits, color["head"], head, generator)
    _wing(canvas, traits, color["wing"], (-0.05 * rx, 0.35 * ry), flap, near=True)


def _body(
    canvas: Canvas,
    traits: Mapping[str, str],
    color: Color,
    radii: tuple[float, float],
    generator: np.random.Generator,
) -> None:
    rx, ry = radii
    power = 0.42 if traits["body_shape"] == "boxy" else 1.0
    outline = ellipse(0.0, 0.0, rx, ry, power)
    # Marks are dark on light bodies and light on dark ones.
    ink = mix(color, INK, 0.62) if luma(color) > 0.46 else mix(color, (255, 250, 235), 0.66)
    marks: list[tuple[Image.Image, Color]] = []
    pattern = traits["body_pattern"]
    phase = generator.uniform(0.0, 1.0)
    if pattern == "striped":
        xs = np.arange(-1.6, 1.6, 0.38) + 0.38 * phase
        bands = [np.array([(x, -1.2), (x + 0.1, 0.0), (x, 1.2)]) for x in xs]
        marks.append((canvas.line_mask(bands, 0.16), ink))
    elif pattern == "spotted":
        spots = []
        for row, y in enumerate(np.arange(-0.75, 0.85, 0.34)):
            for x in np.arange(-1.5, 1.5, 0.42) + 0.21 * (row % 2) + 0.42 * phase:
                dx, dy = generator.uniform(-0.05, 0.05, 2)
                r = generator.uniform(0.095, 0.125)
                spots.append(ellipse(x + dx, y + dy, r, r)[::4])
        marks.append((canvas.mask(*spots), ink))
    elif pattern == "scaled":
        t = np.linspace(np.pi, 2 * np.pi, 7)
        arc = np.stack([0.15 * np.cos(t), 0.17 * np.sin(t)], axis=1)
        arcs = []
        for row, y in enumerate(np.arange(-0.85, 1.1, 0.19)):
            for x in np.arange(-1.5, 1.5, 0.3) + 0.15 * (row % 2) + 0.3 * phase:
                arcs.append(arc + (x, y))
        marks.append((canvas.line_mask(arcs, 0.05), ink))
    canvas.part(outline, color, *marks)


def _head(
    canvas: Canvas,
    traits: Mapping[str, str],
    color: Color,
    at: tuple[float, float],
    generator: np.random.Generator,
) -> None:
    x, y = at
    radius = 0.5 * generator.uniform(0.95, 1.06)
    _crown(canvas, traits["head_crown"], color, at, radius)
    shape = traits["head_shape"]
    if shape == "beaked":
        beak = [(x + 0.3, y + 0.22), (x + 0.75, y + 0.08), (x + 1.12, y - 0.24), (x + 0.3, y - 0.2)]
        canvas.part(np.array(beak), mix(HORN, PALETTE["orange"], 0.35))
        canvas.lines(
            [np.array([(x + 0.4, y - 0.02), (x + 1.0, y - 0.18)])], mix(HORN, INK, 0.7), 0.04
        )
    if shape == "snouted":
        snout = ellipse(x + 0.5, y - 0.14, 0.52, 0.27, 0.6)
        canvas.part(snout, color)
        canvas.part(ellipse(x, y, radius, radius), color)
        muzzle = ellipse(x + 0.45, y - 0.13, 0.46, 0.22, 0.6)
        canvas.fill(muzzle, color)
        nostril = ellipse(x + 0.86, y - 0.02, 0.06, 0.06)
        mouth = np.array([(x + 0.35, y - 0.27), (x + 0.95, y - 0.26)])
        dark = mix(color, INK, 0.75) if luma(color) > 0.3 else mix(color, HORN, 0.6)
        canvas.fill(nostril, dark)
        canvas.lines([mouth], dark, 0.05)
    else:
        canvas.part(ellipse(x, y, radius, radius), color)
    if shape == "round":
        t = np.linspace(-1.9, -0.5, 8)
        smile = np.stack([x + 0.16 + 0.26 * np.cos(t), y - 0.02 + 0.26 * np.sin(t)], axis=1)
        dark = mix(color, INK, 0.75) if luma(color) > 0.3 else mix(color, HORN, 0.6)
        canvas.lines([smile], dark, 0.05)
    eye = (x + 0.17, y + 0.12)
    canvas.fill(ellipse(*eye, 0.17, 0.17), (255, 255, 255))
    canvas.lines([ellipse(*eye, 0.17, 0.17)], INK, 0.035, closed=True)
    canvas.fill(ellipse(eye[0] + 0.03, eye[1], 0.1, 0.1), INK)
    glint = ellipse(eye[0] + 0.06, eye[1] + 0.045, 0.035, 0.035)
    canvas.fill(glint, (255, 255, 255))


def _crown(
    canvas: Canvas, crown: str, color: Color, at: tuple[float, float], radius: float
) -> None:
    x, y = at
    top = y + 0.8 * radius
    if crown == "horns":
        for dx, bend in ((-0.22, -0.34), (0.16, 0.1)):
            spine = smooth(
                [
                    (x + dx, top - 0.12),
                    (x + dx + bend * 0.2, top + 0.3),
                    (x + dx + bend, top + 0.55),
                ],
                closed=False,
            )
            canvas.part(ribbon(spine, 0.24, 0.03), HORN)
    elif crown == "crest":
        for degrees in (50.0, 22.0, -6.0):
            feather = ellipse(x - 0.05, top + 0.26, 0.13, 0.38)
            canvas.part(turned(feather, degrees, (x - 0.05, top - 0.1)), CREST)
    elif crown == "ears":
        for degrees in (30.0, -8.0):
            ear = turned(ellipse(x - 0.08, top + 0.28, 0.2, 0.46), degrees, (x, top - 0.1))
            inner = turned(ellipse(x - 0.08, top + 0.28, 0.1, 0.32), degrees, (x, top - 0.1))
            canvas.part(ear, color, (canvas.mask(inner), mix(PALETTE["pink"], color, 0.2)))
    elif crown == "antennae":
        for dx in (-0.42, 0.3):
            spine = smooth(
                [(x, top - 0.1), (x + dx * 0.4, top + 0.32), (x + dx, top + 0.56)], closed=False
            )
            canvas.lines([spine], INK, 0.075)
            canvas.part(ellipse(x + dx, top + 0.58, 0.12, 0.12), HORN)


_WINGS: dict[str, list[tuple[float, float]]] = {
    # Control points from the shoulder along the leading edge to the tip and back.
    "rounded": [(0.1, 0.0), (0.1, 0.75), (-0.3, 1.4), (-0.95, 1.35), (-1.15, 0.75), (-0.65, 0.1)],
    "pointed": [
        (0.15, 0.0),
        (0.05, 0.65),
        (-0.55, 1.3),
        (-1.75, 1.62),
        (-1.15, 0.8),
        (-0.55, 0.05),
    ],
}
# A bat's wing: shoulder, wrist, then the finger tips along the trailing edge, back to the body.
_WEBBED = [
    (0.12, 0.0),
    (0.3, 1.0),
    (-0.1, 1.62),
    (-0.95, 1.62),
    (-1.5, 1.05),
    (-1.3, 0.35),
    (-0.5, 0),
]


def _wing_outline(shape: str) -> Points:
    if shape == "webbed":
        outline = [np.array(p) for p in _WEBBED[:3]]
        for a, b in zip(np.array(_WEBBED[2:-1]), np.array(_WEBBED[3:]), strict=True):
            for t in np.linspace(0.0, 1.0, 7)[1:]:
                # The skin between two fingers hangs in towards the shoulder.
                outline.append((a + (b - a) * t) * (1 - 0.9 * t * (1 - t)))
        return np.array(outline)
    control = _WINGS[shape]
    if shape == "pointed":
        # Two open curves that meet at the tip: one closed spline would round it.
        return np.concatenate(
            [smooth(control[:4], closed=False), smooth(control[3:], closed=False), control[-1:]]
        )
    return smooth(control)


def _wing(
    canvas: Canvas,
    traits: Mapping[str, str],
    color: Color,
    shoulder: tuple[float, float],
    degrees: float,
    near: bool,
) -> None:
    def placed(points: Points) -> Points:
        return turned(points * 1.08, -degrees, (0.0, 0.0)) + shoulder

    if not near:
        color = mix(color, INK, 0.25)
    dark = luma(color) < 0.46
    ink = mix(color, (255, 250, 235), 0.4) if dark else mix(color, INK, 0.42)
    marks: list[tuple[Image.Image, Color]] = []
    pattern = traits["wing_pattern"]
    bold = (250, 246, 232) if luma(color) < 0.62 else mix(color, INK, 0.78)
    if pattern == "banded":
        t = np.linspace(1.2, 3.2, 16)
        arcs = [np.stack([r * np.cos(t), r * np.sin(t)], axis=1) for r in (0.78, 1.28)]
        marks.append((canvas.line_mask([placed(arc) for arc in arcs], 0.2), bold))
    ribs = [
        np.array([(-0.12, 0.12), (2.2 * np.cos(a), 2.2 * np.sin(a))])
        for a in np.deg2rad(np.arange(88.0, 176.0, 10.0))
    ]
    marks.append((canvas.line_mask([placed(rib) for rib in ribs], 0.04), ink))
    if pattern == "eyed":
        for radius, paint in ((0.34, bold), (0.24, INK), (0.12, CREST)):
            spot = placed(ellipse(-0.55, 0.92, radius, radius))
            marks.append((canvas.mask(spot), paint))
    canvas.part(placed(_wing_outline(traits["wing_shape"])), color, *marks, shade=0.25)


def _tail(
    canvas: Canvas,
    shape: str,
    color: Color,
    root: tuple[float, float],
    generator: np.random.Generator,
) -> None:
    x, y = root
    lift = generator.uniform(-14.0, 14.0)

    def placed(points: Points) -> Points:
        return turned(points, lift, (0.0, 0.0)) + (x, y)

    if shape == "whip":
        spine = smooth([(0.25, 0.0), (-0.5, -0.2), (-1.0, 0.02), (-1.35, 0.42)], closed=False)
        canvas.part(placed(ribbon(spine, 0.34, 0.14)), color)
        tuft = smooth([(-1.25, 0.3), (-1.52, 0.38), (-1.5, 0.86), (-1.18, 0.62)])
        canvas.part(placed(tuft), color)
    elif shape == "fan":
        for degrees in (58.0, -26.0, 37.0, -5.0, 16.0):
            feather = turned(ellipse(-0.62, 0.0, 0.68, 0.19), -degrees, (0.1, 0.0))
            canvas.part(placed(feather), color, shade=0.2)
    elif shape == "forked":
        for side in (-1.0, 1.0):
            spine = smooth(
                [(0.25, 0.0), (-0.45, 0.04 * side), (-0.95, 0.3 * side), (-1.45, 0.42 * side)],
                closed=False,
            )
            canvas.part(placed(ribbon(spine, 0.42, 0.06)), color)
    else:
        t = np.linspace(0.0, 1.0, 34)
        turn = -0.5 * np.pi - 3.6 * np.pi * t**0.9
        radius = 0.56 * (1 - 0.72 * t)
        coil = np.stack([-0.62 + radius * np.cos(turn), 0.56 + radius * np.sin(turn)], axis=1)
        spine = np.concatenate([smooth([(0.3, 0.0), (-0.2, -0.04), (-0.6, 0.0)], False), coil])
        canvas.part(placed(ribbon(spine, 0.3, 0.16)), color, shade=0.0)


def _legs(
    canvas: Canvas,
    traits: Mapping[str, str],
    color: Color,
    radii: tuple[float, float],
    length: float,
    near: bool,
) -> None:
    rx, ry = radii
    # Two legs: one on either side. Four: two on either side, at both ends of the body.
    hips, shift = ((-0.08,), 0.36) if traits["leg_count"] == "two" else ((-0.66, 0.5), 0.25)
    if near:
        shift = 0.0
    if not near:
        color = mix(color, INK, 0.3)
    top, bottom = -0.45 * ry, -0.8 * ry - length
    for hip in hips:
        x = hip * rx + shift
        knee = (x - 0.06, (top + bottom) / 2)
        spine = smooth([(x, top), knee, (x, bottom)], closed=False)
        canvas.part(ribbon(spine, 0.26, 0.18), color)
        foot = smooth(
            [(x - 0.13, bottom - 0.06), (x - 0.08, bottom + 0.12), (x + 0.34, bottom - 0.06)]
        )
        canvas.part(foot, color)
