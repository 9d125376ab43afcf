"""Many asks of one lens: from many threads what one gives, and no memory kept."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import attnlens
from attnlens.pocket import scenes

RECIPES = ("none", "rel-att", "grad-att", "pure-grad", "focus")
STATM = Path("/proc/self/statm")


def asked(lens: attnlens.Lens, seed: int, recipe: str) -> tuple[Any, ...]:
    scene = scenes.scene(seed=seed, target_area=0.004)
    result = attnlens.ask(lens, scene.image, scene.question, recipe=recipe)
    return result.answer, result.first_answer, result.boxes, result.cost.as_dict() | {"seconds": 0}


def switches(model: Any) -> list[Any]:
    """What a look switches in a model."""
    parts = [
        (part.training, getattr(getattr(part, "config", None), "_attn_implementation", None))
        for part in model.modules()
    ]
    return [*parts, *(parameter.requires_grad for parameter in model.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize("lenses", [1, 2])
def test_eight_threads_get_what_one_gets(lenses: int) -> None:
    """320 asks, recipes mixed, of one lens or of two lenses on one model."""
    first = attnlens.load("pocket/llava")
    made = [first, attnlens.load(model=first.model, processor=first.processor, adapter=first.adapter)][:lenses]
    before = switches(first.model)
    asks = list(itertools.islice(itertools.product(range(64), RECIPES), 320))
    expected = [asked(first, *one) for one in asks]
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = list(pool.map(lambda item: asked(made[item[0] % lenses], *item[1]), enumerate(asks)))
    assert found == expected
    assert switches(first.model) == before


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
def test_three_thousand_asks_keep_no_memory() -> None:
    lens = attnlens.load("pocket/llava")
    resident = []
    for number in range(3000):
        asked(lens, number % 500, RECIPES[number % 3])
        if number >= 1499 and number % 100 == 99:
            resident.append(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    print("resident MiB over the second half:", [size >> 20 for size in resident])
    half = len(resident) // 2
    assert sum(resident[half:]) / (len(resident) - half) < 1.02 * sum(resident[:half]) / half
