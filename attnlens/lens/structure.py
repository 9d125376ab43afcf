"""Where things are in a loaded model: the module that generates, its attention modules, the connector's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import nn

from attnlens.adapters.schema import AdapterSpec, resolve
from attnlens.errors import AttnLensError


@dataclass(frozen=True)
class Structure:
    """Paths are those of `model.named_modules()`, in the order of execution."""

    generator: nn.Module  # takes chunks of the prompt on a KV cache, and generates: the model itself, or its inner LM
    attention: tuple[str, ...]  # the language model's self-attention modules
    layers: tuple[int, ...]  # the layer number of each of them
    connector: tuple[str, ...]  # the connector's cross-attention modules
    image_token_id: int
    context: int | None  # how many positions the language model has


def structure_of(model: Any, spec: AdapterSpec) -> Structure:
    """Read the structure off the model, by what transformers records and what the adapter says."""
    modules = dict(model.named_modules())
    inner = spec.language_model.level == "inner"
    generator = _module(modules, spec.language_model.path) if inner else model
    if getattr(generator.config, "is_encoder_decoder", False):
        raise AttnLensError(
            f"{type(generator).__name__} is an encoder-decoder language model, whose answer looks at the image through "
            "cross-attention; only decoders are read so far. Use a checkpoint with a decoder-only language model."
        )
    if spec.language_model.attention is not None:
        attention = _matching(modules, spec.language_model.attention, "language_model.attention")
    else:
        attention = _recorded_attention(model, modules)
    connector = _matching(modules, spec.connector.attention, "connector.attention") if spec.connector else ()
    text_config = model.config.get_text_config(decoder=True)
    image_token_id = resolve(spec.image_token_id, model.config)
    if not isinstance(image_token_id, int):
        raise AttnLensError(
            f"The image token's id is {image_token_id!r}; expected an int. Give the adapter's image_token_id as a "
            "number or as {config: path}."
        )
    return Structure(
        generator=generator,
        attention=attention,
        layers=tuple(_layer_number(path) for path in attention),
        connector=connector,
        image_token_id=image_token_id,
        context=getattr(text_config, "max_position_embeddings", None),
    )


def _recorded_attention(model: Any, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """The modules whose weights transformers would return as `attentions`, within the decoder."""
    decoder = model.get_decoder()
    prefix = next(path for path, module in modules.items() if module is decoder)
    recorded = (getattr(decoder, "_can_record_outputs", None) or {}).get("attentions")
    recorders = recorded if isinstance(recorded, list | tuple) else [recorded]
    classes = tuple(c for c in (getattr(r, "target_class", r) for r in recorders) if isinstance(c, type))
    paths = tuple(
        path for path, module in modules.items() if isinstance(module, classes) and path.startswith(f"{prefix}.")
    )
    if not paths:
        raise AttnLensError(
            f"transformers records no attention for {type(decoder).__name__}. Name its attention modules in the "
            "adapter: "
            f"language_model: {{attention: {prefix}.layers.*.self_attn}}"
        )
    return paths


def _module(modules: dict[str, nn.Module], path: str) -> nn.Module:
    if path not in modules:
        near = get_close_matches(path, modules, n=3, cutoff=0.4)
        raise AttnLensError(
            f"The adapter names the module {path!r}, which the model lacks. Nearest: {', '.join(near)}."
        )
    return modules[path]


def _matching(modules: dict[str, nn.Module], pattern: str, key: str) -> tuple[str, ...]:
    """Modules whose path fits `pattern`, where `*` stands for one number."""
    expression = re.compile(r"\d+".join(re.escape(part) for part in pattern.split("*")))
    paths = tuple(path for path in modules if expression.fullmatch(path))
    if not paths:
        shapes = {re.sub(r"\.\d+(?=\.|$)", ".*", path) for path in modules}
        near = get_close_matches(pattern, shapes, n=3, cutoff=0.4)
        raise AttnLensError(
            f"The adapter's {key} is {pattern!r}, and no module of the model has such a path. "
            f"Nearest: {', '.join(near) or 'none'}."
        )
    return paths


def _layer_number(path: str) -> int:
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", path)
    return int(numbers[-1]) if numbers else 0
