"""The only place that knows nnsight: run a model once and bring back what some of its modules put out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nnsight
from nnsight import NNsight
from nnsight._c import unmount
from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor, nn

from attnlens.errors import AttnLensError

if unmount is not None and hasattr(object, "save"):
    unmount("save")  # importing nnsight puts a `.save` on every Python object of the user's program, and breaks some


class Site(NamedTuple):
    """Where attention weights come out: element `output` of what the module at `path` returns."""

    path: str
    output: int = 1


def inside_nnsight(model: Any) -> nn.Module | None:
    """The model that the user has wrapped by nnsight; None where it is no such wrapper."""
    return model._module if isinstance(model, NNsight) else None


class Tracer:
    """Runs `model` and captures attention weights by module path."""

    def __init__(self, model: nn.Module) -> None:
        with warnings.catch_warnings():  # Q-Formers have submodules named `output`; we ask for none of them
            warnings.filterwarnings("ignore", message=r".*has a submodule named 'output'.*")
            self._model = NNsight(model)

    def run(self, inputs: Mapping[str, Any], sites: Sequence[Site]) -> tuple[Any, list[Tensor]]:
        """One forward pass: the model's output, and the weights that came out at each of `sites`.

        `sites` stand in the order of execution. The weights are [batch, heads, queries, keys], with whatever graph
        the pass built. Raises `AttnLensError` where a module gave no weights.
        """
        envoys = [(self._model.get(site.path), site.output) for site in sites]
        try:
            with self._model.trace(**inputs):
                captured = nnsight.save([])
                for envoy, index in envoys:
                    captured.append(envoy.output[index])
                output = nnsight.save(self._model.output)
        except OutOfOrderError as error:
            order = ", ".join(path for path, _ in sites)
            raise AttnLensError(
                f"A module to look into did not run, or not in the order of {order}: {error}. Correct the attention "
                "paths in the adapter."
            ) from error
        for (path, _), weights in zip(sites, captured, strict=True):
            if weights is None:
                raise AttnLensError(
                    f"The attention weights of {path} came back as None: this module does not follow transformers' "
                    "attention interface. Load the model with attn_implementation='eager', or update its code."
                )
        return output, list(captured)
