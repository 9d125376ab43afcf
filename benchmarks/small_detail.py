"""Accuracy on small-detail scenes: no crop, the true crop, a random crop, and the crops that the maps find.

    python benchmarks/small_detail.py                     # 300 test scenes per size, every ViCrop recipe
    python benchmarks/small_detail.py --count 50 --bins small --recipes none rel-att
    python benchmarks/small_detail.py --split validation --layers --windows 80 100 120     # to choose the defaults by

The scenes are `attnlens.pocket.scenes`, made from their seeds alone; the answer is right when the text is the digit on
the sign. `crop holds it` is the share of crops with at least half of the target in them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import attnlens
from attnlens.boxes import search
from attnlens.geometry import Box
from attnlens.pocket import scenes

RECIPES = ("none", "human", "random", "rel-att", "grad-att", "pure-grad")


def crop_holds(found: Sequence[Box], target: Sequence[float]) -> bool:
    """Whether at least half of the target lies in one of the boxes."""
    x1, y1, x2, y2 = target
    half = (x2 - x1) * (y2 - y1) / 2
    return any(max(0, min(b.x2, x2) - max(b.x1, x1)) * max(0, min(b.y2, y2) - max(b.y1, y1)) >= half for b in found)


def asked(lens: Any, scene: Any, recipe: str, seed: int) -> Any:
    """One scene, one recipe. `random` is a box of the default window's side, anywhere."""
    box = None
    if recipe == "human":
        box = scene.box
    elif recipe == "random":
        side = lens.spec.defaults.window or 100
        x, y = np.random.default_rng(seed).integers(0, [max(1, s - side) for s in scene.image.size])
        recipe, box = "human", (int(x), int(y), int(x) + side, int(y) + side)
    return attnlens.ask(lens, scene.image, scene.question, recipe, box=box, max_new_tokens=4)


def drawn(bin_name: str, count: int, split: str) -> Iterator[tuple[int, Any]]:
    for seed in range(count):
        yield seed, scenes.sized(seed, bin_name, split=split)


def table(lens: Any, bins: Sequence[str], recipes: Sequence[str], count: int, split: str) -> dict[str, Any]:
    """{bin: {recipe: {accuracy, crop_holds, seconds, prefills, forwards}}}."""
    found: dict[str, Any] = {}
    for bin_name in bins:
        right: dict[str, list[Any]] = {recipe: [] for recipe in recipes}
        for seed, scene in track(drawn(bin_name, count, split), bin_name, count, console=Console(stderr=True)):
            for recipe in recipes:
                result = asked(lens, scene, recipe, seed)
                cost = result.cost
                row = [result.answer == scene.answer, crop_holds(result.boxes, scene.box)]
                right[recipe].append([*row, cost.seconds, cost.prefills, cost.forwards, cost.backwards])
        names = ("accuracy", "crop_holds", "seconds", "prefills", "forwards", "backwards")
        found[bin_name] = {
            recipe: dict(zip(names, np.mean(rows, axis=0).round(4).tolist(), strict=True))
            for recipe, rows in right.items()
        }
    return found


def layers(lens: Any, windows: Sequence[int], bins: Sequence[str], count: int, split: str) -> list[dict[str, Any]]:
    """For every layer, window and map: accuracy of the answer with its crop, and whether the crop holds the target."""
    rows = []
    known = [*lens.structure.layers, "mean"]
    for bin_name in bins:
        right: dict[tuple[str, Any, int], list[tuple[bool, bool]]] = {}
        for _, scene in track(drawn(bin_name, count, split), bin_name, count, console=Console(stderr=True)):
            reading = lens.read(scene.image)
            for name in ("relative_attention", "gradient_attention"):
                for layer in known:
                    importance = getattr(attnlens.maps, name)(reading, scene.question, layer=layer)
                    for window in windows:
                        boxes = [f.box for f in search(importance, window=window) if f.confident]
                        answer = attnlens.answers.append(reading, boxes, scene.question, 4)
                        hit = (answer.text == scene.answer, crop_holds(boxes, scene.box))
                        right.setdefault((name, layer, window), []).append(hit)
        for (name, layer, window), hits in right.items():
            accuracy, holds = np.mean(hits, axis=0)
            rows.append({"bin": bin_name, "map": name, "layer": layer, "window": window,
                         "accuracy": round(float(accuracy), 3), "crop_holds": round(float(holds), 3)})  # fmt: skip
    return sorted(rows, key=lambda row: (row["bin"], -row["accuracy"]))


def markdown(found: dict[str, Any], count: int, split: str) -> str:
    """Accuracy in points, the difference to no crop, and how often the crop held the target."""
    recipes = list(next(iter(found.values())))
    lines = [
        f"{count} {split} scenes per size; accuracy in %, in brackets the share of crops that hold the target.",
        "",
    ]
    lines += ["| size | " + " | ".join(recipes) + " |", "|---" * (len(recipes) + 1) + "|"]
    for bin_name, row in found.items():
        cells = [f"{100 * row[r]['accuracy']:.1f} ({100 * row[r]['crop_holds']:.0f})" for r in recipes]
        lines.append(f"| {bin_name} | " + " | ".join(cells) + " |")
    last = next(iter(found.values()))
    for key in ("prefills", "forwards", "backwards"):
        lines.append(f"| {key} per question | " + " | ".join(f"{last[r][key]:.1f}" for r in recipes) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket/llava")
    parser.add_argument("--count", type=int, default=300, help="scenes per size")
    parser.add_argument("--split", choices=scenes.SPLITS, default="test")
    parser.add_argument("--bins", nargs="+", choices=list(scenes.BINS), default=list(scenes.BINS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--layers", action="store_true", help="compare layers and windows instead of recipes")
    parser.add_argument("--windows", nargs="+", type=int, default=[80, 100, 120], help="with --layers")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    torch.set_num_threads(1)  # more threads than that only wait for each other in a model this small
    lens = attnlens.load(options.model)
    if options.layers:
        rows = layers(lens, options.windows, options.bins, options.count, options.split)
        shown = Table(*rows[0])
        for row in rows:
            shown.add_row(*map(str, row.values()))
        Console().print(shown)
        found: Any = rows
    else:
        found = table(lens, options.bins, options.recipes, options.count, options.split)
        print(markdown(found, options.count, options.split))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
