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
from attnlens.lens._capture.attention import EAGER, ROWS, chosen, implementation
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
    for site in lens._host.structure.attention:
        model.get_submodule(site.path).is_causal = is_causal
    reading = lens.read(tiny.images("square", 1))
    assert reading.trace(QUESTION).attention.max() > 0
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, ROWS, lambda *_, **__: None)
    with pytest.raises(AttnLensError, match="built no attention mask"):
        lens.read(tiny.images("square", 1)).trace(QUESTION)


@pytest.mark.parametrize("how", [ROWS, EAGER])
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
    torch.testing.assert_close(found[1], weights if how == EAGER else weights[:, :, -1:])


def float16(biggest: float, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys of float16 whose products reach `biggest` squared; keys differ by `noise` there."""
    query, key, value = (one.half() for one in inputs(queries=1, keys=40))
    query[..., 0] = biggest
    key[..., 0] = biggest + noise * torch.arange(40)
    return query, key, value


@pytest.mark.parametrize("how", [ROWS, EAGER])
def test_scores_above_what_float16_holds_are_computed_in_float32(how: str) -> None:
    tensors = float16(300.0, 0.0)
    scores = tensors[0].double() @ tensors[1].double().transpose(2, 3)
    assert float(scores.min()) > torch.finfo(torch.float16).max
    mask = torch.arange(40)[None, None, None] < 39
    output, weights = AttentionInterface()[how](Attention(False), *tensors, mask, scaling=0.001)
    expected = (scores * 0.001).masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=1e-4)
    assert output.dtype == torch.float16
    torch.testing.assert_close(output.double(), (expected @ tensors[2].double()).transpose(1, 2), atol=2e-3, rtol=1e-2)


def test_keys_that_a_float16_mask_hides_stay_hidden_from_scores_beyond_it() -> None:
    tensors = float16(300.0, 0.0)
    mask = torch.zeros(1, 1, 1, 40, dtype=torch.float16)
    mask[..., 39] = torch.finfo(torch.float16).min  # as transformers' eager masks are
    weights = AttentionInterface()[EAGER](Attention(False), *tensors, mask, scaling=0.001)[1]
    assert not weights[..., 39].any()


def test_scores_that_float16s_rounding_decides_are_refused() -> None:
    with pytest.raises(AttnLensError, match=r"scores up to 9\d,\d{3} before scaling.*float32"):
        AttentionInterface()[ROWS](Attention(False), *float16(300.0, 0.25), None, scaling=0.5)


def test_bfloat16_rows_are_those_of_float32_scores() -> None:
    tensors = tuple(one.bfloat16() for one in inputs(queries=1, keys=40))
    weights = AttentionInterface()[ROWS](Attention(False), *tensors, None, scaling=0.5)[1]
    expected = (tensors[0].double() @ tensors[1].double().transpose(2, 3) * 0.5).softmax(-1)
    torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=1e-5)
