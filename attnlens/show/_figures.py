"""The figures: an answer with what led to it, maps side by side, the layers of a model as a contact sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from attnlens._images import crop, open_image
from attnlens.errors import AttnLensError
from attnlens.geometry import Box
from attnlens.importance import ImportanceMap
from attnlens.show._drawing import (
    CARD,
    CROP,
    INK,
    LINE,
    MUTED,
    PAPER,
    TRUTH,
    check_mark,
    displayed,
    fitted,
    font,
    line_height,
    marked,
    overlaid,
    shortened,
    text_width,
    wrapped,
)

MARGIN, GAP = 28, 20
PANEL = (480, 480)
"""Display pixels: the most that one panel takes."""
LEAST_WIDTH = 760
"""Display pixels: no answer figure is narrower, so that its text has room."""
TITLE, BODY, LARGE = 16, 22, 30
MOST_CROPS = 4


@dataclass(frozen=True)
class _Panel:
    """A picture with a title over it, and swatches (name, colour) that explain its lines."""

    title: str
    picture: Image.Image
    swatches: tuple[tuple[str, tuple[int, int, int]], ...] = ()


def answer_figure(
    image: Any,
    importance: ImportanceMap | None,
    boxes: Sequence[Box],
    question: str,
    first_answer: str,
    answer: str,
    expected: str | None = None,
    true_box: Sequence[float] | None = None,
) -> Image.Image:
    """The image, the map over it and the crop, side by side; under them the question and both answers. RGB.

    Args:
        image: the image asked about: a path, a PIL image or an array.
        importance: the map of that image; None leaves its panel out.
        boxes: the crops, each (x1, y1, x2, y2), half-open, in pixels of the original image. All are drawn around; the
            first four are shown. Where there is none, their panel and the second answer are left out.
        question: what was asked.
        first_answer: the answer to the image alone.
        answer: the answer with the crop.
        expected: the right answer: each answer is marked right where it is the same, spaces around it aside, and wrong
            elsewhere. None marks nothing.
        true_box: where the answer really is, (x1, y1, x2, y2) in pixels of the original image, drawn dashed; None draws
            nothing.

    Returns:
        The figure, which `attnlens.show.save` writes to a file.

    Raises:
        AttnLensError: for an image that cannot be opened, and for a crop that is malformed or lies outside the image.

    Examples:
        >>> result = attnlens.ask(lens, image, question)
        >>> figure = attnlens.show.answer_figure(
        ...     image, result.importance, result.boxes, question, result.first_answer, result.answer
        ... )
        >>> figure.mode, figure.size
        ('RGB', (1536, 722))
    """
    scene = open_image(image)
    panels = _answer_panels(scene, importance, boxes, true_box)
    top = _row(panels)
    width = max(LEAST_WIDTH, top.width)
    parts = [top, _question(question, width), _answers(first_answer, answer if boxes else None, expected, width)]
    return _stacked(parts, width)


def maps_figure(image: Any, maps: Mapping[str, ImportanceMap]) -> Image.Image:
    """The image and each map over it, side by side, each under its name. RGB.

    Args:
        image: the image that the maps are of: a path, a PIL image or an array.
        maps: the maps by the names that stand over them, in order; four pictures are a row.

    Returns:
        The figure. A picture in it has at most 360 x 360 pixels.

    Raises:
        AttnLensError: where there is no map, and for an image that cannot be opened.

    Examples:
        >>> importance = maps.relative_attention(reading, question)
        >>> attnlens.show.maps_figure(image, {"rel-att": importance}).size
        (796, 444)
    """
    if not maps:
        raise AttnLensError("There is no map to draw. Give at least one: {'rel-att': importance}.")
    scene = open_image(image)
    size = fitted(scene.size, (360, 360))
    panels = [_Panel("the image", displayed(scene, size))]
    panels += [_Panel(name, overlaid(scene, importance, size)) for name, importance in maps.items()]
    return _sheet(panels, columns=4)


def layers_strip(image: Any, maps: Sequence[tuple[str, ImportanceMap]]) -> Image.Image:
    """A contact sheet: the map of each layer over the image, small, under its title, in reading order. RGB.

    Args:
        image: the image that the maps are of: a path, a PIL image or an array.
        maps: pairs of a title and a map. Up to twelve are laid out four in a row, more of them six in a row.

    Returns:
        The figure. A picture in it has at most 200 x 200 pixels.

    Raises:
        AttnLensError: where there is no map, and for an image that cannot be opened.

    Examples:
        >>> layers = [(f"layer {n}", maps.relative_attention(reading, question, n)) for n in lens.layers]
        >>> attnlens.show.layers_strip(image, layers).size
        (916, 284)
    """
    if not maps:
        raise AttnLensError("There is no layer to draw. Give at least one: [('layer 0', importance)].")
    scene = open_image(image)
    size = fitted(scene.size, (200, 200))
    panels = [_Panel(title, overlaid(scene, importance, size)) for title, importance in maps]
    return _sheet(panels, columns=6 if len(panels) > 12 else min(4, len(panels)))


def look_figure(
    image: Any, maps: Mapping[str, ImportanceMap], layers: Sequence[tuple[str, ImportanceMap]]
) -> Image.Image:
    """`maps_figure` with `layers_strip` under it. RGB.

    Args:
        image: the image that the maps are of: a path, a PIL image or an array.
        maps: the maps above, by their names, as in `maps_figure`.
        layers: the maps below, pairs of a title and a map, as in `layers_strip`.

    Returns:
        The figure.

    Raises:
        AttnLensError: where there is no map or no layer, and for an image that cannot be opened.

    Examples:
        >>> importance = maps.relative_attention(reading, question)
        >>> attnlens.show.look_figure(image, {"rel-att": importance}, [("layer 0", importance)]).size
        (796, 700)
    """
    above, below = maps_figure(image, maps), layers_strip(image, layers)
    figure = Image.new("RGB", (max(above.width, below.width), above.height + below.height - MARGIN), PAPER)
    figure.paste(above, (0, 0))
    figure.paste(below, (0, above.height - MARGIN))
    return figure


def _answer_panels(
    scene: Image.Image,
    importance: ImportanceMap | None,
    boxes: Sequence[Sequence[float]],
    true_box: Sequence[float] | None,
) -> list[_Panel]:
    size = fitted(scene.size, PANEL)
    swatches = ((("crop", CROP),) if boxes else ()) + ((("the answer is here", TRUTH),) if true_box is not None else ())
    picture = displayed(scene, size)
    panels = [_Panel("the image", marked(picture, scene.size, boxes, true_box), swatches)]
    if importance is not None:
        panels.append(_Panel("where the model looks", marked(overlaid(scene, importance, size), scene.size, boxes)))
    if boxes:
        title = "the crop" if len(boxes) == 1 else "the crops"
        panels.append(_Panel(title, _crops(scene, boxes[:MOST_CROPS], max(240, size[1]))))
    return panels


def _crops(scene: Image.Image, boxes: Sequence[Sequence[float]], height: int) -> Image.Image:
    """The crops, enlarged, in a square arrangement of at most that height in display pixels."""
    side = math.ceil(math.sqrt(len(boxes)))
    cell = ((PANEL[0] - 4 * (side - 1)) // side, (height - 4 * (side - 1)) // side)
    pieces = [crop(scene, Box(*box)) for box in boxes]
    shown = [displayed(piece, fitted(piece.size, cell)) for piece in pieces]
    if len(shown) == 1:
        return shown[0]
    rows = math.ceil(len(shown) / side)
    sheet = Image.new("RGB", (side * cell[0] + 4 * (side - 1), rows * cell[1] + 4 * (rows - 1)), PAPER)
    for index, picture in enumerate(shown):
        x, y = (index % side) * (cell[0] + 4), (index // side) * (cell[1] + 4)
        sheet.paste(picture, (x + (cell[0] - picture.width) // 2, y + (cell[1] - picture.height) // 2))
    return sheet


def _row(panels: Sequence[_Panel]) -> Image.Image:
    """Panels side by side, their pictures centred on one line, each under its title."""
    head = line_height(TITLE) + 6
    tall = max(panel.picture.height for panel in panels)
    widths = [max(panel.picture.width, min(200, PANEL[0])) for panel in panels]
    row = Image.new("RGB", (sum(widths) + GAP * (len(panels) - 1), head + tall), PAPER)
    draw = ImageDraw.Draw(row)
    x = 0
    for panel, width in zip(panels, widths, strict=True):
        taken = _swatches(draw, panel.swatches, x + width)
        draw.text((x, 0), shortened(panel.title, TITLE, width - taken), fill=MUTED, font=font(TITLE))
        left, top = x + (width - panel.picture.width) // 2, head + (tall - panel.picture.height) // 2
        row.paste(panel.picture, (left, top))
        x += width + GAP
    return row


def _swatches(draw: ImageDraw.ImageDraw, swatches: Sequence[tuple[str, tuple[int, int, int]]], right: int) -> int:
    """Draws them to the left of `right`; the width they take, in display pixels."""
    x = right
    for name, colour in reversed(swatches):
        x -= math.ceil(text_width(name, TITLE))
        draw.text((x, 0), name, fill=MUTED, font=font(TITLE))
        x -= 20
        draw.rectangle((x, 4, x + 13, 15), outline=colour, width=3)
        x -= 14
    return right - x


def _question(question: str, width: int) -> Image.Image:
    lines = wrapped(question, BODY, width, most_lines=3)
    picture = Image.new("RGB", (width, len(lines) * line_height(BODY)), PAPER)
    draw = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        draw.text((0, index * line_height(BODY)), line, fill=INK, font=font(BODY))
    return picture


def _answers(first: str, second: str | None, expected: str | None, width: int) -> Image.Image:
    """Two cards, or one where nothing was cropped."""
    titles = [("first answer, from the image alone", first)]
    if second is not None:
        titles.append(("answer with the crop", second))
    card = (width - GAP * (len(titles) - 1)) // len(titles)
    texts = [wrapped(text or "(no words)", LARGE, card - 2 * 18 - 34, most_lines=4) for _, text in titles]
    height = 14 + line_height(TITLE) + max(map(len, texts)) * line_height(LARGE) + 12
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    for index, ((title, text), lines) in enumerate(zip(titles, texts, strict=True)):
        x = index * (card + GAP)
        draw.rounded_rectangle((x, 0, x + card - 1, height - 1), radius=10, fill=CARD, outline=LINE)
        draw.text((x + 18, 12), shortened(title, TITLE, card - 36), fill=MUTED, font=font(TITLE))
        y = 14 + line_height(TITLE)
        for number, line in enumerate(lines):
            draw.text((x + 18, y + number * line_height(LARGE)), line, fill=INK, font=font(LARGE))
        if expected is not None:
            check_mark(picture, (x + card - 32, height // 2), right=text.strip() == expected.strip())
    return picture


def _stacked(parts: Sequence[Image.Image], width: int) -> Image.Image:
    """The parts under each other, at the left, with a margin around."""
    height = sum(part.height for part in parts) + GAP * (len(parts) - 1)
    figure = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    y = MARGIN
    for part in parts:
        figure.paste(part, (MARGIN, y))
        y += part.height + GAP
    return figure


def _sheet(panels: Sequence[_Panel], columns: int) -> Image.Image:
    """Rows of so many panels."""
    rows = [_row(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    return _stacked(rows, max(row.width for row in rows))
