"""Any resolution (LLaVA-NeXT): the image on one square, and on tiles whose padding is taken away again.

The image is fitted into the best of several sheets of tiles, its middle on the sheet's. Of the sheet's tokens the model
drops the rows or columns that are all padding, may scale the rest down, and ends each row with a newline. The square's
tokens come first in the prompt.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from attnlens._upstream import best_resolution, size_on_sheet, unpadded
from attnlens.adapters._grids import AnyresGrid
from attnlens.adapters._strict import resolve
from attnlens.errors import AttnLensError
from attnlens.geometry._grid import Spans
from attnlens.lens._layouts import families
from attnlens.lens._layouts.base import Layout, Processed, View
from attnlens.lens._layouts.canvas import Canvas, Size, format_size, steps
from attnlens.lens._layouts.stitching import Stitched, pictures
from attnlens.lens._layouts.tiles import Tokens, original

SCALED_FROM = 1.1
"""Llava-OneVision scales down where there are more than this times as many tokens on a side as its limit allows."""


def anyres(spec: AnyresGrid, image: Processed) -> Layout:
    """The tiles without their padding as the first view, the square as the second."""
    families.check(image.processor, spec.kind)
    count, side = pictures(image, "pixel_values")
    _check_side(image, side)
    rows, cols = _sheet(image, count, side)
    tokens = Tokens.of(spec, image)
    used = tokens.used(side)
    square = View(tokens.grid(Canvas.of(image.size).resized(side), 1, 1), Stitched(0, 1, 1, used))
    x, y = tokens.spans(side[0], cols), tokens.spans(side[1], rows)
    down, across = _unpadded(len(y), len(x), image.size)
    base = np.arange(square.count)
    if not down or not across:  # a strip too thin for a token: of its rows only the newlines are left
        return Layout((square,), np.concatenate([base, np.full(len(down), -1)]), reach=_reach(image, spec))
    window = (_pixels(down, used[1] * rows, len(y)), _pixels(across, used[0] * cols, len(x)))
    each = len(x) // cols
    height, width = _scaled(len(down), len(across), each, resolve(spec.most, image.config))
    x, y = _resampled(x[across.start : across.stop], width), _resampled(y[down.start : down.stop], height)
    grid = original(_fitted(image.size, (cols * side[0], rows * side[1])), x, y)
    lines = np.pad(np.arange(height * width).reshape(height, width), ((0, 0), (0, 1)), constant_values=-1)
    views = (View(grid, Stitched(1, rows, cols, used, window)), square)
    return Layout(views, np.concatenate([base + height * width, lines.ravel()]), reach=_reach(image, spec))


def _reach(image: Processed, spec: AnyresGrid) -> int:
    """With "4/8", 4 x 4 queries look at a window of 8 x 8 patches together (Granite 4 Vision)."""
    merge = resolve(spec.merge, image.config)
    return int(merge.split("/")[0]) - 1 if isinstance(merge, str) and "/" in merge else 0


def _check_side(image: Processed, side: Size) -> None:
    """The processor cuts tiles of its crop_size, and resizes them to its size; the model counts by its image_size."""
    own = image.processor
    known = [own.size, *([own.crop_size] if "do_center_crop" in steps(own) else [])]
    sides = {value for given in known for value in dict(given).values() if value is not None}
    sides.add(image.config.vision_config.image_size)
    if sides != set(side):
        raise AttnLensError(
            f"pixel_values hold tiles of {format_size(side)} px, and size and crop_size in {type(own).__name__} and "
            f"image_size in the model's vision_config say {', '.join(map(str, sorted(sides)))}. Make them equal."
        )


def _sheet(image: Processed, count: int, side: Size) -> tuple[int, int]:
    """(rows, cols) of tiles, by the image processor's choice of a sheet and by the model's."""
    found = []
    for name, owner in (("the image processor", image.processor), ("the model's config", image.config)):
        height, width = best_resolution(image.size[::-1], owner.image_grid_pinpoints)
        found.append((height // side[1], width // side[0]))
        if found[-1][0] * found[-1][1] + 1 != count:
            raise AttnLensError(
                f"By the image_grid_pinpoints of {name} an image of {format_size(image.size)} px becomes "
                f"{found[-1][0]} rows x {found[-1][1]} cols of tiles and a square, but pixel_values hold {count} "
                "picture(s). Give the same image_grid_pinpoints to both, and one image at a time to the image "
                "processor."
            )
    return found[0]


def _fitted(image_size: Size, sheet: Size) -> Canvas:
    """Resized to fit `sheet` without distortion, and padded on both sides."""
    height, width = size_on_sheet(image_size[::-1], sheet[::-1])
    fitted = Canvas.of(image_size).resized((width, height))
    return fitted.moved(sheet, (sheet[0] - width) // 2, (sheet[1] - height) // 2)


def _unpadded(rows: int, cols: int, image_size: Size) -> tuple[range, range]:
    """The rows and columns of tokens that the model keeps; of a thin strip, rows without a column or none at all."""
    kept = unpadded(np.arange(rows * cols).reshape(1, rows, cols), image_size[::-1])[0]
    down, across = (int(count) for count in kept.shape)
    top, left = divmod(int(kept.flat[0]), cols) if kept.size else (0, 0)
    return range(top, top + down), range(left, left + across)


def _scaled(rows: int, cols: int, each: int, most: str | None) -> tuple[int, int]:
    """(rows, cols) of tokens when there may be about as many as `most` tiles of each x each have."""
    if most is None:
        return rows, cols
    limit = str(most).removeprefix("anyres_max_")
    if not limit.isdigit() or not int(limit):
        raise AttnLensError(f"The grid's most is {most!r}; expected 'anyres_max_' and a number of tiles.")
    ratio = sqrt(rows * cols / (int(limit) * each**2))
    return (int(rows // ratio), int(cols // ratio)) if ratio > SCALED_FROM else (rows, cols)


def _resampled(spans: Spans, count: int) -> Spans:
    """`spans` divided anew into `count` equal shares, which begin and end within the old ones."""
    if count == len(spans):
        return spans
    length, edges = spans[:, 1] - spans[:, 0], np.arange(count + 1) * len(spans)
    first, last = edges[:-1] // count, (edges[1:] - 1) // count
    starts = spans[first, 0] + (edges[:-1] / count - first) * length[first]
    return np.stack([starts, spans[last, 0] + (edges[1:] / count - last) * length[last]], axis=1)


def _pixels(kept: range, pixels: int, tokens: int) -> slice:
    """The pixels of an axis that `kept` tokens of all its `tokens` stand for; to the nearest pixel."""
    return slice(round(kept.start * pixels / tokens), round(kept.stop * pixels / tokens))
