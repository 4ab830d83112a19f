"""Every real picture becomes upright RGB, and every unreal one gets a plain reason."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xception.data.decode import decode_picture, picture_size
from xception.errors import PictureError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def quarters() -> Image.Image:
    """32 x 16 pixels: red, green above blue, white."""
    picture = Image.new("RGB", (32, 16), WHITE)
    picture.paste(RED, (0, 0, 16, 8))
    picture.paste(GREEN, (16, 0, 32, 8))
    picture.paste(BLUE, (0, 8, 16, 16))
    return picture


def close_to(picture: Image.Image, place: tuple[int, int], colour: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 24 for a, b in zip(picture.getpixel(place), colour, strict=True))


def reason(source: object) -> str:
    with pytest.raises(PictureError) as caught:
        decode_picture(source)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in
              (header, data, b"IEND")]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


LOSSLESS = ["PNG", "BMP", "TIFF", "PPM"]
ALL_KINDS = [*LOSSLESS, "JPEG", "WEBP", "GIF", "JPEG2000"]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_format_gives_its_pixels(kind: str) -> None:
    picture = decode_picture(encoded(quarters(), kind))
    assert picture.mode == "RGB" and picture.size == (32, 16)
    for place, colour in [((3, 3), RED), ((28, 3), GREEN), ((3, 12), BLUE), ((28, 12), WHITE)]:
        assert close_to(picture, place, colour)
    if kind in LOSSLESS:
        assert picture.tobytes() == quarters().tobytes()


def test_every_kind_of_source(tmp_path: Path) -> None:
    data = encoded(quarters(), "PNG")
    path = tmp_path / "ein Bild é.png"
    path.write_bytes(data)
    wanted = quarters().tobytes()
    with open(path, "rb") as file:
        for source in (path, str(path), data, io.BytesIO(data), file, np.asarray(quarters())):
            assert decode_picture(source).tobytes() == wanted
    assert decode_picture(quarters()).tobytes() == wanted
    assert picture_size(path) == (32, 16)
    assert "list" in reason([1])


def test_a_pipe_that_cannot_seek() -> None:
    read, write = os.pipe()
    os.write(write, encoded(quarters(), "PNG"))
    os.close(write)
    with open(read, "rb") as file:
        assert decode_picture(file).size == (32, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = quarters()
    undo = {  # how a camera stores an upright scene under each orientation
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif)
    picture = decode_picture(data)
    assert picture.size == (32, 16)
    for place, colour in [((3, 3), RED), ((28, 3), GREEN), ((3, 12), BLUE), ((28, 12), WHITE)]:
        assert close_to(picture, place, colour)
    assert decode_picture(picture).tobytes() == picture.tobytes()  # not turned twice
    opened = Image.open(io.BytesIO(data))
    assert decode_picture(opened).tobytes() == picture.tobytes()


def test_the_callers_picture_is_left_alone() -> None:
    for mode in ("RGB", "P", "RGBA", "L"):
        mine = quarters().convert(mode)
        mine.info["note"] = "mine"
        if mode == "RGB":
            mine.info["transparency"] = RED
        before, info = mine.tobytes(), dict(mine.info)
        result = decode_picture(mine)
        assert result is not mine and mine.mode == mode
        result.paste(BLUE, (0, 0, 32, 16))
        assert mine.tobytes() == before and mine.info == info


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_grey(kind: str) -> None:
    picture = decode_picture(encoded(Image.new("L", (5, 4), 77), kind))
    assert close_to(picture, (2, 2), (77, 77, 77))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_one_bit(kind: str) -> None:
    picture = Image.new("1", (16, 16), 0)
    picture.paste(1, (0, 0, 8, 16))
    result = decode_picture(encoded(picture, kind))
    assert result.getpixel((2, 2)) == WHITE and result.getpixel((12, 2)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_over_white(mode: str, kind: str) -> None:
    picture = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 3, 9))
    picture.paste((0, 0, 0, 128), (3, 0, 6, 9))
    options = {"lossless": True} if kind == "WEBP" else {}
    result = decode_picture(encoded(picture.convert(mode), kind, **options))
    assert result.getpixel((1, 4)) == (0, 0, 0)
    assert close_to(result, (4, 4), (127, 127, 127))
    assert result.getpixel((8, 4)) == WHITE


def test_palette_with_and_without_transparency() -> None:
    plain = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    assert close_to(decode_picture(encoded(plain, "PNG")), (3, 3), RED)
    index = plain.getpixel((3, 3))
    for transparency in (index, bytes(0 if i == index else 255 for i in range(256))):
        result = decode_picture(encoded(plain, "PNG", transparency=transparency))
        assert result.getpixel((3, 3)) == WHITE
        assert close_to(result, (3, 12), BLUE)
    assert decode_picture(encoded(plain, "GIF", transparency=index)).getpixel((3, 3)) == WHITE


def test_colour_key_transparency() -> None:
    result = decode_picture(encoded(quarters(), "PNG", transparency=RED))
    assert result.getpixel((3, 3)) == WHITE and result.getpixel((3, 12)) == BLUE
    result = decode_picture(encoded(Image.new("L", (4, 4), 9), "PNG", transparency=9))
    assert result.getpixel((1, 1)) == WHITE


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    # Pillow writes CMYK JPEG inverted, with Adobe's marker, as Photoshop does
    picture = decode_picture(encoded(quarters().convert("CMYK"), kind))
    assert close_to(picture, (3, 3), RED) and close_to(picture, (28, 12), WHITE)


def test_ycbcr_and_lab() -> None:
    assert close_to(decode_picture(quarters().convert("YCbCr")), (3, 3), RED)
    assert close_to(decode_picture(quarters().convert("HSV")), (3, 3), RED)
    grey = Image.new("LAB", (4, 4), (255, 128, 128))
    assert close_to(decode_picture(encoded(grey, "TIFF")), (1, 1), WHITE)


SIXTEEN = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    result = decode_picture(encoded(Image.fromarray(SIXTEEN), kind))
    assert np.asarray(result)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_sources_of_other_kinds() -> None:
    assert np.asarray(decode_picture(SIXTEEN))[0, :, 1].tolist() == [0, 1, 128, 255]
    integers = Image.fromarray(SIXTEEN.astype(np.int32))
    assert np.asarray(decode_picture(encoded(integers, "TIFF")))[0, :, 0].tolist() == [
        0,
        1,
        128,
        255,
    ]
    keyed = Image.fromarray(SIXTEEN)
    result = decode_picture(encoded(keyed, "PNG", transparency=257))
    assert np.asarray(result)[0, :, 0].tolist() == [0, 255, 128, 255]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([np.nan, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([1e30, 5e29, 0.0], [255, 128, 0]),
    ],
)
def test_floats(values: list[float], wanted: list[int]) -> None:
    array = np.array([values], dtype=np.float32)
    for source in (encoded(Image.fromarray(array), "TIFF"), array):
        assert np.asarray(decode_picture(source))[0, :, 0].tolist() == wanted


def test_wide_integers_are_scaled_from_their_own_range() -> None:
    array = np.array([[-1000, 0, 1000, 70000]], dtype=np.int32)
    result = decode_picture(encoded(Image.fromarray(array), "TIFF"))
    assert np.asarray(result)[0, :, 0].tolist() == [0, 4, 7, 255]
    small = Image.fromarray(np.array([[0, 7, 255]], dtype=np.int32))
    assert np.asarray(decode_picture(small))[0, :, 0].tolist() == [0, 7, 255]


def test_arrays() -> None:
    assert decode_picture(np.zeros((3, 4, 1), np.uint8)).size == (4, 3)
    assert decode_picture(np.ones((3, 4), bool)).getpixel((0, 0)) == WHITE
    assert decode_picture(np.zeros((3, 4, 4), np.uint8)).getpixel((0, 0)) == WHITE
    assert "shape (3, 4, 4, 4)" in reason(np.zeros((3, 4, 4, 4), np.uint8))
    assert "shape (3, 8, 8)" in reason(np.zeros((3, 8, 8), np.uint8))
    assert "int64" in reason(np.zeros((3, 4), np.int64))
    assert "0 x 3 pixels" in reason(np.zeros((3, 0), np.uint8))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert close_to(decode_picture(data), (4, 4), RED)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_extreme_sizes(kind: str, size: tuple[int, int]) -> None:
    assert decode_picture(encoded(Image.new("RGB", size, RED), kind)).size == size


def test_a_billion_pixels_are_refused_before_decoding() -> None:
    assert reason(png_header(40_000, 25_000)).startswith("claims 40000 x 25000 pixels")
    bmp = bytearray(encoded(quarters(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 50_000, 20_000)
    assert reason(bytes(bmp)).startswith("claims 50000 x 20000 pixels")
    assert reason(b"P6 1000000 1000 255\n" + b"\0" * 99).startswith("claims 1000000 x 1000")


def test_the_bound_can_be_moved() -> None:
    data = encoded(quarters(), "PNG")
    assert decode_picture(data, max_pixels=512).size == (32, 16)
    for source in (data, quarters(), np.asarray(quarters())):
        with pytest.raises(PictureError, match="more than the 511 that are allowed"):
            decode_picture(source, max_pixels=511)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_an_error(kind: str, share: float, noise) -> None:  # type: ignore[no-untyped-def]
    data = encoded(noise(64, 48), kind)
    text = reason(data[: int(len(data) * share)])
    assert text.startswith(("is truncated", "is damaged"))


def test_a_truncated_jpeg_says_so(noise) -> None:  # type: ignore[no-untyped-def]
    assert reason(encoded(noise(64, 48), "JPEG")[:-20]).startswith("is truncated")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "is an empty file"),
        (b"just some text, not a picture at all", "is not a picture (it holds text)"),
        ("größer als é".encode() * 3, "is not a picture (it holds text)"),
        (b"P1 is a famous text about something", "is damaged"),
        (b"\0" * 64, "is not a picture (it holds zeros)"),
        (b"\x01\x02\xff\xfe" * 9, "is not a picture (unknown format)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 20, "is a HEIC picture"),
        (b"%PDF-1.4\n%....................", "is a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture (it holds text)"),
    ],
)
def test_files_that_are_no_pictures(data: bytes, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    assert reason(path).startswith(wanted)


def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "file.jpg").write_bytes(b"x")
    assert reason(tmp_path / "nothing.jpg") == "does not exist"
    assert reason(tmp_path / "file.jpg" / "a.jpg").startswith("does not exist")
    assert reason(tmp_path) == "is a folder, not a picture"
    assert reason(tmp_path / "link.jpg") == "is a link to a file that does not exist"
    assert reason(tmp_path / "loop.jpg").startswith("cannot be opened")
    assert reason(tmp_path / "pipe.jpg") == "is not a plain file"
    assert reason("/dev/zero") == "is not a plain file"
    assert reason("a\0b.jpg").startswith("cannot be opened")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert reason(tmp_path / "file.jpg") == "cannot be read: permission denied"


def test_the_error_names_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"")
    with pytest.raises(PictureError) as caught:
        decode_picture(path)
    assert caught.value.name == str(path)
    with pytest.raises(PictureError, match=r"^mine: is an empty file"):
        decode_picture(b"", name="mine")
    odd = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.jpg")
    with pytest.raises(PictureError) as caught:
        decode_picture(odd)
    str(caught.value).encode()  # can be printed


def test_no_warning_leaks(capfd: pytest.CaptureFixture[str]) -> None:
    broken_exif = encoded(quarters(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    p_with_bytes = encoded(quarters().convert("P"), "PNG", transparency=bytes(range(256)))
    tiff = bytearray(encoded(quarters(), "TIFF"))
    tiff[-6:-2] = b"\xff\xff\xff\x7f"
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode_picture(broken_exif).size == (32, 16)
        assert decode_picture(p_with_bytes).size == (32, 16)
        with contextlib.suppress(PictureError):
            decode_picture(bytes(tiff))
    assert not caught
    assert warnings.filters == before
    damaged = bytearray(encoded(quarters(), "TIFF", compression="tiff_lzw"))
    damaged[8:40] = b"\xff" * 32
    reason(bytes(damaged))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
SEEDS = {kind: encoded(quarters(), kind) for kind in ALL_KINDS}
SEEDS["EXIF"] = encoded(quarters(), "JPEG", exif=EXIF)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(SEEDS)),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.integers(0, 400),
)
def test_a_mutated_picture_gives_rgb_or_one_plain_line(
    kind: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(SEEDS[kind])
    for place, value in changes:
        data[place % len(data)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = decode_picture(bytes(data[:cut]), max_pixels=4_000_000)
        except PictureError as error:
            assert "\n" not in error.reason and len(error.reason) < 250
        else:
            assert picture.mode == "RGB" and picture.width * picture.height <= 4_000_000
