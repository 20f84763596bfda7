"""`tsic predict` and `TrainedStudent.predict` as a user meets them."""

import errno
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tsic
from tsic.checkpoint import TrainedStudent, save_student
from tsic.cli import main
from tsic.data.classes import ClassTable
from tsic.data.images import read_mask
from tsic.deploy import inference, labelling
from tsic.deploy.export.exported import Array, ExportedModel
from tsic.deploy.export.graph import DeployGraph, Layout, describe
from tsic.deploy.inference import WHOLE, View
from tsic.deploy.predict import predict, video
from tsic.deploy.predict.video import label_video
from tsic.errors import DataError, ShapeError
from tsic.pictures import overlay
from tsic.student import build_student

CLASSES = ClassTable.from_names(("ground", "square", "disc"))
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A saved student with random weights."""
    network = build_student("compact", num_classes=3, options={"width": 0.25})
    (tmp_path / "student").mkdir()
    return save_student(tmp_path / "student", network, CLASSES, {}).weights


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of three sizes in two folders, of which one is turned and one grey."""
    dice = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "x").mkdir(parents=True)
    for name in ("a.png", "b.png", "x/c.png"):
        Image.fromarray(dice.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    picture = Image.fromarray(dice.integers(0, 256, (48, 80, 3), np.uint8))
    picture.save(folder / "x/turned.jpg", exif=exif)
    Image.fromarray(dice.integers(0, 256, (40, 40), np.uint8)).save(folder / "grey.bmp")
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit code, standard output and standard error of a call."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["predict", *map(str, words)])
        return code, *capsys.readouterr()

    return call


def written(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def film(path: Path, frames: int = 9, *, turned: int = 0, codec: str = "libx264") -> None:
    """A video of 48x64 whose upper left quarter is bright, and whose rest darkens."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(30000, 1001), width=64, height=48)
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(turned)
        for i in range(frames):
            picture = np.full((48, 64, 3), max(0, 120 - 10 * i), np.uint8)
            picture[:24, :32] = (250, 240, 230)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def test_every_image_is_labelled_as_by_the_student(
    said: Said, student: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, text, problems = said(student, photos, "--out", out, "--batch", 2, "--overlay")
    assert (code, problems) == (0, "")
    assert text.startswith("5 images in ")
    assert text.endswith(f" s: {out}\n")
    names = ["a", "b", "grey", "x/c", "x/turned"]
    assert written(out) == sorted(
        name + ending for name in names for ending in (".png", ".overlay.jpg")
    )
    loaded = tsic.load_student(student)
    for source in photos.rglob("*.*"):
        found = read_mask((out / source.relative_to(photos)).with_suffix(".png"))
        assert np.array_equal(found, loaded.predict(source).numpy())
    assert read_mask(out / "x/turned.png").shape == (80, 48)  # upright
    with Image.open(out / "x/turned.overlay.jpg") as picture:
        assert picture.size == (48, 80)


def test_little_room_changes_nothing(
    said: Said, student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(student, photos, "--out", tmp_path / "wide", "--batch", 3)[0] == 0
    monkeypatch.setattr(predict, "PIXELS_IN_FLIGHT", 1000)  # every image is alone
    assert said(student, photos, "--out", tmp_path / "narrow", "--batch", 3)[0] == 0
    for name in written(tmp_path / "wide"):
        assert (tmp_path / "wide" / name).read_bytes() == (tmp_path / "narrow" / name).read_bytes()


def test_probabilities_and_coco(
    said: Said, student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    out, coco = tmp_path / "out", tmp_path / "deep" / "all.json"
    words = (student, photos / "x", "--out", out, "--threads", 3)
    assert said(*words, "--probabilities", "--coco", coco)[0] == 0
    assert threads == [3]
    assert written(out) == ["c.npz", "c.png", "turned.npz", "turned.png"]
    with np.load(out / "turned.npz") as content:
        likely = content["probabilities"]
        assert content["classes"].tolist() == list(CLASSES.names)
    assert (likely.dtype, likely.shape) == (np.float16, (3, 80, 48))
    assert np.allclose(likely.astype(np.float32).sum(0), 1, atol=2e-3)
    labels = read_mask(out / "turned.png")
    chosen = np.take_along_axis(likely, labels[None].astype(np.int64), 0)[0]
    assert (chosen >= likely.max(0) - np.float16(1e-3)).all()
    content = json.loads(coco.read_text())
    assert [(one["file_name"], one["height"], one["width"]) for one in content["images"]] == [
        ("c.png", 48, 64),
        ("turned.jpg", 80, 48),
    ]
    areas = {
        one["category_id"]: one["area"] for one in content["annotations"] if one["image_id"] == 2
    }
    assert areas == {i + 1: int((labels == i).sum()) for i in np.unique(labels)}


def test_a_broken_file_stops_nothing(
    said: Said, student: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "a.png").write_bytes((photos / "a.png").read_bytes()[:900])
    (photos / "notes.jpg").write_text("no image")
    film(tmp_path / "whole.mp4")
    content = (tmp_path / "whole.mp4").read_bytes()
    (photos / "cut.mp4").write_bytes(content[: len(content) // 2])
    out = tmp_path / "out"
    code, text, problems = said(student, photos, "--out", out, "--batch", 2)
    assert code == 1
    assert text.startswith("4 images in ")
    lines = problems.splitlines()
    assert lines[0] == "tsic: 3 of 7 inputs could not be labelled:"
    assert lines[1].startswith(f"  {photos}/a.png: cannot be decoded (")
    assert lines[2] == (
        f"  {photos}/notes.jpg: cannot be decoded (cannot identify image file); replace the file"
    )
    assert lines[3].startswith(f"  {photos}/cut.mp4: cannot be decoded (")
    assert len(lines) == 4
    assert written(out) == ["b.png", "grey.png", "x/c.png", "x/turned.png"]


class Picky(ExportedModel):
    """An engine that fails on one size, by an exception of its own kind."""

    engine = "picky"

    def __init__(self, weights: Path) -> None:
        trained = tsic.load_student(weights)
        self._graph = DeployGraph(trained, Layout())
        super().__init__(weights, describe(trained, self._graph))

    def run(self, array: Array) -> Array:
        if array.shape[2] == array.shape[3]:
            raise Exception("[Fail] : Non-zero status\ncode")
        with torch.no_grad():
            answer: Array = self._graph(torch.from_numpy(array)).numpy()
        return answer


def test_an_engine_that_fails_on_one_image_stops_nothing(
    said: Said, student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsic.deploy.opening.open_model", lambda *_, **__: Picky(student))
    code, text, problems = said(student, photos, "--out", tmp_path / "out")
    assert code == 1
    assert text.startswith("4 images in ")
    assert problems.splitlines()[1:] == [
        f"  {photos}/grey.bmp: '{student}' fails on an image of 40x40 in picky ([Fail] : Non-zero "
        "status code); export it with another --size, or try another format"
    ]


def test_ctrl_c_leaves_whole_files_and_skipping_goes_on(
    said: Said, student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, coco = tmp_path / "out", tmp_path / "all.json"
    words = (student, photos, "--out", out, "--overlay", "--coco", coco)
    label, calls = labelling.label_batch, 0

    def interrupted(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return label(*arguments)

    monkeypatch.setattr(predict, "label_batch", interrupted)
    code, text, problems = said(*words)
    assert (code, text) == (130, "")
    assert problems == (
        "tsic: interrupted; what was written is whole, the same command with --skip-existing goes "
        "on\n"
    )
    assert not coco.exists()
    left = written(out)
    assert all(name.endswith((".png", ".overlay.jpg")) for name in left)
    for name in left:
        with Image.open(out / name) as picture:
            picture.load()
    times = {name: (out / name).stat().st_mtime_ns for name in left}
    code, text, problems = said(*words, "--skip-existing")
    assert (code, problems) == (0, "")
    skipped = sum(name.endswith(".jpg") for name in left)
    assert text.startswith(
        f"{5 - skipped} images, {skipped} skipped in " if skipped else "5 images"
    )
    assert {name: (out / name).stat().st_mtime_ns for name in left} == times
    assert len(written(out)) == 10
    resumed = coco.read_text()
    monkeypatch.undo()
    assert said(*words, "--skip-existing")[1].startswith("0 images, 5 skipped in ")
    assert said(*words)[0] == 0
    assert coco.read_text() == resumed  # whether images were skipped or not


@pytest.mark.parametrize("foreign", ["colours", "other size", "other ids", "cut"])
def test_a_file_that_is_no_result_is_labelled_again_for_coco(
    said: Said, student: Path, photos: Path, tmp_path: Path, foreign: str
) -> None:
    out, coco = tmp_path / "out", tmp_path / "all.json"
    words = (student, photos, "--out", out, "--coco", coco)
    assert said(*words)[0] == 0
    expected, own = coco.read_text(), (out / "b.png").read_bytes()
    pixels = {
        "colours": np.zeros((48, 64, 3), np.uint8),
        "other size": np.zeros((48, 60), np.uint8),
        "other ids": np.full((48, 64), 3, np.uint8),
    }
    if foreign == "cut":
        (out / "b.png").write_bytes(own[:200])
    else:
        Image.fromarray(pixels[foreign]).save(out / "b.png")
    code, text, problems = said(*words, "--skip-existing")
    assert (code, problems) == (0, "")
    assert text.startswith("1 image, 4 skipped in ")
    assert (coco.read_text(), (out / "b.png").read_bytes()) == (expected, own)


def test_a_full_disk_ends_it(
    said: Said, student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predict, "write_image", full)
    code, _, problems = said(student, photos, "--out", tmp_path / "out")
    assert code == 2
    assert problems.startswith(f"tsic: the disk of '{tmp_path}/out' is full; free some space")


def test_a_name_that_is_too_long_for_a_result_fails_alone(
    said: Said, student: Path, photos: Path, tmp_path: Path
) -> None:
    """255 bytes, so that there is no room for `.overlay.jpg`, nor for a longer name meanwhile."""
    name = "ü" * 125 + "b"
    shutil.copy(photos / "b.png", photos / f"{name}.png")
    words = (student, photos, "--out", tmp_path / "out")
    code, text, problems = said(*words)
    assert (code, problems) == (0, "")
    assert text.startswith("6 images in ")
    assert (tmp_path / "out" / f"{name}.png").is_file()
    code, text, problems = said(*words, "--overlay", "--skip-existing")
    assert code == 1
    assert text.startswith("5 images in ")
    assert problems == (
        f"tsic: 1 of 6 inputs could not be labelled:\n  {photos}/{name}.png: a result's name would "
        f"be too long, '{tmp_path}/out/{name}.overlay.jpg'; rename the input\n"
    )


def test_a_list_on_standard_input(
    said: Said, student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = f"{photos}/x/c.png\n{photos}/b.png\n{photos}/gone.png\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    code, _, problems = said(student, "-", "--out", tmp_path / "out")
    assert code == 1
    assert problems.endswith(f"\n  {photos}/gone.png: no such file\n")
    assert written(tmp_path / "out") == ["b.png", "x/c.png"]


def test_a_video_keeps_its_frames_and_times(said: Said, student: Path, tmp_path: Path) -> None:
    film(tmp_path / "drive.avi", codec="mpeg4")
    code, text, problems = said(student, tmp_path / "drive.avi", "--out", tmp_path, "--batch", 4)
    assert (code, problems) == (0, "")
    assert text.startswith("0 images, 1 video in ")
    with av.open(str(tmp_path / "drive.avi")) as source:
        pictures = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    with av.open(str(tmp_path / "drive.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        frames = list(container.decode(video=0))
    assert len(frames) == 9
    assert [float(frame.time) for frame in frames] == pytest.approx(
        [i * 1001 / 30000 for i in range(9)], abs=1e-3
    )
    loaded = tsic.load_student(student)
    for frame, picture in zip(frames, pictures, strict=True):
        assert (frame.width, frame.height > 48) == (64, True)  # the legend is below
        expected = overlay(picture, loaded.predict(picture), CLASSES).astype(float)
        # Encoding costs some colour at edges, so means are compared.
        shown = frame.to_ndarray(format="rgb24")[:48].astype(float)
        assert np.abs(shown.mean((0, 1)) - expected.mean((0, 1))).max() < 6
    assert [file.name for file in tmp_path.glob("*.part")] == []


def test_colours_of_a_video_are_those_that_players_take_them_for(
    said: Said, student: Path, tmp_path: Path
) -> None:
    film(tmp_path / "drive.avi", codec="mpeg4", frames=2)
    assert said(student, tmp_path / "drive.avi", "--out", tmp_path, "--opacity", 1)[0] == 0
    with av.open(str(tmp_path / "drive.mp4")) as container:
        assert (container.streams.video[0].codec_context.colorspace) == 1, "BT.709"
        picture = next(container.decode(video=0)).to_ndarray(format="yuv420p")
    luma = picture[:48, :64].astype(float)
    shown = tsic.load_student(student)
    with av.open(str(tmp_path / "drive.avi")) as source:
        first = next(source.decode(video=0)).to_ndarray(format="rgb24")
    colours = np.array(CLASSES.palette)[shown.predict(first).numpy()]
    expected = 16 + 219 / 255 * colours @ [0.2126, 0.7152, 0.0722]
    assert np.abs(luma - expected).mean() < 3


def test_a_turned_video_is_upright(said: Said, student: Path, tmp_path: Path) -> None:
    film(tmp_path / "phone.mov", frames=2, turned=90)
    assert said(student, tmp_path / "phone.mov", "--out", tmp_path / "out", "--opacity", 0)[0] == 0
    with av.open(str(tmp_path / "out/phone.mp4")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape[1] == 48
    # Turned counterclockwise, what was at the upper left is at the lower left.
    assert picture[40:60, 4:20].mean() > 200
    assert picture[4:24, 4:20].mean() < 160


def nothing(frames: Tensor) -> Tensor:
    """Labels of class 0."""
    return torch.zeros(len(frames), *frames.shape[2:], dtype=torch.uint8)


def test_a_video_that_breaks_off_is_told_and_not_kept(tmp_path: Path) -> None:
    film(tmp_path / "cut.mkv", frames=90, codec="mpeg4")
    content = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.mkv: breaks off after \d\.\d of 3\.0 s; replace"):
        label_video(tmp_path / "cut.mkv", tmp_path / "cut.mp4", nothing, CLASSES)
    assert not (tmp_path / "cut.mp4").exists()


def test_frames_without_a_time_of_their_own_follow_one_another() -> None:
    """25 a second, in ticks of a hundredth: a frame is shown for four."""
    picture = np.zeros((4, 6, 3), np.uint8)
    frames = [
        SimpleNamespace(rotation=0, pts=pts, to_ndarray=lambda format: picture)
        for pts in (None, 3, 3, None, 50)
    ]
    stream = SimpleNamespace(
        average_rate=Fraction(25), time_base=Fraction(1, 100), duration=None, start_time=None
    )
    container = SimpleNamespace(decode=lambda _: frames, streams=[stream], duration=None)
    found = video._upright_frames(container, stream, Path("a.mp4"))
    assert [time for _, time in found] == [0, 3, 7, 11, 50]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{photos}"], "the following arguments are required: --out"),
        (["{photos}/none.png", "--out", "o"], "none.png' does not exist; name an image"),
        (["{photos}", "--out", "{photos}"], "is both an input and --out"),
        (["{photos}", "--out", "{photos}/a.png"], "a.png' is a file; name a folder"),
        (["{photos}", "--out", "o", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["{photos}", "--out", "o", "--opacity", "2"], "--opacity must be from 0 to 1, got 2"),
        (["{photos}", "--out", "o", "--stride", "8", "8"], "say crop, too"),
        (["{photos}", "--out", "o", "--overlay-format", "gif"], "invalid choice: 'gif'"),
        (["{photos}", "{photos}/../v.mp4", "--out", "o", "--coco", "c.json"], "is a video"),
    ],
)
def test_mistakes_get_one_sentence(
    said: Said,
    student: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    (photos.parent / "v.mp4").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, text, problems = said(student, *(word.format(photos=photos) for word in words))
    assert (code, text) == (2, "")
    assert expected in problems
    assert len(problems.splitlines()) == 1
    assert list(Path.cwd().iterdir()) == []


def test_a_view_that_a_file_cannot_take_is_told_before_anything_is_written(
    said: Said, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SimpleNamespace(gives="scores", only_size=(32, 48), resize=None)
    monkeypatch.setattr("tsic.deploy.predict.command._open", lambda options: file)
    words = ["a.onnx", photos, "--out", tmp_path / "o", "--crop", "16", "16"]
    code, text, problems = said(*words)
    assert (code, text) == (2, "")
    assert "takes images of 32 48 pixels alone, not windows of 16 16; say --crop 32" in problems
    file.gives = "labels"
    assert "cannot be averaged; leave out --crop" in said(*words)[2]
    assert not (tmp_path / "o").exists()


class TestFromPython:
    """`TrainedStudent.predict` on whatever an image may be."""

    @pytest.fixture
    def loaded(self, student: Path) -> TrainedStudent:
        return tsic.load_student(student)

    def test_any_kind_of_image(self, loaded: TrainedStudent, photos: Path) -> None:
        for name in ("a.png", "x/turned.jpg", "grey.bmp"):
            file = photos / name
            with Image.open(file) as picture:
                expected = loaded.predict(picture)
            found = loaded.predict([file, str(file)])
            assert isinstance(found, list)
            assert all(torch.equal(labels, expected) for labels in found)
            assert expected.dtype == torch.int64
        array = np.asarray(Image.open(photos / "a.png"))
        labels = loaded.predict(array)
        planar = torch.from_numpy(array.copy()).permute(2, 0, 1)
        assert torch.equal(loaded.predict(planar), labels)
        assert torch.equal(loaded.predict(planar.float() / 255), labels)
        assert torch.equal(loaded.predict(planar.double() / 255), labels)
        assert torch.equal(loaded.predict(photos / "a.png"), labels)
        assert loaded.predict([]) == []

    def test_pillow_images_that_cannot_be_decoded_are_told(
        self, loaded: TrainedStudent, photos: Path
    ) -> None:
        content = (photos / "a.png").read_bytes()
        cut = Image.open(io.BytesIO(content[: len(content) // 2]))
        with pytest.raises(DataError, match=r"Pillow image cannot be decoded \(.*truncated"):
            loaded.predict(cut)
        cut.close()
        with pytest.raises(DataError, match="predict before you close it"):
            loaded.predict(cut)

    def test_large_images_go_by_windows(
        self, loaded: TrainedStudent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
        shown = []
        monkeypatch.setattr(inference, "WHOLE_PIXELS", 50 * 70 - 1)
        monkeypatch.setattr(inference, "WINDOWS", View(crop=(32, 32), stride=(24, 24)))
        loaded.student.register_forward_pre_hook(lambda _, images: shown.append(images[0].shape))
        labels = loaded.predict(image)
        assert (labels.shape, labels.dtype) == ((50, 70), torch.int64)
        assert {tuple(shape[-2:]) for shape in shown} == {(32, 32)}
        assert torch.equal(loaded.predict(image / 255), labels)

    def test_floats_may_overshoot_a_little(
        self, loaded: TrainedStudent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after a sharp resize; in windows they become bytes, which must not wrap around."""
        image = torch.rand(3, 50, 70)
        image[:, :25] = -0.009
        image[:, :, :35] = 1.009
        expected = loaded.predict(image.clamp(0, 1))
        assert loaded.predict(image).shape == (50, 70)
        with pytest.raises(ShapeError, match=r"got -0\.011 to"):
            loaded.predict(image - 0.002)
        monkeypatch.setattr(inference, "WINDOWS", View(crop=(50, 70)))
        monkeypatch.setattr(inference, "WHOLE_PIXELS", 50 * 70 - 1)
        assert (loaded.predict(image) == expected).float().mean() > 0.99

    def test_likely_classes_are_those_of_the_labels(
        self, loaded: TrainedStudent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a large image, too: half precision decides no class, and windows are windows."""
        image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
        monkeypatch.setattr(inference, "WHOLE_PIXELS", 50 * 70 - 1)
        monkeypatch.setattr(inference, "WINDOWS", View(crop=(32, 32), stride=(24, 24)))
        labels, _ = labelling.label_with_probabilities(loaded, image, None)
        assert torch.equal(labels, labelling.label_batch(loaded, [image], None)[0])

    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (np.zeros((4, 5), np.uint8), r"RGB uint8 \(H, W, 3\), got uint8 \(4, 5\)"),
            (np.zeros((4, 5, 3)), "got float64"),
            (torch.zeros(1, 3, 4, 5), r"RGB \(3, H, W\), got \(1, 3, 4, 5\); pass several"),
            (torch.zeros(4, 5, 3), r"got \(4, 5, 3\)"),
            (torch.zeros(3, 4, 5, dtype=torch.int64), "got torch.int64"),
            (7, "got int"),
            (torch.full((3, 4, 5), 255.0), r"in \[0, 1\], got 255 to 255; divide by 255 or pass"),
            (torch.full((3, 4, 5), -0.5), "got -0.5 to -0.5"),
            (torch.full((3, 4, 5), torch.nan), "got nan to nan"),
            (torch.zeros(3, 0, 5), "must have pixels, got 0x5"),
            (np.zeros((4, 0, 3), np.uint8), "must have pixels, got 4x0"),
            (Image.new("RGB", (0, 4)), "must have pixels, got 4x0"),
        ],
    )
    def test_what_is_no_image(self, loaded: TrainedStudent, image: Any, expected: str) -> None:
        with pytest.raises(ShapeError, match=expected):
            loaded.predict(image)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
    def test_a_picture_of_more_than_8_bits_is_refused_as_its_file_is(
        self, loaded: TrainedStudent, dtype: Any
    ) -> None:
        with pytest.raises(DataError, match="more than 8 bits per channel"):
            loaded.predict(Image.fromarray(np.full((4, 5), 300, dtype)))

    def test_a_picture_is_not_turned_itself(self, loaded: TrainedStudent, photos: Path) -> None:
        with Image.open(photos / "x/turned.jpg") as picture:
            assert loaded.predict(picture).shape == (80, 48)
            assert picture.size == (80, 48)

    def test_a_file_that_is_missing(self, loaded: TrainedStudent) -> None:
        with pytest.raises(DataError, match=r"nowhere\.png: no such file"):
            loaded.predict("nowhere.png")


def test_how_an_image_is_shown(student: Path) -> None:
    model: Any = tsic.load_student(student)
    asked = View(crop=(8, 8))
    assert inference.fitting_view(model, asked, (10, 10)) is asked
    assert inference.fitting_view(model, None, (2048, 2048)) is WHOLE
    assert inference.fitting_view(model, None, (2049, 2048)) is inference.WINDOWS
    assert inference.fitting_view(model, View(), (2049, 2048)) == WHOLE
    mirrored = inference.fitting_view(model, View(flip=True), (2049, 2048))
    assert mirrored == replace(inference.WINDOWS, flip=True)
    assert inference.fitting_view(model, View(flip=True), (64, 64)) == View(flip=True)
    model.only_size = (512, 1024)
    assert inference.fitting_view(model, None, (512, 1024)) is WHOLE
    assert inference.fitting_view(model, None, (720, 960)) == View(crop=(512, 1024))
    model.gives = "labels"
    assert inference.fitting_view(model, None, (720, 960)) is WHOLE
    resized: Any = tsic.load_student(student)
    resized.resize = (256, 512)
    assert inference.fitting_view(resized, None, (9000, 9000)) is WHOLE


HEAVY = ("transformers", "lightning", "jsonargparse")


def test_help_waits_for_nothing() -> None:
    script = (
        "import sys; from tsic.cli import main\n"
        "try: main(['predict', '--help'])\n"
        f"finally: assert not set(sys.modules) & { ({*HEAVY, 'torch', 'av'})!r}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--skip-existing" in done.stdout


def test_predicting_imports_no_training_code(student: Path, photos: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from tsic.cli import main\n"
        f"assert main(['predict', {str(student)!r}, {str(photos)!r}, '--overlay', '--out', "
        f"{str(tmp_path / 'out')!r}, '--coco', {str(tmp_path / 'all.json')!r}]) == 0\n"
        f"assert not set(sys.modules) & {set(HEAVY)!r}, set(sys.modules) & {set(HEAVY)!r}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
