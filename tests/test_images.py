"""Every kind of picture opens as upright RGB, and every broken one is refused with a reason."""

import io
import os
import pathlib
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from attnlens import AttnLensError
from attnlens._images import FORMATS, crop, open_image

GRADIENT = (np.arange(6 * 4 * 3).reshape(6, 4, 3) * 3).astype(np.uint8)


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def pixels(source):
    image = open_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_a_path_a_string_a_pil_image_and_an_array_are_the_same_picture(tmp_path):
    path = saved(tmp_path, Image.fromarray(GRADIENT), "picture.png")
    for source in (path, str(path), Image.fromarray(GRADIENT), GRADIENT):
        assert (pixels(source) == GRADIENT).all()


def test_the_opened_image_is_a_copy():
    image = Image.fromarray(GRADIENT)
    open_image(image).putpixel((0, 0), (255, 0, 0))
    assert (np.asarray(image) == GRADIENT).all()


def test_exif_orientation_is_applied_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    path = saved(tmp_path, Image.fromarray(GRADIENT), "turned.png", exif=exif)
    upright = np.rot90(GRADIENT, -1)
    assert (pixels(path) == upright).all()
    with Image.open(path) as image:
        assert (pixels(image) == upright).all()
    assert (pixels(open_image(path)) == upright).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_alpha_is_composited_on_white(mode):
    rgba = Image.new("RGBA", (3, 1), (100, 100, 100, 255))
    rgba.putpixel((1, 0), (100, 100, 100, 0))
    rgba.putpixel((2, 0), (100, 100, 100, 128))
    image = {
        "RGBA": lambda: rgba,
        "LA": lambda: rgba.convert("LA"),
        "La": lambda: rgba.convert("LA").convert("La"),
        "RGBa": lambda: rgba.convert("RGBa"),
        "PA": lambda: rgba.convert("PA"),
    }[mode]()
    assert image.mode == mode
    shown = pixels(image)[0].astype(int)
    assert shown[0] == pytest.approx(100, abs=1)
    assert (shown[1] == 255).all()
    assert shown[2] == pytest.approx(177, abs=2)  # half of 100 and half of white


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_transparent_palette_colour_is_white(tmp_path, transparency):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    path = saved(tmp_path, image, "palette.png", transparency=transparency)
    assert pixels(path)[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_modes_keep_their_colours(mode):
    grey = Image.new("L", (4, 2), 0)
    grey.putpixel((1, 0), 255)
    if mode == "LAB":
        image = Image.merge("LAB", [grey, Image.new("L", (4, 2), 128), Image.new("L", (4, 2), 128)])
    else:
        image = grey.convert(mode) if mode in ("1", "L", "P") else grey.convert("RGB").convert(mode)
    assert image.mode == mode
    assert pixels(image)[0, 0].tolist() == pytest.approx([0] * 3, abs=1)
    assert pixels(image)[0, 1].tolist() == pytest.approx([255] * 3, abs=1)


def test_a_cmyk_jpeg_opens_in_its_colours(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK"), "print.jpg")
    assert pixels(path)[8, 8].tolist() == pytest.approx([200, 30, 40], abs=6)


RAMP = np.array([[257, 771, 32896, 51400]])


@pytest.mark.parametrize(
    ("mode", "dtype", "suffix"), [("I;16", "<u2", "png"), ("I;16", "<u2", "tif"), ("I;16B", ">u2", "tif")]
)
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, mode, dtype, suffix):
    image = Image.frombytes(mode, (4, 1), RAMP.astype(dtype).tobytes())
    for source in (image, saved(tmp_path, image, f"deep.{suffix}")):
        assert pixels(source)[0, :, 0].tolist() == [1, 3, 128, 200]


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        ([0, 128, 255], "I", [0, 128, 255]),
        ([0, 32896, 65535], "I", [0, 128, 255]),
        ([-100, 0, 100], "I", [0, 128, 255]),
        ([0, 50000, 100000], "I", [0, 128, 255]),
        ([0, 0.5, 1], "F", [0, 128, 255]),
        ([0, 128, 255], "F", [0, 128, 255]),
        ([-1, 0, 1], "F", [0, 128, 255]),
        ([-5, -5, -5], "F", [0, 0, 0]),
    ],
)
def test_modes_without_a_stated_range_are_scaled_into_it(values, mode, expected):
    image = Image.fromarray(np.array([values], dtype=np.int32 if mode == "I" else np.float32))
    assert image.mode == mode
    assert pixels(image)[0, :, 0].tolist() == expected


def test_an_animation_opens_at_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue", "lime")]
    for name in ("moving.gif", "moving.png", "moving.tif"):
        path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
        assert pixels(path)[2, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1), (20, 20000), (20000, 20)])
def test_extreme_shapes_open(tmp_path, shape):
    array = np.full((*shape, 3), 7, np.uint8)
    path = saved(tmp_path, Image.fromarray(array), "extreme.png")
    assert open_image(path).size == open_image(array).size == (shape[1], shape[0])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[False, True]]), [[0] * 3, [255] * 3]),
        (np.array([[0, 255]], np.uint8), [[0] * 3, [255] * 3]),
        (np.array([[[7], [9]]], np.uint8), [[7] * 3, [9] * 3]),
        (np.array([[0, 65535]], np.uint16), [[0] * 3, [255] * 3]),
        (np.array([[[0, 32896, 65535]]], np.uint16), [[0, 128, 255]]),
        (np.array([[0, 0.5]], np.float16), [[0] * 3, [128] * 3]),
        (np.array([[[0, 0.5, 1.0004]]]), [[0, 128, 255]]),
        (np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), [[255] * 3, [0] * 3]),
        (np.array([[[1, 0, 0, 0.5]]]), [[255, 127, 127]]),
        (np.asfortranarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_arrays_of_every_kind_open(array, expected):
    assert pixels(array)[0].tolist() == expected


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5, np.uint8), "has shape"),
        (np.zeros((5, 5, 2), np.uint8), "1, 3 or 4"),
        (np.zeros((3, 5, 5), np.uint8), r"array.transpose\(1, 2, 0\)"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((5, 0)), "no pixels"),
        (np.zeros((5, 5), np.int64), "type is int64"),
        (np.zeros((5, 5), complex), "type is complex128"),
        (np.array([["a"]]), "type is <U1"),
        (np.array([[0.0, 255.0]]), "array / 255"),
        (np.array([[-1.0, 1.0]]), "run from -1 to 1"),
        (np.array([[0.0, np.nan]]), "no NaN"),
    ],
)
def test_arrays_that_are_no_picture_are_refused(array, message):
    with pytest.raises(AttnLensError, match=message):
        open_image(array)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AttnLensError, match="There is no file .*missing.png"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(AttnLensError, match="Download it first"):
        open_image("https://example.org/picture.png")
    with pytest.raises(AttnLensError, match="There is no file"):
        open_image("a" * 5000)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(AttnLensError, match="is a directory"):
        open_image(tmp_path)


def test_a_file_that_is_not_an_image_is_refused(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(AttnLensError, match="not an image"):
        open_image(path)
    path.write_bytes(b"")
    with pytest.raises(AttnLensError, match="0 bytes"):
        open_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, kind, part):
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(data, kind)
    path = tmp_path / "cut"
    path.write_bytes(data.getvalue()[: int(len(data.getvalue()) * part)])
    with pytest.raises(AttnLensError, match="damaged or cut short|not an image|cannot be read"):
        open_image(path)


def test_a_corrupted_png_is_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(GRADIENT), "corrupt.png")
    data = bytearray(path.read_bytes())
    data[45:55] = b"\xff" * 10
    path.write_bytes(bytes(data))
    with pytest.raises(AttnLensError):
        open_image(path)


def test_a_truncated_image_that_pil_opened_lazily_is_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.zeros((200, 200, 3), np.uint8)), "cut.bmp")
    path.write_bytes(path.read_bytes()[:1000])
    with Image.open(path) as image, pytest.raises(AttnLensError, match="This PIL image .* is damaged or cut short"):
        open_image(image)


def test_a_zero_sized_image_is_refused():
    with pytest.raises(AttnLensError, match="0 x 5 pixels; expected at least 1 x 1"):
        open_image(Image.new("RGB", (0, 5)))


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (100, 100)), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(AttnLensError, match="too large to open safely"):
        open_image(path)


def test_an_image_with_pixels_that_are_nan_is_refused():
    with pytest.raises(AttnLensError, match="NaN or infinite"):
        open_image(Image.fromarray(np.array([[0, np.nan]], np.float32)))


@pytest.mark.parametrize("source", [None, 3, b"bytes", ["a.png"], io.BytesIO()])
def test_a_source_of_another_type_is_refused(source):
    with pytest.raises(AttnLensError, match="expected a path, a PIL image, or a numpy array"):
        open_image(source)


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    saved(tmp_path, Image.fromarray(GRADIENT), "picture.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_image(pathlib.Path("~/picture.png")).size == (4, 6)


def test_a_crop_has_the_exact_pixels_of_the_original():
    image = Image.fromarray(GRADIENT)
    assert (np.asarray(crop(image, (1, 2, 4, 5))) == GRADIENT[2:5, 1:4]).all()
    assert (np.asarray(crop(image, (0.6, 1.5, 3.4, 4.9))) == GRADIENT[2:5, 1:3]).all()
    assert (np.asarray(crop(image, (-9, -9, 99, 99))) == GRADIENT).all()


def test_a_crop_is_never_empty():
    image = Image.fromarray(GRADIENT)
    assert (np.asarray(crop(image, (1.1, 2.1, 1.2, 2.2))) == GRADIENT[2:3, 1:2]).all()
    assert (np.asarray(crop(image, (3.9, 5.9, 4, 6))) == GRADIENT[5:6, 3:4]).all()


def test_a_crop_outside_the_image_is_refused():
    with pytest.raises(AttnLensError, match="outside the image"):
        crop(Image.fromarray(GRADIENT), (10, 10, 20, 20))


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program named gs, and the file that it makes when it is run."""
    mark = tmp_path / "was run"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return mark


@pytest.mark.parametrize("name", ["drawing.eps", "drawing.png", "drawing"])
def test_no_file_starts_ghostscript(tmp_path, ghostscript, name):
    path = tmp_path / name
    Image.fromarray(GRADIENT).save(path, "EPS")
    with pytest.raises(AttnLensError, match="is not an image that attnlens can open; expected AVIF, BMP"):
        open_image(path)
    with Image.open(path) as picture:
        with pytest.raises(AttnLensError, match="Ghostscript"):
            open_image(picture)
        assert not ghostscript.exists()
        with pytest.raises(OSError):  # noqa: PT011 - what Pillow does by itself: the program fails, but it was run
            picture.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("kind", ["png", "array", "tif", "I"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_data_of_fewer_bits_in_sixteen_is_scaled_by_what_it_holds_and_said(tmp_path, bits, kind):
    top = 2**bits - 1
    deep = np.array([[0, top // 2, top]], np.uint16)
    image = Image.fromarray(deep)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = {
            "array": lambda: deep,
            "I": lambda: Image.fromarray(deep.astype(np.int32)),
        }.get(kind, lambda: saved(tmp_path, image, f"xray.{kind}"))()
        assert pixels(source)[0, :, 0].tolist() == pytest.approx([0, 127, 255], abs=1)
    said = [str(one.message) for one in caught]
    # Mode I states no number of bits, so that nothing is taken for less than it says.
    assert [f"{bits}-bit" in text and str(top) in text for text in said] == ([] if kind == "I" else [True])


def test_full_sixteen_bits_and_black_are_no_fewer(tmp_path, recwarn):
    for values in ([0, 65535], [0, 20000], [0, 0]):
        open_image(np.array([values], np.uint16))
        open_image(saved(tmp_path, Image.fromarray(np.array([values], np.uint16)), "deep.png"))
    assert not recwarn.list


def png(path, width, height, colour, row):
    """A PNG file of 16 bits a channel, whose rows are all `row` (bytes)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(b"\0" + row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
def test_a_picture_of_sixteen_bits_in_colour_that_is_almost_black_is_warned_of(tmp_path, colour, channels):
    for top, count in ((4095, 1), (65535, 0)):
        values = np.full((9, channels), 65535, ">u2")
        values[:, :3] = np.linspace(0, top, 9)[:, None]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            open_image(png(tmp_path / "colours.png", 9, 2, colour, values.tobytes()))
        assert ["almost black" in str(one.message) for one in caught] == [True] * count


MEASURE = """
import sys, warnings
warnings.simplefilter("ignore")
from attnlens._images import open_image

def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

before = kilobytes("VmRSS")
image = open_image(sys.argv[1])
print((kilobytes("VmHWM") - before) * 1024 / (3 * image.width * image.height))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3)], ids=["grey", "rgb"])
def test_a_large_picture_of_sixteen_bits_takes_little_more_than_its_pixels(tmp_path, colour, channels):
    row = np.arange(13_000 * channels, dtype=">u2").tobytes()
    path = png(tmp_path / "large.png", 13_000, 13_000, colour, row)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"{float(done.stdout):.2f} x the size in RGB")
    assert 4 / 3 <= float(done.stdout) <= 2.5  # Pillow keeps four bytes for a pixel in RGB


def test_what_is_read_block_by_block_is_what_is_read_at_once(monkeypatch):
    random = np.random.default_rng(0)
    sources = [
        Image.fromarray(random.integers(0, 256, (17, 13, 4), dtype=np.uint8)),
        Image.fromarray(random.integers(0, 65536, (17, 13), dtype=np.uint16)),
        Image.fromarray(random.normal(size=(17, 13)).astype(np.float32)),
        random.integers(0, 65536, (17, 13, 3), dtype=np.uint16),
        random.random((17, 13, 3)),
    ]
    whole = [pixels(source) for source in sources]
    for block in (1, 30, 100):
        monkeypatch.setattr("attnlens._images._BLOCK", block)
        for source, expected in zip(sources, whole, strict=True):
            assert (pixels(source) == expected).all()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"\x89PNG", r"PIL.Image.open\(io.BytesIO\(data\)\)"),
        (io.BytesIO(), r"PIL.Image.open\(file\)"),
        ("https://example.org/a.png", "is a URL.*Download it first"),
        ("data:image/png;base64," + "A" * 100_000, "is a URL"),
        ("a\0b.png", "NUL"),
    ],
    ids=["bytes", "file", "URL", "data URL", "NUL"],
)
def test_what_is_no_path_says_how_to_get_to_an_image(source, words):
    with pytest.raises(AttnLensError, match=words) as caught:
        open_image(source)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_a_heic_picture_is_named_with_two_ways_out(tmp_path, brand):
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(100))
    with pytest.raises(AttnLensError, match=r"HEIC.*Convert it to JPEG.*register_heif_opener"):
        open_image(tmp_path / "phone.jpg")


def test_the_formats_that_are_opened_are_those_of_the_docs():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "quickstart.md").read_text(encoding="utf-8")
    assert f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}" in " ".join(page.split())
