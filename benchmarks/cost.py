"""What a ViCrop answer costs: the reference way, the attnlens way, and two images without any map.

    python benchmarks/cost.py            # FLOPs, seconds and peak memory, side by side
    python benchmarks/cost.py --json

The model is LLaVA-shaped with random weights: 576 image tokens, 16 language-model layers. The reference is written
out below as the paper's code runs it: eager attention, every matrix of every layer kept, a prefill for the first
answer, one for each of the two maps, and a two-image prompt (twice the image tokens). Maps, boxes and answers of both
ways are asserted to be equal in the same run. FLOPs are counted by torch's FlopCounterMode: by its own table, which
knows eager attention but leaves out SDPA on the CPU, and once more with SDPA counted in full. Seconds are the median of
the repeats; memory is the median of as many fresh processes, each one's peak resident set over what it was before.

FOCUS's map of cached values stands beside the one prefill that it reads, of the same prompt.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import attnlens
from attnlens import maps
from attnlens.adapters import AdapterSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import tiny

QUESTION = "what is written on the red sign? Answer the question using a single word or phrase."
TARGET = "red sign"
EXISTENCE = maps.EXISTENCE.format(target=TARGET)
LAYER, WINDOW, NEW_TOKENS, SIDE, LAYERS, HEADS = 7, 336, 8, 336, 16, 32


def build() -> tuple[Any, Any]:
    """A LLaVA of 16 layers and 576 image tokens, width 512."""
    return tiny.build("llava", layers=LAYERS, heads=HEADS, side=SIDE, intermediate_size=1376)


def picture() -> Image.Image:
    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(0, 255, (30, 30, 3), dtype=np.uint8))
    return small.resize((900, 900), Image.Resampling.BICUBIC)


# The reference, as a script would do it.


def reference(model: Any, processor: Any, image: Image.Image) -> dict[str, Any]:
    model.set_attn_implementation("eager")
    try:
        first = _generate(model, processor, [image])
        with torch.no_grad():
            attended = _eager_row(model, processor, image, QUESTION)
            generic = _eager_row(model, processor, image, maps.GENERIC_QUESTION)
        ratio = attended / (generic + 1e-6 * generic.mean())
        box = _double_loop(ratio.reshape(24, 24), image.size, WINDOW)
        again = _generate(model, processor, [image, image.crop(box)])
    finally:
        model.set_attn_implementation("sdpa")
    return {"first": first, "map": ratio, "box": box, "answer": again}


def plain(model: Any, processor: Any, image: Image.Image, box: tuple[int, ...]) -> dict[str, Any]:
    return {"answer": _generate(model, processor, [image, image.crop(box)])}


def _inputs(processor: Any, images: list[Image.Image], question: str) -> Any:
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(images=images, text=text, return_tensors="pt")


def _generate(model: Any, processor: Any, images: list[Image.Image]) -> list[int]:
    inputs = _inputs(processor, images, QUESTION)
    out = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    return out[0, inputs["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]


def _eager_row(model: Any, processor: Any, image: Image.Image, question: str) -> np.ndarray[Any, Any]:
    inputs = _inputs(processor, [image], question)
    attentions = model(**inputs, output_attentions=True).attentions
    seen = inputs["input_ids"][0] == model.config.image_token_id
    return attentions[LAYER][0, :, -1, seen].mean(0).numpy()  # type: ignore[no-any-return]


def _double_loop(values: np.ndarray[Any, Any], size: tuple[int, int], window: int) -> tuple[int, ...]:
    """The released search (`density`), placement by placement."""
    best: tuple[float, tuple[int, ...]] = (-math.inf, (0, 0, *size))
    cell = (size[0] / values.shape[1], size[1] / values.shape[0])
    for ratio in (1, 1.2, 1.4, 1.6, 1.8, 2):
        side = window * ratio
        width, height = (min(int(side / cell[axis]), values.shape[1 - axis]) for axis in (0, 1))
        sums = {
            (x, y): float(values[y : y + height, x : x + width].astype(np.float64).sum())
            for x in range(values.shape[1] - width + 1)
            for y in range(values.shape[0] - height + 1)
        }
        x, y = max(sums, key=lambda place: sums[place])
        neighbours = [sums[n] for n in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)) if n in sums]
        delta = (sums[x, y] - sum(neighbours) / len(neighbours)) / (width * height)
        if delta > best[0]:
            centre = ((x + width / 2) * cell[0], (y + height / 2) * cell[1])
            corner = [min(max(round(c - side / 2), 0), s - round(side)) for c, s in zip(centre, size, strict=True)]
            best = delta, (corner[0], corner[1], corner[0] + round(side), corner[1] + round(side))
    return best[1]


# attnlens.


def lens_of(model: Any, processor: Any) -> Any:
    spec = AdapterSpec.from_mapping(
        {"model_types": ["llava"], "grid": {"kind": "square"}, "defaults": {"layer": LAYER, "window": WINDOW}}
    )
    return attnlens.load(model=model, processor=processor, adapter=spec)


def ours(lens: Any, image: Image.Image) -> dict[str, Any]:
    result = attnlens.ask(lens, image, QUESTION, recipe="rel-att", max_new_tokens=NEW_TOKENS)
    return {"box": tuple(result.boxes[0]), "map": result.importance.values, "result": result}


def our_map(lens: Any, image: Image.Image) -> None:
    maps.relative_attention(lens.read(image), QUESTION)


def value_map(lens: Any, image: Image.Image) -> None:
    maps.value_similarity(lens.read(image), EXISTENCE, target=TARGET)


def sdpa_prefill(model: Any, processor: Any, image: Image.Image, question: str = QUESTION) -> None:
    with torch.no_grad():
        model(**_inputs(processor, [image], question), use_cache=True, logits_to_keep=1)


# Measuring.


def flops(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """GFLOP of `work` by torch's own table, which leaves out SDPA on the CPU; and with SDPA counted in full."""

    def cpu_sdpa(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    operation = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    table = {operation: cpu_sdpa}
    with FlopCounterMode(display=False, custom_mapping=table) as counter:
        result = work()
    total = counter.get_total_flops()
    left_out = counter.get_flop_counts()["Global"].get(operation, 0)
    return (total - left_out) / 1e9, total / 1e9, result


def seconds(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Medians; the ways take turns, so that a slow spell of the machine hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def peak_memory(way: str, box: tuple[int, ...]) -> float:
    """MiB over the resident set before the work, in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", way, "--box", ",".join(map(str, box))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _print_peak(way: str, box: tuple[int, ...]) -> None:
    model, processor = build()
    image = picture()
    work = _ways(model, processor, image, box)[way]
    tiny_image = image.resize((40, 40))
    _ways(model, processor, tiny_image, (0, 0, 20, 20))["two-image answer"]()  # load code and thread pools
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    print((_status("VmHWM") - before) / 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def _ways(model: Any, processor: Any, image: Image.Image, box: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    lens = lens_of(model, processor)
    return {
        "reference": lambda: reference(model, processor, image),
        "attnlens": lambda: ours(lens, image),
        "two-image answer": lambda: plain(model, processor, image, box),
        "attnlens, map alone": lambda: our_map(lens, image),
        "SDPA prefill": lambda: sdpa_prefill(model, processor, image),
        "attnlens, value map": lambda: value_map(lens, image),
        "SDPA prefill of its prompt": lambda: sdpa_prefill(model, processor, image, EXISTENCE),
    }


def run(repeats: int) -> dict[str, Any]:
    model, processor = build()
    image = picture()
    expected = reference(model, processor, image)
    box = expected["box"]
    ways = _ways(model, processor, image, box)
    counted = {name: flops(work) for name, work in ways.items()}
    got = counted["attnlens"][2]
    answers = got["result"]
    texts = [processor.tokenizer.decode(expected[key], skip_special_tokens=True).strip() for key in ("first", "answer")]
    difference = float(np.abs(got["map"].ravel() - expected["map"]).max() / np.abs(expected["map"]).max())
    assert difference < 1e-4, f"the maps differ by {difference:.1e}"
    assert got["box"] == box, f"the boxes differ: {got['box']} and {box}"
    assert [answers.first_answer, answers.answer] == texts, "the answers differ"
    times = seconds(ways, repeats)
    table = {
        name: {
            "gflop": counted[name][0],
            "gflop_with_sdpa": counted[name][1],
            "seconds": times[name],
            "peak_mib": statistics.median(peak_memory(name, box) for _ in range(repeats)),
        }
        for name in ways
    }
    return {"ways": table, "map_difference": difference, "box": list(box), "cost": answers.cost.as_dict()}


def report(found: dict[str, Any], console: Console) -> None:
    columns = ("way", "GFLOP", "GFLOP, SDPA counted", "seconds", "peak memory, MiB")
    table = Table(*columns, title="A ViCrop answer, LLaVA-shaped, 576 image tokens")
    for name, row in found["ways"].items():
        numbers = (
            f"{row['gflop']:.1f}",
            f"{row['gflop_with_sdpa']:.1f}",
            f"{row['seconds']:.2f}",
            f"{row['peak_mib']:.0f}",
        )
        table.add_row(name, *numbers)
    console.print(table)
    ways = found["ways"]
    words = {
        "gflop": "FLOPs",
        "gflop_with_sdpa": "FLOPs, SDPA counted",
        "seconds": "seconds",
        "peak_mib": "peak memory",
    }
    for key, word in words.items():
        mine = ways["attnlens"][key]
        console.print(
            f"{word}: attnlens / two-image answer {mine / ways['two-image answer'][key]:.3f}, "
            f"reference / attnlens {ways['reference'][key] / mine:.2f}, "
            f"map / SDPA prefill {ways['attnlens, map alone'][key] / ways['SDPA prefill'][key]:.3f}, "
            f"value map / SDPA prefill {ways['attnlens, value map'][key] / ways['SDPA prefill of its prompt'][key]:.3f}"
        )
    console.print(f"maps differ by {found['map_difference']:.1e} of the maximum; boxes and answers are equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed repeats of each way")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--box", default="0,0,336,336", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        _print_peak(options.memory_of, tuple(int(n) for n in options.box.split(",")))
        return
    found = run(options.repeats)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        report(found, Console())


if __name__ == "__main__":
    main()
