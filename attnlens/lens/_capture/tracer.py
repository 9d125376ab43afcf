"""The only place that knows nnsight: run a model once and bring back what some of its modules put out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
        the pass built; of a module that runs several times in it (looped layers), those of its last run. Raises
        `AttnLensError` where a module gave no weights.
        """
        envoys = [(self._model.get(site.path), site.output) for site in sites]
        try:
            with self._later_runs(sites) as later, self._model.trace(**inputs):
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
        weights_by_site = [later.get(site, weights) for site, weights in zip(sites, captured, strict=True)]
        for (path, _), weights in zip(sites, weights_by_site, strict=True):
            if weights is None:
                raise AttnLensError(
                    f"The attention weights of {path} came back as None: this module does not follow transformers' "
                    "attention interface. Load the model with attn_implementation='eager', or update its code."
                )
        return output, weights_by_site

    @contextmanager
    def _later_runs(self, sites: Sequence[Site]) -> Iterator[dict[Site, Any]]:
        """What comes out at each site that runs again, at its last run: nnsight hands out a module's first."""
        runs, later = Counter[Site](), dict[Site, Any]()

        def keep(site: Site, output: Any) -> None:
            runs[site] += 1
            if runs[site] > 1:
                later[site] = output[site.output]

        with ExitStack() as stack:
            for site in sites:
                module = self._model.get(site.path)._module
                handle = module.register_forward_hook(lambda _, __, output, site=site: keep(site, output))
                stack.callback(handle.remove)
            yield later
