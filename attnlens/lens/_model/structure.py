"""Where things are in a loaded model: the module that generates, its attention modules, the connector's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from torch import nn

from attnlens._upstream import LinearAttentionCacheLayerMixin, recorders
from attnlens.adapters._schema import AdapterSpec, ConnectorSpec, LanguageModelSpec, Strategy
from attnlens.adapters._strict import FromTokenizer, resolve
from attnlens.errors import AttnLensError
from attnlens.lens._capture.tracer import Site
from attnlens.lens._model.kv_cache import new_cache


@dataclass(frozen=True)
class Structure:
    """Paths are those of `model.named_modules()`, in the order of execution."""

    generator: nn.Module  # takes chunks of the prompt on a KV cache, and generates: the model itself, or its inner LM
    attention: tuple[Site, ...]  # where the language model's attention to image tokens comes out
    layers: tuple[int, ...]  # the layer number of each of them
    connector: tuple[Site, ...]  # where the connector's cross-attention comes out
    strategy: Strategy
    attends_to: Literal["prompt", "encoder", "image"]  # what the language model's attention looks at
    image_token_id: int
    context: int | None  # how many positions the language model has


def structure_of(model: Any, tokenizer: Any, spec: AdapterSpec) -> Structure:
    """Read the structure off the model, by what transformers records and what the adapter says."""
    modules = dict(model.named_modules())
    inner = spec.language_model.level == "inner"
    generator = _module(modules, spec.language_model.path) if inner else model
    text_config = model.config.get_text_config(decoder=True)
    encoder_decoder = getattr(generator.config, "is_encoder_decoder", False)
    attention = _sites(modules, spec.language_model, "language_model.attention")
    if not attention:
        attention = _recorded_attention(generator, modules, "cross_attentions" if encoder_decoder else "attentions")
    return Structure(
        generator=generator,
        attention=attention,
        layers=_layer_numbers([site.path for site in attention]),
        connector=_sites(modules, spec.connector, "connector.attention"),
        strategy=_strategy(generator, spec),
        attends_to="image" if spec.grid.kind == "cross" else "encoder" if encoder_decoder else "prompt",
        image_token_id=_image_token_id(model, tokenizer, spec),
        context=getattr(text_config, "max_position_embeddings", None),
    )


def _strategy(generator: Any, spec: AdapterSpec) -> Strategy:
    """What the adapter states; else a shared prefix, unless something speaks against it."""
    stated = spec.language_model.strategy
    if stated is not None:
        return stated
    if spec.connector is not None or spec.language_model.level == "inner" or spec.grid.kind == "cross":
        return "one_pass"  # the connector's gradients need the whole graph; an inner model is not given image tokens
    if getattr(generator.config, "is_encoder_decoder", False):
        return "one_pass"
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in new_cache(generator).layers)
    return "replay" if recurrent else "shared"  # a recurrent state takes one token at a time


def _image_token_id(model: Any, tokenizer: Any, spec: AdapterSpec) -> int:
    if isinstance(spec.image_token_id, FromTokenizer):
        token = spec.image_token_id.token
        found = tokenizer.convert_tokens_to_ids(token)
        if found is None or found == tokenizer.unk_token_id:
            raise AttnLensError(
                f"The adapter's image_token_id names the token {token!r}, which {type(tokenizer).__name__} does not "
                "know. Write the image token as the tokenizer does."
            )
        return int(found)
    found = resolve(spec.image_token_id, model.config)
    if not isinstance(found, int):
        raise AttnLensError(
            f"The image token's id is {found!r}; expected an int. Give the adapter's image_token_id as a number, as "
            "{config: path} or as {token: text}."
        )
    return found


def _recorded_attention(generator: Any, modules: dict[str, nn.Module], key: str) -> tuple[Site, ...]:
    """Where the weights come out that transformers would return as `key`, within the decoder."""
    decoder = generator.get_decoder()
    prefix = next(path for path, module in modules.items() if module is decoder)
    inside = {path: module for path, module in modules.items() if path.startswith(f"{prefix}.")}
    sites = [
        Site(path, recorder.output)
        for path, module in inside.items()
        for recorder in recorders(decoder, key)
        if recorder.records(path, module)
    ]
    if not sites:
        raise AttnLensError(
            f"transformers records no {key} for {type(decoder).__name__}. Name its attention modules in the adapter: "
            f"language_model: {{attention: {prefix}.layers.*.self_attn}}"
        )
    return tuple(sites)


def _module(modules: dict[str, nn.Module], path: str) -> nn.Module:
    if path not in modules:
        near = get_close_matches(path, modules, n=3, cutoff=0.4)
        raise AttnLensError(
            f"The adapter names the module {path!r}, which the model lacks. Nearest: {', '.join(near)}."
        )
    return modules[path]


def _sites(modules: dict[str, nn.Module], spec: LanguageModelSpec | ConnectorSpec | None, key: str) -> tuple[Site, ...]:
    """The modules that an adapter names under `key`; none where it names none."""
    if spec is None or spec.attention is None:
        return ()
    return tuple(Site(path, spec.attention_output) for path in _matching(modules, spec.attention, key))


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


def _layer_numbers(paths: Sequence[str]) -> tuple[int, ...]:
    """The number in which the paths differ; of a single path the last."""
    numbers = [[int(number) for number in re.findall(r"(?<=\.)\d+(?=\.|$)", path)] for path in paths]
    columns = [column for column in zip(*numbers, strict=False) if len(set(column)) > 1]
    if columns:
        return tuple(columns[0])
    return tuple(one[-1] if one else 0 for one in numbers)
