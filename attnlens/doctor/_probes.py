"""What is tried in a Python of its own, attempt by attempt; see attempts.py.

Everything heavy is imported inside the attempts: that it cannot be imported is what they are there to find out.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attnlens.doctor._attempts import ALL
from attnlens.doctor._packages import EXTRAS, MODULES

Attempt = tuple[str, Callable[[], dict[str, Any]]]

DTYPES = ("float32", "bfloat16", "float16")
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
"""Of hidden states of about 1, against float32 on the CPU; what a dtype's digits allow in one layer, and some more."""
FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""Implementations that transformers takes from a package of their own, which knows CUDA alone."""
NEEDED = {  # what attnlens takes from them, which a broken install may lack
    "torch": ("nn", "autograd"),
    "transformers": ("AutoModelForImageTextToText", "AutoProcessor", "AttentionInterface"),
}


def main(kind: str, known: Sequence[str], out: str) -> None:
    """Make the attempts of that kind that are not yet known; begin and end of each go to the file `out`."""
    with Path(out).open("a", encoding="utf-8") as file:

        def say(**what: Any) -> None:
            file.write(json.dumps(what) + "\n")
            file.flush()

        for name, attempt in KINDS[kind]():
            if name in known:
                continue
            say(begin=name)
            try:
                found = attempt()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is the finding
                found = {"error": _line(error)}
            say(end=name, **found)
        say(begin=ALL)


def _line(error: BaseException) -> str:
    """An error's type and the first line of what it says; of a chain, what it began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _torchvision() -> Iterator[Attempt]:
    yield "torch", lambda: _imported("torch")
    yield "torchvision", _resized


def _resized() -> dict[str, Any]:
    """One compiled function and one that image processors use: either is missing where the install is half one."""
    import torch

    torchvision = importlib.import_module("torchvision")
    importlib.import_module("torchvision.ops").nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)
    functional = importlib.import_module("torchvision.transforms.v2.functional")
    functional.resize(torch.zeros(3, 8, 8), [4, 4], antialias=True)
    return {"version": str(torchvision.__version__)}


def _all_others() -> Iterator[Attempt]:
    for module in MODULES.values():
        yield f"import {module}", partial(_imported, module)
    for module in EXTRAS:
        if importlib.util.find_spec(module) is not None:
            yield f"import {module}", partial(_imported, module)
    yield "gpu", _made_for
    yield "devices", _devices
    for device in _names(_devices):
        for dtype in DTYPES:
            for how in ("eager", "sdpa", *(_flash() if device.startswith("cuda") else ())):
                yield f"forward {device} {dtype} {how}", partial(_forward, device, dtype, how)
        for model in _names(_models) if device == "cpu" else ["llava"]:
            yield f"model {device} {model}", partial(_model, device, model)


def _imported(name: str) -> dict[str, Any]:
    module = importlib.import_module(name)
    for part in NEEDED.get(name, ()):
        getattr(module, part)
    if getattr(module, "__file__", None) is None:
        raise ImportError(f"{name} is an empty folder: {next(iter(module.__path__))}")
    return {}


def _names(find: Callable[[], dict[str, Any]]) -> list[str]:
    """Those that are found; none where looking for them fails, which is an attempt of its own."""
    try:
        return list(find())
    except Exception:  # noqa: BLE001
        return []


def _made_for() -> dict[str, Any]:
    """What GPUs torch is built for; None where it is built for the CPU."""
    import torch

    of_amd = getattr(torch.version, "hip", None)
    return {"built": f"ROCm {of_amd}" if of_amd else f"CUDA {torch.version.cuda}" if torch.version.cuda else None}


def _devices() -> dict[str, Any]:
    """By torch's name: what it is, and its memory in bytes, all and free, where that can be told."""
    import torch

    cores = f"{torch.get_num_threads()} threads"
    found: dict[str, Any] = {"cpu": {"what": cores, "memory": _memory(), "free": None}}
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        found[f"cuda:{number}"] = {"what": torch.cuda.get_device_name(number), "memory": total, "free": free}
    if torch.backends.mps.is_available():
        most = torch.mps.recommended_max_memory()
        found["mps"] = {"what": "Apple GPU", "memory": most, "free": most - torch.mps.driver_allocated_memory()}
    return found


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def _flash() -> list[str]:
    return [how for how, module in FLASH.items() if importlib.util.find_spec(module) is not None]


def _forward(device: str, dtype: str, how: str) -> dict[str, Any]:
    """One layer of a tiny language model against the same in float32, eager, on the CPU."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    ids = torch.arange(2, 26)[None]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 32}
    model = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=1)).eval()
    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = model(input_ids=ids).last_hidden_state
        model = model.to(device, getattr(torch, dtype))
        model.set_attn_implementation(how)
        found = model(input_ids=ids.to(device)).last_hidden_state.float().cpu()
    off = float((found - expected).abs().max())
    if not off <= TOLERANCE[dtype]:  # NaN is none of these
        raise ArithmeticError(f"off by {off:.2g} of values around 1")
    return {}


def _models() -> dict[str, Any]:
    from attnlens import pocket

    return dict.fromkeys(pocket.names())


def _model(device: str, name: str) -> dict[str, Any]:
    """A bundled model is loaded, looks with gradients, and answers."""
    import numpy as np

    from attnlens.lens import load
    from attnlens.pocket import scenes

    start = time.perf_counter()
    scene = scenes.scene(seed=5, target_area=0.004)
    reading = load(f"pocket/{name}", device=device).read(scene.image)
    trace = reading.trace(scene.question, gradients=True)
    if not all(np.isfinite(part).all() for part in (trace.attention, trace.attention_gradient) if part is not None):
        raise ArithmeticError("attention or its gradient is not finite")
    reading.answer(scene.question, max_new_tokens=2)
    return {"seconds": time.perf_counter() - start}


KINDS: dict[str, Callable[[], Iterator[Attempt]]] = {"torchvision": _torchvision, "others": _all_others}
