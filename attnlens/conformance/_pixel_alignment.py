"""Does each image token see the pixels that the adapter's grid says? Asked of the model itself, with a paintbrush.

One small patch is painted into an image, the real image processor and the model's own vision tower and connector run,
and the image tokens that change as they enter the language model are compared with the grid. In the vision tower every
token would see every patch; its self-attention is silenced meanwhile, so that a token depends on its own pixels alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attnlens.geometry import Box, Grid
from attnlens.lens import Lens
from attnlens.lens._layouts import Layout

QUESTION = "What is this?"
NOTICEABLE = 0.05
"""A token has changed when it moved by this part of the largest move: resizing and convolutions reach on a little."""
OFF = 0.45
"""Cells between a painted patch and its place on the canvas: a token may be centred off the middle of its pixels."""


def misplaced(lens: Lens, size: tuple[int, int]) -> tuple[list[str], int]:
    """What speaks against the grid of an image of `size` (width, height), and how many patches were painted."""
    blank = Image.new("RGB", size, (110, 120, 130))
    layout = lens.read(blank).layouts[0]
    wrong, painted, quiet = [], 0, True
    before = _tokens(lens, blank, quiet)
    for number, view in enumerate(layout.views):
        for row, col in _probes(view.grid):
            patch = _inner(view.grid.cell(row, col), size)
            image = _painted(blank, patch)
            moved = (_tokens(lens, image, quiet) - before).norm(dim=-1).numpy()
            if quiet and not moved.any():  # tokens that are made by attention, such as queries of an encoder
                quiet, before = False, _tokens(lens, blank, False)
                moved = (_tokens(lens, image, quiet) - before).norm(dim=-1).numpy()
            wrong += [
                f"cell ({row}, {col}) of view {number}: {said}" for said in _complaints(layout, moved, patch, number)
            ]
            painted += 1
    return wrong, painted


def off_canvas(lens: Lens, size: tuple[int, int]) -> tuple[list[str], int]:
    """What speaks against the canvas of an image of `size`, where pixel gradients lie, and how many were painted."""
    blank = Image.new("RGB", size, (110, 120, 130))
    reading = lens.read(blank)
    before, grid = reading.canvases()[0], reading.grids[0]
    wrong, cells = [], _probes(grid)
    for row, col in cells:
        after = lens.read(_painted(blank, _quarter(grid.cell(row, col), size))).canvases()[0]
        moved = np.abs(after - before).sum(axis=0)
        if moved.shape != before.shape[1:] or not moved.any():
            wrong.append(f"cell ({row}, {col}): nothing on the canvas changes")
            continue
        seen = [np.average(at, weights=moved) for at in np.mgrid[0 : moved.shape[0], 0 : moved.shape[1]] + 0.5]
        found = [place / side * count for place, side, count in zip(seen, moved.shape, grid.shape, strict=True)]
        if max(abs(found[0] - row - 0.25), abs(found[1] - col - 0.75)) > OFF:
            wrong.append(
                f"cell ({row}, {col}): the canvas changes at cell ({found[0] - 0.5:.1f}, {found[1] - 0.5:.1f})"
            )
    return wrong, len(cells)


def _painted(image: Image.Image, patch: Box) -> Image.Image:
    image = image.copy()
    image.paste((255, 20, 0), (int(patch.x1), int(patch.y1), int(patch.x2), int(patch.y2)))
    return image


def _complaints(layout: Layout, moved: Any, patch: Box, probed: int) -> Iterator[str]:
    """Whether in the view `probed` the token that moved most holds the patch, and those that moved lie around it."""
    centre = ((patch.x1 + patch.x2) / 2, (patch.y1 + patch.y2) / 2)
    start = 0
    for number, view in enumerate(layout.views):
        tokens = np.flatnonzero((layout.cells >= start) & (layout.cells < start + view.count))
        cells, start = layout.cells[tokens] - start, start + view.count
        most = moved[tokens].max()
        if number == probed and not most > 0:
            yield "no token changes"
        for cell, move in zip(cells, moved[tokens], strict=True):
            row, col = divmod(int(cell), view.grid.cols)
            moved_most = number == probed and move == most
            near = _around(view.grid, row, col, (layout.reach or 0) + (0 if moved_most else 1))
            seen = _holds(near, centre) if moved_most else _meet(near, patch)
            if move >= NOTICEABLE * most > 0 and not seen:
                yield f"token of cell ({row}, {col}) in view {number} changes"
    outside = moved[layout.cells < 0]
    if outside.size and outside.max() > NOTICEABLE * moved.max():
        yield "a token without a place changes"


def _probes(grid: Grid) -> list[tuple[int, int]]:
    """Cells wholly inside the image: near the corners, and the middle."""
    width, height = grid.image_size
    rows = [row for row in range(grid.rows) if grid.y[row, 0] >= 0 and grid.y[row, 1] <= height]
    cols = [col for col in range(grid.cols) if grid.x[col, 0] >= 0 and grid.x[col, 1] <= width]
    if not rows or not cols:
        return []
    pairs = [(0, 0), (0, -1), (-1, 0), (-1, -1), (len(rows) // 2, len(cols) // 2)]
    return sorted({(rows[row], cols[col]) for row, col in pairs})


def _inner(cell: Box, size: tuple[int, int]) -> Box:
    """The middle of a cell, in whole pixels, at least one of them."""
    x1, y1 = int(cell.x1 + cell.width * 0.25), int(cell.y1 + cell.height * 0.25)
    x2, y2 = max(x1 + 1, int(cell.x2 - cell.width * 0.25)), max(y1 + 1, int(cell.y2 - cell.height * 0.25))
    return Box(x1, y1, min(x2, size[0]), min(y2, size[1]))


def _quarter(cell: Box, size: tuple[int, int]) -> Box:
    """The upper right quarter of a cell: an order of values that turns a cell's pixels over moves it."""
    x1, y1 = int(cell.x1 + cell.width * 0.5), int(cell.y1)
    return Box(
        x1, y1, min(max(x1 + 1, int(cell.x2)), size[0]), min(max(y1 + 1, int(cell.y1 + cell.height * 0.5)), size[1])
    )


def _around(grid: Grid, row: int, col: int, margin: int) -> Box:
    rows = max(0, row - margin), min(grid.rows, row + 1 + margin)
    cols = max(0, col - margin), min(grid.cols, col + 1 + margin)
    return grid.span(rows[0], cols[0], rows[1], cols[1])


def _holds(box: Box, point: tuple[float, float]) -> bool:
    return box.x1 <= point[0] <= box.x2 and box.y1 <= point[1] <= box.y2


def _meet(box: Box, other: Box) -> bool:
    return box.x1 <= other.x2 and other.x1 <= box.x2 and box.y1 <= other.y2 and other.y1 <= box.y2


def _tokens(lens: Lens, image: Image.Image, quiet: bool) -> Tensor:
    """[tokens, width]: the image's tokens as they enter the language model, at its first layer and at later ones."""
    reading = lens.read(image)
    prompt = reading._prompt(QUESTION)
    positions = list(prompt.positions[0])
    entering: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not entering and isinstance(kwargs.get("inputs_embeds"), Tensor):
            entering.append(kwargs["inputs_embeds"][0, positions])
            later = (part for name, value in kwargs.items() if name.startswith("deepstack") for part in _tensors(value))
            entering.extend(
                part.reshape(-1, part.shape[-1]) for part in later if part[..., 0].numel() == len(positions)
            )

    language_model: Any = lens._host.structure.generator if lens._host.structure.attends_to == "encoder" else lens.model
    reader = (
        language_model.get_encoder() if lens._host.structure.attends_to == "encoder" else language_model.get_decoder()
    )
    with ExitStack() as stack, torch.no_grad():
        stack.callback(reader.register_forward_pre_hook(keep, with_kwargs=True).remove)
        if quiet:
            stack.enter_context(_silenced(lens))
        lens.model(**lens._host.inputs(prompt))
    return torch.cat(entering, dim=-1).float()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists and dicts of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)


@contextmanager
def _silenced(lens: Lens) -> Iterator[None]:
    """Self-attention outside the language model puts out zeros."""
    decoder = lens.model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    names = {id(module): type(module).__name__ for module in lens.model.modules() if id(module) not in inside}
    attention = [
        module
        for module in lens.model.modules()
        if "Attention" in names.get(id(module), "") and "Layer" not in names[id(module)]
    ]
    with ExitStack() as stack:
        for module in attention:
            stack.callback(module.register_forward_hook(_zeros, with_kwargs=True).remove)
        yield


def _zeros(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Zeros in place of what self-attention puts out; attention of queries to something else stays."""
    first = output[0] if isinstance(output, tuple) else output
    given = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.is_floating_point()]
    if not given or not isinstance(first, Tensor) or first.shape != given[0].shape:
        return output
    hidden, *others = given
    if any(
        one is not hidden and one.dim() == hidden.dim() >= 3 and one.shape[-1] == hidden.shape[-1] for one in others
    ):
        return output
    return (torch.zeros_like(first), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(first)
