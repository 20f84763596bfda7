import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from tsic.data.images import read_image, read_mask, read_size, verify_image
from tsic.data.surprises import image_surprises
from tsic.errors import DataError


@pytest.fixture
def pixels() -> np.ndarray:
    """RGB uint8 (20, 30, 3)."""
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def _write_png(path: Path, size: tuple[int, int], bits: int, colour: int, rows: bytes) -> None:
    """A PNG of any depth, which Pillow reads but does not write; `colour` is PNG's own number."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))


def test_read_image_keeps_rgb(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_image(path).permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("LA", "png"), ("1", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg")],
)
def test_read_image_converts_every_mode(
    tmp_path: Path, pixels: np.ndarray, mode: str, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    original = Image.fromarray(pixels).convert(mode)
    options: dict[str, Any] = {"transparency": bytes([0, 9])} if mode == "P" else {}
    original.save(path, **options)
    image = read_image(path)
    assert image.shape == (3, 20, 30)
    assert verify_image(path).size == (20, 30)
    if suffix == "png":
        expected = np.asarray(original.convert("RGB"))
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (20, 30)), (3, (20, 30)), (5, (30, 20)), (6, (30, 20))]
)
def test_orientation_is_applied(
    tmp_path: Path, pixels: np.ndarray, suffix: str, orientation: int, size: tuple[int, int]
) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    image = read_image(path)
    assert image.shape[1:] == size
    assert verify_image(path).size == size
    if suffix in {"png", "tif"}:  # the lossless ones here
        turned = {1: pixels, 3: np.rot90(pixels, 2), 6: np.rot90(pixels, -1)}
        turned[5] = pixels.swapaxes(0, 1)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), turned[orientation])


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_truncated_file_is_named(
    tmp_path: Path, pixels: np.ndarray, suffix: str, share: float
) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(pixels.repeat(4, 0).repeat(4, 1)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    for read in (read_image, verify_image):
        with pytest.raises(DataError, match=rf"cut\.{suffix}: cannot be decoded \(.*; replace"):
            read(path)


def test_other_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.png: cannot be decoded \(cannot identify"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        read_mask(tmp_path / "gone.png")
    Image.fromarray(np.full((2, 2), 999, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: image has more than 8 bits"):
        read_image(tmp_path / "deep.png")


def test_a_whole_tiff_of_other_bands_is_not_called_damaged(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "bands.tif")
    content = bytearray((tmp_path / "bands.tif").read_bytes())
    # Photometric interpretation: of RGB (2), black is zero (1), as satellites' bands are written.
    entry = content.index(struct.pack("<HHI", 262, 3, 1))
    content[entry + 8] = 1
    (tmp_path / "bands.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"bands\.tif: a TIFF whose bands or bits .* as RGB with 8"):
        read_image(tmp_path / "bands.tif")


def test_read_mask_gives_palette_indices_not_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [3, 1, 255]], np.uint8)
    mask = Image.fromarray(ids).convert("P")
    mask.putpalette([200, 10, 10] * 256)
    mask.save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as written:
        assert written.mode == "P"
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png"), ids)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_read_mask_keeps_16_bits(tmp_path: Path, suffix: str) -> None:
    ids = np.array([[0, 255, 256], [257, 40000, 65535]], np.uint16)
    Image.fromarray(ids).save(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"m.{suffix}"), ids)


def test_read_mask_of_one_bit_holds_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[1, 0]]


@pytest.mark.parametrize(("bits", "packed"), [(2, b"\x1b"), (4, b"\x01\x23")])
def test_read_mask_of_few_bits_keeps_ids(tmp_path: Path, bits: int, packed: bytes) -> None:
    """Pillow spreads grey values over 0 to 255."""
    _write_png(tmp_path / "m.png", (4, 1), bits, 0, b"\0" + packed)
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1, 2, 3]]


def test_the_upper_bits_of_deep_colours_are_read(tmp_path: Path) -> None:
    _write_png(tmp_path / "i.png", (1, 1), 16, 2, b"\0\x12\x34\x56\x78\x9a\xbc")
    assert read_image(tmp_path / "i.png").flatten().tolist() == [0x12, 0x56, 0x9A]
    assert list(image_surprises(tmp_path / "i.png")) == [
        ("16 bits", "has 16 bits per channel; the lower 8 are dropped")
    ]


def test_read_mask_refuses_colours_of_16_bits(tmp_path: Path) -> None:
    _write_png(tmp_path / "m.png", (1, 1), 16, 2, b"\0\0\x01\0\xc9\0\0")
    with pytest.raises(DataError, match=r"m\.png: mask has colours of 16 bits per channel"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("orientation", "upright"), [(3, [[5, 4, 3], [2, 1, 0]]), (6, [[3, 0], [4, 1], [5, 2]])]
)
def test_read_mask_is_upright_as_its_image(
    tmp_path: Path, suffix: str, orientation: int, upright: list[list[int]]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    mask = Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], np.uint8))
    mask.save(tmp_path / f"m.{suffix}", exif=exif)
    assert read_mask(tmp_path / f"m.{suffix}").tolist() == upright
    assert read_image(tmp_path / f"m.{suffix}")[0].tolist() == upright


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_turns_nothing(
    tmp_path: Path, pixels: np.ndarray, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(tmp_path / "i.png", exif=exif)
    assert verify_image(tmp_path / "i.png").size == read_image(tmp_path / "i.png").shape[1:]
    assert list(image_surprises(tmp_path / "i.png")) == []


def test_an_animated_png_can_be_read_in_part(tmp_path: Path, pixels: np.ndarray) -> None:
    frames = [Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())]
    frames[0].save(tmp_path / "i.png", save_all=True, append_images=frames[1:])
    image = read_image(tmp_path / "i.png", 7)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy()[:7], pixels[:7])
    ((kind, _),) = image_surprises(tmp_path / "i.png")
    assert kind == "several pictures"


def test_read_mask_gives_colours_without_transparency(tmp_path: Path, pixels: np.ndarray) -> None:
    for mode in ("RGB", "RGBA"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), pixels)


def test_read_mask_refuses_jpeg(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[..., 0]).save(tmp_path / "m.jpg")
    with pytest.raises(
        DataError, match=r"m\.jpg: mask is a JPEG, which changes ids; save it as PNG"
    ):
        read_mask(tmp_path / "m.jpg")


@pytest.mark.parametrize("rows", [1, 7, 20, 99])
def test_read_image_of_some_rows_decodes_those(
    tmp_path: Path, pixels: np.ndarray, rows: int
) -> None:
    Image.fromarray(pixels).save(tmp_path / "i.png")
    image = read_image(tmp_path / "i.png", rows)
    assert image.shape == (3, min(rows, 20), 30)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels[:rows])


@pytest.mark.parametrize("rows", [None, 5])
def test_png_turned_by_its_text_is_upright(
    tmp_path: Path, pixels: np.ndarray, rows: int | None
) -> None:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    Image.fromarray(pixels).save(tmp_path / "i.png", pnginfo=text)
    image = read_image(tmp_path / "i.png", rows)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.rot90(pixels, -1))
    assert read_size(tmp_path / "i.png") == verify_image(tmp_path / "i.png").size == (30, 20)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_read_size_is_that_of_the_upright_image(
    tmp_path: Path, pixels: np.ndarray, suffix: str
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    settings: dict[str, dict[str, Any]] = {"plain": {}, "turned": {"exif": exif}}
    for name, options in settings.items():
        path = tmp_path / f"{name}.{suffix}"
        Image.fromarray(pixels).save(path, **options)
        assert read_size(path) == tuple(read_image(path).shape[1:])


def test_read_mask_refuses_other_modes_and_huge_ids(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "m.tif")
    with pytest.raises(DataError, match=r"m\.tif: mask is of Pillow's mode CMYK; save it with one"):
        read_mask(tmp_path / "m.tif")
    Image.fromarray(np.array([[70000]], np.int32)).save(tmp_path / "m.tif")
    with pytest.raises(DataError, match=r"m\.tif: mask holds ids outside 0 to 65535"):
        read_mask(tmp_path / "m.tif")


@pytest.mark.parametrize(("stored", "bits"), [(b"\0\1\2\3", 8), (b"\x1b", 2), (b"\0\0\1\0", 16)])
def test_read_mask_refuses_a_tiff_in_which_0_is_white(
    tmp_path: Path, stored: bytes, bits: int
) -> None:
    """Pillow gives the opposite of what is stored, 255 for class 0; of 16 bits what is stored."""
    path, width = tmp_path / "m.tif", 8 * len(stored) // bits
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 0, 273: 8, 277: 1, 278: 1, 279: len(stored)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 12)
    path.write_bytes(
        head + stored.ljust(4, b"\0") + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    with pytest.raises(DataError, match=r"m\.tif: mask is a TIFF in which 0 is white, .* as PNG"):
        read_mask(path)
    path.write_bytes(
        path.read_bytes().replace(
            struct.pack("<HHII", 262, 4, 1, 0), struct.pack("<HHII", 262, 4, 1, 1)
        )
    )
    assert read_mask(path).tolist() == [[0, 1, 2, 3][:width]]


def test_read_mask_reads_ids_of_two_bits_whose_last_comes_first(tmp_path: Path) -> None:
    tags = {256: 4, 257: 1, 258: 2, 259: 1, 262: 1, 266: 2, 273: 8, 277: 1, 278: 1, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 12) + b"\xd8\0\0\0"  # 0, 1, 2, 3 from the last bit on
    (tmp_path / "m.tif").write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))
    assert read_mask(tmp_path / "m.tif").tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_read_mask_refuses_several_pages(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    pages = [Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())]
    pages[0].save(tmp_path / f"m.{suffix}", save_all=True, append_images=pages[1:], lossless=True)
    with pytest.raises(
        DataError, match=rf"m\.{suffix}: mask holds 2 pages or frames; save the one"
    ):
        read_mask(tmp_path / f"m.{suffix}")


def test_smaller_copies_in_a_tiff_mask_are_no_pages(tmp_path: Path) -> None:
    """As maps have them, so that viewers show the whole quickly."""
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8)
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "m.tif", new=True) as pages:
        Image.fromarray(ids).save(pages, "TIFF")
        pages.newFrame()
        Image.fromarray(ids[::2, ::2].copy()).save(pages, "TIFF", tiffinfo={254: 1})
    with Image.open(tmp_path / "m.tif") as written:
        written.seek(1)  # there is a second page
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), ids)
