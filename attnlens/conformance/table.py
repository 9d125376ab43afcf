"""What was proved of every model type, as data and as the page of the docs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attnlens
from attnlens.conformance.checks import CHECKS
from attnlens.conformance.report import Report
from attnlens.conformance.types import NOT_ASKED
from attnlens.errors import AttnLensError

_MARKS = {True: "✓", False: "**no**", None: "–"}
_EXPLAINED = """\
Every row was proved on a tiny random model of the type, made from its config class, in float32 on a CPU; no checkpoint
was run. The image processor is transformers' own for the type. What stands in each column:

| column | what was compared |
|---|---|
| tokens | the model takes as many image tokens as the adapter's grid has, for two shapes of image |
| rows | attention of the last prompt token, in all layers and heads, with one full eager pass: within 1e-4 |
| gradients | of log p(top token) with respect to it, with `torch.autograd.grad` there: within 1e-3 of the largest |
| sums | what goes to the image is above 0 and at most 1 |
| intervention | the logits change when the traced modules no longer see the image tokens |
| pixel gradient | finite and not zero |
| places | painted patches of the image change the very tokens whose cells they lie in |
| canvas | painted patches change the canvas, on which pixel gradients are laid, where their cells lie |
| two images | rows of a prompt with two images, as above |
| crop | rows after a crop was added to a reading, as above |
| answer | the greedy answer is that of the model's own `generate` |

– means that there is nothing to compare: image tokens behind a connector with attention, or keys of cross-attention,
have no pixels of their own (their patches are painted in the tests), and no gradient passes through codes.
"""


def document(reports: Sequence[Report]) -> dict[str, Any]:
    """The reports as data, with the versions they were made under."""
    libraries = {name: version(name) for name in ("transformers", "torch", "nnsight")}
    return {
        "versions": {"attnlens": attnlens.__version__, **libraries},
        "reports": [{**report.as_dict(), "seconds": round(report.seconds, 1)} for report in reports],
    }


def read(path: Path) -> dict[str, Any]:
    """A document as `attnlens adapters check --json` printed it. Raises AttnLensError for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AttnLensError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(found, dict) or not {"versions", "reports"} <= set(found):
        raise AttnLensError(f"{path} is not what `attnlens adapters check --json` prints: versions and reports.")
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The page of a document: one row for each model type, and what does not hold in words."""
    reports = found["reports"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    passed = sum(report["passed"] for report in reports)
    lines = [
        "# Supported models",
        "",
        f"{passed} of {len(reports)} question-answering model types pass every check, with {versions}. This page is "
        "made by `make models`, from the adapters and from what `attnlens adapters check --tiny --all` found.",
        "",
        _EXPLAINED,
        _row("model type", "adapter", "grid", "connector", "strategy", *CHECKS),
        _row(*["---"] * 5, *[":-:"] * len(CHECKS)),
    ]
    for report in sorted(reports, key=lambda one: one["model_type"]):
        marks = {one["check"]: _MARKS[one["passed"]] for one in report["findings"]}
        facts = (
            f"`{report['model_type']}`",
            report["adapter"],
            report["grid"],
            report["connector"] and f"`{report['connector']}`",
            report["strategy"],
        )
        lines.append(_row(*facts, *(marks.get(name, "") for name in CHECKS)))
    failing = [
        f"- `{report['model_type']}`, {one['check']}: {one['detail']}"
        for report in reports
        for one in report["findings"]
        if one["passed"] is False
    ]
    if failing:
        lines += ["", "## What does not hold", "", *failing]
    lines += [
        "",
        "## Image processors",
        "",
        "Where transformers has a processor for PIL, it ran as it is. " + _TORCHVISION,
    ]
    lines += ["", ", ".join(f"`{one}`" for one in _substituted(reports)) + "."]
    lines += ["", "## Model types without an adapter", "", "They take no free question about a picture:", ""]
    lines += [f"- `{name}`: {reason}" for name, reason in NOT_ASKED.items()]
    return "\n".join(lines) + "\n"


_TORCHVISION = (
    "These need torchvision; their own code ran on a few plain functions written with torch in its place, so the last "
    "digits of a resized pixel may differ:"
)


def _substituted(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({report["image_processor"] for report in reports if report["substituted"]})


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
