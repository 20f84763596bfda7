"""Houses along and across the street: walls, windows, shops, roofs."""

from collections.abc import Callable
from dataclasses import dataclass

from tsic.data.scenes.stage import RGB, SUPERSAMPLING, Dice, Point, Stage, mix, scaled
from tsic.data.scenes.surfaces import Surface

Wall = Callable[[float], tuple[float, float]]
"""Runs along a wall: metres -> column and drawn pixels per metre there."""

WALLS: tuple[tuple[RGB, Surface], ...] = (
    ((0.62, 0.34, 0.26), Surface.BRICK),
    ((0.50, 0.30, 0.26), Surface.BRICK),
    ((0.74, 0.60, 0.42), Surface.BRICK),
    ((0.86, 0.82, 0.74), Surface.PLASTER),
    ((0.88, 0.76, 0.56), Surface.PLASTER),
    ((0.80, 0.66, 0.60), Surface.PLASTER),
    ((0.68, 0.74, 0.76), Surface.PLASTER),
    ((0.60, 0.62, 0.62), Surface.PLASTER),
    ((0.46, 0.48, 0.50), Surface.PLASTER),
    ((0.56, 0.64, 0.54), Surface.PLASTER),
    ((0.36, 0.44, 0.54), Surface.PLASTER),
    ((0.90, 0.90, 0.88), Surface.PLASTER),
)

SHOUTING: tuple[RGB, ...] = (
    (0.78, 0.14, 0.14),
    (0.14, 0.34, 0.70),
    (0.90, 0.70, 0.12),
    (0.12, 0.48, 0.30),
    (0.86, 0.42, 0.12),
    (0.40, 0.18, 0.46),
    (0.90, 0.88, 0.84),
    (0.12, 0.12, 0.14),
)
"""Colours of awnings, posters, clothes and painted metal."""


@dataclass(frozen=True)
class House:
    """Look of one house."""

    wall: RGB
    surface: Surface
    trim: RGB
    roof: RGB
    height: float
    floor_m: float
    bay_m: float
    share: float
    """Part of a bay that is window."""
    gable: bool
    shop: bool
    balcony: bool
    lit: float
    """Share of windows that shine."""


def choose_house(dice: Dice, town: str, night: float) -> House:
    """Choose the look of a house that fits the kind of town."""
    wall, surface = dice.pick(WALLS)
    low, high = {"city": (9, 25), "suburb": (4, 8), "park": (5, 14), "modern": (10, 38)}[town]
    height = dice.between(low, high)
    modern = town == "modern" or (town == "city" and dice.chance(0.2))
    roof = dice.pick(((0.46, 0.24, 0.18), (0.30, 0.30, 0.33), (0.36, 0.27, 0.22)))
    return House(
        wall=dice.tint(wall, 0.15),
        surface=surface,
        trim=dice.pick(((0.92, 0.91, 0.88), scaled(wall, 0.75), (0.30, 0.28, 0.27))),
        roof=dice.tint(roof, 0.15),
        height=height,
        floor_m=dice.between(2.7, 3.6),
        bay_m=dice.between(1.7, 3.4),
        share=dice.between(0.72, 0.92) if modern else dice.between(0.38, 0.62),
        gable=height < 11 and dice.chance(0.75),
        shop=town != "suburb" and height > 7 and dice.chance(0.55),
        balcony=dice.chance(0.25),
        lit=dice.between(0.2, 0.6) * night,
    )


def _quad(
    stage: Stage, wall: Wall, u0: float, u1: float, y0: float, y1: float
) -> tuple[Point, ...]:
    """Project a rectangle on a wall: metres along it and above the road."""
    px0, s0 = wall(u0)
    px1, s1 = wall(u1)
    horizon, eye = stage.view.horizon_y, stage.view.eye_m
    return (
        (px0, horizon + (eye - y0) * s0),
        (px1, horizon + (eye - y0) * s1),
        (px1, horizon + (eye - y1) * s1),
        (px0, horizon + (eye - y1) * s0),
    )


def draw_front(
    stage: Stage, house: House, wall: Wall, u0: float, u1: float, z: float, facing: float
) -> None:
    """Draw one wall with its windows.

    Args:
        stage: Where to draw.
        house: Look of the house.
        wall: How the wall runs.
        u0: Where the wall begins, metres along it.
        u1: Where it ends.
        z: Its distance, for the haze.
        facing: Cosine between its normal and the sun.
    """
    columns = wall(u0)[0], wall(u1)[0]
    if max(columns) < 0 or min(columns) > stage.view.width:
        return
    shade, canvas = stage.light.shade, stage.canvas
    outline = _quad(stage, wall, u0, u1, 0.0, house.height)
    canvas.polygon(outline, shade(house.wall, z, facing), house.surface)
    base = 0.0
    if house.shop:
        base = 3.4
        _draw_shop(stage, house, wall, u0, u1, z, facing)
    elif stage.dice.chance(0.6):
        plinth = _quad(stage, wall, u0, u1, 0.0, 0.7)
        canvas.polygon(plinth, shade(scaled(house.wall, 0.7), z, facing))
    _draw_windows(stage, house, wall, (u0, u1), base, z, facing)
    cornice = _quad(stage, wall, u0, u1, house.height - 0.45, house.height)
    canvas.polygon(cornice, shade(mix(house.wall, house.trim, 0.6), z, facing))


def _draw_windows(
    stage: Stage, house: House, wall: Wall, span: tuple[float, float], base: float, z: float,
    facing: float,
) -> None:  # fmt: skip
    """Draw the grid of windows, or bands where single ones would be too small to see."""
    u0, u1 = span
    floors = int((house.height - base - 0.6) / house.floor_m)
    bays = max(1, int((u1 - u0) / house.bay_m))
    step = (u1 - u0) / bays
    glass = mix((0.16, 0.20, 0.25), stage.light.horizon, 0.22)
    left, right = wall(u0)[0], wall(u1)[0]
    margin = 0.5 * (1.0 - house.share) * step
    if abs(right - left) / bays < 4.5 * SUPERSAMPLING:
        _draw_far_windows(stage, house, wall, span, base, (floors, bays), z, facing)
        return
    for bay in range(bays):
        a = u0 + bay * step + margin
        b = a + house.share * step
        px0, px1 = wall(a)[0], wall(b)[0]
        if max(px0, px1) < 0 or min(px0, px1) > stage.view.width:
            continue
        for floor in range(floors):
            y = base + floor * house.floor_m + 0.95
            if stage.view.horizon_y + (stage.view.eye_m - y) * min(wall(a)[1], wall(b)[1]) < 0:
                break
            _draw_window(stage, house, wall, (a, b), y, z, facing, glass)


def _draw_far_windows(
    stage: Stage, house: House, wall: Wall, span: tuple[float, float], base: float,
    grid: tuple[int, int], z: float, facing: float,
) -> None:  # fmt: skip
    """Draw the windows of a far wall as bands, and the wall between them as strips."""
    u0, u1 = span
    floors, bays = grid
    step = (u1 - u0) / bays
    glass = mix((0.16, 0.20, 0.25), stage.light.horizon, 0.22)
    if stage.dice.chance(house.lit):
        glass = mix(glass, (1.6, 1.3, 0.7), 0.5)
    is_fine = abs(wall(u1)[0] - wall(u0)[0]) / bays < 1.5 * SUPERSAMPLING
    band = stage.light.shade(mix(house.wall, glass, house.share if is_fine else 1.0), z, facing)
    for floor in range(floors):
        y = base + floor * house.floor_m + 0.9
        stage.canvas.polygon(_quad(stage, wall, u0, u1, y, y + 1.5), band)
    if is_fine:
        return
    ink = stage.light.shade(house.wall, z, facing)
    half = 0.5 * (1.0 - house.share) * step
    for bay in range(bays + 1):
        u = u0 + bay * step
        strip = _quad(stage, wall, max(u0, u - half), min(u1, u + half), base, house.height)
        stage.canvas.polygon(strip, ink)


def _draw_window(
    stage: Stage, house: House, wall: Wall, span: tuple[float, float], y: float, z: float,
    facing: float, glass: RGB,
) -> None:  # fmt: skip
    """Draw one window with its frame, and sometimes a curtain, a bar or a balcony."""
    a, b = span
    dice, canvas, shade = stage.dice, stage.canvas, stage.light.shade
    top = y + house.floor_m * 0.52
    if abs(wall(b)[0] - wall(a)[0]) > 3.5 * SUPERSAMPLING:
        frame = _quad(stage, wall, a - 0.12, b + 0.12, y - 0.14, top + 0.12)
        canvas.polygon(frame, shade(house.trim, z, facing))
    pane = _quad(stage, wall, a, b, y, top)
    if dice.chance(house.lit):
        warm = dice.tint((1.0, 0.80, 0.46), 0.18)
        canvas.polygon(pane, (int(warm[0] * 235), int(warm[1] * 235), int(warm[2] * 235), 255))
    else:
        canvas.polygon(pane, shade(dice.tint(glass, 0.35), z, 0.25))
    if dice.chance(0.35):
        curtain = _quad(stage, wall, a, a + 0.4 * (b - a), y, top)
        canvas.polygon(curtain, shade((0.80, 0.78, 0.72), z, 0.2, alpha=0.5))
    if dice.chance(0.5) and abs(wall(b)[0] - wall(a)[0]) > 5 * SUPERSAMPLING:
        bar = _quad(stage, wall, 0.5 * (a + b) - 0.05, 0.5 * (a + b) + 0.05, y, top)
        canvas.polygon(bar, shade(house.trim, z, facing))
    if house.balcony and y > 3.0:
        rail = _quad(stage, wall, a - 0.2, b + 0.2, y - 0.2, y + 0.7)
        canvas.polygon(rail, shade(scaled(house.trim, 0.8), z, facing, alpha=0.8))


def _draw_shop(
    stage: Stage, house: House, wall: Wall, u0: float, u1: float, z: float, facing: float
) -> None:
    """Draw ground-floor shops: glass, a board with a name, and sometimes an awning."""
    dice, canvas, shade = stage.dice, stage.canvas, stage.light.shade
    u = u0
    while u < u1 - 1.5:
        end = min(u1, u + dice.between(3.5, 8.0))
        if u1 - end < 1.5:
            end = u1
        pane = mix((0.14, 0.16, 0.18), dice.pick(SHOUTING), 0.22)
        window = _quad(stage, wall, u + 0.25, end - 0.25, 0.4, 2.5)
        if dice.chance(stage.light.night * 0.8):
            canvas.polygon(window, (226, 196, 138, 255))
        else:
            canvas.polygon(window, shade(pane, z, 0.3))
        door = u + 0.25 + dice.between(0.1, 0.8) * (end - u - 1.5)
        canvas.polygon(_quad(stage, wall, door, door + 1.0, 0.0, 2.4),
                       shade(scaled(house.trim, 0.5), z, facing))  # fmt: skip
        colour = dice.tint(dice.pick(SHOUTING), 0.2)
        board = _quad(stage, wall, u + 0.15, end - 0.15, 2.55, 3.2)
        canvas.polygon(board, shade(colour, z, facing))
        name = u + 0.2 * (end - u)
        for letter in range(dice.count(3, 7)):
            at = name + letter * 0.42
            if at + 0.3 < end - 0.3:
                canvas.polygon(_quad(stage, wall, at, at + 0.28, 2.7, 3.05),
                               shade((0.93, 0.92, 0.88), z, facing))  # fmt: skip
        if dice.chance(0.35):
            awning = _quad(stage, wall, u + 0.2, end - 0.2, 2.15, 2.75)
            canvas.polygon(awning, shade(dice.tint(dice.pick(SHOUTING), 0.2), z, facing))
        u = end


def draw_house_along(
    stage: Stage, house: House, sign: int, x: float, z0: float, z1: float, depth: float
) -> None:
    """Draw a house beside the road: roof, the end wall that looks back, the front.

    Args:
        stage: Where to draw.
        house: Look of the house.
        sign: -1 on the left of the road, 1 on its right.
        x: Distance of the front from the camera's line, without sign.
        z0: Where the house begins ahead.
        z1: Where it ends.
        depth: Extent away from the road.
    """
    view, light = stage.view, stage.light
    front_x, back_x = sign * x, sign * (x + depth)
    end_facing = light.facing(0.0, 0.0, -1.0)
    ridge = house.height + 0.32 * depth
    middle = 0.5 * (front_x + back_x)
    if house.gable:
        slope = [view.point(front_x, house.height, z) for z in (z0, z1)]
        slope += [view.point(middle, ridge, z) for z in (z1, z0)]
        facing = light.facing(-0.55 * sign, 0.83, 0.0)
        stage.canvas.polygon(slope, light.shade(house.roof, z0, facing), house.surface)
        corners = ((front_x, house.height), (middle, ridge), (back_x, house.height))
        top = [view.point(corner_x, y, z0) for corner_x, y in corners]
        stage.canvas.polygon(top, light.shade(house.wall, z0, end_facing), house.surface)
        if stage.dice.chance(0.6):
            pz = stage.dice.between(z0, z1)
            px, py = view.point(middle, ridge + 1.0, pz)
            size = view.focal / pz
            ink = light.shade(scaled(house.wall, 0.8), pz)
            box = px - 0.4 * size, py, px + 0.4 * size, py + 1.6 * size
            stage.canvas.rectangle(*box, ink, house.surface)

    def across(u: float) -> tuple[float, float]:
        return view.column(u, z0), view.focal / z0

    def along(u: float) -> tuple[float, float]:
        return view.column(front_x, u), view.focal / u

    ends = min(front_x, back_x), max(front_x, back_x)
    draw_front(stage, house, across, ends[0], ends[1], z0, end_facing)
    facing = light.facing(float(-sign), 0.0, 0.0)
    draw_front(stage, house, along, z0, z1, 0.5 * (z0 + z1), facing)


def draw_house_across(stage: Stage, house: House, x0: float, x1: float, z: float) -> None:
    """Draw a house that closes the street at a distance."""

    def across(u: float) -> tuple[float, float]:
        return stage.view.column(u, z), stage.view.focal / z

    facing = stage.light.facing(0.0, 0.0, -1.0)
    if house.gable:
        point = stage.view.point
        roof = (
            point(x0 - 0.4, house.height, z),
            point(x0 + 1.5, house.height + 3.0, z),
            point(x1 - 1.5, house.height + 3.0, z),
            point(x1 + 0.4, house.height, z),
        )
        stage.canvas.polygon(roof, stage.light.shade(house.roof, z, 0.5), house.surface)
    draw_front(stage, house, across, x0, x1, z, facing)
