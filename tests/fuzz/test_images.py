"""Pictures of every format, damaged, and of formats that are not opened: an image, frames, or one error."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from attnlens import AttnLensError, frames
from attnlens._images import FORMATS, open_image
from tests.fuzz.trying import amounts, damaged, on_many, outcome

LIMIT = 4_000_000
"""Pixels: a header that was changed may state any size, and those below PIL's own limit are decoded."""

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
RGBA = Image.fromarray(NOISE)
RGB, GREY = RGBA.convert("RGB"), RGBA.convert("L")
DEEP = Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257)
MOVING = [Image.fromarray(np.roll(NOISE[:, :, :3], step, axis=1)) for step in range(3)]


def encoded(image, kind, several=False, **options):
    buffer = io.BytesIO()
    # Copies, since an encoder leaves its settings in the picture that it has saved.
    if several:
        options |= {"save_all": True, "append_images": [one.copy() for one in MOVING[1:3]]}
    image.copy().save(buffer, kind, **options)
    return buffer.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6

OPENED = [
    encoded(RGB, "AVIF"),
    encoded(MOVING[0], "AVIF", several=True),
    encoded(RGB, "BMP"),
    encoded(GREY.quantize(16), "BMP"),
    encoded(RGB, "GIF"),
    encoded(MOVING[0], "GIF", several=True),
    encoded(RGB, "JPEG", exif=TURNED),
    encoded(RGB.convert("CMYK"), "JPEG", progressive=True),
    encoded(MOVING[0], "MPO", several=True),
    encoded(RGB, "JPEG2000"),
    encoded(RGB, "PNG", exif=TURNED),
    encoded(RGBA, "PNG"),
    encoded(DEEP, "PNG"),
    encoded(RGB.quantize(8), "PNG", transparency=bytes(range(8)), bits=4),
    encoded(MOVING[0], "PNG", several=True),
    encoded(RGB, "PPM"),
    encoded(DEEP, "PPM"),
    encoded(RGB, "TIFF", exif=TURNED),
    encoded(DEEP, "TIFF", compression="tiff_deflate"),
    encoded(RGB, "TIFF", compression="jpeg"),
    encoded(GREY.convert("1"), "TIFF", compression="group4"),
    encoded(Image.fromarray(NOISE[:, :, 0].astype(np.float32)), "TIFF"),
    encoded(MOVING[0], "TIFF", compression="tiff_lzw", several=True),
    encoded(RGBA, "WEBP", lossless=True),
    encoded(MOVING[0], "WEBP", several=True),
]
REFUSED = [
    *(encoded(RGB, kind) for kind in ("DDS", "EPS", "ICNS", "ICO", "PCX", "PDF", "SGI", "TGA")),
    encoded(GREY.convert("1"), "XBM"),
    b"#!/bin/sh\necho\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"8BPS" + bytes(50),
]


@pytest.fixture(autouse=True)
def _small_and_quiet(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_there_is_a_sample_of_every_format_that_is_opened():
    kinds = {Image.open(io.BytesIO(data)).format.replace("MPO", "JPEG") for data in OPENED}
    assert kinds == set(FORMATS)


@pytest.mark.parametrize("data", OPENED, ids=range(len(OPENED)))
def test_a_whole_sample_opens_with_all_its_frames(tmp_path, data):
    (tmp_path / "name.eps").write_bytes(data)
    assert open_image(tmp_path / "name.eps").mode == "RGB"
    with Image.open(io.BytesIO(data)) as picture:
        count = getattr(picture, "n_frames", 1)
    assert len(frames(tmp_path / "name.eps", 9)) == count


@pytest.mark.parametrize("data", REFUSED, ids=range(len(REFUSED)))
def test_a_picture_of_another_format_is_refused_under_any_name(tmp_path, data):
    for name in ("picture.png", "picture.eps", "picture"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AttnLensError, match="expected AVIF, BMP.* or WEBP"):
            open_image(tmp_path / name)


@amounts(fast=150, long=6000)
def test_a_damaged_picture_is_an_image_or_one_error(tmp_path, count):
    path, outcomes = tmp_path / "picture", {"opened": 0, "refused": 0}

    def claim(data, moving):
        path.write_bytes(data)
        found = outcome(lambda: frames(path, 3) if moving else [open_image(path)])
        if isinstance(found, AttnLensError):
            assert str(path) in str(found)
            outcomes["refused"] += 1
            return
        assert 1 <= len(found) <= 3
        for image in found:
            assert image.mode == "RGB"
            assert 0 < image.width * image.height <= LIMIT
            assert np.asarray(image).shape == (image.height, image.width, 3)
        outcomes["opened"] += 1

    sample = st.sampled_from(OPENED)
    data = st.tuples(sample, st.sampled_from(OPENED + REFUSED)).flatmap(lambda pair: damaged(*pair))
    on_many(claim, count, data, st.booleans())
    assert min(outcomes.values()) > count / 20, outcomes
