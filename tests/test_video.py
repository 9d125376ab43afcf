"""Frames of everything that moves: which, in what order, and what is said of what cannot be read."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attnlens import AttnLensError
from attnlens._video import frames

KINDS = {"gif": {}, "webp": {"lossless": True}, "png": {}, "tiff": {}}


def shades(total):
    """Frames that tell their number: grey of 10 times it, with a mark so that none equals the one before."""
    return [Image.new("RGB", (12, 8), (10 * number,) * 3) for number in range(total)]


def saved(path, total, **options):
    first, *others = shades(total)
    first.save(path, save_all=True, append_images=others, **options)
    return path


def numbers(images):
    assert all(image.mode == "RGB" for image in images)
    return [round(image.getpixel((3, 3))[0] / 10) for image in images]


@given(st.integers(1, 400), st.integers(1, 40))
def test_each_frame_is_the_middle_of_an_equal_part(total, count):
    video = [np.array([[[number % 256, number // 256, 0]]], np.uint8) for number in range(total)]
    found = [image.getpixel((0, 0)) for image in frames(video, count)]
    places = [low + 256 * high for low, high, _ in found]
    wanted = range(total) if total <= count else [(part + 0.5) * total / count - 0.5 for part in range(count)]
    assert len(places) == len(wanted)
    assert all(abs(place - middle) <= 0.5 for place, middle in zip(places, wanted, strict=True))


@pytest.mark.parametrize(
    ("total", "count", "places"),
    [
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, 8, [0, 1, 2]),
        (7, 8, [0, 1, 2, 3, 4, 5, 6]),
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (9, 3, [1, 4, 7]),
        (10, 3, [1, 5, 8]),
        (20, 1, [10]),
        (1, 1, [0]),
    ],
)
def test_frames_are_evenly_spaced_and_all_where_there_are_no_more(total, count, places):
    assert numbers(frames(shades(total), count)) == places
    assert numbers(frames(np.stack([np.asarray(one) for one in shades(total)]), count)) == places


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_hold_several_frames_give_them(tmp_path, kind):
    path = saved(tmp_path / f"moving.{kind}", 12, **KINDS[kind])
    assert numbers(frames(path, 4)) == numbers(frames(str(path), 4)) == [1, 4, 7, 10]
    assert numbers(frames(path, 99)) == list(range(12))


def test_an_opened_picture_gives_its_frames_and_stays_where_it_was(tmp_path):
    with Image.open(saved(tmp_path / "moving.gif", 9)) as picture:
        picture.seek(2)
        assert numbers(frames(picture, 3)) == [1, 4, 7]
        assert picture.tell() == 2


def test_a_still_picture_is_one_frame(tmp_path):
    shades(1)[0].save(tmp_path / "still.jpg")
    assert numbers(frames(tmp_path / "still.jpg")) == [0]
    assert numbers(frames(shades(2)[1])) == [1]


def test_a_list_may_hold_images_of_every_kind(tmp_path):
    path = tmp_path / "one.png"
    shades(6)[5].save(path)
    assert numbers(frames([path, shades(3)[2], np.full((9, 9), 40, np.uint8)])) == [5, 2, 4]


def test_only_the_chosen_frames_are_opened():
    broken = "no such file.png"
    assert numbers(frames([broken, shades(2)[1], broken], count=1)) == [1]
    with pytest.raises(AttnLensError, match="no such file"):
        frames([broken, shades(2)[1], broken], count=2)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9])
def test_a_file_that_ends_early_gives_what_is_whole_or_says_so(tmp_path, kind, part):
    random = np.random.default_rng(0)
    noise = [Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(6)]
    path = tmp_path / f"cut.{kind}"
    noise[0].save(path, save_all=True, append_images=noise[1:], **KINDS[kind])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    try:
        found = frames(path)
    except AttnLensError as error:
        assert re.search("opy .*it again|can open", str(error))  # noqa: PT017 - whether it raises depends on the kind
    else:
        assert kind == "gif"  # which states no number of frames, so that fewer are a film that is shorter
        assert len(found) < 6


def test_a_film_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(500))
    with pytest.raises(AttnLensError, match=r"film.mp4' is nothing that Pillow can open.*PyAV.*list of images"):
        frames(path)


def test_a_file_that_is_not_there_and_a_directory_are_named(tmp_path):
    with pytest.raises(AttnLensError, match="There is no file"):
        frames(tmp_path / "missing.gif")
    with pytest.raises(AttnLensError, match="is a directory"):
        frames(tmp_path)


@pytest.mark.parametrize(
    ("source", "count", "words"),
    [
        ([], 8, "source is empty"),
        (np.zeros((0, 4, 4, 3), np.uint8), 8, "source is empty"),
        (np.zeros((4, 4, 3), np.uint8), 8, r"shape \(4, 4, 3\); expected \[frames"),
        (7, 8, "cannot be made from 'int'"),
        (shades(2), 0, "count is 0"),
        (shades(2), 2.5, "count is 2.5"),
        (np.zeros((4, 3, 8, 8), np.uint8), 8, r"array.transpose\(1, 2, 0\)"),
    ],
    ids=str,
)
def test_sources_without_frames_are_refused(source, count, words):
    with pytest.raises(AttnLensError, match=words):
        frames(source, count)
