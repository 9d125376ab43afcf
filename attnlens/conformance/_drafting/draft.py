"""Drafts an adapter for a model that no adapter knows: what can be read off is read, what cannot is tried.

A tiny random model of the type is made from its config class. Every grid that the known adapters use is laid over its
image processor's output, and the checks say which one is true: the number of image tokens must be what the model takes,
and painted patches must change the tokens that the grid says. Then ways to cut the prompt are tried in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig

import attnlens
from attnlens import _renamed
from attnlens.adapters._rendering import render
from attnlens.adapters._schema import AdapterSpec
from attnlens.conformance._checks import Finding, all_passed, describe_error, findings
from attnlens.conformance._drafting.grids import Facts, hypotheses
from attnlens.conformance._drafting.paths import attention_path, connector_path, cross_attention_path
from attnlens.conformance._report import sample_images
from attnlens.conformance._tiny.image_processor import tiny_image_processor
from attnlens.conformance._tiny.model import tiny_config, tiny_like, tiny_model
from attnlens.conformance._tiny.processor import IMAGE_TOKEN, StubProcessor
from attnlens.conformance._types import check_asked
from attnlens.errors import AttnLensError
from attnlens.lens import Lens
from attnlens.lens._checkpoint.processors import load_processor
from attnlens.lens._inputs.batching import as_prompt_images, features_of
from attnlens.lens._layouts import Processed, layout_of
from attnlens.lens._loading import load_config
from attnlens.lens._model.broken import check_runs

_GRID_CHECKS = ("tokens", "places", "canvas")
_WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"appends_images": False},
    {"strategy": "replay"},
    {"strategy": "one_pass"},
    {"strategy": "one_pass", "appends_images": False},
    {"strategy": "eager"},
)


@dataclass(frozen=True)
class Draft:
    """A drafted adapter, where each of its facts comes from, and what the checks say of it."""

    spec: AdapterSpec
    """The adapter; its name is "draft"."""
    origin: Mapping[str, str]
    """For each top-level key of the adapter: inferred, tried or guessed, and how."""
    findings: tuple[Finding, ...]
    """What each check found on a tiny random model."""

    @property
    def passed(self) -> bool:
        """Whether nothing that was found speaks against the adapter."""
        return all_passed(self.findings)

    def text(self) -> str:
        """The adapter as a YAML file, which says of each fact where it comes from.

        Returns:
            The text of the file. Comments at its top say what was proved and what does not hold.

        Examples:
            >>> "grid: {kind: square}" in attnlens.conformance.draft("llava").text()
            True
        """
        passed = [finding.check for finding in self.findings if finding.passed]
        failing = f" What does not hold: {_failures(self.findings)}" if not self.passed else ""
        return render(
            self.spec,
            self.origin,
            f"Drafted by attnlens {attnlens.__version__} for transformers {transformers.__version__}, on a tiny random "
            f"model. Proved there: {', '.join(passed)}.{failing} Prove it on the checkpoint: attnlens adapters check "
            "MODEL --adapter THIS_FILE.",
        )


@_renamed.arguments(hidden="exclude")
def draft(name: str | Path, *, exclude: str | None = None, trust_remote_code: bool = False) -> Draft:
    """An adapter for a model type, or for the checkpoint in a folder or on the hub: its config and processor are read.

    A tiny random model of the type is made from its config class. Every grid that the known adapters use is laid over
    its image processor's output, and the checks say which one is true. Then ways to cut the prompt are tried in the
    same way.

    Args:
        name: a model type of transformers, a folder, or a Hugging Face id. What exists as a file or folder is never
            taken for a type.
        exclude: the name of a known adapter that is not looked at; None looks at all.
        trust_remote_code: whether code that comes with the checkpoint may run.

    Returns:
        The adapter with the origin of each of its facts, and what the checks say of it.

    Raises:
        AttnLensError: where no tiny model can be made, where no known grid fits it, where the config or the processor
            of a checkpoint cannot be read, and for a model type that answers no questions about pictures.

    Examples:
        >>> found = attnlens.conformance.draft("llava", exclude="llava")
        >>> found.spec.grid.kind, found.passed
        ('square', True)
    """
    if not Path(name).exists() and str(name) in CONFIG_MAPPING:
        check_asked(str(name))
        return _drafted(str(name), lambda: tiny_config(str(name)), exclude)
    config = load_config(name, trust_remote_code=trust_remote_code)
    if config.model_type in CONFIG_MAPPING:
        check_asked(config.model_type)
    found = _drafted(config.model_type, lambda: tiny_like(config), exclude)
    return _with_prompt(found, load_processor(name, trust_remote_code=trust_remote_code))


@contextmanager
def _step(model_type: str, failed: str, advice: str) -> Iterator[None]:
    """Whatever goes wrong in a model's own code becomes an error that says what was being tried, and what was seen."""
    try:
        yield
    except AttnLensError:
        raise
    except Exception as error:
        raise AttnLensError(f"{failed} the type {model_type!r} ({describe_error(error)}). {advice}") from error


def _drafted(model_type: str, make: Callable[[], PreTrainedConfig], exclude: str | None) -> Draft:
    check_runs(model_type)
    by_hand = "Write the adapter by hand (attnlens adapters list), and what the config lacks under tiny."
    with _step(model_type, "No tiny model could be made of", by_hand):
        config = make()
        model = tiny_model(config)
    with _step(model_type, "The modules and the image processor could not be read of", by_hand):
        return _read_off(model, model_type, config, exclude)


def _read_off(model: Any, model_type: str, config: PreTrainedConfig, exclude: str | None) -> Draft:
    image_token_id, where = _image_token(config)
    facts: Facts = {"model_types": [model_type], "image_token_id": image_token_id}
    origin = {
        "model_types": "the config's model_type",
        "image_token_id": where,
        "prompt": "guessed: the processor's own chat template",
    }
    if (attention := attention_path(model)) is not None:
        facts["language_model"] = {"attention": attention}
    facts, origin["grid"] = _with_grid(model, model_type, facts, exclude)
    if "connector" in facts:
        origin["connector"] = "inferred: attention whose rows sum to 1, and whose keys are others than its queries"
    return _with_language_model(model, model_type, facts, origin)


def _with_prompt(found: Draft, processor: Any) -> Draft:
    """The processor's chat template, or where it has none the shortest prompt that names what must be in it."""
    if getattr(processor, "chat_template", None):
        return found
    said = "Question: {question} Answer:" if found.spec.prompt.prepended else "{images}\nQuestion: {question} Answer:"
    token = getattr(processor, "image_token", None)
    prompt = found.spec.prompt.model_dump(exclude_unset=True) | {"template": said}
    if token and not found.spec.prompt.prepended:
        prompt["image"] = str(getattr(token, "content", token))
    facts = found.spec.model_dump(exclude_unset=True) | {"prompt": prompt}
    origin = {**found.origin, "prompt": "guessed: the processor has no chat template; put in the model's own prompt"}
    return replace(found, spec=_spec(facts), origin=origin)


def _with_grid(model: Any, model_type: str, facts: Facts, exclude: str | None) -> tuple[Facts, str]:
    """The first hypothesis that the model agrees with; behind a connector with attention, those of latents first."""
    processor = tiny_image_processor(model_type, model.config)
    connector, cross_attention = connector_path(model, processor, sample_images()[0]), cross_attention_path(model)
    first = "latents" if connector is not None else "cross" if cross_attention is not None else None
    ordered = sorted(hypotheses(model.config, exclude), key=lambda one: one[0]["grid"]["kind"] != first)
    tried, nearest = 0, (-1.0, "none of them could be laid over the image")
    for guess, like in _different(model, model_type, ordered):
        prompt = {"prompt": {"template": "chat", **guess["prompt"]}}
        known = facts | {key: value for key, value in guess.items() if value} | prompt
        if (needed := {"latents": connector, "cross": cross_attention}.get(guess["grid"]["kind"], "")) is None:
            continue
        if needed:
            known |= {"connector" if guess["grid"]["kind"] == "latents" else "language_model": {"attention": needed}}
        tried += 1
        found = _try(model, model_type, known, _GRID_CHECKS)
        if all_passed(found):
            proved = "; ".join(f"{finding.check}: {finding.detail}" for finding in found)
            return known, f"tried: grid number {tried} of those that can be laid out, {like}, fits: {proved}"
        score = sum(bool(finding.passed) for finding in found)
        if score > nearest[0]:
            nearest = (score, f"the nearest was {json.dumps(guess['grid'])}, {_failures(found)}")
    raise AttnLensError(
        f"None of {tried} different grids fits the model type {model_type!r}; {nearest[1]}. Write its adapter by hand, "
        "starting from the nearest one: attnlens adapters list."
    )


def _different(model: Any, model_type: str, guesses: Iterable[tuple[Facts, str]]) -> Iterator[tuple[Facts, str]]:
    """Those that can be laid over a picture, one for each way in which its tokens come to lie."""
    picture, seen, made = sample_images()[0], set(), dict[str, Processed]()
    for guess, like in guesses:
        try:
            spec = _spec({"model_types": [model_type], "connector": {"attention": "any"}, **guess})
            way = json.dumps([guess["prompt"], guess["tiny"]])
            if way not in made:
                processor = tiny_image_processor(model_type, model.config, None, spec.tiny.images)
                features = features_of(
                    processor(as_prompt_images([picture], spec.prompt), return_tensors="pt"), spec.prompt
                )
                made[way] = Processed(picture.size, features, processor, model.config)
            processed = made[way]
            layout = layout_of(spec.grid, processed)
            place, pixels = layout.views[0].pixels, processed.array(layout.views[0].key or spec.prompt.pixels)
            canvas = b"" if place is None else place(pixels).tobytes()
        except Exception:  # noqa: BLE001 - a guess may be wrong in any way
            continue
        grids, keys = tuple(view.grid for view in layout.views), guess["grid"]["kind"] in ("cross", "latents")
        key = (layout.cells.tobytes(), grids, layout.queries, layout.tiles, canvas, way, keys)
        if key not in seen:
            seen.add(key)
            yield guess, like


def _with_language_model(model: Any, model_type: str, facts: Facts, origin: dict[str, str]) -> Draft:
    """The first way to cut the prompt under which every check passes, or the one under which most do."""
    best, refused = (-1, facts, tuple[Finding, ...]()), ""
    for way in _ways(model):
        guess = facts | {"language_model": facts.get("language_model", {}) | way}
        found = _try(model, model_type, guess)
        score = sum(finding.passed is not False for finding in found)
        if score > best[0]:
            best = (score, guess, found)
        if all_passed(found):
            break
        refused = refused or _failures(found)
    _, facts, found = best
    if facts["language_model"]:
        origin["language_model"] = f"tried; without it {refused}" if refused else "inferred from the modules' names"
    return Draft(_spec(facts), origin, found)


def _try(
    model: Any, model_type: str, facts: dict[str, Any], checks: tuple[str, ...] | None = None
) -> tuple[Finding, ...]:
    """The checks on a guess; one that cannot even be put together fails."""
    try:
        spec = _spec(facts)
        images = tiny_image_processor(model_type, model.config, spec.tiny.image_processor, spec.tiny.images)
        lens = Lens(model, StubProcessor(images, spec, model), spec)
    except Exception as error:  # noqa: BLE001 - a guess may be wrong in any way
        return (Finding("build", False, describe_error(error)),)
    return tuple(findings(lens, sample_images(), checks))


def _spec(facts: Mapping[str, Any]) -> AdapterSpec:
    return AdapterSpec.from_mapping({**facts, "name": "draft"})


def _failures(found: tuple[Finding, ...]) -> str:
    return "; ".join(f"{finding.check} fails ({finding.detail})" for finding in found if finding.passed is False)


def _ways(model: Any) -> Iterator[dict[str, Any]]:
    yield from _WAYS
    for path, module in model.named_children():
        if callable(getattr(module, "generate", None)):
            yield {"level": "inner", "path": path}


def _image_token(config: PreTrainedConfig) -> tuple[Any, str]:
    """The config's key for the image token, and how it was found."""
    keys = [key for key, value in config.to_dict().items() if isinstance(value, int) and not isinstance(value, bool)]
    for pattern in (
        r"image_token_(id|index)",
        r".*im(age|g)_?(pad_|patch_|context_)?token.*(id|index)",
        r".*placeholder.*",
    ):
        for key in keys:
            if re.fullmatch(pattern, key):
                return {"config": key}, f"inferred: the config's {key}"
    return {"token": IMAGE_TOKEN}, "guessed: the config names no image token, so what its tokenizer writes for one"
