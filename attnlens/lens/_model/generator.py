"""A prompt in chunks on a KV cache: the part of a model that reads text and image tokens, and generates."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from attnlens._checks import check_count
from attnlens._upstream import generating, position_ids, prepared_inputs, processed_scores
from attnlens.lens._inputs.batching import on_device
from attnlens.lens._inputs.prompt import Prompt


class Generator:
    """Wraps the generating module; `positions` and `chunk` follow what its own `generate` would do."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model: Any = model
        self._tokenizer = tokenizer
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self.last_logits_only: dict[str, int] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def positions(self, prompt: Prompt) -> Tensor | None:
        """Position ids of the whole prompt, [..., tokens]: m-rope models have several rows."""
        if not self._takes_positions:
            return None
        vision = {key: value for key, value in prompt.vision().items() if isinstance(value, Tensor)}
        whole_numbers = {key: value for key, value in vision.items() if not value.is_floating_point()}
        known = {"attention_mask": torch.ones_like(prompt.ids), **prompt.extras, **on_device(whole_numbers, self.model)}
        positions = position_ids(self.model, prompt.ids, known)
        return positions if isinstance(positions, Tensor) else None

    def chunk(
        self,
        prompt: Prompt,
        positions: Tensor | None,
        start: int,
        stop: int,
        cache: DynamicCache,
        vision: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """The inputs of a forward pass over tokens `start:stop`, on a cache that holds the tokens before.

        `vision` holds the inputs of the images in this chunk, and of those alone.
        """
        inputs: dict[str, Any] = {key: value[:, :stop] for key, value in prompt.extras.items()}
        inputs |= {**(vision or {}), **self.last_logits_only}
        if positions is not None:
            inputs["position_ids"] = positions[..., :stop]
        return prepared_inputs(
            self.model,
            prompt.ids[:, :stop],
            cache,
            next_sequence_length=stop - start,
            attention_mask=torch.ones_like(prompt.ids[:, :stop]),
            is_first_iteration=bool(vision),
            use_cache=True,
            **inputs,
        )

    @torch.no_grad()
    def extend(
        self,
        prompt: Prompt,
        positions: Tensor | None,
        stop: int,
        cache: DynamicCache,
        vision: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Bring `cache` up to token `stop` of the prompt, under the model's own attention implementation.

        log p of every token as the one after: float32 [vocabulary].
        """
        start = cache.get_seq_length()
        logits: Tensor = self.model(**self.chunk(prompt, positions, start, stop, cache, vision)).logits
        return logits[0, -1].float().log_softmax(-1)

    @torch.no_grad()
    def decode(
        self, prompt: Prompt, positions: Tensor | None, cache: DynamicCache, max_new_tokens: int
    ) -> tuple[list[int], float]:
        """Greedy tokens after the prompt and their summed log-probability; `cache` holds all but its last token.

        This is the model's own `generate`, so its generation config (end tokens, repetition penalty) holds.
        """
        extra = {} if positions is None else {"position_ids": positions}
        known = {"input_ids": prompt.ids, "attention_mask": torch.ones_like(prompt.ids)}
        return generate(self.model, self.model, self._tokenizer, {**known, **extra}, max_new_tokens, cache)

    @torch.no_grad()
    def first_token(self, prompt: Prompt, logits: Tensor) -> int:
        """Which token `generate` says after the prompt, whose last logits are [vocabulary].

        The generation config may suppress or penalise the likeliest one.
        """
        ids = prompt.ids
        if getattr(self.model.config, "is_encoder_decoder", False):
            ids = decoder_prompt(self.model, ids)
        scores = logits.to(ids.device, torch.float32, copy=True)[None]
        return int(processed_scores(self.model, self.model.generation_config, ids, prompt.ids, scores).argmax())


def decoder_prompt(language_model: Any, like: Tensor) -> Tensor:
    """What an encoder-decoder's answer begins with, [1, tokens]: the start token, and one that is forced on it."""
    config = language_model.generation_config
    text = language_model.config.get_text_config(decoder=True)
    start = config.decoder_start_token_id
    begin = [text.decoder_start_token_id if start is None else start, config.forced_bos_token_id]
    return like.new_tensor([[token for token in begin if token is not None]])


def check_new_tokens(count: object) -> None:
    """Raises AttnLensError unless an answer may have so many tokens."""
    check_count("max_new_tokens", count, "tokens")


@torch.no_grad()
def generate(
    model: Any,
    language_model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    max_new_tokens: int,
    cache: DynamicCache | None = None,
) -> tuple[list[int], float]:
    """Greedy tokens after the prompt of `inputs` and their summed log-probability, by `model.generate`.

    `language_model` is the part that generates, whose generation config (end tokens, repetition penalty) holds. `cache`
    holds what of the prompt has run.
    """
    theirs = language_model.generation_config
    config = _greedy(theirs, max_new_tokens)
    own = ("logits_to_keep", "use_cache", "decoder_input_ids")  # generate sets these itself
    given = {key: value for key, value in inputs.items() if key not in own}
    if config.stop_strings:
        given["tokenizer"] = tokenizer
    try:
        language_model.generation_config = config  # what is None in a config that is handed over is taken from there
        with generating(language_model) as name:
            held = {} if cache is None else {name: cache}
            out = model.generate(**given, **held, generation_config=config)
    finally:
        language_model.generation_config = theirs
    tokens = out.sequences[0, -len(out.logits) :].tolist()
    log_probs = torch.stack([step[0].float().log_softmax(-1) for step in out.logits])
    return tokens, float(log_probs[range(len(tokens)), tokens].sum())


_ELSEWISE = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),  # of sampling
    *("penalty_alpha", "dola_layers", "prompt_lookup_num_tokens", "assistant_early_exit", "is_assistant"),  # of other
    *("constraints", "force_words_ids", "num_beam_groups"),  # decoding
    *("cache_implementation", "cache_config", "prefill_chunk_size", "max_length"),  # of a cache, a length of its own
)
"""What a generation config may say of anything but plain greedy decoding on the cache that is given."""


def _greedy(theirs: Any, max_new_tokens: int) -> Any:
    """A generation config by which the answer is greedy; end tokens, penalties and suppressed tokens are `theirs`."""
    config = copy.deepcopy(theirs)
    for key in _ELSEWISE:
        setattr(config, key, None)
    config.do_sample, config.num_beams, config.num_return_sequences = False, 1, 1
    config.max_new_tokens, config.use_cache = max_new_tokens, True
    config.output_logits = config.return_dict_in_generate = True
    return config
