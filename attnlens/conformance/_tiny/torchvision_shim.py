"""transformers' own torchvision image processors, run without torchvision: for the check of tiny models only.

Some image processors exist for torchvision alone, and attnlens neither has nor needs it. Their code asks it for a few
plain functions on tensors (resize, pad, crop, normalize), which this module writes with torch. So a tiny model is fed
by the very code of its family's image processor; only the last digits of a resized pixel may differ.

    processor = image_processor_class("Molmo2ImageProcessor")(size={"height": 28, "width": 28})
    processor([image], return_tensors="pt")["image_grids"]                                     # int64 [images, 4]

Nothing is patched: the classes live in private copies of transformers' modules, whose own `import` statements find the
functions below in torchvision's place. Such a class cannot be pickled, and is not the one AutoImageProcessor gives.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import is_torchvision_available

from attnlens._upstream import Source, image_backends, needs_torchvision, torchvision_processors, use_functions
from attnlens.errors import AttnLensError

_MODES = {  # as torchvision resizes tensors; boxes, Hamming and Lanczos windows it does not have for them either
    Image.Resampling.NEAREST: "nearest-exact",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


def image_processor_class(name: str) -> type[Any]:
    """transformers' image processor `name`, even one of those for torchvision alone, whether or not that is there.

    Raises AttnLensError where transformers has no image processor of that name.
    """
    own = getattr(transformers, name, None)
    if own is not None and (is_torchvision_available() or not needs_torchvision(own)):
        return _a_class(own, name)
    return without_torchvision(name)


@cache
def without_torchvision(name: str) -> type[Any]:
    """transformers' image processor `name` for torchvision, on the functions below."""
    for source in torchvision_processors(name):
        module = _run(source, _backends())
        if hasattr(module, name):
            return _a_class(getattr(module, name), name)
    raise AttnLensError(
        f"transformers {transformers.__version__} has no image processor {name!r}. Correct tiny.image_processor in the "
        "adapter: the name of a class, such as CLIPImageProcessorPil."
    )


def _a_class(found: Any, name: str) -> type[Any]:
    if not isinstance(found, type):
        raise AttnLensError(f"transformers.{name} is {found!r}; expected the class of an image processor.")
    return found


@cache
def _backends() -> ModuleType:
    """A copy of transformers' base of image processors, on the functions below."""
    module = _run(image_backends(), None)
    use_functions(module, _FUNCTIONS, {resample: resample for resample in Image.Resampling})
    return module


def _run(source: Source, backends: ModuleType | None) -> ModuleType:
    """A private copy of one of transformers' modules; its imports of torchvision find the functions below."""

    def own_import(
        name: str, of: Any = None, local: Any = None, wanted: Sequence[str] | None = (), level: int = 0
    ) -> Any:
        if level == 0 and name == "torchvision.transforms.v2":
            return SimpleNamespace(functional=_FUNCTIONS)
        if backends is not None and level > 0 and name == image_backends().path.stem:
            return backends
        return builtins.__import__(name, of, local, wanted or (), level)

    module = ModuleType(f"{__name__}.{source.path.stem}")
    sys.modules[module.__name__] = module  # where transformers' own docstrings look for a class's file
    module.__dict__.update(
        __file__=str(source.path), __package__=source.package, __builtins__={**vars(builtins), "__import__": own_import}
    )
    exec(compile(source.path.read_text(encoding="utf-8"), str(source.path), "exec"), module.__dict__)
    return module


def _resize(
    image: Tensor, size: Sequence[int], interpolation: int = Image.Resampling.BILINEAR, antialias: bool = True
) -> Tensor:
    """[..., height, width] -> [..., *size]; whole numbers stay whole numbers of the same type."""
    mode = _MODES.get(Image.Resampling(interpolation))
    if mode is None:
        raise AttnLensError(
            f"An image processor resizes by {Image.Resampling(interpolation).name}; known for tensors are "
            f"{', '.join(known.name for known in _MODES)}. Choose one of them: tiny: {{images: {{resample: 3}}}}."
        )
    smooth = {} if mode == "nearest-exact" else {"align_corners": False, "antialias": antialias}
    flat = image.reshape(-1, *image.shape[-3:])
    resized = functional.interpolate(flat.float(), size=tuple(size), mode=mode, **smooth)
    if not image.is_floating_point():
        limits = torch.iinfo(image.dtype)
        resized = resized.round().clamp(limits.min, limits.max)
    return resized.to(image.dtype).reshape(*image.shape[:-2], *size)


def _pad(
    image: Tensor,
    padding: int | Sequence[int],
    fill: float | Sequence[float] | None = 0,
    padding_mode: str = "constant",
) -> Tensor:
    """`padding` is one number, (across, down) or (left, top, right, bottom); `fill` one number, or one per channel."""
    margins = [padding] * 4 if isinstance(padding, int) else list(padding)
    left, top, right, bottom = margins * (4 // len(margins))
    if padding_mode != "constant":
        raise AttnLensError(f"An image processor pads by {padding_mode!r}; known here is 'constant'.")
    fills = [fill or 0] if fill is None or isinstance(fill, int | float) else list(fill)
    height, width = image.shape[-2:]
    values = torch.tensor(fills, dtype=image.dtype, device=image.device)[:, None, None]
    padded = values.expand(image.shape[-3], height + top + bottom, width + left + right)
    padded = padded.expand(*image.shape[:-3], *padded.shape).clone()
    padded[..., top : top + height, left : left + width] = image
    return padded


def _crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return image[..., top : top + height, left : left + width]


def _normalize(image: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    """(image - mean) / std, channel by channel."""
    middle, spread = (torch.as_tensor(value, dtype=image.dtype)[:, None, None] for value in (mean, std))
    return image.sub_(middle).div_(spread) if inplace else (image - middle) / spread


def _grayscale_to_rgb(image: Tensor) -> Tensor:
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


def _pil_to_tensor(image: Image.Image) -> Tensor:
    """uint8 [channels, height, width]"""
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1)


_FUNCTIONS = SimpleNamespace(
    InterpolationMode=Image.Resampling,
    resize=_resize,
    pad=_pad,
    crop=_crop,
    normalize=_normalize,
    grayscale_to_rgb=_grayscale_to_rgb,
    pil_to_tensor=_pil_to_tensor,
)
