"""Drafts an adapter for a model that no adapter knows: what can be read off is read, what cannot is tried.

A tiny random model of the type is made from its config class. Every grid that the known adapters use is laid over its
image processor's output, and the checks say which one is true: the number of image tokens must be what the model takes,
and painted patches must change the tokens that the grid says. Then ways to cut the prompt are tried in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import attnlens
from attnlens import adapters
from attnlens.adapters.explain import models_in
from attnlens.adapters.grids import GridSpec
from attnlens.adapters.rendering import render
from attnlens.adapters.schema import AdapterSpec
from attnlens.conformance.checks import Finding, findings
from attnlens.conformance.processor import IMAGE_TOKEN, StandInProcessor
from attnlens.conformance.reference import eager
from attnlens.conformance.report import sample_images
from attnlens.conformance.tiny import tiny_config, tiny_like, tiny_model
from attnlens.conformance.tiny_images import tiny_image_processor
from attnlens.errors import AttnLensError
from attnlens.lens.lens import Lens
from attnlens.lens.loading import load_config

_GRID_CHECKS = ("tokens", "places")
_OF_THE_IMAGE = ("image_axis", "pixels", "pixel_gradient", "prepended", "per_image")
_MERGE = re.compile(r"merge|scale_factor|downsampl|shuffle|pool")
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
    origin: Mapping[str, str]
    """For each top-level key of the adapter: inferred, tried or guessed, and how."""
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return all(finding.passed is not False for finding in self.findings)

    def text(self) -> str:
        """The adapter as a YAML file, which says of each fact where it comes from."""
        passed = [finding.check for finding in self.findings if finding.passed]
        failing = f" What does not hold: {_failures(self.findings)}" if not self.passed else ""
        return render(
            self.spec,
            self.origin,
            f"Drafted by attnlens {attnlens.__version__} for transformers {transformers.__version__}, on a tiny random "
            f"model. Proved there: {', '.join(passed)}.{failing} Prove it on the checkpoint: attnlens adapters check "
            "MODEL --adapter THIS_FILE. The prompt is guessed to be the processor's own chat template.",
        )


def draft(name: str | Path, *, hidden: str | None = None, trust_remote_code: bool = False) -> Draft:
    """An adapter for a model type, or for the checkpoint in a folder or on the hub, of which the config alone is read.

    `hidden`: the name of a known adapter that is not looked at. Raises AttnLensError where no tiny model can be made,
    or where no known grid fits it.
    """
    if not Path(name).exists() and str(name) in CONFIG_MAPPING:
        return _drafted(str(name), tiny_config(str(name)), hidden)
    config = load_config(name, trust_remote_code=trust_remote_code)
    return _drafted(config.model_type, tiny_like(config), hidden)


def _drafted(model_type: str, config: PreTrainedConfig, hidden: str | None) -> Draft:
    model = tiny_model(config)
    image_token_id, where = _image_token(config)
    facts: dict[str, Any] = {"model_types": [model_type], "image_token_id": image_token_id}
    origin = {"model_types": "the config's model_type", "image_token_id": where}
    if (attention := _attention_path(model)) is not None:
        facts["language_model"] = {"attention": attention}
    connector = None
    tried, best = 0, None
    for known in (*_known(hidden), *_composed(config)):
        if known["grid"]["kind"] in ("latents", "cross"):
            connector = connector or _connector_path(model, model_type)
        guess = _fitted(facts, known, connector)
        if guess is None:
            continue
        tried += 1
        found = _try(model, model_type, guess, _GRID_CHECKS)
        score = _score(found)
        if best is None or score > best[0]:
            best = (score, guess, found, known["name"])
        if all(finding.passed for finding in found):
            break
    if best is None or any(finding.passed is False for finding in best[2]):
        reason = "none of them could be laid out" if best is None else _failures(best[2])
        raise AttnLensError(
            f"None of {tried} known grids fits the model type {model_type!r}: {reason}. Write its adapter by hand, "
            "starting from the nearest one: attnlens adapters list."
        )
    _, facts, found, like = best
    proved = "; ".join(f"{finding.check}: {finding.detail}" for finding in found)
    origin["grid"] = f"tried {tried} known grids; this one, {like}, fits: {proved}"
    if "connector" in facts:
        origin["connector"] = "inferred: attention whose rows sum to 1 and whose keys are more than its queries"
    return _with_language_model(model, model_type, facts, origin)


def _with_language_model(model: nn.Module, model_type: str, facts: dict[str, Any], origin: dict[str, str]) -> Draft:
    """The first way to cut the prompt under which every check passes, or the one under which most do."""
    best, refused = (-1, facts, tuple[Finding, ...]()), ""
    for way in _ways(model):
        guess = facts | {"language_model": facts.get("language_model", {}) | way}
        found = _try(model, model_type, guess)
        score = sum(finding.passed is not False for finding in found)
        if score > best[0]:
            best = (score, guess, found)
        if all(finding.passed is not False for finding in found):
            break
        refused = refused or _failures(found)
    _, facts, found = best
    if facts["language_model"]:
        origin["language_model"] = f"tried; without it {refused}" if refused else "inferred from the modules' names"
    return Draft(_spec(facts), origin, found)


def _known(hidden: str | None) -> list[dict[str, Any]]:
    """What each known adapter says of the grid and the pixels, each only once, the simplest first."""
    seen: dict[str, dict[str, Any]] = {}
    for name, path in adapters.available().items():
        if name == hidden:
            continue
        spec = adapters.find(path).model_dump(mode="json", exclude_unset=True)
        prompt = {key: value for key, value in spec.get("prompt", {}).items() if key in _OF_THE_IMAGE}
        images = spec.get("tiny", {}).get("images", {})
        for tiny in ({}, {"images": images}) if images else ({},):
            guess = {"grid": spec["grid"], "prompt": prompt, "tiny": tiny}
            seen.setdefault(json.dumps(guess, sort_keys=True), guess | {"name": f"as in {name}"})
    return sorted(seen.values(), key=lambda one: len(json.dumps([one["grid"], one["prompt"], one["tiny"]])))


def _composed(config: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """Every grid kind by itself, with each number of the config that may be its patch and its merge factor."""
    paths = list(_paths(config.to_dict()))
    patches = [{}, *({"patch": {"config": path}} for path in paths if path.endswith("patch_size"))]
    merges = [{}, *({"merge": {"config": path}} for path in paths if _MERGE.search(path.rsplit(".", 1)[-1]))]
    kinds = [get_args(kind.model_fields["kind"].annotation)[0] for kind in models_in(GridSpec)]
    kinds = list(dict.fromkeys(kind for kind in kinds if kind is not None))
    for kind, patch, merge, axis in product(kinds, patches, merges, (0, 1)):
        prompt = {"image_axis": axis} if axis else {}
        yield {"grid": {"kind": kind, **patch, **merge}, "prompt": prompt, "tiny": {}, "name": "put together"}


def _paths(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted paths of a config's numbers, outside its language model."""
    for key, value in settings.items():
        if isinstance(value, dict) and "text" not in key:
            yield from _paths(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}"


def _fitted(facts: dict[str, Any], known: dict[str, Any], connector: str | None) -> dict[str, Any] | None:
    guess = facts | {key: known[key] for key in ("grid", "prompt", "tiny") if known[key]}
    if known["grid"]["kind"] == "latents":
        if connector is None:
            return None
        guess["connector"] = {"attention": connector}
    return guess


def _try(
    model: Any, model_type: str, facts: dict[str, Any], checks: tuple[str, ...] | None = None
) -> tuple[Finding, ...]:
    """The checks on a guess; one that cannot even be put together fails."""
    try:
        spec = _spec(facts)
        images = tiny_image_processor(model_type, model.config, spec.tiny.image_processor, spec.tiny.images)
        lens = Lens(model, StandInProcessor(images, spec, model), spec)
    except Exception as error:  # noqa: BLE001 - a guess may be wrong in any way
        return (Finding("build", False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"),)
    return tuple(findings(lens, sample_images(), checks))


def _spec(facts: Mapping[str, Any]) -> AdapterSpec:
    return AdapterSpec.from_mapping({**facts, "name": "draft"})


def _score(found: tuple[Finding, ...]) -> float:
    return sum(1.0 if finding.passed else 0.5 if finding.passed is None else -len(found) for finding in found)


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


def _attention_path(model: Any) -> str | None:
    """The language model's attention modules by name, where transformers does not record them."""
    decoder = model.get_decoder()
    prefix = next(path for path, module in model.named_modules() if module is decoder)
    if (getattr(decoder, "_can_record_outputs", None) or {}).get("attentions") is not None:
        return None
    found = [
        path
        for path, _ in decoder.named_modules()
        if re.fullmatch(r".*\.\d+\.(self_attn|self_attention|attention)", path)
    ]
    return re.sub(r"\.\d+\.", ".*.", f"{prefix}.{found[0]}") if found else None


def _connector_path(model: Any, model_type: str) -> str | None:
    """Attention modules outside the language model whose weights have other keys than queries: one eager dry run."""
    seen: list[str] = []

    def look(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if not isinstance(weights, torch.Tensor) or weights.dim() != 4:
                return
            if weights.shape[-1] != weights.shape[-2] and torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-3):
                seen.append(path)

        return hook

    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(eager(model))
        for path, module in model.named_modules():
            if "Attention" in type(module).__name__ and id(module) not in inside:
                stack.callback(module.register_forward_hook(look(path)).remove)
        try:
            pixels = tiny_image_processor(model_type, model.config)(sample_images()[:1], return_tensors="pt")
            model.get_image_features(pixel_values=pixels["pixel_values"])
        except Exception:  # noqa: BLE001 - a model that takes more than pixels has no connector that is found so
            return None
    return re.sub(r"\.\d+(?=\.|$)", ".*", seen[0]) if seen else None
