"""Claims about the pictures: what stands where, and that no image and no text is too odd to draw."""

import numpy as np
import pytest
from PIL import Image

from attnlens import Box, Grid, ImportanceMap, show
from attnlens.errors import AttnLensError
from attnlens.show._drawing import CROP, RIGHT, THINNEST, TRUTH, WRONG, fitted, marked, text_width, wrapped
from attnlens.show._figures import LEAST_WIDTH, MARGIN

GREY = (90, 90, 90)


def scene(width: int = 400, height: int = 400) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def a_map(size: tuple[int, int] = (400, 400), rows: int = 4, cols: int = 4) -> ImportanceMap:
    values = np.arange(rows * cols, dtype=np.float32).reshape(rows, cols)
    return ImportanceMap(values, Grid.regular(rows, cols, size))


def where(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """(x1, y1, x2, y2), half-open, around all pixels of that colour."""
    ys, xs = np.nonzero((np.asarray(picture.convert("RGB")) == colour).all(axis=-1))
    return (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) if len(xs) else None


@pytest.mark.parametrize("scale", [1, 2, 0.5])
@pytest.mark.parametrize("colour", [CROP, TRUTH], ids=["crop", "truth"])
def test_a_box_s_line_lies_just_outside_the_box_at_every_display_size(scale, colour):
    box = (100, 40, 220, 300)
    picture = scene().resize((round(400 * scale), round(400 * scale)))
    drawn = marked(picture, (400, 400), [box] if colour == CROP else [], box if colour == TRUTH else None)
    x1, y1, x2, y2 = (round(edge * scale) for edge in box)
    assert where(drawn, colour) == (x1 - 3, y1 - 3, x2 + 3, y2 + 3)
    inside = drawn.crop((x1 + 1, y1 + 1, x2 - 1, y2 - 1))
    assert inside.getcolors() == [(inside.width * inside.height, GREY)]


def test_a_box_as_large_as_the_image_is_still_seen():
    assert where(marked(scene(), (400, 400), [(0, 0, 400, 400)]), CROP) == (0, 0, 400, 400)


def test_a_box_smaller_than_a_display_pixel_is_still_seen():
    drawn = marked(scene(100, 100), (10_000, 10_000), [(5_000, 5_000, 5_010, 5_010)], (9_999, 9_999, 10_000, 10_000))
    assert where(drawn, CROP) is not None
    assert where(drawn, TRUTH) is not None


def test_drawing_boxes_leaves_the_picture_as_it_was():
    picture = scene()
    marked(picture, picture.size, [(10, 10, 50, 50)])
    assert picture.getcolors() == [(160_000, GREY)]


def test_the_answer_figure_shows_scene_map_and_crop_over_question_and_answers():
    image = scene()
    image.paste((255, 255, 0), (120, 320, 145, 345))
    box = Box(100, 300, 180, 380)
    figure = show.answer_figure(image, a_map(), [box], "What is written on the yellow sign?", "7", "8")
    assert figure.mode == "RGB"
    assert figure.width > 3 * 400
    assert 500 < figure.height < 900
    # The crop's panel is the third: the sign is a yellow square there, 25 of the crop's 80 pixels wide.
    third = figure.crop((figure.width * 2 // 3, 0, figure.width, figure.height))
    x1, y1, x2, y2 = where(third, (255, 255, 0))
    assert x2 - x1 == pytest.approx(480 * 25 / 80, abs=12)
    assert y2 - y1 == pytest.approx(480 * 25 / 80, abs=12)


def test_the_first_panel_starts_at_the_margin_and_is_the_enlarged_image():
    figure = show.answer_figure(scene(40, 40), None, [], "Why?", "because", "because")
    x1, _, x2, _ = where(figure, GREY)
    assert (x1, x2) == (MARGIN, MARGIN + 480)


def test_answers_are_marked_only_when_the_expected_one_is_known():
    marks = [
        where(show.answer_figure(scene(), None, [Box(0, 0, 9, 9)], "?", "7", "8", expected), colour) is not None
        for expected in (None, "8")
        for colour in (RIGHT, WRONG)
    ]
    assert marks == [False, False, True, True]


def test_a_different_answer_gives_a_different_picture():
    first, second = (show.answer_figure(scene(), a_map(), [Box(0, 0, 99, 99)], "?", "7", end) for end in ("8", "9"))
    assert first.size == second.size
    assert first.tobytes() != second.tobytes()


def test_without_map_and_boxes_their_panels_are_left_out():
    whole = show.answer_figure(scene(), a_map(), [Box(0, 0, 80, 80)], "?", "a", "b")
    less = show.answer_figure(scene(), a_map(), [], "?", "a", "a")
    least = show.answer_figure(scene(), None, [], "?", "a", "a")
    assert whole.width > less.width > least.width == LEAST_WIDTH + 2 * MARGIN


def test_the_true_box_is_drawn_in_its_own_colour():
    figure = show.answer_figure(scene(), a_map(), [Box(0, 0, 80, 80)], "?", "a", "b", true_box=(200, 200, 240, 240))
    assert where(figure, TRUTH) is not None
    assert where(show.answer_figure(scene(), a_map(), [Box(0, 0, 80, 80)], "?", "a", "b"), TRUTH) is None


@pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (20, 20_000), (3, 1_000), (2_500, 1_800)], ids=str)
def test_every_size_of_image_gives_a_figure_of_reasonable_size(size):
    importance = a_map(size, 3, 5)
    box = Box(0, 0, max(1, size[0] // 2), max(1, size[1] // 2))
    figures = [
        show.answer_figure(scene(*size), importance, [box], "Where?", "here", "there", "there", true_box=box),
        show.maps_figure(scene(*size), {"rel-att": importance}),
        show.layers_strip(scene(*size), [("layer 0", importance)]),
    ]
    for figure in figures:
        assert figure.width < 2_000
        assert figure.height < 1_200


@pytest.mark.parametrize("count", [2, 3, 4, 9])
def test_several_boxes_give_several_crops(count):
    boxes = [Box(40 * n, 40 * n, 40 * n + 30, 40 * n + 60) for n in range(count)]
    assert show.answer_figure(scene(), a_map(), boxes, "?", "a", "b").width < 1_600


def test_maps_that_cannot_be_scaled_are_drawn_too():
    grid = Grid.regular(2, 2, (400, 400))
    flat, broken = ImportanceMap(np.zeros((2, 2)), grid), ImportanceMap([[np.nan, np.inf], [0, 1]], grid)
    assert show.maps_figure(scene(), {"flat": flat, "broken": broken}).width > 3 * 300


def test_maps_stand_side_by_side_behind_the_image():
    one = show.maps_figure(scene(), {"a": a_map()})
    three = show.maps_figure(scene(), {"a": a_map(), "b": a_map(), "c": a_map()})
    assert three.height == one.height
    assert three.width - one.width == 2 * (360 + 20)


def test_the_hottest_cell_is_drawn_where_its_pixels_are():
    values = np.zeros((4, 4))
    values[3, 0] = 1
    figure = show.maps_figure(scene(), {"m": ImportanceMap(values, Grid.regular(4, 4, (400, 400)))})
    _, top, _, bottom = where(figure, GREY)
    panel = np.asarray(figure, dtype=float)[top:bottom, MARGIN + 360 + 20 : MARGIN + 2 * 360 + 20].sum(axis=-1)
    y, x = np.unravel_index(panel.argmax(), panel.shape)
    assert y > 270
    assert x < 90


def test_a_strip_of_many_layers_is_a_contact_sheet():
    strip = show.layers_strip(scene(), [(f"layer {n}", a_map()) for n in range(32)])
    assert strip.width < 1_400
    assert strip.height > 5 * 200


def test_nothing_to_draw_is_an_error():
    with pytest.raises(AttnLensError, match="at least one"):
        show.maps_figure(scene(), {})
    with pytest.raises(AttnLensError, match="at least one"):
        show.layers_strip(scene(), [])


def test_arrays_and_paths_are_drawn_as_images(tmp_path):
    scene().save(tmp_path / "scene.png")
    from_path = show.maps_figure(tmp_path / "scene.png", {"m": a_map()})
    from_array = show.maps_figure(np.asarray(scene()), {"m": a_map()})
    assert from_path.tobytes() == from_array.tobytes()


TEXTS = [
    "",
    " ",
    "word " * 400,
    "x" * 5_000,
    "Was steht auf dem Schild?",
    "这是什么？",
    "a\nb\tc",
    "\x00\u202e\U0001f600",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_fits_its_place(text):
    lines = wrapped(text, 22, 300, most_lines=3)
    assert 1 <= len(lines) <= 3
    assert all(text_width(line, 22) <= 300 for line in lines)
    show.answer_figure(scene(), None, [Box(0, 0, 9, 9)], text, text, text, text)


def test_text_that_fits_is_kept_whole_and_what_does_not_ends_in_dots():
    text = "What is written on the red sign beside the door?"
    assert " ".join(wrapped(text, 22, 200, most_lines=9)) == text
    assert wrapped(text, 22, 200, most_lines=2)[-1].endswith("...")


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (20_000, 20), (400, 401)], ids=str)
def test_display_sizes_keep_proportions_within_limit_and_legibility(size):
    width, height = fitted(size, (480, 480))
    assert max(width, height) == 480
    assert min(width, height) >= THINNEST
    if min(width, height) > THINNEST:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.02)
