"""Measures one model as a plan says, record by record: what is recorded is not measured again.

Records, by key: ("ranking", count) has the best layer on so many validation scenes; ("answer", example, condition) an
answer and its cost, or why the model refused; ("ratios", example) the attention ratio at every layer; ("picture",
example) a map to draw. A record says the same in every run, but for its `seconds`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from attnlens.analysis import Ranking, attention_ratios, rank
from attnlens.errors import AttnLensError
from attnlens.evaluate import _conditions, _plan
from attnlens.evaluate._conditions import Layers
from attnlens.evaluate._dataset import Example
from attnlens.evaluate._plan import Plan
from attnlens.evaluate._records import Key, Records
from attnlens.evaluate._scoring import is_correct
from attnlens.geometry import Box
from attnlens.lens import Lens
from attnlens.recipes import Result, ask

MAX_NEW_TOKENS = 20
PICTURED = "rel-att"
_SAMPLE = 256  # numbers of each parameter that tell two sets of weights apart

Record = dict[str, Any]
Tick = Callable[[int, int], None]
"""(done, total) records; may raise to stop between two of them."""


def measure(lens: Lens, chosen: Plan, records: Records, tick: Tick) -> None:
    """Adds to `records`, opened with the lens's `settings`, whatever of the plan is missing there."""
    best = _best(lens, chosen, records, tick)
    work = _plan.asked(chosen, best)
    total = sum(one.records for one in work)
    done = 0
    for one in work:
        for key, record in _missing(lens, one, records):
            records.add(key, record)
            tick(done, total)
        done += one.records
        tick(done, total)
    _picture(lens, work, records)


def settings(lens: Lens, label: str, version: str, split: str) -> Record:
    """What the records are about: those of other weights, versions or scenes do not belong beside them.

    `label`: the model's name in the report. `version`: attnlens's own. `split`: of the scenes that are asked about.
    """
    return {
        "model": label,
        "split": split,
        "type": lens.model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in lens.model.parameters()),
        "weights": _fingerprint(lens.model),
        "layers": list(lens.layers),
        "connector_layers": len(lens.connector_layers),
        "defaults": lens.adapter.defaults.model_dump(mode="json"),
        "versions": {"attnlens": version, "torch": torch.__version__, "transformers": transformers.__version__},
    }


def _fingerprint(model: Any) -> str:
    """The same for the same weights, wherever they are kept."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        sample = parameter.detach().flatten()[:_SAMPLE].float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:16]


def _best(lens: Lens, chosen: Plan, records: Records, tick: Tick) -> Layers:
    """The single layer (and connector layer) with the best attention ratio on the validation scenes."""
    examples = _plan.ranked(chosen)
    key = ("ranking", str(len(examples)))
    if key not in records:
        records.add(key, _ranking(rank(lens, examples, progress=lambda done: tick(0, 1))))
    known = records.all()[key]
    return Layers(known["layer"], known["connector_layer"])


def _ranking(found: Ranking) -> Record:
    rows = [row for row in found.rows() if isinstance(row.candidate.layer, int) and math.isfinite(row.ratio)]
    best = max(rows, key=lambda row: row.ratio) if rows else found.best()  # which says why there is none
    layer, connector_layer, _ = best.candidate
    return {"examples": found.count, "layer": layer, "connector_layer": connector_layer, "ratio": _number(best.ratio)}


def _missing(lens: Lens, work: _plan.Work, records: Records) -> Iterator[tuple[Key, Record]]:
    """The records that an example still lacks, one at a time; its image is made once, and only if it is needed."""
    example = work.example
    names = [name for name in work.conditions if ("answer", example.id, name) not in records]
    box = example.box if work.ratios and ("ratios", example.id) not in records else None
    if not names and box is None:
        return
    image = example.open()
    if box is not None:
        yield ("ratios", example.id), _ratios(lens, example, image, box)
    for name in names:
        yield ("answer", example.id, name), _answer(lens, example, image, name)


def _ask(lens: Lens, example: Example, image: Image.Image, name: str) -> Result:
    box = _conditions.box_of(name, lens, example, image.size)
    recipe = _conditions.recipe_of(name)
    return ask(lens, image, example.question, recipe, max_new_tokens=MAX_NEW_TOKENS, box=box)


def _answer(lens: Lens, example: Example, image: Image.Image, name: str) -> Record:
    about = {"bin": example.group, "task": example.task}
    try:
        result = _ask(lens, example, image, name)
    except AttnLensError as error:
        if _conditions.recipe_of(name).locate is None:
            raise
        return {**about, "refused": str(error)}  # such as a yes-or-no question that the model does not answer
    cost = result.cost.as_dict()
    return {
        **about,
        "answer": result.answer,
        "right": is_correct(result.answer, example.labels),
        "boxes": [[_number(edge) for edge in box] for box in result.boxes],
        "holds": None if example.box is None else any(crop.covers(example.box) for crop in result.boxes),
        "seconds": round(cost.pop("seconds"), 4),
        "cost": cost,
    }


def _ratios(lens: Lens, example: Example, image: Image.Image, box: Box) -> Record:
    reading = lens.read(image)
    values = attention_ratios(reading, example.question, box)
    first = reading.answer(example.question, MAX_NEW_TOKENS).text
    return {
        "bin": example.group,
        "task": example.task,
        "right": is_correct(first, example.labels),
        "ratios": [[_number(value) for value in row] for row in values],
    }


def _picture(lens: Lens, work: Sequence[_plan.Work], records: Records) -> None:
    """The map of the example that `pictured` chooses."""
    chosen = pictured(records.all())
    example = next((one.example for one in work if one.example.id == chosen), None)
    if example is None or ("picture", example.id) in records:
        return
    result = _ask(lens, example, example.open(), PICTURED)
    importance = result.importance
    if importance is None:
        return
    record = {
        "image_path": example.image_path,
        "question": example.question,
        "expected": example.labels[0],
        "box": None if example.box is None else list(example.box),
        "first": result.first_answer,
        "answer": result.answer,
        "boxes": [[_number(edge) for edge in box] for box in result.boxes],
        "values": [[_number(value) for value in row] for row in importance.values],
        "x": np.round(importance.grid.x, 4).tolist(),
        "y": np.round(importance.grid.y, 4).tolist(),
    }
    records.add(("picture", example.id), record)


def pictured(found: Mapping[Key, Any]) -> str | None:
    """The example to show: the first small one that is answered wrongly without a crop and rightly with it.

    Else the first small one with a crop; None where there is none. `found`: all records by key.
    """
    small = [
        key[1]
        for key, record in sorted(found.items())
        if key[0] == "answer"
        and key[2] == PICTURED
        and (record["bin"], record["task"]) == ("small", "read")
        and record["boxes"]
    ]
    for example in small:
        first = found.get(("answer", example, "none"))
        if first is not None and not first["right"] and found["answer", example, PICTURED]["right"]:
            return example
    return small[0] if small else None


def _number(value: float) -> float | int | None:
    """As JSON has it: whole pixels as ints, six digits, and None for what is not finite."""
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.6g}")
