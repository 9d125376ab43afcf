"""What the grid of an unknown model may be: as in a known adapter, or put together from the kinds and the config.

Each hypothesis is what an adapter would say of the grid and of the image's inputs, and where it was taken from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, get_args

from transformers import PreTrainedConfig

from attnlens import adapters
from attnlens.adapters._explain import models_in
from attnlens.adapters._grids import GridSpec

Facts = dict[str, Any]

_OF_THE_IMAGE = ("image_axis", "pixel_axis", "patch_numbers", "pixels", "pixel_gradient", "prepended", "per_image")
_NAMES = {  # what a config's key is called that holds a fact of the grid
    "patch": re.compile(r"patch_size$"),
    "merge": re.compile(r"merge|scale_factor|downsampl|shuffle|pool|stride$"),
    "queries": re.compile(r"quer(y|ies)|latents?(_|$)"),
    "tokens": re.compile(r"tokens_per_image|image_seq_length"),
}
_CHOICES: dict[str, Sequence[Facts]] = {
    "thumbnail": ({}, {"thumbnail": "first"}),
    "cls": ({}, {"cls": 0}),
    "blocks": ({}, {"blocks": False}),
    "mask": ({}, {"mask": "pixel_attention_mask"}),
    "row_end": ({}, {"before": 1}, {"row_end": 1}, {"before": 1, "row_end": 1, "after": 1}),
}


def hypotheses(config: PreTrainedConfig, exclude: str | None) -> Iterator[tuple[Facts, str]]:
    """(facts, where they are from), those of known adapters first; the adapter named `exclude` is left out."""
    yield from _known(exclude)
    yield from _composed(config)


def _known(exclude: str | None) -> list[tuple[Facts, str]]:
    """What each known adapter says, only once, the simplest first."""
    seen: dict[str, tuple[Facts, str]] = {}
    for name, path in adapters.available().items():
        if name == exclude:
            continue
        spec = adapters.find(path).model_dump(mode="json", exclude_unset=True)
        prompt = {key: value for key, value in spec.get("prompt", {}).items() if key in _OF_THE_IMAGE}
        images = {"images": found} if (found := spec.get("tiny", {}).get("images")) else {}
        for tiny in ({}, images) if images else ({},):
            facts = {"grid": spec["grid"], "prompt": prompt, "tiny": tiny}
            seen.setdefault(json.dumps(facts, sort_keys=True), (facts, f"as in {name}"))
    return [seen[key] for key in sorted(seen, key=len)]


def _composed(config: PreTrainedConfig) -> Iterator[tuple[Facts, str]]:
    """Every grid kind by itself, with each value of the config that may be one of its facts."""
    paths = list(_paths(config.to_dict()))
    for kind in dict.fromkeys(models_in(GridSpec)):
        (name,) = get_args(kind.model_fields["kind"].annotation)
        choices: list[Sequence[Facts]] = [_named(paths, key) for key in _NAMES if key in kind.model_fields]
        choices += [found for key, found in _CHOICES.items() if key in kind.model_fields]
        for axis, *parts in product(({}, {"image_axis": 1}), *choices):
            grid: Facts = {"kind": name}
            for part in parts:
                grid |= part
            yield {"grid": grid, "prompt": axis, "tiny": {}}, "put together"


def _named(paths: Sequence[str], key: str) -> list[Facts]:
    """The default, and every path of the config whose name may mean `key`."""
    found = [path for path in paths if _NAMES[key].search(path.rsplit(".", 1)[-1])]
    return [{}, *({key: {"config": path}} for path in found)]


def _paths(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted paths of a config's numbers and short texts, outside its language model."""
    for key, value in settings.items():
        if isinstance(value, dict) and "text" not in key:
            yield from _paths(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | str) and not isinstance(value, bool) and len(str(value)) < 8:
            yield f"{prefix}{key}"
