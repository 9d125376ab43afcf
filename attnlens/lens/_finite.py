"""Numbers that are none: what a model in too narrow a dtype, or with damaged weights, gives for an answer or a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attnlens.errors import AttnLensError
from attnlens.lens._capture.hidden_states import first_not_finite
from attnlens.lens._host import Host
from attnlens.lens._inputs.prompt import Prompt


def check_log_probs(host: Host, prompt: Prompt, log_probs: Tensor) -> None:
    """Raises AttnLensError unless these are logarithms of probabilities: a token that cannot come has -inf.

    Where they are not, the model reads the prompt once more, to say in which layer that begins.
    """
    if bool((log_probs < math.inf).all()):  # false of NaN, too
        return
    layer = first_not_finite(host.model, host.structure, host.inputs(prompt))
    begun = f"first in what enters layer {layer}" if layer is not None else "in or behind the last layer"
    raise _error(host.model, "logits", f"{begun} of its language model")


def check_by_layer(host: Host, what: str, values: Sequence[Tensor]) -> None:
    """Raises AttnLensError unless `what`, of each layer of the structure or of none, is finite."""
    if values:
        check_finite(host, what, values, [f"layer {number} of its language model" for number in host.structure.layers])


def check_finite(host: Host, what: str, values: Sequence[Tensor], places: Sequence[str]) -> None:
    """Raises AttnLensError unless all of `values`, which are `what` in so many `places`, are finite."""
    for place, one in zip(places, values, strict=True):
        if not bool(one.isfinite().all()):
            raise _error(host.model, what, f"first in {place}")


def _error(model: Any, what: str, where: str) -> AttnLensError:
    # Weights on the meta device are where accelerate offloads them: elsewhere.
    damaged = [
        name for name, weights in model.named_parameters() if not weights.is_meta and not bool(weights.isfinite().all())
    ]
    advice = (
        f"Its weights are not finite themselves ({', '.join(damaged[:3])}): get the checkpoint anew."
        if damaged
        else 'Load it in a wider dtype: dtype="float32", or "bfloat16".'
    )
    return AttnLensError(
        f"{type(model).__name__} in {str(model.dtype).removeprefix('torch.')} gives {what} that are not finite "
        f"(NaN or infinite), {where}. {advice}"
    )
