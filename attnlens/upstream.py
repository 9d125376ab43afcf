"""What attnlens takes from transformers beyond its public face: the file to open when transformers moves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationMixin

_CACHE_NAMES = ("cache", "past_key_values")  # since transformers 5.24, and before


def cache_name(call: Callable[..., Any]) -> str:
    """The name under which `call`, such as a model's forward, takes a KV cache.

    What names none hands its keyword arguments on, to what the installed transformers expects.
    """
    for function in (call, GenerationMixin.prepare_inputs_for_generation):
        accepted = inspect.signature(function).parameters
        for name in _CACHE_NAMES:
            if name in accepted:
                return name
    raise TypeError(f"transformers' generation takes a cache under none of the names {', '.join(_CACHE_NAMES)}.")


def prepared_inputs(model: Any, ids: Any, cache: Any, **inputs: Any) -> dict[str, Any]:
    """The arguments of `model.forward` that its `prepare_inputs_for_generation` makes for these tokens on `cache`."""
    return _prepared(model.prepare_inputs_for_generation, model.forward, ids, cache, inputs)


@contextmanager
def generating(model: Any) -> Iterator[str]:
    """The name under which `model.generate` takes a cache, while it hands it to `forward` under the name known there.

    A model of remote code may know the one name, and the installed transformers' generation the other.
    """
    name = cache_name(model.generate)
    if name == cache_name(model.forward):
        yield name
        return

    prepare = model.prepare_inputs_for_generation

    # `generate` looks for the word `kwargs` before it allows what `forward` names.
    def prepared(input_ids: Any, cache: Any = None, past_key_values: Any = None, **kwargs: Any) -> dict[str, Any]:
        held = past_key_values if cache is None else cache
        return _prepared(prepare, model.forward, input_ids, held, kwargs)

    model.prepare_inputs_for_generation = prepared
    try:
        yield name
    finally:
        del model.prepare_inputs_for_generation


def _prepared(
    prepare: Callable[..., Any], forward: Callable[..., Any], ids: Any, cache: Any, inputs: dict[str, Any]
) -> dict[str, Any]:
    prepared = prepare(ids, **{cache_name(prepare): cache}, **inputs)
    name = cache_name(forward)
    return {name if key in _CACHE_NAMES else key: value for key, value in prepared.items()}
