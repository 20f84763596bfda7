"""What the words of `tsic predict` name, and what results are called."""

import os
from pathlib import Path
from typing import Any

import pytest

from tsic.deploy.predict.inputs import find_inputs
from tsic.errors import ConfigError

OUT = Path("out")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with empty files: only names count here."""
    for name in (
        "photos/b.jpg",
        "photos/a.PNG",
        "photos/notes.txt",
        "photos/.hidden.jpg",
        "photos/x/c.jpg",
        "photos/x/deep/d.tif",
        "photos/y/c.jpg",
        "photos/.cache/e.jpg",
        "photos/drive.MOV",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*words: str, listed: bytes = b"", out: Path = OUT) -> list[str]:
    return [one.name.as_posix() for one in find_inputs(words, out, listed)]


def test_a_folder_keeps_its_structure(photos: Path) -> None:
    everything = ["a.PNG", "b.jpg", "drive.MOV", "x/c.jpg", "x/deep/d.tif", "y/c.jpg"]
    assert names("photos") == everything
    assert names("photos/") == everything
    assert names("photos/x/../../photos") == everything
    assert names(str(photos / "photos")) == everything
    assert names("photos/x", "photos/y") == ["c.jpg", "deep/d.tif", "c.jpg"]


def test_a_pattern_keeps_what_follows_its_fixed_part(photos: Path) -> None:
    assert names("photos/*.jpg") == ["b.jpg"]
    assert names("photos/*/c.jpg") == ["x/c.jpg", "y/c.jpg"]
    assert names("photos/**/*.jpg") == ["b.jpg", "x/c.jpg", "y/c.jpg"]
    assert names("*/x/c.jp?") == ["photos/x/c.jpg"]
    assert names("photos/[xz]") == ["x/c.jpg", "x/deep/d.tif"]
    assert names(f"{photos}/photos/x/*") == ["c.jpg", "deep/d.tif"]


def test_files_keep_their_names_and_what_tells_them_apart(photos: Path) -> None:
    assert names("photos/b.jpg", "photos/x/deep/d.tif") == ["b.jpg", "d.tif"]
    assert names("photos/b.jpg", "photos/y/c.jpg", "photos/x/c.jpg") == [
        "b.jpg",
        "y/c.jpg",
        "x/c.jpg",
    ]
    assert names("photos/b.jpg", "photos/./b.jpg", "photos/*.jpg") == ["b.jpg"]


def test_a_name_that_looks_like_a_pattern_is_a_name(photos: Path) -> None:
    (photos / "scan[1].jpg").touch()
    assert names("scan[1].jpg") == ["scan[1].jpg"]


def test_a_list_on_standard_input(photos: Path) -> None:
    assert names("-", listed=b"photos/x/c.jpg\r\n\nphotos/y/c.jpg\n") == ["x/c.jpg", "y/c.jpg"]
    assert names("-", listed=b"photos/x/c.jpg\0photos/gone.jpg\0") == ["x/c.jpg", "gone.jpg"]
    assert names("-", "photos/*.jpg", listed=b"photos/x\n") == ["c.jpg", "deep/d.tif", "b.jpg"]
    with pytest.raises(ConfigError, match="the list on standard input is empty"):
        names("-", listed=b"\n")
    assert names("-", listed=b"BM/b.jpg\n") == ["b.jpg"]  # as a BMP begins
    jpeg, png, bmp = b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\x89PNG\r\n\x1a\n\0\0", b"BM6\x10\x0e\0"
    for what in (jpeg, png, bmp, b"x" * 5000):
        with pytest.raises(ConfigError, match="holds no list of paths, one a line; give an image"):
            names("-", listed=what)


def test_what_is_a_video(photos: Path) -> None:
    found = find_inputs(["photos"], OUT)
    assert [one.source.name for one in found if one.is_video] == ["drive.MOV"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("photso", "'photso' does not exist; name an image"),
        ("photos/*.gif", r"'photos/\*\.gif' matches no image and no video; their names end in"),
        ("photos/*.txt", r"'photos/\*\.txt' matches no image and no video"),
        ("photos/.cache/none", "does not exist"),
        ("empty", "'empty' holds no image and no video"),
        ("out", "'out' is both an input and --out"),
    ],
)
def test_nothing_is_said_with_its_word(photos: Path, word: str, expected: str) -> None:
    (photos / "empty").mkdir()
    (photos / "out").mkdir()
    with pytest.raises(ConfigError, match=expected):
        names("photos", word)


def test_results_of_an_earlier_call_are_no_inputs(photos: Path) -> None:
    (photos / "photos/out").mkdir()
    (photos / "photos/out/b.png").touch()
    out = Path("photos/out")
    assert "out/b.png" not in names("photos", out=out)
    assert names("photos/**/*.png", "photos/*.PNG", out=Path("elsewhere")) == ["out/b.png", "a.PNG"]
    with pytest.raises(ConfigError, match="matches no image"):
        names("photos/**/*.png", out=out)
    assert names("photos/out/*.png", out=out) == ["b.png"]  # asked for: to be refused as such


def test_links_are_followed_but_not_in_circles(photos: Path) -> None:
    (photos / "photos/x/loop").symlink_to(photos / "photos")
    (photos / "photos/x/other").symlink_to(photos / "photos/y")
    assert [name for name in names("photos/x") if "loop" in name] == []
    assert "other/c.jpg" in names("photos/x")


def test_a_folder_that_cannot_be_listed_is_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(path: str | Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ConfigError, match="folder cannot be listed: Permission denied"):
        find_inputs([str(photos)], photos.parent / "out")
