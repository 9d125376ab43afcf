"""The proof of an adapter: what must hold between it, a model and its processor.

Every check compares what a reading gives with something found in another way: one full eager forward with its
gradients, the model's own `generate`, the image tokens that change when a patch of the image is painted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnlens.conformance._pixel_alignment import misplaced, off_canvas
from attnlens.conformance._reference import reference
from attnlens.geometry import Box
from attnlens.lens import Lens, Reading
from attnlens.lens._capture.attention import cut
from attnlens.lens._model.exclusive import exclusive
from attnlens.lens._model.generator import generate
from attnlens.lens._trace import Array, Trace

QUESTION = "What is written on the red sign?"
BEFORE = "Is there a dog?"
"""Asked first, so that what is checked stands on an images' cache that another question has left."""
TOLERANCE = 1e-4
"""Of rows and connector weights, which are at most 1, in float32."""
GRADIENT_TOLERANCE = 1e-3
"""Of gradients, relative to the largest."""
NEW_TOKENS = 6


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Examples:
        >>> report = next(attnlens.conformance.check_all(["git"]))
        >>> report.findings[0].check, report.findings[0].passed
        ('adapter', False)
    """

    check: str
    """The check's name, one of `CHECKS`; "adapter" where there is no adapter, "build" where no model could be made."""
    passed: bool | None
    """Whether it holds; None where it does not apply."""
    detail: str
    """The figure, or the reason why it does not hold or does not apply."""


def findings(lens: Lens, images: Sequence[Image.Image], only: Iterable[str] | None = None) -> Iterator[Finding]:
    """The checks on two images of different shape, one after the other; none of them changes the model."""
    for name in CHECKS:
        if only is None or name in only:
            with exclusive(lens.model):
                finding = _finding(name, lens, *images)
            yield finding


def all_passed(found: Iterable[Finding]) -> bool:
    """Whether nothing that was found speaks against the adapter."""
    return all(finding.passed is not False for finding in found)


def describe_error(error: Exception) -> str:
    """An error's type and the first line of what it says; the second too, where the first only announces it."""
    first, *rest = str(error).splitlines() or [""]
    said = f"{first} {rest[0].strip()}" if rest and first.endswith(":") else first
    return f"{type(error).__name__}: {said}"


def _finding(name: str, lens: Lens, first: Image.Image, second: Image.Image) -> Finding:
    try:
        found = CHECKS[name](lens, first, second)
    except _NotApplicable as reason:
        return Finding(name, None, str(reason))
    except _Failed as failure:
        return Finding(name, False, str(failure))
    except Exception as error:  # noqa: BLE001 - a model may fail in any way, and the table must show it
        return Finding(name, False, describe_error(error))
    return Finding(name, True, found)


class _Failed(Exception):  # noqa: N818
    """A check that does not hold."""


class _NotApplicable(Exception):  # noqa: N818
    """A check that has nothing to look at."""


def _tokens(lens: Lens, *images: Image.Image) -> str:
    """The model takes as many image tokens as the grid has: it refuses any other number itself."""
    seen = []
    for image in images:
        reading = lens.read(image)
        prompt = reading._prompt(QUESTION)
        with torch.no_grad():
            lens.model(**lens._host.inputs(prompt))
        grid = reading.grids[0]
        seen.append(f"{grid.rows} x {grid.cols} ({len(prompt.positions[0])})")
    return ", ".join(seen)


def _rows(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    """Attention of the last prompt token, in every layer and head, is that of a full eager pass."""
    reading = _read(lens, [image])
    return _same_rows(reading, reading.trace(QUESTION), gradients=False)


def _gradients(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    """So are its gradients, which are finite and not zero."""
    reading = _read(lens, [image])
    return _same_rows(reading, reading.trace(QUESTION, gradients=True), gradients=True)


def _same_rows(reading: Reading, trace: Trace, *, gradients: bool) -> str:
    host = reading._host
    prompt = reading._prompt(QUESTION)
    expected = reference(host.model, host.inputs(prompt), host.structure.attention, host.structure.connector)
    if trace.top_token != int(expected.logits.argmax()):
        raise _Failed(f"top token {trace.top_token}, in the eager pass {int(expected.logits.argmax())}")
    if not gradients:
        worst = max(
            _difference(trace.attention, _columns(reading, expected.rows)),
            _connector_difference(reading, trace.connector_attention, expected.connector),
        )
        return _at_most(worst, TOLERANCE)
    if trace.attention_gradient is None:
        raise _Failed("the trace holds no gradient")
    wanted = _columns(reading, expected.row_gradients)
    if not np.isfinite(wanted).all() or not np.abs(wanted).max() > 0:
        raise _Failed("the eager pass itself has a gradient that is zero or not finite")
    scale = float(np.abs(wanted).max())
    seen = _columns(reading, expected.rows) > 0  # what a sliding window hides has no weight, and so no part in a map
    worst = _difference(trace.attention_gradient * seen, wanted * seen) / scale
    if expected.connector_gradients:
        largest = max(float(gradient.abs().max()) for gradient in expected.connector_gradients)
        worst = max(
            worst, _connector_difference(reading, trace.connector_gradient, expected.connector_gradients) / largest
        )
    return _at_most(worst, GRADIENT_TOLERANCE)


def _columns(reading: Reading, rows: Sequence[Tensor]) -> Array:
    """[layers, heads, image_tokens] of full rows."""
    columns = reading._columns(reading._prompt(QUESTION))
    heads = math.lcm(*(len(row) for row in rows))
    return np.stack([row[:, columns].float().numpy().repeat(heads // len(row), axis=0) for row in rows])


def _connector_difference(reading: Reading, found: Array | None, expected: Sequence[Tensor]) -> float:
    """Tile by tile, the patches that have a place."""
    if not expected:
        return 0.0
    if found is None:
        raise _Failed("the trace holds nothing of the connector")
    worst, tile, token = 0.0, 0, 0
    for layout in reading.layouts:
        keys, queries = len(layout.cells) // layout.tiles, layout.tokens // layout.tiles
        patch = 0
        for number in range(layout.tiles):
            placed = np.flatnonzero(layout.cells[number * keys : (number + 1) * keys] >= 0)
            for layer, weights in enumerate(expected):
                own = found[layer, :, token : token + queries, patch : patch + len(placed)]
                worst = max(worst, _difference(own, weights[tile][:, :, placed].float().numpy()))
            tile, token, patch = tile + 1, token + queries, patch + len(placed)
    return worst


def _difference(found: Array, expected: Array) -> float:
    if found.shape != expected.shape:
        raise _Failed(f"shape {found.shape}, in the eager pass {expected.shape}")
    return float(np.abs(found - expected).max())


def _at_most(worst: float, limit: float) -> str:
    if not worst <= limit:
        raise _Failed(f"{worst:.0e} away from the full eager pass; at most {limit:.0e} is rounding")
    return f"{worst:.0e}"


def _sums(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    """What goes to the image is a part of attention, which sums to 1."""
    trace = _read(lens, [image]).trace(QUESTION)
    sums = trace.attention.sum(axis=-1)
    if not (np.isfinite(sums).all() and sums.min() >= 0 and sums.max() <= 1 + TOLERANCE and sums.max() > 0):
        raise _Failed(f"rows sum to {sums.min():.3g} .. {sums.max():.3g}; expected 0 .. 1, and not 0 everywhere")
    return f"{sums.min():.2f} .. {sums.max():.2f}"


def _intervention(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    """Without attention to the image in the modules of the trace, the model says something else."""
    reading = _read(lens, [image])
    prompt = reading._prompt(QUESTION)
    inputs = lens._host.inputs(prompt)
    modules = [lens.model.get_submodule(site.path) for site in lens._host.structure.attention]
    with torch.no_grad():
        plain = lens.model(**inputs).logits[0, -1].float()
        with cut(modules, reading._columns(prompt)):
            blind = lens.model(**inputs).logits[0, -1].float()
    change = float((plain - blind).abs().max())
    if not change > 1e-3:
        raise _Failed(f"logits change by {change:.0e} when these modules no longer see the image")
    return f"logits change by {change:.2g}"


def _pixel_gradient(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    if not lens.adapter.prompt.pixel_gradient:
        raise _NotApplicable("the image is turned into codes")
    reading = lens.read(image)
    gradients = reading._pixels().raw_gradient(reading._prompt(QUESTION))
    if not all(bool(torch.isfinite(one).all()) and float(one.abs().max()) > 0 for one in gradients):
        raise _Failed("zero everywhere, or not finite")
    return f"largest {max(float(one.abs().max()) for one in gradients):.1e}"


def _places(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    """Painted patches change the tokens that the grid says."""
    layout = lens.read(image).layouts[0]
    if lens._host.structure.attends_to == "image" or layout.queries is not None:
        raise _NotApplicable(
            "image tokens are queries, or keys of the language model: they have no pixels of their own"
        )
    if layout.reach is None:
        raise _NotApplicable("the vision tower carries pixels far beyond their cells, as the adapter says")
    return _found(*misplaced(lens, image.size))


def _canvas(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    """Painted patches change the canvas, on which pixel gradients are laid, where their cells lie."""
    return _found(*off_canvas(lens, image.size))


def _found(wrong: Sequence[str], painted: int) -> str:
    if wrong:
        raise _Failed("; ".join(wrong[:2]) + (f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else ""))
    return f"{painted} painted patches found"


def _two_images(lens: Lens, first: Image.Image, second: Image.Image) -> str:
    """Two images, read one by one, are to the model what the processor makes of both; so are their rows."""
    reading = _read(lens, [first, second])
    text = lens._host.prompter.text(2, QUESTION)
    together = lens.processor(images=[first, second], text=[text], return_tensors="pt")
    for key, value in reading._prompt(QUESTION).vision().items():
        other = together.get(key)
        if not (isinstance(value, Tensor) and isinstance(other, Tensor)) or key in lens.adapter.prompt.per_image:
            continue
        if value.numel() != other.numel() or not torch.equal(value.flatten().cpu(), other.flatten()):
            shapes = f"{list(value.shape)}, by the processor {list(other.shape)}"
            raise _Failed(f"{key} of two images, put together, is not the processor's own ({shapes})")
    return _same_rows(reading, reading.trace(QUESTION), gradients=False)


def _read(lens: Lens, images: list[Image.Image]) -> Reading:
    reading = lens.read(images)
    reading.next_token(BEFORE)
    return reading


def _crop(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    """A crop added to a reading gives the rows of a prompt with both images."""
    width, height = image.size
    middle = Box(width // 4, height // 4, width // 4 + width // 2, height // 4 + height // 2)
    reading = _read(lens, [image]).zoom(middle)
    return _same_rows(reading, reading.trace(QUESTION), gradients=False)


def _answer(lens: Lens, image: Image.Image, _: Image.Image) -> str:
    """The reading's greedy tokens are those of the model's own `generate` on the whole prompt."""
    reading = _read(lens, [image])
    found = reading.answer(QUESTION, max_new_tokens=NEW_TOKENS)
    inputs = lens._host.inputs(reading._prompt(QUESTION))
    expected = generate(lens.model, lens._host.generator.model, lens.tokenizer, inputs, NEW_TOKENS)[0]
    if list(found.tokens) != expected:
        raise _Failed(f"tokens {list(found.tokens)}, by generate {expected}")
    return f"{len(found.tokens)} tokens"


CHECKS: dict[str, Callable[[Lens, Image.Image, Image.Image], str]] = {
    "tokens": _tokens,
    "rows": _rows,
    "gradients": _gradients,
    "sums": _sums,
    "intervention": _intervention,
    "pixel gradient": _pixel_gradient,
    "places": _places,
    "canvas": _canvas,
    "two images": _two_images,
    "crop": _crop,
    "answer": _answer,
}
"""Every check, in the order in which they run: what it shows is its docstring."""
