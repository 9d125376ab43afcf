"""Hidden states of the language model: what enters its layers, and how an answer's entropy hangs on it.

Plain hooks on the decoder layers. No attention matrix is looked at, so that a pass runs under the model's own attention
implementation, SDPA and flash alike. The decoder layer of an attention module is the element that it is a part of in
the outermost list of modules on its path: `model.language_model.layers.3.self_attn` is of `layers[3]`.

A state is what a layer is handed for a token as its first argument. Where that is several streams (Gemma 3n, models
with hyper-connections), they count as one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnlens.errors import AttnLensError
from attnlens.lens._capture.attention import frozen
from attnlens.lens._capture.passes import slopes
from attnlens.lens._model.structure import Structure

TAU = 20.0
"""VAR's threshold (arXiv 2503.03321): a sink's state, over its root mean square, exceeds it in a massive dimension."""

_RMS_EPSILON = 1e-6  # of the mean square, as in LLaMA's RMSNorm

Marks = NDArray[np.bool_]

_STATE = ("hidden_states",)
_FEATURES = ("key_value_states", "cross_attention_states", "encoder_hidden_states")
"""What transformers' modules call the state that enters a layer, and the image's features in cross-attention."""

_Change = Callable[[Tensor], Tensor]


def entropy_gradient(model: Any, structure: Structure, inputs: Mapping[str, Any], tokens: int) -> Tensor:
    """|dH / dx_i|, L2 over channels, for every token i of the prompt: float32 [tokens] (arXiv 2604.08456).

    H is the Shannon entropy, in nats, of the first answer token's distribution; x_i is the state of token i as it
    enters the first layer (of an encoder-decoder: of the encoder). Where the language model looks at the image by
    cross-attention, x_i is the i-th of the features that all of it are given: [keys] instead of [tokens]. The graph
    begins at x, with parameters frozen: what comes before, the vision tower above all, runs without one. `inputs` are
    those of the whole prompt, `tokens` its length.
    """
    cross_attention = structure.attends_to == "image"
    paths = [site.path for site in structure.attention]
    givens = [model.get_submodule(path) for path in paths] if cross_attention else [_first_layer(model, structure)]
    leaves: list[Tensor] = []

    def begin(state: Tensor) -> Tensor:
        if not leaves:
            leaves.append(state.detach().requires_grad_())
            return leaves[0]
        return (
            leaves[0] if cross_attention else state
        )  # a looped model enters its first layer again, with another state

    with frozen(model), torch.enable_grad(), _entering(givens, [begin] * len(givens), cross_attention):
        logits = model(**inputs).logits
        (gradient,) = slopes(model, _entropy(logits[0, -1].float()), leaves)
    rows = gradient.flatten(0, -2).float() if cross_attention else _by_token(gradient, tokens)
    return rows.norm(dim=-1)


@torch.no_grad()
def sinks(model: Any, structure: Structure, inputs: Mapping[str, Any], tokens: int, tau: float = TAU) -> Tensor:
    """`are_sinks` of the states that enter each layer of `structure.layers`, in one pass: bool [layers, tokens].

    Raises `AttnLensError` where the layers' attention looks at keys that pass through no layer of theirs.
    """
    if structure.attends_to != "prompt":
        raise AttnLensError(
            f"In {type(model).__name__} the language model looks at the image by cross-attention, and image tokens "
            "have no hidden state in its layers by which to tell sinks. Use sinks='keep'."
        )
    found: dict[int, Tensor] = {}

    def look(index: int, state: Tensor) -> None:
        found[index] = are_sinks(_by_token(state, tokens), tau)

    _look_at_states(model, structure, inputs, look)
    return torch.stack([found[index] for index in range(len(structure.layers))])


@torch.no_grad()
def first_not_finite(model: Any, structure: Structure, inputs: Mapping[str, Any]) -> int | None:
    """The first of `structure.layers` that a state enters with NaN or infinity in it, in one pass; None without one."""
    found: list[int] = []

    def look(index: int, state: Tensor) -> None:
        if not bool(state.isfinite().all()):
            found.append(structure.layers[index])

    _look_at_states(model, structure, inputs, look)
    return found[0] if found else None


def _look_at_states(
    model: Any, structure: Structure, inputs: Mapping[str, Any], look: Callable[[int, Tensor], None]
) -> None:
    """One pass, in which `look` gets the index of each of `structure.layers` and the state that enters it."""

    def looked(index: int, state: Tensor) -> Tensor:
        look(index, state)
        return state

    layers = [_layer_of(model, site.path) for site in structure.attention]
    with _entering(layers, [partial(looked, index) for index in range(len(layers))]):
        model(**inputs)


def are_sinks(states: Tensor, tau: float = TAU) -> Tensor:
    """Which tokens are attention sinks, by their states on entering a layer: [tokens, width] -> bool [tokens].

    VAR (arXiv 2503.03321): phi(x) = max over d in D_sink of |x_d| / rms(x), without a norm's learned scale; a sink has
    phi > `tau`. The paper lists D_sink by hand for two models. Here it is the dimensions in which the prompt's first
    token exceeds `tau` itself, since the first token is where massive dimensions were found; where there are none,
    there are no sinks. As |x_d| / rms(x) is at most the root of the width, a model narrower than 400 has no sinks at
    tau = 20.
    """
    states = states.float()
    size = states.abs() * (states.square().mean(dim=-1, keepdim=True) + _RMS_EPSILON).rsqrt()
    return (size[:, size[0] > tau] > tau).any(dim=-1)


def _entropy(logits: Tensor) -> Tensor:
    """In nats; a token that cannot come (a logit of -inf) adds nothing, and has no gradient."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0)).sum()


@contextmanager
def _entering(
    modules: Sequence[nn.Module], changes: Sequence[_Change], cross_attention: bool = False
) -> Iterator[None]:
    """In here, each of `modules` is handed what its change makes of the state, or of the features to cross to."""
    names = _FEATURES if cross_attention else _STATE
    with ExitStack() as stack:
        for module, change in zip(modules, changes, strict=True):
            hook = partial(_handed, change, names)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _handed(
    change: _Change, names: Sequence[str], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A state may stand first, without its name."""
    name = next((name for name in names if isinstance(kwargs.get(name), Tensor)), None)
    if name is not None:
        return args, kwargs | {name: change(kwargs[name])}
    if args and names is _STATE:
        return (change(args[0]), *args[1:]), kwargs
    raise AttnLensError(
        f"{type(module).__name__} is handed {', '.join(kwargs) or 'nothing'} by name; expected one of "
        f"{', '.join(names)}. Use a map of attention."
    )


def _by_token(states: Tensor, tokens: int) -> Tensor:
    """A batch of one, [..., tokens, ...] -> float32 [tokens, width], all streams in one row."""
    axis = next((axis for axis in range(1, states.dim() - 1) if states.shape[axis] == tokens), None)
    if axis is None:
        raise AttnLensError(
            f"A layer of the language model is handed states of shape {tuple(states.shape)}, and the prompt has "
            f"{tokens} tokens. Use a map of attention."
        )
    return states.movedim(axis, 0).reshape(tokens, -1).float()


def _first_layer(model: Any, structure: Structure) -> nn.Module:
    """The first layer that the prompt passes through."""
    if structure.attends_to == "encoder":
        generator: Any = structure.generator
        return next(part for part in generator.get_encoder().modules() if isinstance(part, nn.ModuleList))[0]
    return _layers_on(model, structure.attention[0].path)[0][0]


def _layer_of(model: Any, path: str) -> nn.Module:
    """The decoder layer that the attention module at `path` is a part of."""
    layers, number = _layers_on(model, path)
    return layers[number]


def _layers_on(model: Any, path: str) -> tuple[nn.ModuleList, int]:
    """The outermost list of modules on `path`, and which of its elements the path goes through."""
    names = path.split(".")
    for stop in range(1, len(names)):
        layers = model.get_submodule(".".join(names[:stop]))
        if isinstance(layers, nn.ModuleList):
            return layers, int(names[stop])
    raise AttnLensError(
        f"No list of layers lies on the path {path!r} to the language model's attention, so that what enters a layer "
        "is not known. Use a map of attention."
    )
