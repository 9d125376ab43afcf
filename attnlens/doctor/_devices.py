"""What each device computes rightly: dtypes, attention implementations, and the bundled models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attnlens.doctor._findings import Finding
from attnlens.doctor._packages import Attempts

AREA = "devices"


def devices(attempts: Attempts) -> Iterator[Finding]:
    """Each device with its memory; what works on it, dtype by dtype; the bundled models on it."""
    broken = [name for name in ("torch", "transformers") if "error" in attempts.get(f"import {name}", {})]
    known = attempts.get("devices", {"error": "not tried"})
    if broken or "error" in known:
        why = f"{' and '.join(broken)} cannot be imported" if broken else known["error"]
        yield Finding(AREA, "devices", "fails", f"not tried: {why}", "See above; then run this again.")
        return
    built = attempts.get("gpu", {}).get("built")
    if built is not None and len(known) == 1:
        advice = "If there is one, its driver may be too old for this torch, or CUDA_VISIBLE_DEVICES hides it."
        yield Finding(AREA, "gpu", "note", f"torch is made for {built}, and finds no GPU", advice)
    for device, facts in known.items():
        yield Finding(AREA, device, "ok", _described(facts))
        by_dtype: dict[str, dict[str, Any]] = {}
        for name, result in attempts.items():
            kind, *which = name.split()
            if kind == "forward" and which[0] == device:
                by_dtype.setdefault(which[1], {})[which[2]] = result.get("error")
        for dtype, errors in by_dtype.items():
            yield _dtype(device, dtype, errors)
        for name, result in attempts.items():
            if name.startswith(f"model {device} "):
                yield _model(device, name.split()[2], result)


def _described(facts: Mapping[str, Any]) -> str:
    parts = [facts["what"]]
    if facts["memory"] is not None:
        free = "" if facts["free"] is None else f", {_gib(facts['free'])} free"
        parts.append(f"{_gib(facts['memory'])} of memory{free}")
    return ", ".join(parts)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _dtype(device: str, dtype: str, errors: Mapping[str, str | None]) -> Finding:
    """The attention implementations that agree with eager float32 on the CPU; without float32 nothing is exact."""
    works = ", ".join(how for how, error in errors.items() if error is None) or "nothing"
    wrong = "".join(f"; {how}: {error}" for how, error in errors.items() if error is not None)
    if not wrong:
        return Finding(AREA, f"{device} {dtype}", "ok", works)
    if dtype == "float32" and not (errors.get("eager", "") is None and errors.get("sdpa", "") is None):
        advice = f"attnlens needs both there: use another device (--device), or another torch for {device}."
        return Finding(AREA, f"{device} {dtype}", "fails", works + wrong, advice)
    advice = f"On {device}, load models with another dtype (--dtype float32) or one of what works."
    return Finding(AREA, f"{device} {dtype}", "note", works + wrong, advice)


def _model(device: str, name: str, result: Mapping[str, Any]) -> Finding:
    said = f"pocket/{name}, {device}"
    if "error" in result:
        advice = "If nothing else fails here, this is a defect of attnlens: please report it with this output."
        return Finding(AREA, said, "fails", result["error"], advice)
    return Finding(AREA, said, "ok", f"loads, looks and answers, {result['seconds']:.1f} seconds")
