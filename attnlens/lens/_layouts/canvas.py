"""Where an image processor puts an image: resize, padding to a square, centre crop, in the order of each family's code.

Two frames meet here: the *original image* (pixels) and the *processor canvas* (pixels after resize, crop and padding:
what the vision tower sees). On each axis `canvas = original * scale + offset`, edges on edges, as PIL resizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnlens._upstream import reads_step, size_with_aspect_ratio
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid

Size = tuple[int, int]
"""(width, height), in pixels."""

PIXEL_STEPS = {"do_rescale", "do_normalize", "do_convert_rgb"}  # change values, move nothing


@dataclass(frozen=True)
class Canvas:
    """One image on the processor's canvas."""

    image_size: Size
    """Of the original image, in its pixels."""
    size: Size
    """Of the canvas, in canvas pixels."""
    scale: tuple[float, float]
    """(x, y): canvas pixels per original pixel."""
    offset: tuple[float, float]
    """(x, y) of the original image's corner on the canvas, in canvas pixels; negative where it is cropped away."""

    @classmethod
    def of(cls, image_size: Size) -> Canvas:
        """The image as it is, before the first step."""
        return cls(image_size, image_size, (1.0, 1.0), (0.0, 0.0))

    def resized(self, size: Size) -> Canvas:
        """Stretched to `size`."""
        x, y = size[0] / self.size[0], size[1] / self.size[1]
        scale, offset = (self.scale[0] * x, self.scale[1] * y), (self.offset[0] * x, self.offset[1] * y)
        return Canvas(self.image_size, size, scale, offset)

    def moved(self, size: Size, left: float, top: float) -> Canvas:
        """Padded or cropped to `size`: what was at (0, 0) is now at (left, top)."""
        return Canvas(self.image_size, size, self.scale, (self.offset[0] + left, self.offset[1] + top))

    def cut(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """What lies in a box of it, in canvas pixels, as a canvas of its own."""
        return self.moved((int(right - left), int(bottom - top)), -left, -top)

    def grid(self, rows: int, cols: int, side: float) -> Grid:
        """Squares of `side` canvas pixels, `rows` x `cols` of them from the canvas's corner on, in original pixels.

        A convolution with stride `side` sees just these squares, and nothing of what is left over at the far edges.
        """
        x = (np.arange(cols + 1) * side - self.offset[0]) / self.scale[0]
        y = (np.arange(rows + 1) * side - self.offset[1]) / self.scale[1]
        return Grid(np.stack([x[:-1], x[1:]], axis=1), np.stack([y[:-1], y[1:]], axis=1), self.image_size)


def check_only_resized(image_processor: Any, *harmless: str) -> None:
    """Raises AttnLensError for a processor with steps, besides `harmless` ones, that move pixels but do not resize."""
    refuse_steps(image_processor, steps(image_processor) - PIXEL_STEPS - {"do_resize", *harmless})


def steps(image_processor: Any) -> set[str]:
    """The processor's steps that are switched on, and that its code knows: attributes `do_...`."""
    settings = {name: getattr(image_processor, name) for name in dir(image_processor) if name.startswith("do_")}
    on = {name for name, value in settings.items() if value and not callable(value)}
    return {name for name in on if reads_step(type(image_processor), name)}


def format_size(size: tuple[int, ...]) -> str:
    """'336 x 336'."""
    return " x ".join(str(side) for side in size)


# The families' orders of steps.


def fit(image_processor: Any, canvas: Canvas, on: set[str]) -> Canvas:
    """Resize, centre crop: most processors."""
    if "do_resize" in on:
        canvas = canvas.resized(_resized(image_processor, canvas.size))
    if "do_center_crop" in on:
        crop = _crop(image_processor)
        left, top = (_crop_shift(image_processor, *sides) for sides in zip(canvas.size, crop, strict=True))
        canvas = canvas.moved(crop, left, top)
    return canvas


def pad_and_fit(image_processor: Any, canvas: Canvas, on: set[str]) -> Canvas:
    """Pad to a square, resize, centre crop: Llava."""
    return fit(image_processor, _squared(canvas) if "do_pad" in on else canvas, on)


def fit_and_pad(image_processor: Any, canvas: Canvas, on: set[str]) -> Canvas:
    """Resize the longest edge, pad to a square: DeepSeek-VL, Janus."""
    if "do_resize" in on:
        canvas = canvas.resized(_longest_edge(image_processor, "size", canvas.size))
    return _squared(canvas) if "do_pad" in on else canvas


def fit_and_pad_twice(image_processor: Any, canvas: Canvas, on: set[str]) -> Canvas:
    """What DeepSeek-VL does, for a canvas of high resolution, and that one again for one of low: DeepSeek-VL hybrid."""
    if "do_resize" not in on:
        return canvas
    for name in ("high_res_size", "size"):
        canvas = canvas.resized(_longest_edge(image_processor, name, canvas.size))
        canvas = _squared(canvas) if "do_pad" in on else canvas
    return canvas


def refuse_steps(image_processor: Any, unknown: set[str]) -> None:
    """Raises AttnLensError where there is a step of unknown effect."""
    if unknown:
        raise AttnLensError(
            f"{type(image_processor).__name__} has steps of its own: {', '.join(sorted(unknown))}. Where they put the "
            "pixels is not known for the adapter's grid kind. Switch them off in the image processor, or choose "
            "another grid kind in the adapter."
        )


def _squared(canvas: Canvas) -> Canvas:
    side = max(canvas.size)
    return canvas.moved((side, side), (side - canvas.size[0]) // 2, (side - canvas.size[1]) // 2)


def _longest_edge(image_processor: Any, name: str, size: Size) -> Size:
    """(width, height) when the longest edge becomes that of the processor's square `name`."""
    wanted = {key: value for key, value in dict(getattr(image_processor, name)).items() if value is not None}
    if set(wanted) != {"height", "width"} or wanted["height"] != wanted["width"]:
        raise AttnLensError(
            f"{type(image_processor).__name__}.{name} is {wanted!r}; expected the same height and width. "
            "Give the image processor a square size."
        )
    factor, least = wanted["height"] / max(size), image_processor.min_size
    return max(round(size[0] * factor), least), max(round(size[1] * factor), least)


def _resized(image_processor: Any, size: Size) -> Size:
    """(width, height) after the resize, rounded as transformers rounds."""
    wanted = {key: value for key, value in dict(image_processor.size).items() if value is not None}
    if set(wanted) == {"height", "width"}:
        return int(wanted["width"]), int(wanted["height"])
    if set(wanted) == {"shortest_edge"}:
        short, long = min(size), max(size)
        edges = (int(wanted["shortest_edge"]), int(wanted["shortest_edge"] * long / short))
        return edges if size[0] <= size[1] else edges[::-1]
    if set(wanted) == {"shortest_edge", "longest_edge"}:
        height, width = size_with_aspect_ratio(size[::-1], wanted["shortest_edge"], wanted["longest_edge"])
        return width, height
    raise AttnLensError(
        f"{type(image_processor).__name__} resizes to {wanted!r}; known are height and width, shortest_edge, and "
        "shortest_edge with longest_edge. Give the image processor one of these sizes."
    )


def _crop(image_processor: Any) -> Size:
    given = dict(getattr(image_processor, "crop_size", None) or {})
    if not given.get("width") or not given.get("height"):
        raise AttnLensError(f"{type(image_processor).__name__}.crop_size is {given!r}; expected width and height.")
    return int(given["width"]), int(given["height"])


def _crop_shift(image_processor: Any, side: int, crop: int) -> int:
    """Where the image's edge comes to lie after a centre crop from `side` to `crop`, in canvas pixels.

    Of an odd margin, what is cropped is less before the image; what is added to an image that is too small is more
    before it with the PIL backend, less with the torchvision one.
    """
    if crop > side and getattr(image_processor, "backend", "pil") == "torchvision":
        return (crop - side) // 2
    return -((side - crop) // 2)
