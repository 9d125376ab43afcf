"""nn.MultiheadAttention in the open: torch's own output, and weights that lie on the way to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attnlens.errors import AttnLensError
from attnlens.lens._capture.multihead import with_weights

BATCH, QUERIES, KEYS, WIDTH, HEADS = 3, 4, 7, 12, 2


def made(**settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **settings}).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def states(batch_first: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    query, key, value = (torch.randn(BATCH, count, WIDTH).double() for count in (QUERIES, KEYS, KEYS))
    return (query, key, value) if batch_first else (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))


def hidden(*shape: int) -> torch.Tensor:
    """True where not to look; at least one key stays."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.4
    mask[..., 0] = False
    return mask


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": hidden(QUERIES, KEYS)},
        {"attn_mask": hidden(BATCH * HEADS, QUERIES, KEYS)},
        {"attn_mask": torch.randn(QUERIES, KEYS).double()},
        {"key_padding_mask": hidden(BATCH, KEYS)},
    ],
    ids=["no mask", "one mask", "mask of each head", "added mask", "padding"],
)
def test_the_output_is_torch_s_and_its_averaged_weights_are_the_mean_of_the_heads(
    masks: dict[str, torch.Tensor], batch_first: bool, bias: bool
) -> None:
    module, given = made(bias=bias, batch_first=batch_first), states(batch_first)
    expected, averaged = module(*given, **masks)
    _, each = module(*given, **masks, average_attn_weights=False)
    with with_weights([module]):
        output, weights = module(*given, **masks)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights, each)
    torch.testing.assert_close(weights.mean(dim=1), averaged)
    assert weights.shape == (BATCH, HEADS, QUERIES, KEYS)
    after, averaged_after = module(*given, **masks)
    assert torch.equal(after, expected)
    assert torch.equal(averaged_after, averaged)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_gradient_of_the_weights_foretells_what_other_weights_would_put_out(frozen: bool) -> None:
    module, (query, key, value) = made().requires_grad_(not frozen), states()
    direction = torch.randn(BATCH, QUERIES, WIDTH).double()
    with with_weights([module]):
        output, weights = module(query, key, value)
        (gradient,) = torch.autograd.grad((output * direction).sum(), [weights])
    change = torch.randn_like(weights)
    values = (value @ module.in_proj_weight[2 * WIDTH :].T + module.in_proj_bias[2 * WIDTH :]).detach()
    values = values.reshape(BATCH, KEYS, HEADS, WIDTH // HEADS).transpose(1, 2)
    moved = (change @ values).transpose(1, 2).reshape(BATCH, QUERIES, WIDTH) @ module.out_proj.weight.detach().T
    torch.testing.assert_close((gradient * change).sum(), (moved * direction).sum())


def test_without_gradients_the_weights_carry_no_graph_and_other_modules_stay_as_they_are() -> None:
    module, other = made(), made()
    with with_weights([module, nn.Linear(2, 2)]), torch.no_grad():
        assert not module(*states())[1].requires_grad
        assert other(*states())[1].shape == (BATCH, QUERIES, KEYS)


@pytest.mark.parametrize("settings", [{"kdim": 5}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_a_module_that_adds_keys_or_has_other_widths_is_reported(settings: dict[str, Any]) -> None:
    with pytest.raises(AttnLensError, match="one width and it adds no keys"), with_weights([made(**settings)]):
        pass
