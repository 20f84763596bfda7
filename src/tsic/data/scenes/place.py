"""Decides what stands on the pavements and on the road, and where."""

import math
from collections.abc import Callable
from functools import partial

from tsic.data.scenes.furniture import (
    choose_fence,
    draw_bollards,
    draw_fence,
    draw_gantry,
    draw_lamp,
    draw_mast,
    draw_sign,
    draw_traffic_light,
)
from tsic.data.scenes.ground import Plan, Side
from tsic.data.scenes.people import draw_cyclist, draw_person
from tsic.data.scenes.plants import choose_leaves, draw_tree
from tsic.data.scenes.stage import RGB, Dice, Stage
from tsic.data.scenes.traffic import draw_bin, draw_vehicle

Piece = tuple[float, Callable[[], None]]
"""Distance of a thing in metres, and how to draw it."""

_CARS = ("saloon", "hatch", "hatch", "suv", "van")


def tree_kind(dice: Dice) -> str:
    """Choose the shape of a tree."""
    return dice.pick(("round", "round", "round", "round", "poplar", "fir", "bare"))


def place_beside(stage: Stage, plan: Plan) -> list[Piece]:
    """Place trees, lamps, signs, railings and people on the pavements.

    Args:
        stage: Where to draw.
        plan: Plan of the street.

    Returns:
        Things with their distances, in no order.
    """
    dice = stage.dice
    pieces: list[Piece] = []
    for side in plan.sides:
        pieces += _place_trees(stage, plan, side)
        pieces += _place_furniture(stage, plan, side)
        pieces += _place_walkers(stage, side)
    if plan.crossing is not None:
        pieces += _place_at_crossing(stage, plan, plan.crossing[0])
    elif dice.chance(0.12):
        z = dice.between(14, 40)
        x0, x1 = -plan.left.verge - 0.5, plan.right.verge + 0.5
        pieces.append((z, partial(draw_gantry, stage, x0, x1, z)))
    return pieces


def _place_furniture(stage: Stage, plan: Plan, side: Side) -> list[Piece]:
    """Place lamps or masts, signs, bollards, railings and litter bins."""
    dice = stage.dice
    pieces: list[Piece] = []
    busy = 0.5 + stage.difficulty
    kerb = side.sign * (side.verge + 0.45)
    draw_post = draw_mast if plan.town == "suburb" and dice.chance(0.5) else draw_lamp
    z, step = dice.between(4, 20), dice.between(14, 30)
    while z < 90.0:
        pieces.append((z, partial(draw_post, stage, kerb, z)))
        z += step
    for _ in range(dice.count(0, 3)):
        z = dice.between(6, 38)
        pieces.append((z, partial(draw_sign, stage, kerb, z)))
    if dice.chance(0.22 * busy):
        z = dice.between(3.0, 14.0)
        pieces.append((z, partial(draw_bollards, stage, kerb, z)))
    if dice.chance(0.22):
        z, panels, look = dice.between(3.0, 16.0), dice.count(2, 8), choose_fence(dice)
        x = side.sign * (side.road + 0.25)
        for _ in range(panels):
            # Sorted a little farther than they are, so that cars along the kerb hide them.
            panel = partial(draw_fence, stage, x, z, z + 2.5, look)
            pieces.append((z + 4.0, panel))
            z += 2.5
    if dice.chance(0.35):
        z = dice.between(4.0, 25.0)
        pieces.append((z, partial(draw_bin, stage, 1.1 * kerb, z)))
    return pieces


def _place_walkers(stage: Stage, side: Side) -> list[Piece]:
    """Place people on a pavement, alone and in groups."""
    dice = stage.dice
    pieces: list[Piece] = []
    for _ in range(dice.count(0, int(3 + 4 * (0.5 + stage.difficulty)))):
        x = side.sign * dice.between(side.verge + 0.4, side.walk - 0.3)
        z = 4.0 * math.exp(dice.between(0.0, 2.3))
        for _ in range(dice.pick((1, 1, 1, 2, 3))):
            pieces.append((z, partial(draw_person, stage, x, z)))
            x, z = x + dice.between(0.4, 0.8), z + dice.between(-0.4, 0.6)
    return pieces


def _place_trees(stage: Stage, plan: Plan, side: Side) -> list[Piece]:
    """Place a row of street trees."""
    dice = stage.dice
    if not dice.chance({"city": 0.4, "suburb": 0.5, "park": 0.8, "modern": 0.45}[plan.town]):
        return []
    pieces: list[Piece] = []
    leaves, kind = choose_leaves(dice, stage.difficulty), tree_kind(dice)
    height, step = dice.between(4.5, 9.0), dice.between(7, 16)
    z = dice.between(5, 14)
    while z < 80.0:
        if not plan.in_crossing(z, margin=3.0):
            x = side.sign * (side.verge + dice.between(0.5, 0.9))
            tall = height * dice.between(0.8, 1.15)

            pieces.append((z, partial(_draw_shadow_and_tree, stage, x, z, tall, leaves, kind)))
        z += step * dice.between(0.8, 1.2)
    return pieces


def _draw_shadow_and_tree(
    stage: Stage, x: float, z: float, tall: float, leaves: RGB, kind: str
) -> None:
    """Draw a tree after its shadow on the ground."""
    _draw_tree_shadow(stage, x, z, tall)
    draw_tree(stage, x, z, tall, leaves, kind)


def _draw_tree_shadow(stage: Stage, x: float, z: float, tall: float) -> None:
    """Darken the ground in patches where a crown takes the sun."""
    if stage.light.shadow < 0.3:
        return
    for _ in range(6):
        height = tall * stage.dice.between(0.4, 0.85)
        sx, sz = stage.shadow_of(x + stage.dice.between(-0.2, 0.2) * tall, z, height)
        if sz > 2.0:
            px, py = stage.view.point(sx, 0.0, sz)
            r = 0.17 * tall * stage.view.focal / sz
            flat = r * stage.view.eye_m / sz
            points = [(px + r * math.cos(t), py + max(1.0, flat) * math.sin(t))
                      for t in (math.tau * i / 10 for i in range(10))]  # fmt: skip
            stage.shadow(points, 0.45)


def _place_at_crossing(stage: Stage, plan: Plan, start: float) -> list[Piece]:
    """Place traffic lights, crossing vehicles and people at a crossing."""
    dice = stage.dice
    pieces: list[Piece] = []
    if dice.chance(0.6):
        for side in plan.sides:
            x, z = side.sign * (side.verge + 0.5), start - 4.0
            if z > 3.0:
                pieces.append((z, partial(draw_traffic_light, stage, x, z)))
    for offset, heading in ((1.8, math.pi / 2), (4.6, -math.pi / 2)):
        if dice.chance(0.45):
            x, z = dice.between(-14, 14), start + offset
            kind = _vehicle_kind(dice)
            pieces.append((z, partial(draw_vehicle, stage, kind, x, z, heading)))
    for _ in range(dice.count(0, 3)):
        x, z = dice.between(-plan.left.road, plan.right.road), start - dice.between(1.0, 3.0)
        if z > 4.0:
            pieces.append((z, partial(draw_person, stage, x, z)))
    if dice.chance(0.4):
        x, z = dice.between(-6, 6), start + 0.6
        pieces.append((z, partial(draw_cyclist, stage, x, z, across=True)))
    return pieces


def _vehicle_kind(dice: Dice) -> str:
    """Choose a vehicle; buses are rare."""
    return "bus" if dice.chance(0.12) else dice.pick(_CARS)


def place_traffic(stage: Stage, plan: Plan) -> list[Piece]:
    """Place vehicles and cyclists on the road, and cars parked along it.

    Args:
        stage: Where to draw.
        plan: Plan of the street.

    Returns:
        Things with their distances, in no order.
    """
    dice = stage.dice
    lanes = [(0.5 * (plan.right.road + plan.middle), 0.0)]
    if plan.right.road - plan.middle > 5.6:
        lanes = [(plan.middle + 1.6, 0.0), (plan.right.road - 1.8, 0.0)]
    if plan.left.road + plan.middle > 2.0:
        lanes.append((0.5 * (plan.middle - plan.left.road), math.pi))
    pieces: list[Piece] = []
    for lane, heading in lanes:
        pieces += _place_lane(stage, plan, lane, heading)
    for side in plan.sides:
        if side.parked:
            pieces += _place_parked(stage, plan, side)
    for _ in range(dice.pick((0, 0, 1, 1, 2))):
        side = dice.pick(plan.sides)
        x = side.sign * (side.road - (2.7 if side.parked else dice.between(0.5, 1.2)))
        z = dice.between(5.0, 24.0)
        pieces.append((z, partial(draw_cyclist, stage, x, z, across=False)))
    return pieces


def _place_lane(stage: Stage, plan: Plan, lane: float, heading: float) -> list[Piece]:
    """Place moving vehicles in one lane; a harder scene has more of them."""
    dice = stage.dice
    pieces: list[Piece] = []
    z = dice.between(5.0, 40.0)
    while z < 100.0:
        kind = _vehicle_kind(dice)
        length = 14.0 if kind == "bus" else 6.5
        if not plan.in_crossing(z, margin=4.0):
            middle = z + 0.5 * length
            x, turn = lane + dice.between(-0.3, 0.3), heading + dice.between(-0.05, 0.05)
            pieces.append((middle, partial(draw_vehicle, stage, kind, x, middle, turn)))
        z += length + dice.between(4, 60) * (1.4 - stage.difficulty)
    return pieces


def _place_parked(stage: Stage, plan: Plan, side: Side) -> list[Piece]:
    """Place a row of cars along the kerb."""
    dice = stage.dice
    pieces: list[Piece] = []
    x = side.sign * (side.road - 1.05)
    z = dice.between(3.0, 12.0)
    while z < 75.0:
        if not plan.in_crossing(z, margin=7.0) and dice.chance(0.75):
            turn = dice.pick((0.0, math.pi)) + dice.between(-0.05, 0.05)
            pieces.append(
                (z + 2.5, partial(draw_vehicle, stage, dice.pick(_CARS), x, z + 2.5, turn))
            )
        z += dice.between(5.2, 6.8)
    return pieces
