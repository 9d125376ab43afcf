"""Runs a claim on many inputs, each within a bound of time and all within one of memory, and says how many."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnlens import AttnLensError

SECONDS = 20
"""For one input, on a machine that does other things too."""
MEGABYTES = 1024
"""By which the process may grow over all inputs."""


def amounts(fast: int, long: int) -> Any:
    """Parametrises a test's `count` with a number for every day and one for the slow tests."""
    return pytest.mark.parametrize("count", [fast, pytest.param(long, marks=pytest.mark.slow)])


def outcome(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the AttnLensError that it raises; any other error fails the test."""
    try:
        return call()
    except AttnLensError as error:
        return error


def on_many(claim: Callable[..., None], count: int, *inputs: st.SearchStrategy[Any]) -> None:
    """Calls `claim` with `count` draws of `inputs`, the same ones in every run, and prints how many were tried."""
    tried = 0

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.tuples(*inputs))
    def held(drawn: tuple[Any, ...]) -> None:
        nonlocal tried
        tried += 1
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            claim(*drawn)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def too_long(*_: object) -> None:
        pytest.fail(f"one input took more than {SECONDS} seconds")

    _forget_the_peak()
    handler, before = signal.signal(signal.SIGALRM, too_long), _megabytes("VmRSS")
    try:
        held()
    finally:
        signal.signal(signal.SIGALRM, handler)
    grown = _megabytes("VmHWM") - before
    print(f"{tried} inputs tried, at most {grown:.0f} MB more memory")
    assert tried >= count
    assert grown < MEGABYTES


def _megabytes(field: str) -> float:
    """What the process holds (VmRSS), or the most that it has held since `_forget_the_peak` (VmHWM); 0 off Linux."""
    if not sys.platform.startswith("linux"):
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def _forget_the_peak() -> None:
    if sys.platform.startswith("linux"):
        Path("/proc/self/clear_refs").write_text("5")


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, other: bytes = b"") -> bytes:
    """`whole` after one to six accidents: bytes changed, taken out, doubled, moved in from `other`, or the end lost."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        if draw(st.booleans()):
            place = min(place, draw(st.integers(0, 200)))  # where the headers are
        length = draw(st.sampled_from([1, 2, 4, 8, 50, 500]))
        match draw(st.integers(0, 6)):
            case 0:
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                value = draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0"]))
                data[place : place + 4] = value
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                start = draw(st.integers(0, max(len(other) - 1, 0)))
                data[place:place] = other[start : start + length]
            case 5:
                data[place : place + length] = draw(st.binary(max_size=length))
            case 6:
                del data[place + length :]
    return bytes(data)
