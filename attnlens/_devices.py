"""Where a model is, and in which dtype: moved there, or said why not."""

from __future__ import annotations

from typing import Any

import torch

from attnlens.errors import AttnLensError, sentence


def to_device(model: Any, device: Any, dtype: str | torch.dtype | None = None) -> Any:
    """The model on that device and in that dtype, where they are given. Raises AttnLensError.

    What is there already is not touched: models that are quantised, or spread over devices, cannot be moved.
    """
    if isinstance(dtype, str):
        dtype = dtype_of(dtype)
    wanted: dict[str, Any] = {}
    if device is not None and not _is_on(model, device):
        wanted["device"] = device
    if dtype is not None and {one.dtype for one in model.parameters() if one.is_floating_point()} != {dtype}:
        wanted["dtype"] = dtype
    if not wanted:
        return model
    asked = " and ".join(f"{key} {str(value)!r}" for key, value in wanted.items())
    why = _unmovable(model, "dtype" in wanted)
    if why is not None:
        raise AttnLensError(
            f"{type(model).__name__} cannot be put on the {asked}: {why}. Leave them out, or give them to the "
            "from_pretrained that loads it."
        )
    try:
        return model.to(**wanted)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:  # torch's own words
        raise AttnLensError(
            f"{type(model).__name__} cannot be put on the {asked}: {sentence(error)} Use cpu, or cuda with a GPU."
        ) from error


def _is_on(model: Any, device: Any) -> bool:
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        return False
    where = {one.device for one in (*model.parameters(), *model.buffers())}
    return all(one.type == wanted.type and wanted.index in (None, one.index) for one in where)


def _unmovable(model: Any, casts: bool) -> str | None:
    """Why a model cannot be moved or cast; None where nothing is known."""
    spread = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(spread) > 1:
        return f"a device_map has spread it over {', '.join(sorted(map(str, spread)))}"
    if casts and getattr(model, "quantization_method", None) is not None:
        return f"it is quantised ({getattr(model.quantization_method, 'value', model.quantization_method)})"
    return None


def dtype_of(name: str) -> torch.dtype:
    """The dtype of that name. Raises AttnLensError where there is none."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise AttnLensError(f"The dtype is {name!r}; expected float32, bfloat16 or float16.")
    return found
