"""Opens any picture as 8-bit RGB, upright; everything after this works on that.

>>> open_image(np.zeros((2, 3), dtype=bool)).size
(3, 2)
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from attnlens.errors import AttnLensError
from attnlens.geometry import Box

ImageSource = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
"""A path, a PIL image, or an array [height, width] or [height, width, 1 | 3 | 4]."""

_SLACK = 1e-3  # how far resampling may carry a float array outside 0..1
BROKEN = (OSError, SyntaxError, TypeError, ValueError, EOFError, IndexError, struct.error, zlib.error)
"""What PIL's decoders raise on files that are damaged in one way or another."""


def open_image(source: ImageSource) -> Image.Image:
    """`source` as a new RGB image: EXIF orientation applied, alpha on white, 16 bits scaled down to 8.

    A file with several frames gives its first, a PIL image its current one. Arrays are uint8, uint16 (0..65535), bool,
    or float in 0..1. A PIL image of mode I or F, which does not state its range, is taken for the narrowest of 0..1
    (F only), 0..255 and 0..65535 that holds its values, and otherwise is scaled from its own minimum and maximum.

    Raises AttnLensError when there is no such file, or it is no image, damaged, empty, or unreasonably large.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _upright_rgb(source, f"This PIL image (mode {source.mode})")
    if isinstance(source, str | os.PathLike):
        return _from_file(os.path.expanduser(os.fspath(source)))
    raise AttnLensError(
        f"An image cannot be made from {type(source).__name__!r}; expected a path, a PIL image, or a numpy array "
        "[height, width] or [height, width, channels]. A torch tensor: tensor.permute(1, 2, 0).cpu().numpy()."
    )


def crop(image: Image.Image, box: Sequence[float]) -> Image.Image:
    """The exact pixels of `image` in `box` (x1, y1, x2, y2), clipped and rounded to whole pixels, at least 1 x 1.

    Raises AttnLensError when the box is malformed or lies outside the image.
    """
    whole = Box.from_any(box, image.size).to_pixels(image.size)
    return image.crop((int(whole.x1), int(whole.y1), int(whole.x2), int(whole.y2)))


def _from_file(path: str) -> Image.Image:
    if os.path.isdir(path):
        raise AttnLensError(f"{path!r} is a directory; expected the path of one image file.")
    if not os.path.exists(path):
        hint = "Download it first." if "://" in path else f"Check the path; the working directory is {os.getcwd()!r}."
        raise AttnLensError(f"There is no file {path!r}. {hint}")
    if os.path.getsize(path) == 0:
        raise AttnLensError(f"{path!r} is empty (0 bytes); expected an image file. Copy or download it again.")
    try:
        with Image.open(path) as image:
            return _upright_rgb(image, repr(path))
    except UnidentifiedImageError:
        raise AttnLensError(
            f"{path!r} is not an image that Pillow can read; expected JPEG, PNG, WebP, TIFF, GIF, BMP or the like. "
            "Convert it, for example to PNG."
        ) from None
    except Image.DecompressionBombError as error:
        raise AttnLensError(
            f"{path!r} is too large to open safely: {error} Scale it down, or open it with PIL under a limit of your "
            "own (PIL.Image.MAX_IMAGE_PIXELS) and pass the image."
        ) from None
    except BROKEN as error:
        raise AttnLensError(f"{path!r} cannot be read: {error}. Check that it may be read, or copy it again.") from None


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise AttnLensError(f"{name} has {image.width} x {image.height} pixels; expected at least 1 x 1.")
    try:
        image.load()
    except BROKEN as error:
        raise AttnLensError(f"{name} is damaged or cut short: {error}. Copy or download it again.") from None
    try:
        return _rgb(ImageOps.exif_transpose(image))
    except BROKEN as error:
        raise AttnLensError(f"{name} cannot be converted to RGB: {error}. Convert it first, say to PNG.") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits_of_unknown(np.asarray(image), image.mode))
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _eight_bits_of_unknown(values: npt.NDArray[Any], mode: str) -> npt.NDArray[np.uint8]:
    """uint8 of the same shape, from a PIL image whose `mode` has more than 8 bits a channel."""
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("it has pixels that are NaN or infinite")
    low, high = float(numbers.min()), float(numbers.max())
    tops = [65535] if mode.startswith("I;16") else [1, 255, 65535] if mode == "F" else [255, 65535]
    stated = [top for top in tops if low >= 0 and high <= top]
    if stated:
        return _rounded(numbers / stated[0])
    return _rounded((numbers - low) / max(high - low, 1e-300))


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        channels_first = array.ndim == 3 and len(array) in (1, 3, 4)
        hint = " Move the channels last: array.transpose(1, 2, 0)." if channels_first else ""
        raise AttnLensError(
            f"The array has shape {array.shape}; expected [height, width] or [height, width, channels] with 1, 3 or 4 "
            f"channels.{hint}"
        )
    if 0 in array.shape:
        raise AttnLensError(f"The array has shape {array.shape}, so no pixels; expected at least 1 x 1.")
    eight_bits = _eight_bits(array)
    return _rgb(Image.fromarray(eight_bits[:, :, 0] if array.ndim == 3 and channels == 1 else eight_bits))


def _eight_bits(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return _rounded(array / 65535.0)
    if not np.issubdtype(array.dtype, np.floating):
        raise AttnLensError(
            f"The array's type is {array.dtype}; expected uint8, uint16, bool, or float in 0..1. "
            "If its values are 0..255: array.astype('uint8')."
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise AttnLensError(
            f"The float array's values run from {low:g} to {high:g}; expected 0..1 and no NaN. "
            "If they are 0..255: array / 255."
        )
    return _rounded(array.astype(np.float64))


def _rounded(fractions: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(fractions, 0, 1) * 255).astype(np.uint8)
