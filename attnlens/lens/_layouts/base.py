"""Where an image's tokens lie: views of the image, and the cell of a view that each token stands for.

A model sees an image as one or several *views*: the whole image on one canvas, a canvas of tiles, a thumbnail. Each
view has a grid of cells in the original image. A layout says, for each image token in the order of the prompt (or for
each key that a connector or a cross-attention layer looks at), which cell it is, or that it has no place: a CLS token,
a newline at the end of a row, padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnlens._renamed import Renamed
from attnlens._storage import Valued
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid
from attnlens.geometry._grid import overlaps

Array = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Processed:
    """One image, and what the image processor made of it when it was given that image alone."""

    size: tuple[int, int]
    """(width, height) of the original image, in pixels."""
    features: Mapping[str, Any]
    """The image processor's output: tensors, with a leading axis of one image (or one prompt) as it gives them."""
    processor: Any
    """The image processor."""
    config: Any
    """The model's config."""

    def array(self, key: str) -> NDArray[Any]:
        """A feature as an array; AttnLensError where the processor gives none of that name."""
        if key not in self.features:
            raise AttnLensError(
                f"The adapter's grid reads {key!r}, but {type(self.processor).__name__} gave "
                f"{', '.join(self.features)}. Correct the key in the adapter's grid."
            )
        value = self.features[key]
        return np.asarray(value.detach().float().cpu() if hasattr(value, "detach") else value)


@dataclass(frozen=True, eq=False)
class View(Valued):
    """A rectangle of cells that the model saw as one picture.

    Examples:
        >>> view = reading.layouts[0].views[0]
        >>> view.grid.shape, view.count
        ((10, 10), 100)
    """

    grid: Grid
    """Where the cells lie in the original image."""
    pixels: Callable[[Array], Array] | None = None
    """From one image's pixel input to this view's canvas: float32 [copies, channels, height, width], where copies are
    the places to which the processor wrote the same pixel. None where that is not known."""
    key: str | None = None
    """The image processor's output that holds these pixels, where it is not the adapter's prompt.pixels."""

    @property
    def count(self) -> int:
        """How many cells the view has."""
        return self.grid.rows * self.grid.cols


@dataclass(frozen=True, eq=False)
class Layout(Valued):
    """An image's tokens (or connector keys), and the cells they stand for.

    Examples:
        >>> layout = reading.layouts[0]
        >>> layout.tokens, layout.grid.shape, layout.cells[:3].tolist()
        (100, (10, 10), [0, 1, 2])
    """

    views: tuple[View, ...]
    """Maps are drawn on the first."""
    cells: Numbers
    """[tokens]: for each token its cell, counted through all views, one after another, each row by row; -1: no place.
    Several tokens may share a cell."""
    queries: int | None = None
    """Behind a connector with attention, whose keys `cells` are: the number of the image's tokens in the prompt."""
    tiles: int = 1
    """How many pictures the connector sees, each with an equal share of `cells` and `queries`."""
    reach: int | None = 0
    """How many cells around its own a token sees as well as its own, as one of the queries of a window does; None: all
    of them, where convolutions carry pixels far."""
    pictures: tuple[int, ...] = ()
    """Where the processor sets an image's pictures apart in the prompt by markers: the tokens of each, in order."""

    @property
    def tokens(self) -> int:
        """The image's tokens in the prompt."""
        return len(self.cells) if self.queries is None else self.queries

    @classmethod
    def of(cls, *views: View) -> Layout:
        """A layout in which every cell of every view is a token, in order.

        Args:
            *views: the views, the one on which maps are drawn first.

        Returns:
            The layout, whose tokens are the cells of one view after another, each row by row.

        Examples:
            >>> Layout.of(View(Grid.regular(2, 3, (30, 20)))).cells.tolist()
            [0, 1, 2, 3, 4, 5]
        """
        return cls(views, np.arange(sum(view.count for view in views)))

    @property
    def grid(self) -> Grid:
        """The grid of the first view, on which maps are drawn."""
        return self.views[0].grid

    @property
    def plain(self) -> Layout:
        """The same as data alone: without the functions that read a view's pixels."""
        return replace(self, views=tuple(replace(view, pixels=None) for view in self.views))

    if not TYPE_CHECKING:  # the word of 0.1.0
        placed = Renamed("with_cells")

    @property
    def with_cells(self) -> Layout:
        """The same without the tokens that have no place."""
        return replace(self, cells=self.cells[self.cells >= 0])

    def on_grid(self, values: Array) -> Array:
        """The values of tokens as the values of the cells of the first view.

        Tokens without a place are left out. The tokens of another view are spread over the cells of the first that they
        overlap, in proportion to the area, so that their sum stays where they are covered: a density.

        Args:
            values: [..., tokens], one value for each of `cells`.

        Returns:
            float32 [..., rows, cols], on the first view's grid.

        Examples:
            >>> layout = Layout.of(View(Grid.regular(1, 2, (20, 10))))
            >>> layout.on_grid(np.array([0.25, 0.75], np.float32)).tolist()
            [[0.25, 0.75]]
        """
        grid, start = self.grid, 0
        total = np.zeros((*values.shape[:-1], grid.rows, grid.cols), dtype=np.float32)
        for view in self.views:
            own = self._of_view(values, start, view)
            start += view.count
            total += own if view is self.views[0] else _spread(own, view.grid, grid)
        return total

    def _of_view(self, values: Array, start: int, view: View) -> Array:
        """[..., tokens] -> [..., rows, cols] of one view, whose cells are counted from `start`."""
        tokens = np.flatnonzero((self.cells >= start) & (self.cells < start + view.count))
        found = np.zeros((view.count, *values.shape[:-1]), dtype=np.float32)
        np.add.at(found, self.cells[tokens] - start, np.moveaxis(values[..., tokens], -1, 0))
        return np.moveaxis(found, 0, -1).reshape(*values.shape[:-1], view.grid.rows, view.grid.cols)


def separated(
    views: tuple[View, ...], *, before: int = 0, row_end: int = 0, after: int = 0, reach: int | None = 0
) -> Layout:
    """Views, each row by row, with tokens that have no place: `before` the first row, at each row's end, `after` it."""
    pictures = [spaced(numbers, before, row_end, after) for numbers in numbered(views)]
    return Layout(views, np.concatenate(pictures), reach=reach)


def numbered(views: Sequence[View]) -> list[Numbers]:
    """[rows, cols] of each view: the numbers of its cells, counted through all views."""
    starts = np.cumsum([0, *(view.count for view in views)])
    return [
        start + np.arange(view.count).reshape(view.grid.shape) for start, view in zip(starts[:-1], views, strict=True)
    ]


def spaced(cells: Numbers, before: int, row_end: int, after: int) -> Numbers:
    """[tokens]: the cells [rows, cols] of a picture with tokens around them that have no place."""
    lines = np.pad(cells, ((0, 0), (0, row_end)), constant_values=-1)
    return np.pad(lines.ravel(), (before, after), constant_values=-1)


def _spread(values: Array, source: Grid, target: Grid) -> Array:
    """Each source cell's value, shared out among the target's cells by the part of its area that each covers."""
    across = np.stack([overlaps(source.x, start, stop) for start, stop in target.x])
    down = np.stack([overlaps(source.y, start, stop) for start, stop in target.y])
    return np.asarray(down @ values @ across.T, dtype=np.float32)
