"""A model's files on disk: what is refused before they are read, and the weights, all of them or by name what lacks.

A folder may come from anybody. What it says is not believed before it is measured: a config may describe a model of a
million layers, a JSON file may be a hundred gigabytes of zeros.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from attnlens.errors import AttnLensError

_log = logging.getLogger("attnlens")

MEGABYTE = 1 << 20
MAX_TEXT = 16 * MEGABYTE
"""Of a config, a template or another file of settings."""
MAX_TABLE = 256 * MEGABYTE
"""Of a tokenizer's files and the index of a checkpoint; the largest have some 40."""
MAX_LAYERS = 1000
MAX_PARTS = 10_000
"""Of experts, blocks and stages in one layer."""
MOST_PER_BYTE = 8
"""Weights in a byte of a file: no format has fewer bits than one for each."""

MAX_SIDE = 8192
"""Of an image as a processor resizes, cuts or pads it."""
MAX_NUMBER = 1 << 26
"""Of a processor's other settings, such as a budget of pixels."""

_TEXTS = (".json", ".jinja", ".txt", ".model", ".yaml")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_COUNTS = {re.compile(r"layers?$|depth$"): MAX_LAYERS, re.compile(r"^n(um)?_.*(experts|blocks|stages)$"): MAX_PARTS}
_SIDES = ("height", "width", "size", "crop_size", "pad_size", "tile_size", "max_image_size")
_SHOWN = 4


def check_files(folder: Path) -> None:
    """Raises AttnLensError for a folder with a file that is too large to be what its name says."""
    for path in _files(folder, _TEXTS):
        table = path.name.startswith(("tokenizer", "vocab", "merges")) or path.suffix in (".txt", ".model")
        limit = MAX_TABLE if table or path.name.endswith(".index.json") else MAX_TEXT
        if (size := path.stat().st_size) > limit:
            raise AttnLensError(
                f"{str(path)!r} has {size / MEGABYTE:,.0f} MB; such a file has {limit // MEGABYTE} at most. It is "
                "damaged, or not what its name says: get the model's folder again."
            )


def check_config(config: Any, folder: Path, trust_remote_code: bool = False) -> None:
    """Raises AttnLensError for a config of more layers than models have, or more weights than the files can hold.

    The weights are counted on a model without any, so that none is made for a config that is wrong.
    """
    for path, count in _numbers(config.to_dict()):
        for pattern, most in _COUNTS.items():
            if pattern.search(path.rsplit(".", 1)[-1]) and count > most:
                raise AttnLensError(
                    f"{path} is {count:,} in the config of {str(folder)!r}; expected {most:,} at most. Correct "
                    "config.json, or get the model's folder again."
                )
    held = sum(path.stat().st_size for path in _files(folder, _WEIGHTS))
    if held == 0:
        return  # in a folder of transformers' own making, or nowhere, which it tells itself
    try:
        with torch.device("meta"):
            empty = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # noqa: BLE001 - from_pretrained makes the same model, and what it says is told
        return
    described = sum(parameter.numel() for parameter in empty.parameters())
    if described > MOST_PER_BYTE * held:
        raise AttnLensError(
            f"The model {str(folder)!r} could not be loaded: its config describes {described:,} weights, and its files "
            f"have {held:,} bytes. One of them is damaged, or of another model: get the folder again."
        )


def check_settings(processor: Any, name: str) -> None:
    """Raises AttnLensError for a processor that would make more of an image than memory holds."""
    settings = json.loads(processor.image_processor.to_json_string())
    budgets = "merge_size" in settings  # Qwen2-VL and its relatives call the fewest and the most pixels so
    sides = _SIDES if budgets else (*_SIDES, "shortest_edge", "longest_edge")
    for path, number in _numbers({**vars(processor), "image_processor": settings}):
        most = MAX_SIDE if path.rsplit(".", 1)[-1] in sides else MAX_NUMBER
        if abs(number) > most:
            raise AttnLensError(
                f"{path} is {number:,} in the settings of {type(processor).__name__} in {name!r}; expected {most:,} at "
                "most. Correct processor_config.json (or preprocessor_config.json), or get the model's folder again."
            )


def load_weights(name: str, *, allow_missing: bool, **options: Any) -> Any:
    """The model in eval mode, by transformers' `from_pretrained`, which gets the options.

    Raises AttnLensError, with their names, for weights that the checkpoint lacks or has in another shape: transformers
    would fill them with random numbers. `allow_missing` makes that a warning.
    """
    forgiven = options.pop("ignore_mismatched_sizes", False)
    model, found = AutoModelForImageTextToText.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    _check_missing(name, found["missing_keys"], allow_missing)
    others = [f"{key} {tuple(here)}, not {tuple(wanted)}" for key, here, wanted in sorted(found["mismatched_keys"])]
    if others:
        said = f"The checkpoint {name!r} has {len(others)} of the model's weights in another shape: {_listed(others)}."
        if not (allow_missing or forgiven):
            raise AttnLensError(
                f"{said} Its config and its weights do not belong together: get both again, from one place. To use "
                "random numbers in their place: ignore_mismatched_sizes=True."
            )
        _log.warning("%s Random numbers stand in their place.", said)
    if unexpected := sorted(found["unexpected_keys"]):
        _log.warning(
            "The checkpoint %r has %d weights that the model has no place for, and that do nothing: %s. It may be of "
            "another model, or of a newer version of its code.",
            name,
            len(unexpected),
            _listed(unexpected),
        )
    return model.eval()


def _check_missing(name: str, missing: Iterable[str], allowed: bool) -> None:
    """Raises AttnLensError, or warns where it is `allowed`, when weights are missing from a checkpoint."""
    names = sorted(missing)
    if not names:
        return
    said = f"The checkpoint {name!r} lacks {len(names)} of the model's weights: {_listed(names)}."
    if not allowed:
        raise AttnLensError(
            f"{said} Random numbers would stand in their place, in the answers and in the maps. Get the checkpoint "
            "again, whole; or, if it is meant to be so, load it with allow_missing_weights=True "
            "(--allow-missing-weights)."
        )
    _log.warning("%s Random numbers stand in their place.", said)


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.suffix in suffixes and path.is_file()]
    except OSError as error:
        raise AttnLensError(f"The folder {str(folder)!r} cannot be read: {error.strerror or error}.") from None


def _numbers(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, int | float]]:
    for key, value in settings.items():
        path = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping):
            yield from _numbers(value, path)
        elif isinstance(value, int | float):
            yield path, value
