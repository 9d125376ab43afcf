"""Canvases and outlines against loops over every pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attnlens import AttnLensError, Box
from attnlens._images import crop
from attnlens.montage import compact, outline


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@st.composite
def pictures_and_boxes(draw, most=4):
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    boxes = []
    for _ in range(draw(st.integers(1, most))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append(Box(x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))))
    return noise(width, height, draw(st.integers(0, 99))), boxes


def inside(x, y, box):
    return box[0] <= x < box[2] and box[1] <= y < box[3]


@given(pictures_and_boxes())
def test_the_canvas_has_the_rows_and_columns_that_boxes_touch_and_is_blank_between_them(picture):
    image, boxes = picture
    expected = [
        [
            image.getpixel((x, y)) if any(inside(x, y, box) for box in boxes) else (1, 2, 3)
            for x in range(image.width)
            if any(box.x1 <= x < box.x2 for box in boxes)
        ]
        for y in range(image.height)
        if any(box.y1 <= y < box.y2 for box in boxes)
    ]
    assert np.asarray(compact(image, boxes, fill=(1, 2, 3))).tolist() == [[list(p) for p in row] for row in expected]


@given(pictures_and_boxes(most=1))
def test_the_canvas_of_one_box_is_its_crop(picture):
    image, boxes = picture
    assert compact(image, boxes).tobytes() == crop(image, boxes[0]).tobytes()


def test_far_regions_come_close_and_keep_their_order():
    image = Image.new("RGB", (1000, 800))
    image.paste("red", (900, 10, 950, 40))
    image.paste("blue", (20, 700, 120, 800))
    canvas = compact(image, [(900, 10, 950, 40), (20, 700, 120, 800)], fill="white")
    assert canvas.size == (150, 130)
    assert [canvas.getpixel(at) for at in ((149, 0), (0, 129), (0, 0), (149, 129))] == [
        (255, 0, 0),
        (0, 0, 255),
        (255, 255, 255),
        (255, 255, 255),
    ]


def test_what_is_blank_has_the_mean_colour_of_the_image():
    image = noise(30, 20)
    canvas = compact(image, [(0, 0, 5, 5), (20, 10, 30, 20)])
    mean = np.asarray(image).reshape(-1, 3).astype(float).mean(axis=0)
    assert canvas.getpixel((14, 0)) == pytest.approx(mean, abs=0.51)


def outline_by_pixel(image, boxes, colour, line):
    """A pixel has the line's colour where it is within `line` of the box and outside it, or at the image's edge."""
    pixels = np.asarray(image).copy()
    width, height = image.size
    for x1, y1, x2, y2 in boxes:
        left, top = max(x1 - line, 0), max(y1 - line, 0)
        right, bottom = min(x2 + line, width), min(y2 + line, height)
        for y in range(top, bottom):
            for x in range(left, right):
                near = min(x - left, y - top, right - 1 - x, bottom - 1 - y)
                if near < line:
                    pixels[y, x] = colour
    return pixels


@given(pictures_and_boxes())
def test_an_outline_is_drawn_around_each_box(picture):
    image, boxes = picture
    assert (np.asarray(outline(image, boxes)) == outline_by_pixel(image, boxes, (255, 0, 0), 1)).all()


@pytest.mark.parametrize(("size", "line"), [((100, 90), 1), ((450, 2000), 3), ((3000, 1500), 10)])
def test_the_line_is_a_150th_of_the_shorter_side(size, line):
    box = (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2)
    expected = outline_by_pixel(Image.new("RGB", size), [box], (0, 0, 255), line)
    assert (np.asarray(outline(Image.new("RGB", size), [box], "blue")) == expected).all()


def test_an_outline_hides_nothing_of_a_box_inside_the_image_and_closes_at_its_edge():
    image = noise(600, 600)
    box = Box(200, 100, 300, 250)
    assert crop(outline(image, [box]), box).tobytes() == crop(image, box).tobytes()
    edge = np.asarray(outline(image, [Box(500, 0, 600, 100)]))
    assert (edge[:4, 496:600] == (255, 0, 0)).all()
    assert (edge[:104, 596:] == (255, 0, 0)).all()


def test_a_rim_lies_around_the_line():
    drawn = np.asarray(outline(Image.new("RGB", (50, 50), "white"), [(20, 20, 30, 30)], "red", rim="black"))
    assert drawn[25, 17:21].tolist() == [[255] * 3, [0] * 3, [255, 0, 0], [255] * 3]


def test_the_image_itself_stays_as_it_is():
    image = noise(40, 30)
    before = image.tobytes()
    outline(image, [(3, 3, 20, 20)])
    compact(image, [(3, 3, 20, 20)])
    assert image.tobytes() == before


def test_boxes_are_clipped_and_rounded_to_whole_pixels():
    image = noise(40, 30)
    assert compact(image, [(-5, -5, 10.4, 9.6)]).tobytes() == image.crop((0, 0, 10, 10)).tobytes()


@pytest.mark.parametrize("draw", [compact, outline])
def test_boxes_that_are_none_are_refused(draw):
    with pytest.raises(AttnLensError, match="outside the image"):
        draw(noise(40, 30), [(50, 50, 60, 60)])
    with pytest.raises(AttnLensError, match="empty or out of order"):
        draw(noise(40, 30), [(20, 20, 10, 10)])


def test_no_box_gives_no_canvas_and_no_outline():
    with pytest.raises(AttnLensError, match="no box to put into a montage"):
        compact(noise(40, 30), [])
    assert outline(noise(40, 30), []).tobytes() == noise(40, 30).tobytes()


@pytest.mark.parametrize("colour", ["reddish", (1, 2), 7, (1, "2", 3), (300, 0, 0)])
def test_a_colour_that_is_none_is_refused(colour):
    with pytest.raises(AttnLensError, match="The colour is"):
        outline(noise(40, 30), [(3, 3, 9, 9)], colour)
    with pytest.raises(AttnLensError, match="The colour is"):
        compact(noise(40, 30), [(3, 3, 9, 9)], colour)
