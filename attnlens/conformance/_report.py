"""Runs the checks on a model, real or tiny, and keeps what was found with the versions it was found under."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attnlens import adapters
from attnlens.adapters._explain import nearest
from attnlens.adapters._schema import AdapterSpec
from attnlens.conformance._checks import Finding, all_passed, describe_error, findings
from attnlens.conformance._tiny import torchvision_shim
from attnlens.conformance._tiny.image_processor import tiny_image_processor
from attnlens.conformance._tiny.model import tiny_config, tiny_model
from attnlens.conformance._tiny.processor import StubProcessor
from attnlens.conformance._types import check_asked
from attnlens.errors import AttnLensError
from attnlens.lens import Lens
from attnlens.lens._loading import load

SIZES = ((173, 97), (91, 160))
"""(width, height) of the two images that the checks look at."""


@dataclass(frozen=True)
class Report:
    """One adapter on one model: what was proved."""

    model_type: str
    """The `model_type` of the model's config."""
    adapter: str
    """The adapter's name; empty where there is no adapter."""
    grid: str
    """The kind of the adapter's grid."""
    connector: str
    """The path of the connector's attention modules, where the adapter names them; else empty."""
    strategy: str
    """How questions are read, as `language_model.strategy` of an adapter names it; empty where no model was made."""
    image_processor: str
    """The class of the image processor, by its name; empty where no model was made."""
    substituted: bool
    """Whether the image processor's code ran on functions that stand in for torchvision's."""
    findings: tuple[Finding, ...]
    """What each check found, in the order of `CHECKS`; a single one where there is no adapter or no model."""
    seconds: float
    """How long the checks took, the making of a tiny model included; not the loading of a checkpoint."""

    @property
    def passed(self) -> bool:
        """Whether nothing that was found speaks against the adapter."""
        return all_passed(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON.

        Returns:
            Every field by its name, each finding as a dict, and `passed`.

        Examples:
            >>> found = next(attnlens.conformance.check_all(["git"])).as_dict()
            >>> found["model_type"], found["passed"], found["findings"][0]["check"]
            ('git', False, 'adapter')
        """
        return asdict(self) | {"passed": self.passed}


def check_tiny(model_type: str, adapter: str | Path | AdapterSpec | None = None) -> Report:
    """The checks on a tiny random model of that type.

    The model has its type's own image processor and a stand-in for the text side. The checks look at two images of
    different shape. A model that cannot be built, or an adapter that does not fit it, is a finding that did not pass.

    Args:
        model_type: a transformers config's `model_type`.
        adapter: a name, the path of a YAML file or an `AdapterSpec`, as `attnlens.adapters.find` takes it; None takes
            the first adapter that handles the type.

    Returns:
        What was proved.

    Raises:
        AttnLensError: where there is no adapter for the type, or none of that name, and where `adapter` is not for the
            type. The message says so where the type answers no questions about pictures.

    Examples:
        >>> attnlens.conformance.check_tiny("llava").passed
        True
    """
    try:
        spec = adapters.find(adapter) if adapter is not None else adapters.for_model_type(model_type)
    except AttnLensError:
        check_asked(model_type)  # says more of a type that no adapter could be for
        raise
    check_type(spec, model_type)
    return _report(spec, model_type, lambda: tiny_lens(model_type, spec))


def check_model(
    name: str | Path,
    adapter: str | Path | AdapterSpec | None = None,
    *,
    device: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    **options: Any,
) -> Report:
    """The checks on a checkpoint, with its own processor.

    Args:
        name: a bundled model (`pocket/llava`), a folder or a Hugging Face id.
        adapter: a name, the path of a YAML file or an `AdapterSpec`; None takes the one that `attnlens.load` takes.
        device: where the model runs, as `attnlens.load` takes it.
        dtype: the weights' type. It is float32 whatever the checkpoint's own: with less precision two ways to compute
            the same differ by more than the checks allow.
        trust_remote_code: as `attnlens.load` takes it: whether code that comes with the checkpoint may run.
        **options: further options of `attnlens.load`.

    Returns:
        What was proved. A check that fails in any way is a finding that did not pass.

    Raises:
        AttnLensError: where the model cannot be loaded, as `attnlens.load` says.

    Examples:
        >>> attnlens.conformance.check_model("pocket/llava").passed
        True
    """
    lens = load(name, adapter=adapter, device=device, dtype=dtype, trust_remote_code=trust_remote_code, **options)
    return _report(lens.adapter, lens.model.config.model_type, lambda: lens)


def check_all(
    model_types: Sequence[str], adapter: str | Path | AdapterSpec | None = None, jobs: int = 1
) -> Iterator[Report]:
    """`check_tiny` of each of `model_types`, in the order they are done, in `jobs` processes.

    Args:
        model_types: `model_type`s of transformers configs.
        adapter: the adapter that is checked on all of them, as `check_tiny` takes it; None takes for each type the
            first that handles it.
        jobs: how many processes; 1 stays in this one, and keeps the order of `model_types`.

    Returns:
        A report for each type, as soon as it is done. A type without an adapter does not pass.

    Examples:
        >>> [(one.model_type, one.passed) for one in attnlens.conformance.check_all(["llava", "git"])]
        [('llava', True), ('git', False)]
    """
    one = partial(_tiny_or_why_not, adapter=adapter)
    if jobs == 1:
        yield from map(one, model_types)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), partial(torch.set_num_threads, 1)) as pool:
        for done in as_completed([pool.submit(one, model_type) for model_type in model_types]):
            yield done.result()


def _tiny_or_why_not(model_type: str, adapter: str | Path | AdapterSpec | None) -> Report:
    try:
        return check_tiny(model_type, adapter)
    except AttnLensError as error:
        return Report(model_type, "", "", "", "", "", False, (Finding("adapter", False, str(error)),), 0.0)


def tiny_lens(model_type: str, spec: AdapterSpec, seed: int = 0) -> Lens:
    """A tiny random model of that type, with its own image processor and a stand-in for the text side."""
    config = tiny_config(model_type, spec.tiny.config)
    model = tiny_model(config, seed)
    images = tiny_image_processor(model_type, config, spec.tiny.image_processor, spec.tiny.images)
    return Lens(model, StubProcessor(images, spec, model), spec)


def check_type(spec: AdapterSpec, model_type: str) -> None:
    """Raises AttnLensError where `spec` is not for `model_type`."""
    if model_type not in spec.model_types:
        raise AttnLensError(
            f"The adapter {spec.name!r} is not for the model type {model_type!r}. "
            f"{nearest(model_type, spec.model_types)}It handles {', '.join(spec.model_types)}: choose one of these, or "
            "add the type to its model_types."
        )


def _report(spec: AdapterSpec, model_type: str, make: Callable[[], Lens]) -> Report:
    start = time.perf_counter()
    strategy, processor, substituted, found = "", "", False, tuple[Finding, ...]()
    try:
        lens = make()
        strategy, images = lens._host.structure.strategy, type(lens.processor.image_processor)
        processor, substituted = images.__name__, images.__module__.startswith(torchvision_shim.__name__)
        found = tuple(findings(lens, sample_images()))
    except Exception as error:  # noqa: BLE001 - what keeps a model from being built belongs into the table
        found = (Finding("build", False, describe_error(error)),)
    return Report(
        model_type=model_type,
        adapter=spec.name,
        grid=spec.grid.kind,
        connector=spec.connector.attention if spec.connector is not None else "",
        strategy=strategy,
        image_processor=processor,
        substituted=substituted,
        findings=found,
        seconds=time.perf_counter() - start,
    )


def sample_images() -> list[Image.Image]:
    """Two pictures of smooth colours, rectangles and noise, each of another shape."""
    random, pictures = np.random.default_rng(0), []
    for width, height in SIZES:
        y, x = np.mgrid[0:height, 0:width]
        pixels = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1) * 180
        for _ in range(6):
            left, top = int(random.integers(0, width - 20)), int(random.integers(0, height - 20))
            pixels[top : top + 25, left : left + 25] = random.uniform(0, 255, 3)
        noisy = pixels + random.normal(0, 10, pixels.shape)
        pictures.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return pictures
