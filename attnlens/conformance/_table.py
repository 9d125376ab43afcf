"""What was proved of every model type, as data and as the page of the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attnlens
from attnlens import _files
from attnlens.conformance._checks import CHECKS
from attnlens.conformance._report import Report
from attnlens.conformance._types import NOT_ASKED, image_text_types
from attnlens.errors import AttnLensError
from attnlens.lens._model.broken import KNOWN_BROKEN

_EXPLAINED = """\
Every row was proved on a tiny random model of the type, made from its config class, in float32 on a CPU, with the
type's own image processor; no checkpoint was run. [What the checks prove](wrap-a-model.md#what-the-checks-prove) says
what was compared with what.
"""
_PROCESSORS = """\
Where transformers has one for PIL, it ran as it is. These need torchvision; their own code ran on a few plain functions
written with torch in its place, so the last digits of a resized pixel may differ:"""


def document(reports: Sequence[Report]) -> dict[str, Any]:
    """The reports as data, with the versions they were made under, and how many types that transformers has."""
    libraries = {name: version(name) for name in ("transformers", "torch", "nnsight")}
    return {
        "versions": {"attnlens": attnlens.__version__, **libraries},
        "image_text_types": len(image_text_types()),
        "reports": [{**report.as_dict(), "seconds": round(report.seconds, 1)} for report in reports],
    }


def read(path: Path) -> dict[str, Any]:
    """A document as `attnlens adapters check --json` printed it. Raises AttnLensError for another file."""
    try:
        found = _files.read_json(_files.expanded(path))
    except (OSError, ValueError) as error:
        raise AttnLensError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(found, dict) or not {"versions", "image_text_types", "reports"} <= set(found):
        raise AttnLensError(
            f"{path} is not what `attnlens adapters check --json` prints: versions, image_text_types and reports."
        )
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The page of a document: one row for each model type, and what does not hold in words."""
    reports = sorted(found["reports"], key=lambda report: report["model_type"])
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    passed = sum(report["passed"] for report in reports)
    lines = [
        "# Supported models",
        "",
        f"transformers {found['versions']['transformers']} has {found['image_text_types']} image-text-to-text model "
        f"types; {len(reports)} of them answer questions, and {passed} of these pass every check, with {versions}. "
        "This page is made by `make models`, from the adapters and from what `attnlens adapters check --tiny --all` "
        "found.",
        "",
        _EXPLAINED,
        _row("model type", "adapter", "grid", "connector", "strategy", f"proved, of {len(CHECKS)} checks"),
        _row(*["---"] * 6),
        *(_row(*_facts(report), _proved(report)) for report in reports),
    ]
    lines += _section("What does not hold", _reasons(reports, passed=False))
    lines += _section("Broken by transformers itself", _broken())
    lines += _section("Nothing to compare", _reasons(reports, passed=None))
    lines += _section("Image processors", [_PROCESSORS, "", f"{', '.join(_substituted(reports))}."])
    others = [f"- `{name}`: {reason}" for name, reason in NOT_ASKED.items()]
    lines += _section("Model types left out", ["They take no free question about a picture:", "", *others])
    return "\n".join(lines) + "\n"


def _facts(report: Mapping[str, Any]) -> tuple[str, ...]:
    connector = f"`{report['connector']}`" if report["connector"] else ""
    return f"`{report['model_type']}`", report["adapter"], report["grid"], connector, report["strategy"]


def _proved(report: Mapping[str, Any]) -> str:
    """Which checks, by the names of those that did not pass."""
    failing = [one["check"] for one in report["findings"] if one["passed"] is False]
    silent = [one["check"] for one in report["findings"] if one["passed"] is None]
    return f"**fails: {_listed(failing)}**" if failing else f"all but {_listed(silent)}" if silent else "all"


def _reasons(reports: Sequence[Mapping[str, Any]], *, passed: bool | None) -> list[str]:
    """What was said of the checks that ended so, each sentence once with the model types it was said of."""
    types: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        checks: dict[str, list[str]] = {}
        for one in report["findings"]:
            if one["passed"] is passed:
                checks.setdefault(one["detail"], []).append(one["check"])
        for detail, names in checks.items():
            types.setdefault((_listed(names), detail), []).append(f"`{report['model_type']}`")
    return [f"- {', '.join(names)}: {which}: {detail}" for (which, detail), names in types.items()]


def _broken() -> list[str]:
    """The releases of transformers that cannot run a type, whether or not one of them is installed."""
    return [
        f"- `{name}`, by transformers {', '.join(versions)}: {reason}. A plain forward fails there; install "
        "another release."
        for name, (versions, reason) in KNOWN_BROKEN.items()
    ]


def _listed(checks: Sequence[str]) -> str:
    return "every check" if len(checks) == len(CHECKS) else ", ".join(checks)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def _substituted(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({f"`{report['image_processor']}`" for report in reports if report["substituted"]}) or ["none"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
