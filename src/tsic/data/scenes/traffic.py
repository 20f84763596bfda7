"""Cars, vans, buses and other boxes, drawn as profiles pulled to a width."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tsic.data.scenes.houses import SHOUTING, WALLS
from tsic.data.scenes.stage import RGB, SUPERSAMPLING, Ink, Point, Stage, mix, scaled
from tsic.data.scenes.surfaces import Surface

_PROFILES: dict[str, tuple[tuple[float, float], ...]] = {
    # (share of half the length, share of the height), from the rear bumper over the roof
    "saloon": ((-1.0, 0.22), (-1.0, 0.62), (-0.78, 0.66), (-0.52, 0.97), (0.08, 1.0),
               (0.42, 0.66), (0.94, 0.52), (1.0, 0.40), (1.0, 0.22)),
    "hatch": ((-1.0, 0.22), (-1.0, 0.58), (-0.94, 0.62), (-0.74, 0.97), (0.10, 1.0),
              (0.48, 0.64), (0.95, 0.52), (1.0, 0.40), (1.0, 0.22)),
    "suv": ((-1.0, 0.24), (-1.0, 0.56), (-0.97, 0.60), (-0.84, 0.97), (0.12, 1.0),
            (0.42, 0.66), (0.95, 0.58), (1.0, 0.44), (1.0, 0.24)),
    "van": ((-1.0, 0.18), (-1.0, 0.50), (-0.99, 0.54), (-0.96, 0.98), (0.46, 1.0),
            (0.76, 0.58), (0.96, 0.48), (1.0, 0.38), (1.0, 0.18)),
    "bus": ((-1.0, 0.10), (-1.0, 0.42), (-1.0, 0.45), (-0.99, 0.99), (0.97, 1.0),
            (1.0, 0.46), (1.0, 0.42), (1.0, 0.30), (1.0, 0.10)),
}  # fmt: skip
_SIZES = {
    "saloon": (4.6, 1.45, 1.8),
    "hatch": (4.0, 1.48, 1.75),
    "suv": (4.7, 1.75, 1.9),
    "van": (5.3, 2.15, 2.0),
    "bus": (11.0, 3.1, 2.5),
}
_PAINTS: tuple[RGB, ...] = (
    (0.88, 0.88, 0.87), (0.66, 0.67, 0.68), (0.40, 0.41, 0.43), (0.10, 0.10, 0.12),
    (0.14, 0.22, 0.44), (0.62, 0.10, 0.10), (0.20, 0.34, 0.26), (0.84, 0.72, 0.24),
    (0.44, 0.60, 0.74), (0.70, 0.62, 0.50), (0.34, 0.16, 0.16),
)  # fmt: skip
_BUS_PAINTS: tuple[RGB, ...] = (
    (0.74, 0.12, 0.12), (0.90, 0.86, 0.76), (0.88, 0.66, 0.14), (0.16, 0.40, 0.62),
    (0.28, 0.54, 0.30), (0.84, 0.85, 0.86), (0.62, 0.34, 0.26),
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A profile pulled to a width, standing somewhere on the plan and turned.

    ``a`` runs from the rear to the front, ``b`` to the right hand of the driver, both in metres.
    """

    stage: Stage
    x: float
    z: float
    heading: float
    """0 looks ahead, pi comes towards the camera, pi/2 drives to the right."""

    def plan(self, a: float, b: float) -> Point:
        """Find a place of the box on the plan."""
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        return self.x + a * sin + b * cos, max(0.7, self.z + a * cos - b * sin)

    def point(self, a: float, b: float, y: float) -> Point:
        """Project a point of the box."""
        x, z = self.plan(a, b)
        return self.stage.view.point(x, y, z)

    def sees(self, a: float, b: float, y: float, normal: tuple[float, float, float]) -> bool:
        """Tell whether a face through a point, with a normal (a, b, up), looks at the camera."""
        x, z = self.plan(a, b)
        x += self.stage.view.bend * z * z
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        nx, nz = normal[0] * sin + normal[1] * cos, normal[0] * cos - normal[1] * sin
        return nx * -x + normal[2] * (self.stage.view.eye_m - y) + nz * -z > 0.0

    def facing(self, a: float, b: float, up: float) -> float:
        """Give the cosine between a normal (a, b, up) and the sun, at least 0."""
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        return self.stage.light.facing(a * sin + b * cos, up, a * cos - b * sin)

    def face(self, corners: Sequence[tuple[float, float, float]], ink: Ink) -> None:
        """Draw a detail given by (a, b, y) corners."""
        self.stage.canvas.polygon([self.point(*corner) for corner in corners], ink)


def draw_box(
    box: Box, profile: Sequence[tuple[float, float]], width: float, paint: RGB, surface: Surface
) -> list[int]:
    """Draw the visible faces of a box.

    Args:
        box: Where it stands.
        profile: Outline seen from its right: (a, y) in metres, from the rear over the roof.
        width: Extent across, metres.
        paint: Its colour.
        surface: What it is.

    Returns:
        Numbers of the visible faces: ``i`` lies between profile points ``i`` and ``i + 1``;
        ``-1`` is the left side, ``-2`` the right.
    """
    stage, half = box.stage, 0.5 * width
    seen: list[int] = []
    faces = list(enumerate(itertools.pairwise(profile)))
    faces.sort(key=lambda item: -box.plan(item[1][0][0] + item[1][1][0], 0.0)[1])
    for index, ((a0, y0), (a1, y1)) in faces:
        length = math.hypot(a1 - a0, y1 - y0) or 1.0
        normal = (-(y1 - y0) / length, 0.0, (a1 - a0) / length)
        if not box.sees(0.5 * (a0 + a1), 0.0, 0.5 * (y0 + y1), normal):
            continue
        quad = [box.point(a0, -half, y0), box.point(a0, half, y0),
                box.point(a1, half, y1), box.point(a1, -half, y1)]  # fmt: skip
        tone = scaled(paint, 0.86 + 0.24 * max(0.0, normal[2]))
        ink = stage.light.shade(tone, box.z, box.facing(normal[0], 0.0, normal[2]))
        stage.canvas.polygon(quad, ink, surface)
        seen.append(index)
    for index, b in ((-1, -half), (-2, half)):
        if box.sees(0.0, b, 0.5, (0.0, math.copysign(1.0, b), 0.0)):
            outline = [box.point(a, b, y) for a, y in profile]
            facing = box.facing(0.0, math.copysign(1.0, b), 0.0)
            ink = stage.light.shade(scaled(paint, 0.94), box.z, facing)
            stage.canvas.polygon(outline, ink, surface)
            seen.append(index)
    return seen


def draw_vehicle(stage: Stage, kind: str, x: float, z: float, heading: float) -> None:
    """Draw a car, van or bus with its shadow.

    Args:
        stage: Where to draw.
        kind: ``saloon``, ``hatch``, ``suv``, ``van`` or ``bus``.
        x: Place of its middle, metres right of the camera.
        z: Its distance.
        heading: 0 drives ahead, pi comes towards the camera, pi/2 drives to the right.
    """
    dice = stage.dice
    is_bus = kind == "bus"
    length, height, width = (size * dice.between(0.94, 1.06) for size in _SIZES[kind])
    paint = dice.tint(dice.pick(_BUS_PAINTS if is_bus else _PAINTS), 0.15)
    if dice.chance(0.4 * stage.difficulty):
        paint = dice.tint(dice.pick(WALLS)[0], 0.15)
    box = Box(stage, x, z, heading)
    profile = [(a * length / 2, y * height) for a, y in _PROFILES[kind]]
    _draw_shadow(box, length, width, height)
    surface = Surface.BUS if is_bus else Surface.CAR
    _draw_wheels(box, length, width, height, surface, only_far=True)
    seen = draw_box(box, profile, width, paint, surface)
    glass = mix((0.10, 0.12, 0.14), stage.light.horizon, dice.between(0.1, 0.35))
    for index in seen:
        if index in (2, 4):
            _draw_screen(box, profile[index], profile[index + 1], width, glass)
        elif index < 0:
            b = 0.5 * width * (-1 if index == -1 else 1)
            _draw_side(box, profile, b, kind, paint, glass)
    _draw_ends(box, profile, width, seen, paint)
    _draw_wheels(box, length, width, height, surface, only_far=False)


def _draw_shadow(box: Box, length: float, width: float, height: float) -> None:
    """Darken the ground below and, in sun, beside a vehicle."""
    stage = box.stage
    corners = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    below = [box.point(a * length * 1.02, b * width * 1.1, 0.0) for a, b in corners]
    stage.canvas.polygon(below, (10, 10, 16, 150))
    if stage.light.shadow > 0.3:
        moved = []
        for a, b in corners:
            plan_x, plan_z = box.plan(a * length * 0.9, b * width * 0.9)
            cast_x, cast_z = stage.shadow_of(plan_x, plan_z, 0.85 * height)
            moved.append(stage.view.point(cast_x, 0.0, cast_z))
        for i in range(4):
            j = (i + 1) % 4
            stage.shadow((below[i], below[j], moved[j], moved[i]), 0.55)


def _draw_wheels(
    box: Box, length: float, width: float, height: float, surface: Surface, *, only_far: bool
) -> None:
    """Draw the wheels on the visible side, or what shows of the others below the body."""
    stage = box.stage
    radius = 0.5 if height > 2.6 else 0.32
    rubber = stage.light.shade((0.07, 0.07, 0.08), box.z, 0.4)
    rim = stage.light.shade((0.56, 0.57, 0.58), box.z, 0.5)
    for b in (-0.48 * width, 0.48 * width):
        visible = box.sees(0.0, b, 0.4, (0.0, math.copysign(1.0, b), 0.0))
        for a in (-0.31 * length, 0.31 * length):
            if only_far:
                tread = [box.point(a, b, 0.0), box.point(a, 0.7 * b, 0.0),
                         box.point(a, 0.7 * b, radius), box.point(a, b, radius)]  # fmt: skip
                stage.canvas.polygon(tread, rubber, surface)
            elif visible:
                stage.canvas.polygon(_circle(box, a, b, radius), rubber, surface)
                stage.canvas.polygon(_circle(box, a, b, 0.58 * radius), rim)


def _circle(box: Box, a: float, b: float, radius: float) -> list[Point]:
    """Project an upright wheel."""
    turns = [math.tau * i / 12 for i in range(12)]
    return [box.point(a + radius * math.cos(t), b, radius + radius * math.sin(t)) for t in turns]


def _draw_screen(
    box: Box, low: tuple[float, float], high: tuple[float, float], width: float, glass: RGB
) -> None:
    """Draw the front or rear screen, with a streak of mirrored sky."""
    light = box.stage.light

    def at(t: float, b: float) -> tuple[float, float, float]:
        return low[0] + t * (high[0] - low[0]), b, low[1] + t * (high[1] - low[1])

    # Faces run upwards at the rear and downwards at the front, so the margins are symmetric.
    h = 0.43 * width
    box.face((at(0.1, -h), at(0.1, h), at(0.9, 0.92 * h), at(0.9, -0.92 * h)),
             light.shade(glass, box.z, 0.35))  # fmt: skip
    box.face((at(0.15, -0.5 * h), at(0.15, 0.1 * h), at(0.85, 0.5 * h), at(0.85, -0.1 * h)),
             light.shade(light.horizon, box.z, 0.3, alpha=0.22))  # fmt: skip


def _draw_side(
    box: Box, profile: list[tuple[float, float]], b: float, kind: str, paint: RGB, glass: RGB
) -> None:
    """Draw windows, doors and trim of one side."""
    light = box.stage.light
    dark = light.shade(glass, box.z, 0.35)
    line = light.shade(scaled(paint, 0.6), box.z, 0.4)
    (rear_low, y_low), (rear_top, y_top) = profile[2], profile[3]
    (front_top, _), (front_low, _) = profile[4], profile[5]
    low, top = y_low + 0.03, y_top - 0.07
    sill = [profile[0], profile[-1]]
    if kind == "bus":
        panes = 6
        step = (profile[4][0] - profile[3][0]) / panes
        for pane in range(panes):
            a = profile[3][0] + pane * step
            box.face(((a + 0.1, b, low), (a + step - 0.1, b, low), (a + step - 0.1, b, top - 0.25),
                      (a + 0.1, b, top - 0.25)), dark)  # fmt: skip
        band = light.shade(box.stage.dice.pick(SHOUTING), box.z, 0.5)
        box.face(((sill[0][0], b, 0.7), (sill[1][0], b, 0.7), (sill[1][0], b, 0.95),
                  (sill[0][0], b, 0.95)), band)  # fmt: skip
        return
    window = ((rear_low + 0.15, b, low), (front_low - 0.15, b, low), (front_top - 0.05, b, top),
              (rear_top + 0.1, b, top))  # fmt: skip
    if kind == "van":
        window = ((0.42 * front_top, b, low), *window[1:3], (0.42 * front_top, b, top))
    box.face(window, dark)
    middle = 0.5 * (rear_top + front_top)
    for a in (middle, 0.5 * (middle + front_low) + 0.35):
        box.face(((a - 0.04, b, 0.35), (a + 0.04, b, 0.35), (a + 0.04, b, top),
                  (a - 0.04, b, top)), line)  # fmt: skip
    box.face(((sill[0][0], b, sill[0][1]), (sill[1][0], b, sill[1][1]),
              (sill[1][0], b, sill[1][1] + 0.1), (sill[0][0], b, sill[0][1] + 0.1)),
             light.shade(scaled(paint, 0.45), box.z, 0.3))  # fmt: skip


def _draw_ends(
    box: Box, profile: list[tuple[float, float]], width: float, seen: list[int], paint: RGB
) -> None:
    """Draw lamps, plate and bumper of the visible end."""
    stage, light, half = box.stage, box.stage.light, 0.5 * width
    for index, is_rear in ((0, True), (len(profile) - 2, False)):
        if index not in seen:
            continue
        a = profile[index][0] if is_rear else profile[-1][0]
        ys = sorted((profile[index][1], profile[index + 1][1]))
        low, tall = ys[0], ys[1] - ys[0]

        def rectangle(b0: float, b1: float, t0: float, t1: float, ink: Ink) -> None:
            y0, y1 = low + t0 * tall, low + t1 * tall  # noqa: B023 - called in this round only
            box.face(((a, b0, y0), (a, b1, y0), (a, b1, y1), (a, b0, y1)), ink)  # noqa: B023

        rectangle(-half, half, 0.0, 0.3, light.shade(scaled(paint, 0.5), box.z, 0.4))
        rectangle(-0.26, 0.26, 0.32, 0.52, light.shade((0.88, 0.87, 0.78), box.z, 0.5))
        lamp = (0.72, 0.09, 0.08) if is_rear else (0.92, 0.92, 0.86)
        on = stage.dice.chance(0.1 + 0.9 * light.night)
        ink = (255, 60, 40, 255) if is_rear else (255, 248, 220, 255)
        for sign in (-1.0, 1.0):
            rectangle(sign * 0.96 * half, sign * 0.66 * half, 0.58, 0.9,
                      ink if on else light.shade(lamp, box.z, 0.6))  # fmt: skip
            if on and box.plan(a, 0.0)[1] > 3.0:
                px, py = box.point(a, sign * 0.81 * half, low + 0.74 * tall)
                reach = (0.2 if is_rear else 0.4) + 0.6 * light.night
                colour = (0.6, 0.08, 0.05) if is_rear else (0.8, 0.75, 0.6)
                radius = reach * stage.view.focal / (box.z + 10.0)
                stage.glow(px, py, max(SUPERSAMPLING, radius), colour, ink)


def draw_bin(stage: Stage, x: float, z: float) -> None:
    """Draw a litter bin or a letter box, which has no class."""
    dice = stage.dice
    tall, wide = dice.between(0.8, 1.2), dice.between(0.4, 0.6)
    paint = dice.tint(dice.pick(SHOUTING), 0.2)
    profile = [(-wide / 2, 0.0), (-wide / 2, tall), (wide / 2, tall), (wide / 2, 0.0)]
    box = Box(stage, x, z, dice.between(-0.4, 0.4))
    draw_box(box, profile, wide, paint, Surface.VOID)
