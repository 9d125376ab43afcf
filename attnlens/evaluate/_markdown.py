"""The report as Markdown: what the paper says, what this run found, table by table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attnlens.evaluate import _paper
from attnlens.evaluate._conditions import BY_TASK, EXTERNAL, SEVERAL
from attnlens.evaluate._plan import HIGH, SIZES, TASKS
from attnlens.evaluate._scoring import FRESH, RESAMPLES
from attnlens.evaluate._tables import BINS, recipes

Numbers = Mapping[str, Any]
Rows = Iterable[Sequence[str]]

_COST = {"prefills": "prefills", "forwards": "forwards", "backwards": "backwards", "image_tokens": "image tokens"}
_OTHERS = "external"  # of no interest where no recipe has other models look

_POCKET_CLIP = (
    "Here the crops of `clip` are chosen by the bundled pocket CLIP (`attnlens.pocket.cropper_path`), on small targets "
    f"and on `{HIGH}`. It has 0.1 million parameters and was taught, on scenes of the training split, which colours of "
    "sign a crop shows: unlike the paper's CLIP it is asked about what it was trained on. After all its cuts an eighth "
    "of the image is left, and more once that is made square, so that a crop may hold the target by its size alone. "
    "`yolo` and `sam` have no bundled model and are not measured."
)

_CHOICES = {
    "layer=mean": "the mean of all layers",
    "criterion=sum": "boxes searched by sum, as in the paper, not by density",
    "variant=released": "as in the released code, not as in the paper",
}


def markdown(numbers: Numbers, pictures: Mapping[str, str]) -> str:
    """`pictures`: by name ("sizes", "layers", "example MODEL") the file beside the report, where there is one."""
    sections = [
        _run(numbers),
        _sizes(numbers, pictures),
        _layers(numbers, pictures),
        _recipes(numbers),
        _ablations(numbers),
        _external(numbers),
        _kinds(numbers),
        _several(numbers),
        _cost(numbers),
        _refused(numbers),
        _seconds(numbers),
        _examples(numbers, pictures),
        _claims(numbers),
    ]
    return "\n\n".join(part for section in sections for part in section if part) + "\n"


def _run(numbers: Numbers) -> list[str]:
    models = numbers["models"]
    rows = []
    for name, facts in models.items():
        defaults, ranking = facts["defaults"], facts["ranking"]
        best = "-" if ranking is None else f"{_layer_name(ranking)} of {ranking['examples']} scenes"
        counts = ", ".join(str(facts["examples"][size]) for size in BINS)
        layer, window = str(defaults["layer"]), f"{defaults['window']} px"
        rows.append(
            [name, f"{facts['parameters'] / 1e6:.1f} M", str(len(facts["layers"])), layer, window, best, counts]
        )
    versions = sorted({", ".join(f"{k} {v}" for k, v in facts["versions"].items()) for facts in models.values()})
    header = ["model", "parameters", "layers", "layer read", "window", "best layer, validation", ", ".join(BINS)]
    return [
        "# The paper, reproduced",
        "`attnlens reproduce` repeats the measurements of ViCrop (*MLLMs Know Where to Look*, arXiv 2502.17422) on "
        "small models and on scenes of their own: coloured signs with a digit, and a question about one of them. The "
        "numbers themselves are these models'; what can be compared with the paper is how they change.",
        f"Scenes are made from their numbers, the first ones of {_streams(models)}. Targets are small (under 0.5 % of "
        f"the image), medium (under 5 %) or large; `{HIGH}` has small targets in images above 1024 px. Accuracies are "
        f"in per cent. The interval in brackets is where the same figure of {FRESH} further scenes lies, 95 times in "
        "100 (posterior predictive, Jeffreys' prior, a fixed seed; paired for differences): what to expect of a new "
        "run. The interval of the mean itself is narrower, and stands in report.json (`mean_low`, "
        f"`mean_high`: {RESAMPLES} bootstrap resamples of the scenes); those of attention ratios are of the mean. The "
        "same command on the same versions gives the same figures, seconds apart.",
        table(header, rows, right=(1, 2)),
        "Versions: " + "; ".join(versions) + ".",
    ]


def _streams(models: Numbers) -> str:
    named = " and ".join(f"`{split}`" for split in sorted({facts["split"] for facts in models.values()}))
    return f"the stream {named}, which serves nothing else (docs/streams.md)"


def _sizes(numbers: Numbers, pictures: Mapping[str, str]) -> list[str]:
    rows = []
    for model, accuracy in numbers["accuracy"].items():
        for condition in ("none", "human"):
            rows.append([model, condition, *(_cell(accuracy, size, condition) for size in BINS)])
    theirs = [[f"*{model}, paper*", crop, *values, "-"] for model, crop, values in _paper.TABLE_1]
    return [
        "## Size of the target and the human crop (Table 1)",
        _paper.SIZE,
        table(["model", "crop", *BINS], [*rows, *theirs], right=range(2, 6)),
        _image(pictures, "sizes", "Accuracy by the size of the target, without and with crops"),
        f"At `{HIGH}` the recipes of this chart read the image in tiles." if "sizes" in pictures else "",
    ]


def _layers(numbers: Numbers, pictures: Mapping[str, str]) -> list[str]:
    rows = []
    for model, ratios in numbers["ratios"].items():
        for group in ("right", "wrong"):
            values = [(one["mean"], place) for place, one in enumerate(ratios.get(group, [])) if one is not None]
            if values:
                _, place = max(values)
                best = ratios[group][place]
                above = sum(mean > 1 for mean, _ in values)
                rows.append([model, group, str(best["count"]), str(place), interval(best), f"{above} of {len(values)}"])
    header = ["model", "answers", "scenes", "highest at layer", "ratio there", "layers above 1"]
    return [
        "## Where the models look, layer by layer (Figure 3)",
        _paper.LAYERS,
        _image(pictures, "layers", "Attention ratio of every layer, right and wrong answers apart"),
        table(header, rows, right=(2, 3, 4, 5)),
        "Scenes are small, medium and large together. The largest possible ratio is the image's area over the box's: "
        "small targets, which are most of the wrong answers, can reach higher ones. Behind a connector with attention "
        "of its own a layer is a pair: layer m of the language model and layer k of the connector stand at m + k times "
        "the number of layers.",
    ]


def _recipes(numbers: Numbers) -> list[str]:
    parts = ["## Every recipe against none, human, centre and random crops (Table 2)", _paper.RECIPES]
    for model, accuracy in numbers["accuracy"].items():
        names = recipes({name for bins in accuracy.values() for name in bins})
        gain, holds = numbers["gain"][model], numbers["crop_holds_target"][model]
        parts += [
            f"### {model}",
            _by_size(names, accuracy, counted=True),
            "Difference to no crop, in points:",
            _by_size([name for name in names if name != "none"], gain, sign=True),
            "How often the crop holds at least half of the target, in per cent:",
            _by_size([name for name in names if name != "none"], holds),
        ]
    header = ["crop", "LLaVA-1.5, TextVQA", "LLaVA-1.5, V*", "InstructBLIP, TextVQA", "InstructBLIP, V*"]
    theirs = [[name, *values] for name, values in _paper.TABLE_2]
    return [*parts, "### The paper's", table(header, theirs, right=range(1, 5))]


def _by_size(names: Sequence[str], values: Numbers, sign: bool = False, counted: bool = False) -> str:
    """One row a crop; `counted`: how many scenes of each size stand behind it, too."""
    rows = [[name, *(_cell(values, size, name, sign) for size in BINS)] for name in names]
    if not counted:
        return table(["crop", *BINS], rows, right=range(1, 5))
    counts = [[str(values.get(size, {}).get(name, {}).get("count", "-")) for size in BINS] for name in names]
    rows = [[*row, ", ".join(count)] for row, count in zip(rows, counts, strict=True)]
    return table(["crop", *BINS, "scenes"], rows, right=range(1, 6))


def _ablations(numbers: Numbers) -> list[str]:
    rows = []
    for model, found in numbers["ablations"].items():
        for row in found:
            choice = _CHOICES.get(row["choice"], row["choice"])
            if row["choice"].startswith("layer=") and row["choice"] not in _CHOICES:
                choice = f"{_layer_name(numbers['models'][model]['ranking'])}, the best on validation"
            values = [interval(row["accuracy"]), interval(row["difference"], sign=True)]
            rows.append([model, row["recipe"], choice, row["size"], *values])
    header = ["model", "recipe", "changed to", "size", "accuracy", "difference, points"]
    return [
        "## One choice at a time (Table 3)",
        _paper.ABLATIONS,
        "Each row changes one choice of a recipe; the difference is to the recipe as it is, on the same scenes.",
        table(header, rows, right=(4, 5)),
    ]


def _external(numbers: Numbers) -> list[str]:
    title = "## Croppers that do not look into the model (Table 4)"
    rows = []
    for model, accuracy in numbers["accuracy"].items():
        known = {name for bins in accuracy.values() for name in bins}
        if known & set(EXTERNAL):
            names = [name for name in recipes(known) if name == "none" or name in EXTERNAL or name in BY_TASK]
            rows += [[model, name, *(_cell(accuracy, size, name) for size in BINS)] for name in names]
    if not rows:
        return [title, "The recipes clip, yolo and sam need models of their own; no record here is of one."]
    return [title, _paper.EXTERNAL, _POCKET_CLIP, table(["model", "crop", *BINS], rows, right=range(2, 6))]


def _kinds(numbers: Numbers) -> list[str]:
    parts = [
        "## Kinds of question",
        f"{_paper.KINDS} The column `human` leaves out scenes without a box: a sign that is not there, and `describe`.",
    ]
    for size in (SIZES[0], SIZES[-1]):
        rows = []
        for model, kinds in numbers["kinds"].items():
            for kind in (one for one in TASKS if one in kinds):
                cells = [kinds[kind].get(size, {}).get(name) for name in BY_TASK]
                shown = ["-" if cell is None else interval(cell["accuracy"]) for cell in cells]
                count = next((str(cell["accuracy"]["count"]) for cell in cells if cell is not None), "0")
                rows.append([model, kind, count, *shown])
        parts += [f"{size.capitalize()} targets:", table(["model", "kind", "scenes", *BY_TASK], rows, range(2, 6))]
    return parts


def _several(numbers: Numbers) -> list[str]:
    rows = []
    for model, found in numbers["several"].items():
        for name, row in ((one, found[one]) for one in SEVERAL if one in found):
            changes = ["-" if row[one] is None else interval(row[one], sign=True) for one in ("gain", "second")]
            rows.append([model, name, str(row["accuracy"]["count"]), interval(row["accuracy"]), *changes])
    if not rows:
        return []
    return [
        "## Questions for which several places must be looked at",
        _paper.SEVERAL,
        table(["model", "crop", "scenes", "accuracy", "to none", "to one crop"], rows, right=range(2, 6)),
    ]


def _cost(numbers: Numbers) -> list[str]:
    columns, note = dict(_COST), ""
    costs = [cost for bins in numbers["cost"].values() for names in bins.values() for cost in names.values()]
    if any(cost.get(_OTHERS) for cost in costs):
        columns[_OTHERS] = "pictures"
        note = " Pictures are what CLIP, a detector or a segmenter has looked at."
    rows = []
    for model, bins in numbers["cost"].items():
        for size, name in _priced(bins):
            values = [f"{bins[size][name].get(field, 0):.1f}".removesuffix(".0") for field in columns]
            rows.append([model, name, size, _cell(numbers["accuracy"][model], size, name), *values])
    return [
        "## Every recipe and its cost (FOCUS's table 10)",
        f"{_paper.COST} Here the mean work of the model for one question counts, everything included: passes over "
        "image tokens, passes over prompt tokens, gradient passes, and image tokens prefilled. The first answer (one "
        f"pass) and the answer with the crop (another) are part of it.{note}",
        table(["model", "crop", "size", "accuracy", *columns.values()], rows, right=range(3, 4 + len(columns))),
    ]


def _refused(numbers: Numbers) -> list[str]:
    rows = [
        [model, one["recipe"], str(one["count"]), one["why"].split(". ")[0] + "."]
        for model, found in numbers.get("refused", {}).items()
        for one in found
    ]
    if not rows:
        return []
    return [
        "## What could not be asked",
        "These scenes are left out of the figures of their row, and of its difference to others.",
        table(["model", "crop", "scenes", "because"], rows, right=(2,)),
    ]


def _seconds(numbers: Numbers) -> list[str]:
    models = list(numbers["seconds"])
    priced = {pair: None for bins in numbers["seconds"].values() for pair in _priced(bins)}
    rows = []
    for size, name in priced:
        values = [numbers["seconds"][model].get(size, {}).get(name) for model in models]
        rows.append([name, size, *("-" if value is None else f"{value:.3f}" for value in values)])
    return [
        "## Seconds per question",
        "Median wall-clock seconds for one question on the machine of this run, one thread per model. This table alone "
        "differs from run to run.",
        table(["crop", "size", *models], rows, right=range(2, 2 + len(models))),
    ]


def _priced(bins: Numbers) -> list[tuple[str, str]]:
    """(size, condition): recipes on small targets, and on small targets in large images."""
    return [(size, name) for size in (SIZES[0], HIGH) for name in recipes(bins.get(size, {}))]


def _examples(numbers: Numbers, pictures: Mapping[str, str]) -> list[str]:
    parts = []
    for model in numbers["models"]:
        image = _image(pictures, f"example {model}", f"A small sign, where {model} looks, the crop, and both answers")
        parts += [f"### {model}", image] if image else []
    return ["## An example of each model", *parts] if parts else []


def _claims(numbers: Numbers) -> list[str]:
    words = {True: "yes", False: "no", None: "-"}
    rows = [[one["claim"], one["model"], one["figure"], words[one["holds"]]] for one in numbers["claims"]]
    return [
        "## What holds",
        "Judged by the means above.",
        table(["claim", "model", "measured", "holds"], rows),
    ]


def _cell(values: Numbers, size: str, condition: str, sign: bool = False) -> str:
    found = values.get(size, {}).get(condition)
    return "-" if found is None else interval(found, sign)


def interval(value: Numbers, sign: bool = False) -> str:
    """91.3 [88.0, 94.3]"""
    form = "+.1f" if sign else ".1f"
    return f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def _layer_name(ranking: Numbers) -> str:
    connector = ranking["connector_layer"]
    return f"layer {ranking['layer']}" + ("" if connector is None else f", connector layer {connector}")


def _image(pictures: Mapping[str, str], name: str, text: str) -> str:
    return f"![{text}]({pictures[name]})" if name in pictures else ""


def table(header: Sequence[str], rows: Rows, right: Iterable[int] = ()) -> str:
    """A Markdown table; the columns numbered in `right` hold numbers."""
    aligned = set(right)
    rule = ["---:" if column in aligned else "---" for column in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
