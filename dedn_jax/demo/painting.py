"""Shapes, colours and a canvas: what the demo's drawings are made of.

Shapes are closed polygons ``[points, 2]`` in the creature's own frame: it faces right, its body is
centred at the origin, y points up and the unit is about half the length of the body. A canvas maps
that frame into the picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Color = tuple[int, int, int]
Points = np.ndarray  # [points, 2] float64

PALETTE: dict[str, Color] = {
    "red": (212, 58, 50),
    "orange": (240, 136, 40),
    "yellow": (245, 204, 66),
    "green": (84, 164, 74),
    "blue": (52, 116, 206),
    "purple": (140, 80, 182),
    "pink": (240, 138, 176),
    "white": (242, 240, 232),
    "black": (54, 52, 62),
}
HORN: Color = (226, 208, 170)  # horns, beaks and antennae look alike on every creature
CREST: Color = (66, 190, 180)  # a colour that no attribute uses
INK: Color = (30, 26, 34)


# --- shapes: each returns a closed polygon, [points, 2] -------------------------------------------


def ellipse(x: float, y: float, rx: float, ry: float, power: float = 1.0) -> Points:
    """Ellipse around (x, y); ``power`` below 1 squares it off (superellipse)."""
    t = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    cos, sin = np.cos(t), np.sin(t)
    return np.stack(
        [
            x + rx * np.sign(cos) * np.abs(cos) ** power,
            y + ry * np.sign(sin) * np.abs(sin) ** power,
        ],
        axis=1,
    )


def smooth(control: Sequence[tuple[float, float]], closed: bool = True) -> Points:
    """Catmull-Rom spline through the control points, eight samples a segment."""
    p = np.asarray(control, np.float64)
    if closed:
        before, after, later = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        before = np.concatenate([p[:1], p[:-2]])
        after = p[1:]
        later = np.concatenate([p[2:], p[-1:]])
        p = p[:-1]
    t = np.linspace(0.0, 1.0, 8, endpoint=False)[None, :, None]
    a, b, c, d = (q[:, None, :] for q in (before, p, after, later))
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    return curve.reshape(-1, 2)


def ribbon(spine: Points, start: float, end: float) -> Points:
    """A tapered band along a line; ``start`` and ``end`` are its widths."""
    along = np.gradient(spine, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    half = np.linspace(start, end, len(spine))[:, None] / 2
    return np.concatenate([spine + normal * half, (spine - normal * half)[::-1]])


def turned(points: Points, degrees: float, about: tuple[float, float]) -> Points:
    a = np.deg2rad(degrees)
    rotation = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return (points - about) @ rotation + about


# --- painting -------------------------------------------------------------------------------------


def mix(color: Color, other: Color, amount: float) -> Color:
    r, g, b = (round(c + (o - c) * amount) for c, o in zip(color, other, strict=True))
    return r, g, b


def varied(color: Color, generator: np.random.Generator, spread: float = 0.07) -> Color:
    """The same colour name, another individual."""
    gain = generator.uniform(1 - spread, 1 + spread, 3) * generator.uniform(0.93, 1.05)
    r, g, b = (int(min(255, max(0, round(c * k)))) for c, k in zip(color, gain, strict=True))
    return r, g, b


def luma(color: Color) -> float:
    return (0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]) / 255


@dataclasses.dataclass
class Canvas:
    """The picture being drawn, and the pose of the creature in it."""

    image: Image.Image
    matrix: np.ndarray
    center: np.ndarray
    scale: float
    generator: np.random.Generator

    def to_picture(self, points: Points) -> list[tuple[float, float]]:
        xy = points @ self.matrix.T + self.center
        # Rounded, so that the last bit of a sine cannot decide which pixels a polygon covers.
        return [(x, y) for x, y in np.round(xy, 2).tolist()]

    def mask(self, *polygons: Points) -> Image.Image:
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        for polygon in polygons:
            draw.polygon(self.to_picture(polygon), fill=255)
        return mask

    def part(
        self,
        outline: Points,
        color: Color,
        *marks: tuple[Image.Image, Color],
        shade: float = 0.34,
    ) -> None:
        """Fill a part, put marks on it (clipped to it), shade its lower side, draw its outline."""
        xy = self.to_picture(outline)
        width, height = self.image.size
        left, top = (max(0, int(min(axis)) - 1) for axis in zip(*xy, strict=True))
        right, bottom = (int(max(axis)) + 2 for axis in zip(*xy, strict=True))
        box = (left, top, min(right, width), min(bottom, height))
        if box[0] >= box[2] or box[1] >= box[3]:
            return  # outside the picture
        # Everything happens in the part's bounding box: most parts are small.
        mask = Image.new("L", (box[2] - left, box[3] - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in xy], fill=255)
        self.image.paste(color, box, mask)
        for mark, ink in marks:
            self.image.paste(ink, box, ImageChops.darker(mask, mark.crop(box)))
        # The light comes from above: what a copy of the part moved up leaves uncovered is in shade.
        lift = round(0.13 * self.scale)
        raised = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, lift))
        strength = Image.new("L", mask.size, round(255 * shade))
        shadow = ImageChops.darker(ImageChops.subtract(mask, raised), strength)
        self.image.paste(mix(color, INK, 0.8), box, shadow)
        ink = mix(color, INK, 0.72)
        ImageDraw.Draw(self.image).line(xy + xy[:2], fill=ink, width=self.thickness(0.055))

    def fill(self, polygon: Points, color: Color) -> None:
        ImageDraw.Draw(self.image).polygon(self.to_picture(polygon), fill=color)

    def lines(
        self, lines: Sequence[Points], color: Color, width: float, closed: bool = False
    ) -> None:
        draw = ImageDraw.Draw(self.image)
        for line in lines:
            xy = self.to_picture(line)
            draw.line(xy + xy[:2] if closed else xy, fill=color, width=self.thickness(width))

    def line_mask(self, lines: Sequence[Points], width: float) -> Image.Image:
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        for line in lines:
            draw.line(self.to_picture(line), fill=255, width=self.thickness(width))
        return mask

    def thickness(self, width: float) -> int:
        return max(1, round(width * self.scale))
