"""How the state of a question comes about: what of its prompt has run, and the KV cache that it left.

The images' tokens are prefilled once, together with the first question, and their KV cache is kept. A further question
is a short tail on that cache, and so is a crop that comes behind the images. Where what comes before the question is
not the same for every question, each question is a whole prompt of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from attnlens._upstream import cache_name
from attnlens.errors import AttnLensError
from attnlens.lens._capture import passes
from attnlens.lens._host import Host
from attnlens.lens._inputs.batching import on_device
from attnlens.lens._inputs.prompt import Prompt
from attnlens.lens._model.kv_cache import branch, can_be_cut, new_cache


@dataclass(frozen=True)
class PromptState:
    """A prompt and the KV cache of its first tokens; of a question's, all but the last."""

    prompt: Prompt
    positions: Tensor | None  # position ids of the whole prompt
    cache: DynamicCache | None  # None where this model's cache cannot be cut
    log_probs: Tensor | None = None  # of the token after the prompt, where the whole prompt has run

    def begins(self, prompt: Prompt, positions: Tensor | None) -> bool:
        """Whether `prompt` starts with exactly these tokens, at these positions."""
        stop = 0 if self.cache is None else self.cache.get_seq_length()
        if not torch.equal(self.prompt.ids[:, :stop], prompt.ids[:, :stop]):
            return False
        if positions is None or self.positions is None:
            return positions is self.positions
        return torch.equal(self.positions[..., :stop], positions[..., :stop])


class PrefixCache:
    """The states of the questions about some images; those of the images and of the last question are kept."""

    def __init__(
        self, host: Host, prompt: Callable[[str], Prompt], beginning: Callable[[], Tensor], before: PrefixCache | None
    ) -> None:
        """`prompt`: that of a question. `beginning`: of any question's, the ids up to the end of the images. `before`:
        the states of the same images without the last one."""
        self._host = host
        self._prompt = prompt
        self._beginning = beginning
        self._before = before
        self._asked: tuple[str, PromptState] | None = None
        self._prefix: PromptState | None = None
        self._whole_prompts = host.structure.strategy in ("one_pass", "eager")

    def of(self, question: str) -> PromptState:
        """The state before the last token of `question`'s prompt."""
        if self._asked is None or self._asked[0] != question:
            run = self._run_whole if self._whole_prompts else self._run_tail
            self._asked = (question, run(self._prompt(question)))
        return self._asked[1]

    def captured(self, question: str, gradients: bool) -> tuple[Prompt, passes.Captured]:
        """The question's prompt, and what its last token shows: attention, and gradients if wanted."""
        return (self._run_with_weights if self._whole_prompts else self._replay)(question, gradients)

    @torch.no_grad()
    def log_probs(self, question: str) -> Tensor:
        """log p of the token after the question's prompt: [vocabulary]."""
        host, state = self._host, self.of(question)
        if state.log_probs is not None:
            return state.log_probs
        if state.cache is None:
            log_probs = self._whole_log_probs(state.prompt)
            host.meter.forward(state.prompt.image_tokens)
            return log_probs
        log_probs = host.generator.extend(state.prompt, state.positions, state.prompt.length, branch(state.cache))
        host.check_log_probs(state.prompt, log_probs)
        host.meter.forward()
        return log_probs

    def tail(self, question: str, prompt: Prompt, stop: int) -> dict[str, Any]:
        """The inputs of the tokens of the question's `prompt` behind the images, up to `stop`, on the images' cache."""
        if self._prefix is None:
            self.of(question)  # reads the images once, for other questions too
        state = self._advance(prompt, prompt.end_of_images, self._known())
        if state.cache is None:
            raise AttnLensError(f"{self._host.name} gave no KV cache to look at the images from.")
        return self._host.generator.chunk(prompt, state.positions, prompt.end_of_images, stop, state.cache)

    # On the images' cache.

    def _run_tail(self, prompt: Prompt) -> PromptState:
        """What is new of `prompt` on the images' cache; the first question brings the images with it."""
        shared = self._host.structure.strategy == "shared"
        if can_be_cut(new_cache(self._host.generator.model)):
            state = self._advance(prompt, prompt.length, self._known())
            if shared and self._prefix is None and state.cache is not None:
                self._prefix = replace(state, cache=branch(state.cache, prompt.end_of_images), log_probs=None)
            return state
        if shared and self._prefix is None and self._begins_alike(prompt):
            self._prefix = self._advance(prompt, prompt.end_of_images, self._known())
        return self._advance(prompt, prompt.length - 1, self._known())

    def _known(self) -> PromptState | None:
        """The most that is read of these images, or of those before the last one."""
        if self._prefix is not None or self._before is None or not self._host.adapter.language_model.appends_images:
            return self._prefix
        return self._before._known()

    def _begins_alike(self, prompt: Prompt) -> bool:
        """Whether what comes before the end of the images is the same for another question."""
        return torch.equal(prompt.ids[:, : prompt.end_of_images], self._beginning())

    def _advance(self, prompt: Prompt, stop: int, known: PromptState | None) -> PromptState:
        """The state of `prompt` up to token `stop`, starting from `known` where the prompt begins so; of a whole prompt
        that without its last token."""
        host, positions, log_probs = self._host, self._host.generator.positions(prompt), None
        if known is not None and known.cache is not None and known.begins(prompt, positions):
            cache, held = branch(known.cache), len(known.prompt.images)
        else:
            cache, held = new_cache(host.generator.model), 0
        if cache.get_seq_length() < stop:
            vision = on_device(prompt.vision(held), host.model) if held < len(prompt.images) else None
            log_probs = host.generator.extend(prompt, positions, stop, cache, vision)
            host.check_log_probs(prompt, log_probs)
            host.meter.forward(sum(map(len, prompt.positions[held:])))
        if stop < prompt.length:
            return PromptState(prompt, positions, cache)
        return PromptState(prompt, positions, branch(cache, stop - 1), log_probs)

    def _replay(self, question: str, gradients: bool) -> tuple[Prompt, passes.Captured]:
        """The last token once more, by itself, with its weights returned."""
        host, state = self._host, self.of(question)
        last = state.prompt.length - 1
        if state.cache is None:
            raise AttnLensError(f"{host.name} gave no KV cache to replay the last token on.")
        inputs = host.generator.chunk(state.prompt, state.positions, last, last + 1, branch(state.cache))
        choose = partial(host.generator.first_token, state.prompt)
        captured = passes.replay(host.model, host.tracer, host.structure, inputs, choose, gradients)
        host.meter.forward()
        return state.prompt, captured

    # The whole prompt at once.

    def _run_whole(self, prompt: Prompt) -> PromptState:
        """Where the model leaves no cache to go on from, what asks runs it."""
        host, cache, positions = self._host, self._whole_cache(), self._host.generator.positions(prompt)
        if cache is None:
            return PromptState(prompt, positions, None)
        log_probs = self._whole_log_probs(prompt, cache)
        host.meter.forward(prompt.image_tokens)
        return PromptState(prompt, positions, branch(cache, prompt.length - 1), log_probs)

    def _run_with_weights(self, question: str, gradients: bool) -> tuple[Prompt, passes.Captured]:
        host, prompt = self._host, self._prompt(question)
        inputs, cache = {**host.inputs(prompt), "use_cache": False}, self._whole_cache()
        if cache is not None:
            inputs |= self._on(cache)
        choose = partial(host.generator.first_token, prompt)
        captured = passes.one_pass(host.model, host.tracer, host.structure, inputs, choose, gradients)
        host.meter.forward(prompt.image_tokens)
        kept = None if cache is None else branch(cache, prompt.length - 1)
        self._asked = (question, PromptState(prompt, host.generator.positions(prompt), kept))
        return prompt, captured

    def _whole_cache(self) -> DynamicCache | None:
        """An empty cache for a whole prompt, where its last token can be left out of it again."""
        structure = self._host.structure
        cache = new_cache(structure.generator) if structure.attends_to == "prompt" else None
        return cache if cache is not None and can_be_cut(cache) else None

    def _on(self, cache: DynamicCache) -> dict[str, Any]:
        """The arguments with which the whole model fills `cache`."""
        return {cache_name(self._host.model.forward): cache, "use_cache": True}

    @torch.no_grad()
    def _whole_log_probs(self, prompt: Prompt, cache: DynamicCache | None = None) -> Tensor:
        inputs = self._host.inputs(prompt) | ({} if cache is None else self._on(cache))
        logits: Tensor = self._host.model(**inputs).logits
        log_probs = logits[0, -1].float().log_softmax(-1)
        self._host.check_log_probs(prompt, log_probs)
        return log_probs
