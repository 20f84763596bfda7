"""Puts a street together: what stands where, drawn from far to near."""

import numpy as np
from numpy.typing import NDArray

from tsic.data.scenes.finish import finish
from tsic.data.scenes.furniture import choose_fence, draw_fence
from tsic.data.scenes.ground import Plan, Side, choose_plan, draw_ground, draw_house_shadow
from tsic.data.scenes.houses import House, choose_house, draw_house_across, draw_house_along
from tsic.data.scenes.place import place_beside, place_traffic, tree_kind
from tsic.data.scenes.plants import choose_leaves, draw_hedge, draw_tree, draw_wood
from tsic.data.scenes.stage import SUPERSAMPLING, Canvas, Dice, Point, Stage, View, scaled
from tsic.data.scenes.surfaces import Surface
from tsic.data.scenes.weather import choose_light, paint_sky

SCENES_VERSION = 1
"""Counts up whenever the same arguments draw another picture."""


def draw_scene(
    seed: int, height: int, width: int, difficulty: float = 0.5
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one street scene and the class of each of its pixels.

    The result depends on the arguments alone. Labels come from the same strokes as colours.

    Args:
        seed: Which scene, at least 0.
        height: Rows of the picture, at least 16.
        width: Columns of the picture, at least 16.
        difficulty: From 0 (few things, even light, clean camera) to 1 (crowded, misleading
            colours, strong light, noise and blur).

    Returns:
        RGB picture uint8 ``(height, width, 3)`` and class ids uint8 ``(height, width)`` of
        ``SCENE_CLASSES``, 255 where a thing has no class.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> image, label = draw_scene(0, 48, 64)
        >>> image.shape, label.shape
        ((48, 64, 3), (48, 64))
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if height < 16 or width < 16:
        raise ValueError(f"a scene must be at least 16x16 pixels, got {height}x{width}")
    if not 0.0 <= difficulty <= 1.0:
        raise ValueError(f"difficulty must be between 0 and 1, got {difficulty}")
    dice = Dice(np.random.default_rng(np.random.SeedSequence((SCENES_VERSION, seed))))
    plan, light = choose_plan(dice), choose_light(dice)
    view = _choose_view(dice, height * SUPERSAMPLING, width * SUPERSAMPLING)
    stage = Stage(dice, light, view, Canvas(paint_sky(dice, light, view)), difficulty)
    _draw_horizon(stage)
    draw_ground(stage, plan)
    _draw_end(stage, plan)
    for side in plan.sides:
        _draw_row(stage, plan, side)
    pieces = [*place_beside(stage, plan), *place_traffic(stage, plan)]
    for _, draw in sorted(pieces, key=lambda piece: -piece[0]):
        draw()
    if dice.chance(0.3):
        _draw_bonnet(stage)
    return finish(stage)


def _choose_view(dice: Dice, height: int, width: int) -> View:
    """Choose where the camera hangs and looks."""
    return View(
        height=height,
        width=width,
        focal=width * dice.between(0.72, 1.05),
        centre_x=width * dice.between(0.38, 0.62),
        horizon_y=height * dice.between(0.40, 0.54),
        eye_m=dice.between(1.25, 2.3),
        bend=dice.between(-0.0016, 0.0016) if dice.chance(0.6) else 0.0,
    )


def _draw_horizon(stage: Stage) -> None:
    """Draw hills of woods and far houses along the horizon."""
    dice = stage.dice
    for _ in range(dice.count(1, 3)):
        x = dice.between(-140, 100)
        leaves = choose_leaves(dice, stage.difficulty)
        draw_wood(stage, x, x + dice.between(30, 120), 148.0, dice.between(5, 14), leaves)
    x = -150.0
    tall = dice.chance(0.5)
    while x < 150.0:
        house = choose_house(dice, "modern" if tall else "suburb", stage.light.night)
        wide = dice.between(10, 24)
        if dice.chance(0.55):
            draw_house_across(stage, house, x, x + wide, 140.0)
        x += wide


def _draw_end(stage: Stage, plan: Plan) -> None:
    """Close the street with houses or trees, or leave it open."""
    dice = stage.dice
    ending = dice.pick(("open", "open", "houses", "trees"))
    z = dice.between(70, 110)
    if ending == "houses":
        x = -35.0
        while x < 35.0:
            wide = dice.between(9, 18)
            house = choose_house(dice, plan.town, stage.light.night)
            draw_house_across(stage, house, x, x + wide, z)
            x += wide
    elif ending == "trees":
        leaves = choose_leaves(dice, stage.difficulty)
        draw_wood(stage, -45, 45, z, dice.between(6, 12), leaves)


def _draw_row(stage: Stage, plan: Plan, side: Side) -> None:
    """Draw the lots along one side of the street from far to near."""
    dice = stage.dice
    built = {"city": 0.9, "suburb": 0.62, "park": 0.22, "modern": 0.6}[plan.town]
    lots: list[tuple[float, float, House | None]] = []
    z = dice.between(1.3, 7.0)
    while z < 105.0:
        length = dice.between(7, 13) if plan.town == "suburb" else dice.between(8, 24)
        end = z + length
        if plan.crossing is not None and end > plan.crossing[0] - 2 and z < plan.crossing[1] + 2:
            if plan.crossing[0] - 2 - z > 5.0:
                end = plan.crossing[0] - 2
            else:
                z = plan.crossing[1] + 2.0
                continue
        house = choose_house(dice, plan.town, stage.light.night) if dice.chance(built) else None
        lots.append((z, end, house))
        z = end + (dice.between(2.0, 6.0) if plan.town == "suburb" else dice.pick((0.0, 0.0, 4.0)))
    for z0, z1, house in reversed(lots):
        if house is not None:
            draw_house_shadow(stage, side, z0, z1, house.height)
    for z0, z1, house in reversed(lots):
        _draw_lot(stage, plan, side, (z0, z1), house)


def _draw_lot(
    stage: Stage, plan: Plan, side: Side, span: tuple[float, float], house: House | None
) -> None:
    """Draw one house with its front garden, or a green without a house."""
    dice, sign = stage.dice, side.sign
    z0, z1 = span
    garden = plan.town in ("suburb", "park") and dice.chance(0.75)
    back = dice.between(3.0, 7.0) if garden else 0.0
    leaves = choose_leaves(dice, stage.difficulty)
    if house is not None:
        depth = dice.between(7, 12)
        draw_house_along(stage, house, sign, side.walk + back, z0, z1, depth)
    else:
        if dice.chance(0.6):
            draw_hedge(stage, sign * (side.walk + 7.0), z0, z1, dice.between(2, 4), leaves)
        for z in sorted((dice.between(z0, z1) for _ in range(dice.count(1, 4))), reverse=True):
            x = sign * (side.walk + dice.between(2.0, 9.0))
            draw_tree(stage, x, max(3.0, z), dice.between(5, 11), leaves, tree_kind(dice))
    if garden and house is not None and dice.chance(0.5):
        x = sign * (side.walk + dice.between(1.2, back - 0.8))
        draw_tree(stage, x, max(4.0, dice.between(z0, z1)), dice.between(3, 6), leaves, "round")
    if garden or house is None:
        edge = dice.pick(("hedge", "fence", "fence", "none"))
        if edge == "hedge":
            draw_hedge(stage, sign * (side.walk + 0.6), z0, z1, dice.between(0.8, 1.9), leaves)
        elif edge == "fence":
            draw_fence(stage, sign * (side.walk + 0.1), max(1.4, z0), z1, choose_fence(dice))


def _draw_bonnet(stage: Stage) -> None:
    """Draw the bonnet of the camera's own car, which has no class."""
    view, dice = stage.view, stage.dice
    rise = view.height * dice.between(0.03, 0.09)
    middle = view.width * dice.between(0.44, 0.56)
    paint = dice.tint(dice.pick(((0.10, 0.10, 0.12), (0.55, 0.56, 0.58), (0.40, 0.10, 0.10))), 0.2)
    for shrink, tone in ((1.0, 0.7), (0.86, 1.0), (0.6, 1.2)):
        arc: list[Point] = []
        for i in range(17):
            t = -1.0 + i / 8.0
            arc.append((middle + t * 0.62 * view.width, view.height - shrink * rise * (1 - t**4)))
        arc += [(view.width * 1.3, view.height + 2.0), (-view.width * 0.3, view.height + 2.0)]
        ink = stage.light.shade(scaled(paint, tone), 0.5, 0.6)
        stage.canvas.polygon(arc, ink, Surface.VOID if shrink == 1.0 else None)
