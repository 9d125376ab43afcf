"""Keeps a few layers of a config's many: everything that the settings say about single layers keeps step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LAYER_COUNTS = (
    "num_hidden_layers",
    "num_layers",
    "depth",
    "layers",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "resampler_depth",
)
_LAYER_NUMBERS = re.compile(r".*(layers|layers_indices|indexes|indices|idxs|layer_ids|layers_idx)")
_LESS_THAN_ALL = re.compile(r"sliding|chunked|window|linear|conv|mamba|recurrent|moe|mlp")


def with_few_layers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one part of a model, with a few of its layers.

    Two of a vision tower, three of a language model; at least one of each kind of layer, and where there are several
    kinds, a second one that attends to everything. A layer's kind is all that the settings say about it alone.
    """
    result = dict(settings)
    counts = {key: settings[key] for key in LAYER_COUNTS if type(settings.get(key)) is int and settings[key] > 0}
    if not counts:
        return result
    depth = max(counts.values())
    lists = {key: value for key, value in settings.items() if isinstance(value, list | tuple) and value}
    numbers = {key: v for key, v in lists.items() if _LAYER_NUMBERS.fullmatch(key) and _are_layers(v, depth)}
    each = {key: v for key, v in lists.items() if len(v) == depth and key not in numbers}
    apart = {int(layer): own for layer, own in (settings.get("per_layer_config") or {}).items()}

    def kind(layer: int) -> str:
        return repr([[v[layer] for v in each.values()], [layer in v for v in numbers.values()], apart.get(layer)])

    types = settings.get("layer_types") or [""] * depth
    kept = _kept([kind(layer) for layer in range(depth)], types, 3 if "vocab_size" in settings else 2)
    place = {layer: number for number, layer in enumerate(kept)}
    result.update({key: min(count, len(kept)) for key, count in counts.items()})
    result.update({key: [value[layer] for layer in kept] for key, value in each.items()})
    result.update({key: [place[layer] for layer in value if layer in place] for key, value in numbers.items()})
    if apart:
        result["per_layer_config"] = {place[layer]: own for layer, own in apart.items() if layer in place}
    return result


def _kept(kinds: Sequence[str], types: Sequence[str], least: int) -> list[int]:
    """Which layers stay: the first of each kind, then seconds, those first that attend to everything."""
    seen: dict[str, int] = {}
    turns = []
    for layer, kind in enumerate(kinds):
        seen[kind] = seen.get(kind, -1) + 1
        turns.append((seen[kind], seen[kind] > 0 and _LESS_THAN_ALL.search(types[layer]) is not None, layer))
    count = least if len(seen) == 1 else max(least, len(seen)) + (least > 2)
    return sorted(layer for *_, layer in sorted(turns)[:count])


def _are_layers(value: Sequence[Any], depth: int) -> bool:
    return all(type(item) is int and 0 <= item < depth for item in value) and len(set(value)) == len(value)
