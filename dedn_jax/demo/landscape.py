"""The landscape behind a creature: sky, ground with its texture, and clutter.

The kind of ground is an attribute. Everything else is a distraction: the sky, clouds, hills, and
scattered flowers, stones or balloons in the creatures' own colours.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from dedn_jax.demo.painting import PALETTE, Color, mix, varied

# (top, bottom) of the sky.
_SKIES: tuple[tuple[Color, Color], ...] = (
    ((116, 178, 226), (222, 236, 240)),
    ((150, 196, 220), (246, 232, 206)),
    ((122, 132, 190), (246, 200, 176)),
    ((176, 196, 206), (226, 230, 228)),
    ((96, 168, 196), (206, 236, 220)),
)
# The ground itself and the hills behind it.
_GROUNDS: dict[str, tuple[Color, Color]] = {
    "meadow": ((134, 178, 86), (92, 146, 92)),
    "desert": ((226, 190, 130), (204, 154, 106)),
    "snow": ((232, 238, 244), (176, 194, 212)),
    "water": ((84, 150, 188), (112, 150, 160)),
    "rock": ((128, 122, 124), (104, 100, 112)),
}

Generator = np.random.Generator


def draw_landscape(ground: str, size: int, generator: Generator) -> Image.Image:
    """An RGB image of ``size`` x ``size`` pixels; ``ground`` is a value of the trait "ground"."""
    top, bottom = _SKIES[generator.integers(len(_SKIES))]
    horizon = round(size * generator.uniform(0.56, 0.7))
    land, hills = (varied(color, generator, 0.04) for color in _GROUNDS[ground])

    ramp = np.linspace(0.0, 1.0, horizon)[:, None]
    sky = np.asarray(top) + ramp * (np.asarray(bottom) - np.asarray(top))
    ramp = np.linspace(0.0, 1.0, size - horizon)[:, None]
    floor = np.asarray(mix(land, bottom, 0.3)) + ramp * (
        np.asarray(mix(land, (20, 20, 30), 0.12)) - np.asarray(mix(land, bottom, 0.3))
    )
    column = np.concatenate([sky, floor]).round().astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(column[:, None], (size, size, 3)).copy())
    draw = ImageDraw.Draw(image)

    _sun_and_clouds(draw, size, horizon, bottom, generator)
    _hills(draw, size, horizon, mix(hills, bottom, 0.45), generator)
    _hills(draw, size, horizon, mix(hills, bottom, 0.15), generator, height=0.07)
    draw.rectangle((0, horizon, size, horizon + size // 90), fill=mix(land, bottom, 0.3))
    _TEXTURES[ground](draw, size, horizon, land, generator)
    _clutter(draw, size, horizon, generator)
    return image


def _sun_and_clouds(
    draw: ImageDraw.ImageDraw, size: int, horizon: int, haze: Color, generator: Generator
) -> None:
    x, y = size * generator.uniform(0.05, 0.95), horizon * generator.uniform(0.1, 0.6)
    r = size * generator.uniform(0.05, 0.08)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=mix(haze, (255, 246, 214), 0.8))
    for _ in range(generator.integers(1, 4)):
        x, y = size * generator.uniform(0.0, 1.0), horizon * generator.uniform(0.05, 0.7)
        w = size * generator.uniform(0.06, 0.11)
        for dx, dy, k in ((-0.9, 0.1, 0.55), (0.0, -0.12, 0.8), (0.9, 0.08, 0.6), (0.3, 0.16, 0.6)):
            box = (x + dx * w - k * w, y + (dy - 0.45 * k) * w, x + dx * w + k * w)
            draw.ellipse((*box, y + (dy + 0.45 * k) * w), fill=mix(haze, (255, 255, 255), 0.6))


def _hills(
    draw: ImageDraw.ImageDraw,
    size: int,
    horizon: int,
    color: Color,
    generator: Generator,
    height: float = 0.14,
) -> None:
    x = np.linspace(0, size, 33)
    phase, waves = generator.uniform(0, 2 * np.pi, 2), generator.uniform(1.0, 2.6, 2)
    y = sum(np.sin(phase[i] + 2 * np.pi * waves[i] * (i + 1) * x / size) / (i + 1) for i in (0, 1))
    y = np.round(horizon - size * height * (0.5 + 0.33 * np.asarray(y)), 1)
    points = [(size, horizon + 2), (0, horizon + 2), *zip(x.tolist(), y.tolist(), strict=True)]
    draw.polygon(points, fill=color)


def _scatter(
    size: int, horizon: int, count: int, generator: Generator
) -> list[tuple[float, float, float]]:
    """(x, y, nearness) of things that lie on the ground, far ones first; nearness is in 0.4..1."""
    depth = np.sort(generator.uniform(0.0, 1.0, count))
    xs = generator.uniform(0.0, size, count)
    ys = horizon + depth * (size - horizon)
    return list(
        zip(
            np.round(xs, 1).tolist(),
            np.round(ys, 1).tolist(),
            (0.4 + 0.6 * depth).tolist(),
            strict=True,
        )
    )


def _grass(
    draw: ImageDraw.ImageDraw, size: int, horizon: int, land: Color, generator: Generator
) -> None:
    for i, (x, y, near) in enumerate(_scatter(size, horizon, 90, generator)):
        color = mix(land, (30, 90, 40), 0.5) if i % 3 else mix(land, (220, 230, 130), 0.5)
        h = 0.065 * size * near
        width = max(1, round(0.007 * size * near))
        for lean in (-0.35, 0.05, 0.45):
            draw.line((x, y, x + lean * h, y - h), fill=color, width=width)


def _dunes(
    draw: ImageDraw.ImageDraw, size: int, horizon: int, land: Color, generator: Generator
) -> None:
    x = np.linspace(0, size, 25)
    for depth in np.linspace(0.06, 1.0, 8):
        y = (
            horizon
            + depth * (size - horizon)
            + 0.02
            * size
            * depth
            * np.sin(generator.uniform(0, 6.3) + 2 * np.pi * generator.uniform(0.8, 1.6) * x / size)
        )
        color = mix(land, (150, 96, 60), 0.42)
        points = list(zip(x.tolist(), np.round(y, 1).tolist(), strict=True))
        draw.line(points, fill=color, width=max(1, round(size * 0.012 * (0.4 + depth))))


def _snow(
    draw: ImageDraw.ImageDraw, size: int, horizon: int, land: Color, generator: Generator
) -> None:
    for _ in range(generator.integers(3, 7)):  # firs on the horizon
        x, h = size * generator.uniform(0, 1), size * generator.uniform(0.1, 0.2)
        for k in (0.0, 0.28, 0.56):
            w = h * 0.3 * (1 - 0.6 * k)
            tip = horizon - h * (k + 0.44)
            draw.polygon(
                [(x - w, horizon - h * k), (x + w, horizon - h * k), (x, tip)], fill=(66, 104, 98)
            )
            draw.polygon(
                [(x - w / 3, tip + h * 0.16), (x + w / 3, tip + h * 0.16), (x, tip)],
                fill=(236, 242, 248),
            )
    for x, y, near in _scatter(size, horizon, 14, generator):
        w = 0.13 * size * near
        draw.ellipse((x - w, y - w / 5, x + w, y + w / 5), fill=mix(land, (150, 180, 216), 0.45))
        draw.ellipse((x - w, y - w / 5, x + w, y + w / 9), fill=mix(land, (255, 255, 255), 0.7))


def _waves(
    draw: ImageDraw.ImageDraw, size: int, horizon: int, land: Color, generator: Generator
) -> None:
    for i, (x, y, near) in enumerate(_scatter(size, horizon, 46, generator)):
        color = mix(land, (255, 255, 255), 0.55) if i % 2 else mix(land, (20, 60, 120), 0.45)
        w, h = 0.1 * size * near, 0.022 * size * near
        draw.arc((x - w, y - h, x, y + h), 180, 360, fill=color, width=max(1, round(0.011 * size)))
        draw.arc((x, y - h, x + w, y + h), 180, 360, fill=color, width=max(1, round(0.011 * size)))


def _stones(
    draw: ImageDraw.ImageDraw, size: int, horizon: int, land: Color, generator: Generator
) -> None:
    for x, y, near in _scatter(size, horizon, 34, generator):
        w = 0.075 * size * near * generator.uniform(0.6, 1.2)
        tone = generator.uniform(0.0, 0.4)
        top = mix(land, (214, 208, 204), tone)
        points = [(x - w, y), (x - 0.6 * w, y - 0.7 * w), (x + 0.3 * w, y - 0.85 * w), (x + w, y)]
        draw.polygon(points, fill=top)
        draw.polygon([points[2], points[3], (x + 0.1 * w, y)], fill=mix(top, (30, 28, 40), 0.5))


_TEXTURES = {
    "meadow": _grass,
    "desert": _dunes,
    "snow": _snow,
    "water": _waves,
    "rock": _stones,
}


def _clutter(draw: ImageDraw.ImageDraw, size: int, horizon: int, generator: Generator) -> None:
    """A few things in a creature's colours: balloons in the sky, flowers or pebbles below."""
    colors = list(PALETTE.values())
    for _ in range(generator.integers(0, 3)):
        x, y = size * generator.uniform(0.03, 0.97), horizon * generator.uniform(0.1, 0.7)
        r = size * generator.uniform(0.02, 0.035)
        color = varied(colors[generator.integers(len(colors))], generator)
        draw.line((x, y, x, y + 3.2 * r), fill=mix(color, (40, 40, 40), 0.5), width=1)
        draw.ellipse((x - r, y - 1.2 * r, x + r, y + 1.2 * r), fill=color)
    for x, y, near in _scatter(size, horizon, int(generator.integers(2, 7)), generator):
        r = size * 0.022 * near
        color = varied(colors[generator.integers(len(colors))], generator)
        draw.ellipse((x - r, y - 0.75 * r, x + r, y + 0.75 * r), fill=color)
