"""Opens any picture as 8-bit RGB, upright; everything after this works on that.

>>> open_image(np.zeros((2, 3), dtype=bool)).size
(3, 2)
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from attnlens import _files
from attnlens.errors import AttnLensError, first_line, quoted
from attnlens.geometry import Box

ImageSource = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
"""A path, a PIL image, or an array [height, width] or [height, width, 1 | 3 | 4]."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats of files that are opened, whatever a file's name says; Pillow would try more than forty, and start
Ghostscript for one of them."""

_SLACK = 1e-3  # how far resampling may carry a float array outside 0..1
_BLOCK = 2**20  # pixels that are converted at a time, so that no step holds the whole image in a wider type
_DEPTHS = {8: 255, 10: 1023, 12: 4095, 14: 16383, 16: 65535}
"""Bits a channel, and their largest value."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_BRAND = re.compile(rb"....ftyp(....)", re.DOTALL)
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_VIDEO = re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]", re.DOTALL)
_OF_A_VIDEO = (
    "Decode a video with another library (PyAV, OpenCV, imageio) and give attnlens.frames its frames: a list of "
    "images, or an array [frames, height, width, channels], in RGB."
)


def open_image(source: ImageSource) -> Image.Image:
    """`source` as a new RGB image: EXIF orientation applied, alpha on white, more than 8 bits scaled down to 8.

    A file is opened where it has one of `FORMATS`. One with several frames gives its first, a PIL image its current
    one. Arrays are uint8, uint16, bool, or float in 0..1. Of a PIL image of mode I or F, which does not state its
    range, black is 0 and white the narrowest of 1 (F only) and the largest values of 8, 10, 12, 14 and 16 bits that
    holds its values; other values are scaled from their own minimum and maximum. The same is done, and warned of, where
    16 bits a channel (mode I;16, uint16) hold 14 bits of data or fewer, as pictures of X-ray devices and microscopes
    do: such a picture would be almost black.

    Raises AttnLensError when there is no such file, or it is no image, damaged, empty, or unreasonably large.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return upright(source, f"This PIL image (mode {source.mode})")
    if isinstance(source, str | os.PathLike):
        with opened(source) as picture:
            image = _upright_rgb(picture, quoted(os.fspath(source)))
            # A plain image of the same pixels: the file's own would still seek to its frames, and a copy takes memory.
            return image._new(image.im) if image is picture else image
    raise AttnLensError(
        f"An image cannot be made from {type(source).__name__!r}; expected a path, a PIL image, or a numpy array "
        f"[height, width] or [height, width, channels]. {_way_from(source)}"
    )


@contextlib.contextmanager
def opened(source: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The picture in a file, of one of `FORMATS`, not yet decoded.

    Raises AttnLensError when there is no such file, or when it is no picture of those formats.
    """
    name = quoted(os.fspath(source))
    if isinstance(source, str) and _URL.match(source):
        raise AttnLensError(f"{name} is a URL, and attnlens fetches nothing. Download it first, and give its path.")
    try:
        file = _files.opened(_files.expanded(source))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise AttnLensError(
                f"{name} cannot be read: {error.strerror}. Expected the path of one image file."
            ) from None
        raise AttnLensError(
            f"There is no file {name}. Check the path; the working directory is {os.getcwd()!r}."
        ) from None
    with file, _decoded(file, name) as picture:
        yield picture


def upright(image: Image.Image, name: str) -> Image.Image:
    """What `open_image` makes of a PIL image; in an AttnLensError it goes by that name."""
    rgb = _upright_rgb(image, name)
    return rgb.copy() if rgb is image else rgb


def crop(image: Image.Image, box: Sequence[float]) -> Image.Image:
    """The exact pixels of `image` in `box` (x1, y1, x2, y2), clipped and rounded to whole pixels, at least 1 x 1.

    Raises AttnLensError when the box is malformed or lies outside the image.
    """
    whole = Box.from_any(box, image.size).to_pixels(image.size)
    return image.crop((int(whole.x1), int(whole.y1), int(whole.x2), int(whole.y2)))


def _way_from(source: object) -> str:
    """How a person gets to an image from a source of that type."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "The bytes of a file: PIL.Image.open(io.BytesIO(data))."
    if hasattr(source, "read"):
        return "A file that is open: PIL.Image.open(file)."
    return "A torch tensor: tensor.permute(1, 2, 0).cpu().numpy()."


def _decoded(file: BinaryIO, name: str) -> Image.Image:
    head = file.read(32)
    file.seek(0)
    if not head:
        raise AttnLensError(f"{name} is empty (0 bytes); expected an image file. Copy or download it again.")
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise AttnLensError(f"{name} {_no_picture(head)}") from None
    except Image.DecompressionBombError as error:
        raise _too_large(name, error) from None
    except Exception as error:  # a decoder may fail in any way on a file that is damaged
        raise AttnLensError(f"{name} cannot be read: {first_line(error)}. Copy or download it again.") from error


def _no_picture(head: bytes) -> str:
    """What a file that begins with `head` is instead, and what to do."""
    brand = _BRAND.match(head)
    if brand is not None and brand[1] in _HEIC:
        return (
            "is a HEIC picture, which Pillow does not open by itself. Convert it to JPEG; or install pillow-heif, call "
            "pillow_heif.register_heif_opener(), and pass PIL.Image.open(path)."
        )
    if _VIDEO.match(head):
        return f"is nothing that Pillow can open, but a video. {_OF_A_VIDEO}"
    return (
        f"is not an image that attnlens can open; expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}. Convert it, for "
        f"example to PNG. {_OF_A_VIDEO}"
    )


def _too_large(name: str, error: Exception) -> AttnLensError:
    return AttnLensError(
        f"{name} is too large to open safely: {first_line(error)} Scale it down, or open it with PIL under a limit of "
        "your own (PIL.Image.MAX_IMAGE_PIXELS) and pass the image."
    )


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """`image` in RGB, itself where it is that already."""
    if 0 in image.size:
        raise AttnLensError(f"{name} has {image.width} x {image.height} pixels; expected at least 1 x 1.")
    if image.format == "EPS" and getattr(image, "tile", None):
        raise AttnLensError(f"{name} is an EPS file, which Ghostscript would have to draw. Call its load() yourself.")
    deep = ";16" in str(getattr(image, "tile", ""))
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise _too_large(name, error) from None
    except Exception as error:  # as of `_decoded`
        raise AttnLensError(
            f"{name} is damaged or cut short: {first_line(error)}. Copy or download it again."
        ) from error
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        rgb = _rgb(image, name)
    except Exception as error:
        raise AttnLensError(
            f"{name} cannot be converted to RGB: {first_line(error)}. Convert it first, say to PNG."
        ) from error
    if deep and not image.mode.startswith("I"):
        _warn_if_dark(image, name)
    return rgb


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        low, high = _bounds(image)
        black, white = _range(low, high, image.mode, name)
        return _by_blocks(image, lambda block: _eight_bits_between(np.asarray(block), black, white))
    if image.has_transparency_data:
        return _by_blocks(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _blocks(image: Image.Image) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    """The left upper corner and the pixels of each part of `image`."""
    across = min(image.width, _BLOCK)
    down = max(1, _BLOCK // across)
    for y in range(0, image.height, down):
        for x in range(0, image.width, across):
            yield (x, y), image.crop((x, y, min(x + across, image.width), min(y + down, image.height)))


def _by_blocks(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    result = Image.new("RGB", image.size)
    for corner, block in _blocks(image):
        result.paste(convert(block), corner)
    return result


def _on_white(image: Image.Image) -> Image.Image:
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _bounds(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest value of an image of one channel."""
    found = [(float(block.min()), float(block.max())) for _, part in _blocks(image) for block in [np.asarray(part)]]
    low, high = min(low for low, _ in found), max(high for _, high in found)
    if not np.isfinite([bound for pair in found for bound in pair]).all():
        raise ValueError("it has pixels that are NaN or infinite")
    return low, high


def _range(low: float, high: float, mode: str, name: str) -> tuple[float, float]:
    """Of values from `low` to `high`, what becomes black and what white. Warns where 16 bits are not used."""
    tops = [*([1] if mode == "F" else []), *_DEPTHS.values()]
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        return low, high
    if mode.startswith("I;16") and top < _DEPTHS[16] and high > 0:
        bits = next(bits for bits, largest in _DEPTHS.items() if largest == top)
        warnings.warn(
            f"{name} has 16 bits a channel, and no value above {high:g}: it is read as {bits}-bit data, so that {top} "
            "is white. If it is meant to be that dark, pass it in 8 bits: (array // 257).astype('uint8').",
            stacklevel=2,
        )
    return 0, top


def _warn_if_dark(image: Image.Image, name: str) -> None:
    """For colours of which Pillow keeps the upper 8 of 16 bits, where those are almost empty."""
    extrema: Any = image.getextrema()  # (low, high), or one of those for each channel
    colours = extrema[: 1 if image.mode == "LA" else 3] if len(image.getbands()) > 1 else [extrema]
    highest = max(int(high) for _, high in colours)
    if highest <= _DEPTHS[14] >> 8:
        warnings.warn(
            f"{name} has 16 bits a channel, of which Pillow keeps the upper 8, and there no value is above {highest} "
            "of 255: it is almost black, as 12-bit data in 16 bits is. Scale its values up, and pass them as an array.",
            stacklevel=2,
        )


def _eight_bits_between(values: npt.NDArray[Any], black: float, white: float) -> Image.Image:
    return Image.fromarray(_rounded((values.astype(np.float64) - black) / max(white - black, 1e-300)))


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
    image = Image.fromarray(eight_bits[:, :, 0] if array.ndim == 3 and channels == 1 else eight_bits)
    return _rgb(image, "The array")


def _eight_bits(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        colours = array[..., :3] if array.ndim == 3 else array
        _, white = _range(float(colours.min()), float(colours.max()), "I;16", "The uint16 array")
        return _by_rows(array, lambda part: part / white)
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
    return _by_rows(array, lambda part: part.astype(np.float64))


def _by_rows(
    array: npt.NDArray[Any], fractions: Callable[[npt.NDArray[Any]], npt.NDArray[np.float64]]
) -> npt.NDArray[np.uint8]:
    """uint8 of the same shape, from the `fractions` (float64, 0..1) of a few rows at a time."""
    step = max(1, _BLOCK * len(array) // array.size)
    found = [_rounded(fractions(array[row : row + step])) for row in range(0, len(array), step)]
    return np.concatenate(found)


def _rounded(fractions: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(fractions, 0, 1) * 255).astype(np.uint8)
