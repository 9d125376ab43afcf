"""Claims about the attention functions: a missing mask is caught, unless none is needed, and indexers are heeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

import attnlens
from attnlens.errors import AttnLensError
from attnlens.lens.attention import OPEN, ROWS, chosen, implementation
from tests import tiny

QUESTION = "what is it?"


class Attention(nn.Module):
    """What an attention function asks of its module."""

    num_key_value_groups = 1

    def __init__(self, is_causal: bool | None) -> None:
        super().__init__()
        if is_causal is not None:
            self.is_causal = is_causal


def eager_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """Where the attention functions look for the eager one of this file's module."""
    weights = query @ key.transpose(2, 3) * scaling
    weights = (weights if mask is None else weights + mask).softmax(-1)
    return (weights @ value).transpose(1, 2), weights


def inputs(queries: int = 3, keys: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(1, 2, queries, 4), torch.randn(1, 2, keys, 4), torch.randn(1, 2, keys, 4)


def rows(module: nn.Module, mask: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = AttentionInterface()[ROWS](module, *inputs(), mask, scaling=0.5, **options)
    return found


@pytest.mark.parametrize(("own", "said"), [(False, None), (True, False), (None, False)])
def test_attention_that_says_it_is_not_causal_needs_no_mask(own: bool | None, said: bool | None) -> None:
    module = Attention(own)
    output, weights = rows(module, **({} if said is None else {"is_causal": said}))
    expected, everything = eager_attention_forward(module, *inputs(), None, scaling=0.5)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights, everything[:, :, -1:])


@pytest.mark.parametrize(("own", "said"), [(None, None), (True, None), (False, True)])
def test_a_missing_mask_is_caught_where_attention_may_be_causal(own: bool | None, said: bool | None) -> None:
    with pytest.raises(AttnLensError, match="Attention built no attention mask"):
        rows(Attention(own), **({} if said is None else {"is_causal": said}))


def one(module: nn.Module) -> Any:
    return implementation([module], ROWS)


def words(module: nn.Module) -> Any:
    return chosen([module], [-1], ROWS)


@pytest.mark.parametrize("looking", [one, words])
def test_a_missing_mask_is_caught_in_what_is_looked_at_whatever_it_says(looking: Callable[[nn.Module], Any]) -> None:
    module = Attention(is_causal=False)
    with looking(module), pytest.raises(AttnLensError, match="built no attention mask"):
        rows(module)
    rows(module)  # it is not looked at any more


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_model_whose_masks_are_lost_is_refused_and_not_read_wrongly(
    is_causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = tiny.build("llava")
    spec = attnlens.adapters.find("llava")
    one_pass = spec.model_copy(
        update={"language_model": spec.language_model.model_copy(update={"strategy": "one_pass"})}
    )
    lens = attnlens.load(model=model, processor=processor, adapter=one_pass)
    for site in lens.structure.attention:
        model.get_submodule(site.path).is_causal = is_causal
    reading = lens.read(tiny.images("square", 1))
    assert reading.trace(QUESTION).attention.max() > 0
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, ROWS, lambda *_, **__: None)
    with pytest.raises(AttnLensError, match="built no attention mask"):
        lens.read(tiny.images("square", 1)).trace(QUESTION)


@pytest.mark.parametrize("how", [ROWS, OPEN])
@pytest.mark.parametrize("boolean", [True, False])
def test_keys_that_an_indexer_has_not_chosen_are_left_out(how: str, boolean: bool) -> None:
    query, key, value = inputs()
    causal = torch.ones(3, 5, dtype=torch.bool).tril(2)[None, None]
    indices = torch.tensor([[[0, 1], [3, 0], [4, 2]]], dtype=torch.int32)
    allowed = torch.zeros(1, 1, 3, 5, dtype=torch.bool)
    for number, keys in enumerate(indices[0].tolist()):
        allowed[0, 0, number, keys] = True
    hidden = torch.finfo(torch.float32).min
    whole = torch.zeros(1, 1, 3, 5).masked_fill(~(causal & allowed), hidden)
    expected, weights = eager_attention_forward(nn.Module(), query, key, value, whole, scaling=0.5)
    mask = causal if boolean else torch.zeros(1, 1, 3, 5).masked_fill(~causal, hidden)
    module = Attention(is_causal=True)
    found = AttentionInterface()[how](module, query, key, value, mask, scaling=0.5, indices=indices)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], weights if how == OPEN else weights[:, :, -1:])
