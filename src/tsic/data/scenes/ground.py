"""The plan of a street and what lies flat in it: road, markings, kerbs, pavements, grass."""

import math
from dataclasses import dataclass

from tsic.data.scenes.stage import RGB, Dice, Stage, mix, scaled
from tsic.data.scenes.surfaces import Surface

FAR_M = 150.0
"""Distance at which the drawn world ends."""


@dataclass(frozen=True)
class Side:
    """Everything beside the road on one hand, in metres from the middle line outwards."""

    sign: int
    """-1 on the left, 1 on the right."""
    road: float
    """Edge of the road."""
    verge: float
    """Outer edge of a strip of grass beside the road; equals ``road`` without one."""
    walk: float
    """Outer edge of the pavement, where houses or gardens begin."""
    parked: bool
    """Whether cars stand along the kerb."""


@dataclass(frozen=True)
class Plan:
    """Plan of a street that leads ahead; metres, camera at x = 0, z = 0."""

    town: str
    """One of ``city``, ``suburb``, ``park``, ``modern``."""
    left: Side
    right: Side
    middle: float
    """Where the line between the two directions runs."""
    crossing: tuple[float, float] | None
    """Distances between which another road crosses."""
    asphalt: RGB
    paving: RGB
    grass: RGB

    @property
    def sides(self) -> tuple[Side, Side]:
        """Left and right side."""
        return self.left, self.right

    def in_crossing(self, z: float, margin: float = 0.0) -> bool:
        """Tell whether a distance lies in the crossing road."""
        return (
            self.crossing is not None and self.crossing[0] - margin < z < self.crossing[1] + margin
        )


def _choose_side(dice: Dice, sign: int, road: float, town: str) -> Side:
    verge = road
    if dice.chance({"city": 0.1, "suburb": 0.5, "park": 0.6, "modern": 0.3}[town]):
        verge += dice.between(0.8, 2.4)
    walk = verge + dice.between(1.6, 4.2)
    return Side(sign, road, verge, walk, parked=verge == road and dice.chance(0.5))


def choose_plan(dice: Dice) -> Plan:
    """Choose the kind of town, the widths of the street and its materials."""
    town = dice.pick(("city", "city", "suburb", "suburb", "park", "modern"))
    lane = dice.between(2.8, 3.6)
    ahead, behind = dice.pick(((1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (1, 0)))
    inner = lane * (0.5 if ahead == 1 else dice.pick((0.5, 1.5)))
    left = _choose_side(dice, -1, inner + lane * behind + dice.between(0.1, 0.8), town)
    right = _choose_side(dice, 1, lane * ahead - inner + dice.between(0.1, 0.8), town)
    crossing = None
    if dice.chance(0.5):
        start = dice.between(9.0, 42.0)
        crossing = (start, start + dice.between(6.0, 11.0))
    grey = dice.between(0.26, 0.52)
    asphalt = dice.tint((grey, grey, grey * dice.between(0.98, 1.10)), 0.04)
    stone = dice.pick(((0.60, 0.58, 0.55), (0.50, 0.48, 0.47), (0.62, 0.50, 0.42), asphalt))
    meadow = dice.pick(((0.30, 0.42, 0.16), (0.38, 0.42, 0.18), (0.50, 0.46, 0.26)))
    return Plan(
        town=town,
        left=left,
        right=right,
        middle=-inner,
        crossing=crossing,
        asphalt=asphalt,
        paving=dice.tint(stone, 0.12),
        grass=dice.tint(meadow, 0.15),
    )


def _slices(stage: Stage, plan: Plan) -> list[float]:
    """Give the distances at which the ground is cut, each piece a little longer than the last."""
    near = max(0.8, 0.9 * stage.view.nearest_m())
    cuts = [near * (FAR_M / near) ** (i / 26) for i in range(27)]
    if plan.crossing is not None:
        cuts.extend(edge for edge in plan.crossing if edge > near)
    return sorted(cuts)


def draw_ground(stage: Stage, plan: Plan) -> None:
    """Draw road, verges, pavements and the land behind them, far pieces first."""
    cuts = _slices(stage, plan)
    facing = stage.light.facing(0.0, 1.0, 0.0)
    shade = stage.light.shade
    canvas, quad = stage.canvas, stage.ground_quad
    lot, lot_surface = plan.paving, Surface.PAVEMENT
    if plan.town in ("suburb", "park"):
        lot, lot_surface = plan.grass, Surface.GRASS
    for z0, z1 in zip(reversed(cuts[:-1]), reversed(cuts[1:]), strict=True):
        z = 0.5 * (z0 + z1)
        wide = 2.5 * FAR_M + 10.0
        if plan.in_crossing(z):
            canvas.polygon(quad(-wide, wide, z0, z1), shade(plan.asphalt, z, facing), Surface.ROAD)
            continue
        for side in plan.sides:
            s = side.sign
            outer = shade(lot, z, facing)
            canvas.polygon(quad(s * side.walk, s * wide, z0, z1), outer, lot_surface)
            paving = shade(plan.paving, z, facing)
            canvas.polygon(quad(s * side.verge, s * side.walk, z0, z1), paving, Surface.PAVEMENT)
            if side.verge > side.road:
                grass = shade(plan.grass, z, facing)
                canvas.polygon(quad(s * side.road, s * side.verge, z0, z1), grass, Surface.GRASS)
            kerb = shade(scaled(plan.paving, 1.12), z, facing)
            canvas.polygon(quad(s * side.road, s * (side.road + 0.18), z0, z1), kerb,
                           Surface.PAVEMENT)  # fmt: skip
        road = shade(plan.asphalt, z, facing)
        canvas.polygon(quad(-plan.left.road, plan.right.road, z0, z1), road, Surface.ROAD)
    _draw_joints(stage, plan)
    _draw_wear(stage, plan)
    _draw_markings(stage, plan)


def _draw_joints(stage: Stage, plan: Plan) -> None:
    """Draw the joints between the slabs of near pavement."""
    if stage.dice.chance(0.35):
        return
    ink = stage.light.shade(scaled(plan.paving, 0.72), 4.0, 0.5, alpha=0.55)
    near = max(1.0, stage.view.nearest_m())
    step = stage.dice.between(0.6, 1.2)
    for side in plan.sides:
        inner, outer = side.sign * (side.verge + 0.2), side.sign * side.walk
        z = near
        while z < 16.0:
            if not plan.in_crossing(z):
                ends = stage.view.point(inner, 0, z), stage.view.point(outer, 0, z)
                stage.canvas.line(ends, ink, 1)
            z += step * max(1.0, z / 8.0)


def _draw_wear(stage: Stage, plan: Plan) -> None:
    """Draw patches, cracks and manhole covers on the road."""
    dice, view = stage.dice, stage.view
    near = max(1.5, view.nearest_m())
    for _ in range(dice.count(0, 4)):
        x = dice.between(-plan.left.road + 0.6, plan.right.road - 1.8)
        z = dice.between(near, 26.0)
        tone = scaled(plan.asphalt, dice.between(0.82, 1.12))
        piece = stage.ground_quad(x, x + dice.between(0.6, 1.8), z, z + dice.between(1.0, 6.0))
        stage.canvas.polygon(piece, stage.light.shade(tone, z, 0.6, alpha=0.7))
    for _ in range(dice.count(0, 2)):
        x = dice.between(-plan.left.road + 0.6, plan.right.road - 0.6)
        z = dice.between(near + 1.0, 18.0)
        px, py = view.point(x, 0, z)
        radius = 0.35 * view.focal / z
        ink = stage.light.shade(scaled(plan.asphalt, 0.65), z)
        stage.canvas.ellipse(px, py, radius, radius * view.eye_m / z, ink)
    for _ in range(dice.count(0, 3)):
        x, z = dice.between(-plan.left.road, plan.right.road), dice.between(near, 14.0)
        crack = []
        for _ in range(5):
            crack.append(view.point(x, 0, z))
            x += dice.between(-0.5, 0.5)
            z += dice.between(0.2, 1.2)
        stage.canvas.line(crack, stage.light.shade(scaled(plan.asphalt, 0.6), z, 0.6, 0.7), 1.4)


def _draw_markings(stage: Stage, plan: Plan) -> None:
    """Draw lane lines, edge lines, stop line and zebra; all belong to the road."""
    dice = stage.dice
    paint = dice.pick(((0.86, 0.86, 0.84), (0.86, 0.86, 0.84), (0.88, 0.74, 0.28)))
    paint = mix(paint, plan.asphalt, dice.between(0.0, 0.45))
    if plan.left.road + plan.middle > 1.5:
        dash = dice.pick((0.0, 3.0, 4.0))
        _line_along(stage, plan, plan.middle, paint, dash)
    if plan.right.road - plan.middle > 5.6:
        _line_along(stage, plan, 0.5 * (plan.right.road + plan.middle), paint, 3.0)
    if dice.chance(0.5):
        for side in plan.sides:
            inset = 2.1 if side.parked else 0.3
            _line_along(stage, plan, side.sign * (side.road - inset), paint, 0.0)
    if plan.crossing is None or dice.chance(0.3):
        return
    start = plan.crossing[0]
    x = -plan.left.road + 0.3
    while x < plan.right.road - 0.4:
        bar = stage.ground_quad(x, x + 0.5, start - 3.6, start - 0.8)
        stage.canvas.polygon(bar, stage.light.shade(paint, start, 0.7))
        x += 1.0
    stop = stage.ground_quad(plan.middle, plan.right.road - 0.2, start - 4.9, start - 4.5)
    stage.canvas.polygon(stop, stage.light.shade(paint, start, 0.7))


def _line_along(stage: Stage, plan: Plan, x: float, paint: RGB, dash: float) -> None:
    """Draw a line along the road, whole (``dash`` 0) or in dashes of a length in metres."""
    facing = stage.light.facing(0.0, 1.0, 0.0)
    z = max(0.9, 0.9 * stage.view.nearest_m()) + stage.dice.between(0.0, dash)
    while z < 90.0:
        end = z + (dash or 1.0 + 0.12 * z)
        if not plan.in_crossing(0.5 * (z + end), margin=5.2):
            width = max(0.07, 0.0009 * z)
            strip = stage.ground_quad(x - width, x + width, z, end)
            stage.canvas.polygon(strip, stage.light.shade(paint, z, facing))
        z = end + 1.5 * dash if dash else end


def draw_house_shadow(stage: Stage, side: Side, z0: float, z1: float, height: float) -> None:
    """Let the front of a house cast its shadow over the ground."""
    if stage.light.shadow < 0.3:
        return
    x = side.sign * side.walk
    foot0, foot1 = stage.view.point(x, 0, z0), stage.view.point(x, 0, z1)
    top0, top1 = stage.shadow_of(x, z0, height), stage.shadow_of(x, z1, height)
    reach = math.copysign(min(40.0, abs(top0[0] - x)), top0[0] - x)
    if reach * side.sign > 0.0:
        return
    ends = stage.view.point(x + reach, 0, top1[1]), stage.view.point(x + reach, 0, top0[1])
    stage.shadow((foot0, foot1, *ends))
