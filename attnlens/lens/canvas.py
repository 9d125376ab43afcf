"""Where the processor puts an image, and where each token lies in it.

Two frames meet here: the *original image* (pixels) and the *processor canvas* (pixels after resize, crop and padding:
what the vision tower sees). On each axis `canvas = original * scale + offset`, edges on edges, as PIL resizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlens.adapters.schema import FromConfig, GridSpec, ThwGrid, resolve
from attnlens.errors import AttnLensError
from attnlens.geometry import Grid

CHANNELS = 3
_PIXEL_STEPS = {"do_rescale", "do_normalize", "do_convert_rgb"}  # change values, move nothing
_PLACING_STEPS = {"do_resize", "do_center_crop", "do_pad"}
_KNOWN_CODE = ("transformers.image_processing_backends", "transformers.models.llava.")


@dataclass(frozen=True)
class Canvas:
    """One image on the processor's canvas."""

    image_size: tuple[int, int]
    """(width, height) of the original image, in pixels."""
    size: tuple[int, int]
    """(width, height) of the canvas, in canvas pixels."""
    scale: tuple[float, float]
    """(x, y): canvas pixels per original pixel."""
    offset: tuple[float, float]
    """(x, y) of the original image's corner on the canvas, in canvas pixels; negative where it is cropped away."""

    def grid(self, rows: int, cols: int, side: float) -> Grid:
        """Squares of `side` canvas pixels, `rows` x `cols` of them from the canvas's corner on, in original pixels.

        A convolution with stride `side` sees just these squares, and nothing of what is left over at the far edges.
        """
        x = (np.arange(cols + 1) * side - self.offset[0]) / self.scale[0]
        y = (np.arange(rows + 1) * side - self.offset[1]) / self.scale[1]
        return Grid(np.stack([x[:-1], x[1:]], axis=1), np.stack([y[:-1], y[1:]], axis=1), self.image_size)


def canvas_of(
    image_processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int, spec: GridSpec
) -> Canvas:
    """Where `image_processor` has put image `index` of `inputs`, whose original size is `image_size` = (width, height).

        inputs = processor(images=[image], text=prompt, return_tensors="pt")
        canvas_of(processor.image_processor, image.size, inputs, 0, adapter.grid).size     # (336, 336)

    Raises AttnLensError for a processor with steps that are not known here, and where `inputs` show another canvas than
    the processor's settings lead to.
    """
    if isinstance(spec, ThwGrid):
        rows, cols = _patches(spec, inputs, index)
        _refuse(image_processor, spec, set(_steps(image_processor)) - _PIXEL_STEPS - {"do_resize"})
        patch = _whole(getattr(image_processor, "patch_size", None), "patch_size in the image processor")
        return _stretched(image_size, (cols * patch, rows * patch))
    unknown = set(_steps(image_processor)) - _PIXEL_STEPS - _PLACING_STEPS
    _refuse(image_processor, spec, unknown | _own_steps(image_processor))
    canvas = _placed(image_processor, image_size)
    seen = tuple(int(side) for side in inputs["pixel_values"].shape[-2:])[::-1]
    if seen != canvas.size:
        raise AttnLensError(
            f"By its settings {type(image_processor).__name__} puts an image of {_by(image_size)} px on a canvas of "
            f"{_by(canvas.size)} px, but pixel_values hold {_by(seen)} px. "
            "Give the sizes to the image processor itself, not to its call."
        )
    return canvas


def token_grid(
    spec: GridSpec, canvas: Canvas, config: Any, inputs: Mapping[str, Any], index: int, tokens: int | None
) -> Grid:
    """Where image `index`'s tokens (with `kind: latents`, the connector's patches) lie in the original image.

    `config` is the model's. Cells that reach beyond the image, or leave parts of it unseen, stay as they are.
    Raises AttnLensError when `tokens`, their number, is not that of the grid's cells (None: not counted).
    """
    side = _whole(resolve(_patch_of(spec), config), "patch")
    if isinstance(spec, ThwGrid):
        side *= _whole(resolve(spec.merge, config), "merge")
    cols, rows = (length // side for length in canvas.size)
    if tokens is not None and rows * cols != tokens:
        raise AttnLensError(
            f"A grid that does not fit: kind {spec.kind!r} puts {rows} rows x {cols} cols = {rows * cols} cells of "
            f"{side} px on a canvas of {_by(canvas.size)} px, but image {index} has {tokens} image tokens or patches. "
            "Correct grid in the adapter: its kind, patch, merge or cls."
        )
    return canvas.grid(rows, cols, side)


def to_canvas(spec: GridSpec, values: Any, inputs: Mapping[str, Any], index: int, config: Any) -> NDArray[np.float32]:
    """Image `index` of `pixel_values`, as float32 [channels, height, width] on the canvas.

    Where the processor writes a pixel several times (Qwen-VL repeats an image to fill `temporal_patch_size` frames),
    this is the mean of its copies, so that `to_canvas` of `pixel_values` is the very image.
    """
    copies = _copies(spec, values, inputs, index, config)
    return np.ascontiguousarray(copies.mean(axis=0), dtype=np.float32)


def gradient_to_canvas(
    spec: GridSpec, gradient: Any, inputs: Mapping[str, Any], index: int, config: Any
) -> NDArray[np.float32]:
    """The gradient with respect to image `index`'s canvas, float32 [channels, height, width].

    `gradient` is the one with respect to `pixel_values`. By the chain rule this is the sum over a pixel's copies.
    """
    copies = _copies(spec, gradient, inputs, index, config)
    return np.ascontiguousarray(copies.sum(axis=0), dtype=np.float32)


def _copies(spec: GridSpec, values: Any, inputs: Mapping[str, Any], index: int, config: Any) -> NDArray[np.float32]:
    """[copies, channels, height, width]: undoes the processor's flattening into patches."""
    array = _array(values)
    if not isinstance(spec, ThwGrid):
        if array.ndim != 4:
            raise AttnLensError(
                f"pixel_values has the shape {array.shape}; the grid kind {spec.kind!r} expects "
                "[images, channels, height, width]. Choose another grid kind in the adapter."
            )
        return array[index][None]
    rows, cols = _patches(spec, inputs, index)
    patch = _whole(resolve(spec.patch, config), "patch")
    merge = _whole(resolve(spec.merge, config), "merge")
    counts = [int(np.prod(frames_rows_cols)) for frames_rows_cols in inputs[spec.key].tolist()]
    flat = array[sum(counts[:index]) : sum(counts[: index + 1])]
    whole = array.ndim == 2 and len(array) == sum(counts) and array.shape[1] % (CHANNELS * patch**2) == 0
    if not whole or rows % merge or cols % merge:
        raise AttnLensError(
            f"pixel_values has the shape {array.shape}; {spec.key} and the adapter's grid say [{sum(counts)}, "
            f"{CHANNELS} x frames x {patch} x {patch}], in blocks of {merge} x {merge}. Correct the adapter's grid."
        )
    # Qwen-VL's order: blocks of merge x merge patches, row by row; in each patch channels, frames, rows, cols.
    blocks = flat.reshape(rows // merge, cols // merge, merge, merge, CHANNELS, -1, patch, patch)
    return blocks.transpose(5, 4, 0, 2, 6, 1, 3, 7).reshape(-1, CHANNELS, rows * patch, cols * patch)


def _array(values: Any) -> NDArray[np.float32]:
    """A numpy array, or a torch tensor of any float type, device and graph, as float32."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)


def _patches(spec: ThwGrid, inputs: Mapping[str, Any], index: int) -> tuple[int, int]:
    """(rows, cols) of image `index`'s patches, before merging."""
    if spec.key not in inputs:
        raise AttnLensError(
            f"The adapter's grid reads {spec.key!r}, but the processor gave {', '.join(inputs)}. Correct grid.key."
        )
    frames, rows, cols = (int(number) for number in inputs[spec.key][index].tolist())
    if frames != 1:
        raise AttnLensError(f"{spec.key} says {frames} frames for image {index}; only still images, of one, are read.")
    return rows, cols


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in size)


def _patch_of(spec: GridSpec) -> int | FromConfig:
    return getattr(spec, "patch", FromConfig(config="vision_config.patch_size"))


def _whole(value: Any, name: str) -> int:
    """One side for both axes: configs may hold an int, or [height, width]."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise AttnLensError(f"The grid's {name} is {value!r}; expected one whole number above 0, for squares.")
    return int(sides.pop())


def _steps(image_processor: Any) -> list[str]:
    """The processor's steps that are switched on: attributes `do_...`."""
    settings = {name: getattr(image_processor, name) for name in dir(image_processor) if name.startswith("do_")}
    return sorted(name for name, value in settings.items() if value and not callable(value))


def _own_steps(image_processor: Any) -> set[str]:
    """Methods that place pixels by other code than transformers' common one, or Llava's."""
    methods = {name: getattr(type(image_processor), name, None) for name in ("_preprocess", "resize", "center_crop")}
    return {name for name, method in methods.items() if not getattr(method, "__module__", "").startswith(_KNOWN_CODE)}


def _refuse(image_processor: Any, spec: GridSpec, steps: set[str]) -> None:
    if steps:
        raise AttnLensError(
            f"{type(image_processor).__name__} has steps of its own: {', '.join(sorted(steps))}. Where they put the "
            f"pixels is not known for the grid kind {spec.kind!r}. Switch them off in the image processor, or choose "
            "another grid kind in the adapter."
        )


def _stretched(image_size: tuple[int, int], size: tuple[int, int]) -> Canvas:
    scale = (size[0] / image_size[0], size[1] / image_size[1])
    return Canvas(image_size, size, scale, (0.0, 0.0))


def _placed(image_processor: Any, image_size: tuple[int, int]) -> Canvas:
    """Pad to a square (Llava's `do_pad`), resize, centre crop: in the order of transformers' image processors."""
    on = _steps(image_processor)
    margin = (0, 0)
    size = image_size
    if "do_pad" in on:
        margin, size = _square(image_processor, size)
    scale = (1.0, 1.0)
    if "do_resize" in on:
        resized = _resized(image_processor, size)
        scale, size = (resized[0] / size[0], resized[1] / size[1]), resized
    offset = (margin[0] * scale[0], margin[1] * scale[1])
    if "do_center_crop" in on:
        crop = _crop(image_processor)
        left, top = (_crop_shift(image_processor, *sides) for sides in zip(size, crop, strict=True))
        offset, size = (offset[0] + left, offset[1] + top), crop
    return Canvas(image_size, size, scale, offset)


def _square(image_processor: Any, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The margin (left, top) and size of an image padded to a square."""
    if not hasattr(image_processor, "pad_to_square"):
        raise AttnLensError(
            f"{type(image_processor).__name__} pads (do_pad), and where is known for Llava's padding to a square only. "
            "Set do_pad to False in the image processor."
        )
    side = max(size)
    return ((side - size[0]) // 2, (side - size[1]) // 2), (side, side)


def _resized(image_processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) after the resize, rounded as transformers rounds."""
    wanted = {key: value for key, value in dict(image_processor.size).items() if value is not None}
    if set(wanted) == {"height", "width"}:
        return int(wanted["width"]), int(wanted["height"])
    if set(wanted) == {"shortest_edge"}:
        short, long = min(size), max(size)
        edges = (int(wanted["shortest_edge"]), int(wanted["shortest_edge"] * long / short))
        return edges if size[0] <= size[1] else edges[::-1]
    if set(wanted) == {"shortest_edge", "longest_edge"}:
        from transformers.image_transforms import get_size_with_aspect_ratio

        height, width = get_size_with_aspect_ratio(size[::-1], wanted["shortest_edge"], wanted["longest_edge"])
        return int(width), int(height)
    raise AttnLensError(
        f"{type(image_processor).__name__} resizes to {wanted!r}; known are height and width, shortest_edge, and "
        "shortest_edge with longest_edge. Give the image processor one of these sizes."
    )


def _crop(image_processor: Any) -> tuple[int, int]:
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
