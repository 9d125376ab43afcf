"""What a run has to show for the papers' claims to hold on a model, judged from the report's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from attnlens.evaluate._conditions import ATTENTION, QUICK_FOCUS

FALLS = 30
"""Points that small targets lie under large ones."""
RESTORES = 40
"""Points that the human crop adds on small targets."""
LOOKS = 2
"""Attention ratio of the best layer where the answer is wrong."""
GAINS, LOSES = 20, 2
"""Points that a recipe adds on small targets at least, and takes on large ones at most."""
SEARCHES = 15
"""Points that FOCUS and ZoomEye add on small targets."""
THIRD, ANSWERS = 1 / 3, 2
"""Of ZoomEye's passes: FOCUS's. The first and the last answer, which both pay, are no search."""

Claim = dict[str, Any]


def claims(numbers: Mapping[str, Any]) -> list[Claim]:
    """For each claim and model: {"claim", "model", "figure", "holds"}; `holds` is None where it was not measured."""
    passes = (partial(_passes, size="small"), partial(_passes, size="high"))
    judges = (_falls, _restores, _looks, _gains, _searches, *passes, _several)
    return [{"model": model, **judge(numbers, model)} for judge in judges for model in numbers["models"]]


def _falls(numbers: Mapping[str, Any], model: str) -> Claim:
    claim = f"Accuracy falls with the target's size: small at least {FALLS} points under large."
    accuracy = numbers["accuracy"][model]
    small, large = (_at(accuracy, name, "none", "mean") for name in ("small", "large"))
    if small is None or large is None:
        return _unknown(claim)
    return _claim(claim, f"{large - small:.1f} points: {small:.1f} small, {large:.1f} large", large - small >= FALLS)


def _restores(numbers: Mapping[str, Any], model: str) -> Claim:
    claim = f"The human crop restores it: at least {RESTORES} points on small targets."
    gain = _at(numbers["gain"][model], "small", "human")
    if gain is None:
        return _unknown(claim)
    return _claim(claim, f"{gain['mean']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]", gain["mean"] >= RESTORES)


def _looks(numbers: Mapping[str, Any], model: str) -> Claim:
    claim = f"The model looks at the target even when it is wrong: attention ratio of the best layer above {LOOKS}."
    facts = numbers["models"][model]
    best, wrong = facts["ranking"], numbers["ratios"][model].get("wrong")
    if best is None or wrong is None:
        return _unknown(claim)
    place = facts["layers"].index(best["layer"]) + (best["connector_layer"] or 0) * len(facts["layers"])
    ratio = wrong[place]
    if ratio is None:
        return _unknown(claim)
    figure = f"{ratio['mean']:.1f} [{ratio['low']:.1f}, {ratio['high']:.1f}], {ratio['count']} wrong answers"
    return _claim(claim, figure, ratio["mean"] > LOOKS)


def _gains(numbers: Mapping[str, Any], model: str) -> Claim:
    claim = (
        f"rel-att or grad-att gains at least {GAINS} points on small targets and loses at most {LOSES} on large ones."
    )
    found = list(_changes(numbers["gain"][model]))
    if not found:
        return _unknown(claim)
    figure = "; ".join(f"{name}: {small:+.1f} small, {large:+.1f} large" for name, small, large in found)
    return _claim(claim, figure, any(small >= GAINS and large >= -LOSES for _, small, large in found))


def _searches(numbers: Mapping[str, Any], model: str) -> Claim:
    claim = f"FOCUS and ZoomEye gain at least {SEARCHES} points on small targets."
    found = {name: _at(numbers["gain"][model], "small", name, "mean") for name in ("focus", QUICK_FOCUS, "zoomeye")}
    measured = [gain for gain in found.values() if gain is not None]
    if not measured:
        return _unknown(claim)
    figure = ", ".join(f"{name} {'not measured' if gain is None else f'{gain:+.1f}'}" for name, gain in found.items())
    return _claim(claim, figure, min(measured) >= SEARCHES)


def _passes(numbers: Mapping[str, Any], model: str, size: str) -> Claim:
    claim = f"FOCUS (`{QUICK_FOCUS}`) searches in at most a third of ZoomEye's forward passes: {size} targets."
    passes = [_at(numbers["cost"][model], size, name, "forwards") for name in (QUICK_FOCUS, "zoomeye")]
    if None in passes:
        return _unknown(claim)
    mine, theirs = (count - ANSWERS for count in passes)
    return _claim(claim, f"{mine:.1f} of {theirs:.1f}: {mine / theirs:.2f}", mine <= THIRD * theirs)


def _several(numbers: Mapping[str, Any], model: str) -> Claim:
    claim = "A second crop gains where several places must be looked at: every interval of the mean above 0."
    found = {name: row["second"] for name, row in numbers["several"][model].items() if row["second"] is not None}
    if not found:
        return _unknown(claim)
    figure = "; ".join(f"{n} {v['mean']:+.1f} [{v['mean_low']:+.1f}, {v['mean_high']:+.1f}]" for n, v in found.items())
    return _claim(claim, figure, all(value["mean_low"] > 0 for value in found.values()))


def _changes(gain: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    for name in ATTENTION:
        small, large = (_at(gain, size, name, "mean") for size in ("small", "large"))
        if small is not None and large is not None:
            yield name, small, large


def _at(numbers: Any, *path: str) -> Any:
    """What nested dicts hold there, or None."""
    for part in path:
        numbers = None if numbers is None else numbers.get(part)
    return numbers


def _claim(claim: str, figure: str, holds: bool) -> Claim:
    return {"claim": claim, "figure": figure, "holds": holds}


def _unknown(claim: str) -> Claim:
    return {"claim": claim, "figure": "not measured", "holds": None}
