"""Keeps a few layers of a config's many: everything that the settings say about single layers keeps step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    counts = {key: settings[key] for key in LAYER_COUNTS if type(settings.get(key)) is int and settings[key] > 0}
    if not counts:
        return dict(settings)
    layers = _Layers.of(settings, max(counts.values()))
    types = settings.get("layer_types") or [""] * layers.depth
    kept = _kept(layers.kinds(), types, 3 if "vocab_size" in settings else 2)
    return {**settings, **{key: min(count, len(kept)) for key, count in counts.items()}, **layers.only(kept)}


@dataclass(frozen=True)
class _Layers:
    """What the settings of a part of a model say about its single layers, of which it has `depth`."""

    depth: int
    each: Mapping[str, Sequence[Any]]
    """Lists with an entry for each layer."""
    numbers: Mapping[str, Sequence[int]]
    """Lists of layers' numbers."""
    own: Mapping[int, Any]
    """Settings of a layer's own, by its number."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], depth: int) -> _Layers:
        lists = {key: value for key, value in settings.items() if isinstance(value, list | tuple) and value}
        numbers = {key: v for key, v in lists.items() if _LAYER_NUMBERS.fullmatch(key) and _are_layers(v, depth)}
        each = {key: v for key, v in lists.items() if len(v) == depth and key not in numbers}
        return cls(depth, each, numbers, {int(k): v for k, v in (settings.get("per_layer_config") or {}).items()})

    def kinds(self) -> list[str]:
        """For each layer all that is said about it, as one text: alike for layers of a kind."""
        return [
            repr([[v[n] for v in self.each.values()], [n in v for v in self.numbers.values()], self.own.get(n)])
            for n in range(self.depth)
        ]

    def only(self, kept: Sequence[int]) -> dict[str, Any]:
        """The same settings of the layers `kept` alone, which are numbered anew."""
        place = {layer: number for number, layer in enumerate(kept)}
        own = {place[layer]: value for layer, value in self.own.items() if layer in place}
        return {
            **{key: [value[layer] for layer in kept] for key, value in self.each.items()},
            **{key: [place[n] for n in value if n in place] for key, value in self.numbers.items()},
            **({"per_layer_config": own} if self.own else {}),
        }


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
