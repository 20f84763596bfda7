"""The stage of one drawn scene: dice, light, camera, and the canvas for colours and classes."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from tsic.data.scenes.surfaces import Surface

RGB = tuple[float, float, float]
Ink = tuple[int, int, int, int]
Point = tuple[float, float]

SUPERSAMPLING = 3
"""Side of the square of drawn pixels behind one pixel of the picture; odd, so it has a centre."""

_Choice = TypeVar("_Choice")


class Dice:
    """Short names for the random choices of a scene."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        # Thousands of numbers in [0, 1) are drawn at once, which is much faster.
        self._throw = itertools.chain.from_iterable(self._throws()).__next__

    def _throws(self) -> Iterator[list[float]]:
        """Draw numbers in batches, for ever."""
        while True:
            yield self.generator.random(4096).tolist()

    def between(self, low: float, high: float) -> float:
        """Draw a number between two bounds, evenly."""
        return low + (high - low) * self._throw()

    def chance(self, probability: float) -> bool:
        """Say yes with a probability."""
        return self._throw() < probability

    def pick(self, choices: Sequence[_Choice]) -> _Choice:
        """Choose one of several things, all equally likely."""
        return choices[int(self._throw() * len(choices))]

    def count(self, low: int, high: int) -> int:
        """Draw a whole number between two bounds, both included."""
        return low + int(self._throw() * (high - low + 1))

    def tint(self, colour: RGB, spread: float) -> RGB:
        """Vary a colour: its brightness by ``spread``, each channel by a third of it."""
        throw = self._throw
        bright = 1.0 - spread + 2.0 * spread * throw()
        low, wide = bright * (1.0 - spread / 3.0), bright * spread / 1.5
        return (
            colour[0] * (low + wide * throw()),
            colour[1] * (low + wide * throw()),
            colour[2] * (low + wide * throw()),
        )


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Blend two colours; ``share`` is that of the second."""
    rest = 1.0 - share
    return (
        first[0] * rest + second[0] * share,
        first[1] * rest + second[1] * share,
        first[2] * rest + second[2] * share,
    )


def scaled(colour: RGB, factor: float) -> RGB:
    """Make a colour brighter or darker."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@dataclass(frozen=True)
class Light:
    """Light and air of a scene."""

    sun: RGB
    """Colour of direct light, black when the sun is hidden."""
    ambient: RGB
    """Colour of the light from everywhere."""
    zenith: RGB
    """Colour of the sky overhead."""
    horizon: RGB
    """Colour of the sky at the horizon, and of haze."""
    direction: tuple[float, float, float]
    """Unit vector to the sun: right, up, ahead."""
    visibility_m: float
    """Distance at which 63 % of a colour is haze."""
    clouds: float
    """Share of sky under clouds, 0 to 1."""
    shadow: float
    """Darkness of cast shadows, 0 to 1."""
    night: float
    """0 by day, 1 when lamps and windows shine."""
    wet: float
    """How much the road mirrors, 0 to 1."""

    def shade(self, albedo: RGB, z: float, facing: float = 0.6, alpha: float = 1.0) -> Ink:
        """Light a surface of some colour and put the air before it.

        Args:
            albedo: Colour under white light, each channel at least 0 and about 1 at most.
            z: Distance in metres.
            facing: Cosine between the surface's normal and the sun, at least 0.
            alpha: Opacity of the paint.

        Returns:
            Red, green, blue and opacity, each 0 to 255.
        """
        clear = math.exp(-z / self.visibility_m)
        hazy = 255.0 * (1.0 - clear)
        clear *= 255.0
        sun, ambient, haze = self.sun, self.ambient, self.horizon
        red = int(albedo[0] * (ambient[0] + sun[0] * facing) * clear + haze[0] * hazy)
        green = int(albedo[1] * (ambient[1] + sun[1] * facing) * clear + haze[1] * hazy)
        blue = int(albedo[2] * (ambient[2] + sun[2] * facing) * clear + haze[2] * hazy)
        return (
            red if red < 255 else 255,
            green if green < 255 else 255,
            blue if blue < 255 else 255,
            int(alpha * 255.0),
        )

    def facing(self, normal_x: float, normal_y: float, normal_z: float) -> float:
        """Give the cosine between a surface's unit normal and the sun, at least 0."""
        x, y, z = self.direction
        return max(0.0, normal_x * x + normal_y * y + normal_z * z)


@dataclass(frozen=True)
class View:
    """Camera above a road that leads ahead, in drawn pixels and metres."""

    height: int
    width: int
    focal: float
    centre_x: float
    horizon_y: float
    eye_m: float
    bend: float
    """Sideways shift of the world in metres per square metre of distance."""

    def column(self, x: float, z: float) -> float:
        """Project a place on the ground plan to its column."""
        return self.centre_x + self.focal * (x / z + self.bend * z)

    def row(self, y: float, z: float) -> float:
        """Project a height above the road at a distance to its row."""
        return self.horizon_y + self.focal * (self.eye_m - y) / z

    def point(self, x: float, y: float, z: float) -> Point:
        """Project a point of the world: metres right, up, ahead."""
        scale = self.focal / z
        return (
            self.centre_x + scale * x + self.focal * self.bend * z,
            self.horizon_y + scale * (self.eye_m - y),
        )

    def nearest_m(self) -> float:
        """Give the distance at which the ground leaves the picture."""
        return self.focal * self.eye_m / (self.height - self.horizon_y)


@dataclass
class Glow:
    """A lamp that shines into the lens: place and radius in drawn pixels."""

    x: float
    y: float
    radius: float
    colour: RGB
    ink: Ink
    """Paint of the lamp itself; where something else was drawn over it, nothing shines."""


class Canvas:
    """Two drawings made by the same strokes: colours, and codes of surfaces."""

    def __init__(self, sky: Image.Image) -> None:
        self.colours = sky
        self.codes = Image.new("L", sky.size, int(Surface.SKY))
        self._paint = ImageDraw.Draw(self.colours)
        self._glaze = ImageDraw.Draw(self.colours, "RGBA")  # blends, and is slower for that
        self._mark = ImageDraw.Draw(self.codes)

    def _brush(self, ink: Ink) -> ImageDraw.ImageDraw:
        """Give the drawing that suits the ink's opacity."""
        return self._paint if ink[3] == 255 else self._glaze

    def polygon(self, points: Sequence[Point], ink: Ink, surface: Surface | None = None) -> None:
        """Fill a polygon; without ``surface`` it is a detail of what lies below."""
        self._brush(ink).polygon(points, fill=ink)
        if surface is not None:
            self._mark.polygon(points, fill=int(surface))

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, ink: Ink, surface: Surface | None = None
    ) -> None:
        """Fill an ellipse given by its centre and radii."""
        box = (x - rx, y - ry, x + rx, y + ry)
        self._brush(ink).ellipse(box, fill=ink)
        if surface is not None:
            self._mark.ellipse(box, fill=int(surface))

    def line(
        self, points: Sequence[Point], ink: Ink, width: float, surface: Surface | None = None
    ) -> None:
        """Draw a line with round joints; its width is at least one drawn pixel."""
        pixels = max(1, round(width))
        self._brush(ink).line(points, fill=ink, width=pixels, joint="curve")
        if surface is not None:
            self._mark.line(points, fill=int(surface), width=pixels, joint="curve")

    def rectangle(
        self, x0: float, y0: float, x1: float, y1: float, ink: Ink, surface: Surface | None = None
    ) -> None:
        """Fill an upright rectangle given by two opposite corners."""
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), ink, surface)


@dataclass
class Stage:
    """All that a thing needs to draw itself."""

    dice: Dice
    light: Light
    view: View
    canvas: Canvas
    difficulty: float
    glows: list[Glow] = field(default_factory=list)

    def ground_quad(self, x0: float, x1: float, z0: float, z1: float) -> tuple[Point, ...]:
        """Project a rectangle that lies on the road."""
        point = self.view.point
        return point(x0, 0, z0), point(x1, 0, z0), point(x1, 0, z1), point(x0, 0, z1)

    def shadow(self, points: Sequence[Point], strength: float = 1.0) -> None:
        """Darken a polygon as much as this light's shadows are dark."""
        alpha = int(255 * min(0.9, self.light.shadow * strength))
        self.canvas.polygon(points, (14, 16, 30, alpha))

    def shadow_of(self, x: float, z: float, height: float) -> tuple[float, float]:
        """Find where the shadow of a point at a height falls on the ground: right, ahead."""
        sun_x, sun_y, sun_z = self.light.direction
        return x - height * sun_x / sun_y, max(1.0, z - height * sun_z / sun_y)

    def glow(self, x: float, y: float, radius: float, colour: RGB, ink: Ink) -> None:
        """Let a lamp that was just painted with an ink shine into the lens."""
        self.glows.append(Glow(x, y, radius, colour, ink))
