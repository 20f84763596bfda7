import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tsic.data.class_file import read_classes
from tsic.data.classes import IGNORE
from tsic.data.readers import open_dataset
from tsic.data.scenes import SCENE_CLASSES, draw_scene, files, scene_seed, write_scenes
from tsic.data.scenes.finish import finish
from tsic.data.scenes.stage import Canvas, Dice, Light, Stage, View
from tsic.data.scenes.surfaces import LABEL_OF, Surface
from tsic.errors import DataError

SIZE = {"height": 48, "width": 72}


def write_five(root: Path, **changes: Any) -> None:
    """Write three scenes to train on and two to evaluate on."""
    write_scenes(root, **{"train": 3, "val": 2, "seed": 5, **SIZE, **changes})


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(root)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def test_draw_scene_is_a_pure_function_of_its_arguments() -> None:
    first_image, first_label = draw_scene(11, 60, 90)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    draw_scene(12, 60, 90)
    again_image, again_label = draw_scene(11, 60, 90)
    assert np.array_equal(first_image, again_image)
    assert np.array_equal(first_label, again_label)
    other_image, _ = draw_scene(12, 60, 90)
    assert not np.array_equal(first_image, other_image)


def test_draw_scene_gives_bytes_of_the_size_asked_for() -> None:
    image, label = draw_scene(0, 37, 53)
    assert image.shape == (37, 53, 3)
    assert image.dtype == np.uint8
    assert label.shape == (37, 53)
    assert label.dtype == np.uint8
    assert set(np.unique(label)) <= {*range(SCENE_CLASSES.num_classes), IGNORE}


def test_draw_scene_shows_every_class_in_a_few_scenes_and_rare_ones_rarely() -> None:
    counts = np.zeros(256, dtype=np.int64)
    for seed in range(25):
        counts += np.bincount(draw_scene(seed, 96, 144)[1].ravel(), minlength=256)
    share = dict(zip(SCENE_CLASSES.names, counts / counts.sum(), strict=False))
    assert all(share[name] > 0.0005 for name in SCENE_CLASSES.names), share
    assert all(share[name] > 0.08 for name in ("sky", "building", "vegetation", "road")), share
    assert all(share[name] < 0.04 for name in ("pole", "sign", "person", "cyclist", "bus")), share
    assert 0.0 < counts[IGNORE] / counts.sum() < 0.06


def test_draw_scene_varies_in_light() -> None:
    means = [draw_scene(seed, 48, 72)[0].mean() for seed in range(16)]
    assert np.std(means) > 12


def test_draw_scene_is_not_told_apart_by_colour_alone() -> None:
    # The most frequent class of each coarse colour, learnt and applied on the same pixels.
    colours, labels = [], []
    for seed in range(20):
        image, label = draw_scene(seed, 48, 72)
        coarse = image.astype(np.int64) // 32
        colours.append((coarse[..., 0] * 64 + coarse[..., 1] * 8 + coarse[..., 2]).ravel())
        labels.append(label.ravel())
    colour, truth = np.concatenate(colours), np.concatenate(labels)
    colour, truth = colour[truth != IGNORE], truth[truth != IGNORE]
    table = np.zeros((512, SCENE_CLASSES.num_classes), dtype=np.int64)
    np.add.at(table, (colour, truth), 1)
    guess = table.argmax(axis=1)[colour]
    ious = [
        np.sum((guess == k) & (truth == k)) / np.sum((guess == k) | (truth == k))
        for k in range(SCENE_CLASSES.num_classes)
    ]
    assert np.mean(ious) < 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 48, 72), "seed must be at least 0, got -1"),
        ((0, 8, 72), "a scene must be at least 16x16 pixels, got 8x72"),
        ((0, 48, 72, 1.5), "difficulty must be between 0 and 1, got 1.5"),
    ],
)
def test_draw_scene_refuses_what_it_cannot_draw(
    arguments: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(*arguments)


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_draw_scene_works_at_both_ends_of_difficulty(difficulty: float) -> None:
    for seed in range(6):
        image, _ = draw_scene(seed, 48, 72, difficulty)
        assert image.std() > 10


def test_canvas_draws_colour_and_code_with_one_stroke() -> None:
    canvas = Canvas(Image.new("RGB", (30, 30), (9, 9, 9)))
    canvas.rectangle(10, 10, 19, 19, (200, 100, 50, 255), Surface.CAR)
    canvas.rectangle(12, 12, 14, 14, (1, 2, 3, 255))
    colours, codes = np.asarray(canvas.colours), np.asarray(canvas.codes)
    assert np.array_equal(np.any(colours != 9, axis=2), codes == Surface.CAR)
    assert tuple(colours[13, 13]) == (1, 2, 3)
    assert codes[13, 13] == Surface.CAR


def test_canvas_blends_translucent_ink() -> None:
    canvas = Canvas(Image.new("RGB", (9, 9), (100, 100, 100)))
    canvas.rectangle(0, 0, 8, 8, (200, 100, 0, 51))
    assert canvas.colours.getpixel((4, 4)) == (120, 100, 80)


def test_light_shade_mixes_haze_with_distance() -> None:
    up = (0.0, 1.0, 0.0)
    grey = (0.5, 0.5, 0.5)
    light = Light((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), up, (1.0, 0.0, 0.0), up, 50.0, 0, 0, 0, 0)
    assert light.shade(grey, 0.0) == (127, 127, 127, 255)
    assert light.shade(grey, 1e6, alpha=0.2) == (255, 0, 0, 51)
    # After one visibility, 1/e of the colour is left: 0.5 / e + (1 - 1/e) of the red haze.
    assert light.shade(grey, 50.0)[0] == int(255 * (0.5 / np.e + 1 - 1 / np.e))


def test_view_projects_points_onto_the_picture() -> None:
    view = View(300, 400, focal=200.0, centre_x=180.0, horizon_y=120.0, eye_m=1.5, bend=0.0)
    assert view.point(2.0, 0.0, 10.0) == (180 + 200 * 2 / 10, 120 + 200 * 1.5 / 10)
    assert view.row(1.5, 7.0) == 120.0  # what is as high as the eye lies on the horizon
    assert view.row(0.0, view.nearest_m()) == pytest.approx(300.0)


def test_dice_keeps_its_promises() -> None:
    dice = Dice(np.random.default_rng(3))
    assert {dice.count(2, 4) for _ in range(200)} == {2, 3, 4}
    assert {dice.pick("ab") for _ in range(50)} == {"a", "b"}
    assert all(1.0 <= dice.between(1.0, 2.0) < 2.0 for _ in range(100))
    assert not any(dice.chance(0.0) for _ in range(100))


def test_only_void_has_no_class() -> None:
    assert [surface for surface in Surface if LABEL_OF[surface] == IGNORE] == [Surface.VOID]
    assert set(LABEL_OF.tolist()) == {*range(SCENE_CLASSES.num_classes), IGNORE}


def test_write_scenes_is_read_by_the_folder_reader(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    write_five(root)
    assert read_classes(root / "classes.yaml") == SCENE_CLASSES
    for split, count in (("train", 3), ("val", 2)):
        dataset = open_dataset("folder", root, split)
        assert len(dataset) == count
        image, label = dataset.read(1)
        drawn_image, drawn_label = draw_scene(scene_seed(5, split, 1), **SIZE)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), drawn_image)
        assert np.array_equal(label.numpy(), drawn_label.astype(np.int64))


def test_write_scenes_again_touches_no_file(tmp_path: Path) -> None:
    write_five(tmp_path / "scenes")
    before = snapshot(tmp_path / "scenes")
    write_five(tmp_path / "scenes")
    assert snapshot(tmp_path / "scenes") == before


def test_write_scenes_completes_an_interrupted_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write_five(whole)

    drawn: list[int] = []

    def draw(seed: int, *args: Any) -> Any:
        drawn.append(seed)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw_scene(seed, *args)

    monkeypatch.setattr(files, "draw_scene", draw)
    with pytest.raises(KeyboardInterrupt):
        write_five(broken)
    assert json.loads((broken / "scenes.json").read_text())["complete"] is False
    (broken / "train/masks/0001.png").unlink()
    write_five(broken)
    assert len(drawn) == 3 + 4, "the first is there"
    finished = {name: content for name, (content, _) in snapshot(broken).items()}
    assert finished == {name: content for name, (content, _) in snapshot(whole).items()}
    assert json.loads((broken / "scenes.json").read_text())["complete"] is True


def test_write_scenes_refuses_scenes_of_other_arguments(tmp_path: Path) -> None:
    write_five(tmp_path / "scenes")
    with pytest.raises(DataError, match="holds scenes drawn with another seed, val; choose"):
        write_five(tmp_path / "scenes", seed=6, val=1)


def test_write_scenes_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty and holds no drawn scenes"):
        write_five(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_scene_seed_is_never_shared() -> None:
    seeds = {
        scene_seed(seed, split, index)
        for seed in range(4)
        for split in ("train", "val")
        for index in (0, 1, 999, 2**24 - 1)
    }
    assert len(seeds) == 4 * 2 * 4
    with pytest.raises(ValueError, match="split must be 'train' or 'val', got 'test'"):
        scene_seed(0, "test", 0)
    with pytest.raises(ValueError, match=r"index in \[0, 2\*\*24\), got seed 0 and index 16777216"):
        scene_seed(0, "val", 2**24)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read; delete"), ("[]", "holds no settings; delete")]
)
def test_write_scenes_names_a_broken_record(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "scenes.json").write_text(content)
    with pytest.raises(DataError, match=rf"scenes\.json {message}"):
        write_five(tmp_path)


@pytest.mark.parametrize("is_hidden", [False, True])
def test_finish_lets_a_lamp_shine_unless_it_is_hidden(is_hidden: bool) -> None:
    dark = (0.0, 0.0, 0.0)
    light = Light(dark, dark, (0.0, 1.0, 0.0), dark, dark, 100.0, 0, 0, 0, 0)
    view = View(90, 90, focal=90.0, centre_x=45.0, horizon_y=45.0, eye_m=1.5, bend=0.0)
    canvas = Canvas(Image.new("RGB", (90, 90), (20, 20, 20)))
    stage = Stage(Dice(np.random.default_rng(0)), light, view, canvas, difficulty=0.0)
    lamp = (255, 60, 40, 255)
    canvas.rectangle(43, 43, 48, 48, lamp, Surface.CAR)
    stage.glow(45, 45, 18.0, (0.0, 1.0, 0.0), lamp)
    if is_hidden:
        canvas.rectangle(40, 40, 50, 50, (20, 20, 20, 255), Surface.POLE)
    image, label = finish(stage)
    beside = image[15, 19].astype(int)  # four pixels from the lamp, which itself is red
    assert (beside[1] > 2 * beside[0]) == (not is_hidden)
    assert label[15, 15] == SCENE_CLASSES.names.index("pole" if is_hidden else "car")
