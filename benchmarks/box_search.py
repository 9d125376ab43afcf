"""Times the box search beside the plain double loop of the ViCrop paper, and asserts that both find the same boxes.

    python benchmarks/box_search.py

The map has 120 x 192 cells, as high-resolution mode makes of a 5120 x 8192 image (5 x 8 tiles of 24 x 24 image tokens);
the window is searched at the six published ratios. Seconds are medians over fresh random maps.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import numpy.typing as npt

from attnlens import Grid, ImportanceMap
from attnlens.boxes import search
from attnlens.boxes._search import CRITERIA, RATIOS

ROWS, COLS, IMAGE_SIZE, WINDOW = 120, 192, (8192, 5120), 336
LOOPS, SEARCHES = 5, 50

Edges = tuple[int, int, int, int]


def double_loop(values: npt.NDArray[np.float64], criterion: str) -> Edges:
    """Sums every window at every place by itself, and keeps the one that stands out most."""
    (rows, cols), (width, height) = values.shape, IMAGE_SIZE
    best_score, best_box = -np.inf, (0, 0, width, height)
    for ratio in RATIOS:
        side = WINDOW * ratio
        bw, bh = min(int(side / (width / cols)), cols), min(int(side / (height / rows)), rows)
        sums = np.empty((cols - bw + 1, rows - bh + 1))
        top, top_sum = (0, 0), -np.inf
        for x in range(cols - bw + 1):
            for y in range(rows - bh + 1):
                sums[x, y] = values[y : y + bh, x : x + bw].sum()
                if sums[x, y] > top_sum:
                    top, top_sum = (x, y), sums[x, y]
        x, y = top
        near = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
        known = [sums[i, j] for i, j in near if 0 <= i <= cols - bw and 0 <= j <= rows - bh]
        score = (top_sum - sum(known) / len(known)) / (bw * bh if criterion == "density" else 1)
        if score > best_score:
            half = int(side // 2)
            middle_x = min(max((2 * x + bw) * width // (2 * cols), half), width - half)
            middle_y = min(max((2 * y + bh) * height // (2 * rows), half), height - half)
            best_score, best_box = score, (middle_x - half, middle_y - half, middle_x + half, middle_y + half)
    return best_box


def main() -> None:
    print(f"{ROWS} x {COLS} cells, {len(RATIOS)} ratios, median seconds of {LOOPS} loops and {SEARCHES} searches")
    print(f"{'criterion':<12}{'double loop':>14}{'search':>14}{'ratio':>10}")
    for criterion in CRITERIA:
        loop_seconds, search_seconds = [], []
        for seed in range(SEARCHES):
            values = np.random.default_rng(seed).lognormal(size=(ROWS, COLS)).astype(np.float32)
            importance = ImportanceMap(values, Grid.regular(ROWS, COLS, IMAGE_SIZE))
            start = time.perf_counter()
            box = search(importance, WINDOW, criterion=criterion)[0].box
            search_seconds.append(time.perf_counter() - start)
            if seed < LOOPS:
                start = time.perf_counter()
                expected = double_loop(values.astype(np.float64), criterion)
                loop_seconds.append(time.perf_counter() - start)
                assert box == expected, f"seed {seed}: search found {tuple(box)}, the double loop {expected}"
        loop, table = statistics.median(loop_seconds), statistics.median(search_seconds)
        print(f"{criterion:<12}{loop:>14.4f}{table:>14.6f}{loop / table:>9.0f}x")


if __name__ == "__main__":
    main()
