"""Logs how a stage of training goes and keeps what it has learned, so that a stage that was stopped goes on."""

import json
import pathlib
import time
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.training.muon import Pair

LOGGED = 25
"""Steps between two lines of the log."""


class Keeper:
    """`out / stage.pt` holds the module, the optimisers and the seconds so far; `out / stage.jsonl` is the log."""

    def __init__(
        self, out: pathlib.Path, stage: str, module: torch.nn.Module, pair: Pair, progress: Progress, every: int
    ) -> None:
        self.saved, self.log = out / f"{stage}.pt", out / f"{stage}.jsonl"
        self.stage, self.module, self.pair, self.progress, self.every = stage, module, pair, progress, every
        self.seconds = 0.0
        if self.saved.exists():
            state = torch.load(self.saved)
            module.load_state_dict(state["model"])
            pair.load_state_dict(state["pair"])
            self.seconds = state["seconds"]
        self._bar = progress.add_task(stage, total=pair.steps, completed=pair.done)
        self._last = time.perf_counter()

    def step(self, loss: torch.Tensor) -> bool:
        """After a backward pass: one step of the optimisers. Whether what was learned has just been saved."""
        self.pair.step()
        self.progress.update(self._bar, advance=1, description=f"{self.stage}, loss {loss.item():.3f}")
        if self.pair.done % LOGGED == 0:
            now = time.perf_counter()
            self.seconds, self._last = self.seconds + now - self._last, now
            self.note(loss=round(loss.item(), 4), seconds=round(self.seconds))
        if self.pair.done % self.every and self.pair.done < self.pair.steps:
            return False
        state = {"model": self.module.state_dict(), "pair": self.pair.state_dict(), "seconds": self.seconds}
        torch.save(state, self.saved)
        return True

    def note(self, **figures: Any) -> None:
        """A line of the log."""
        with self.log.open("a") as log:
            log.write(json.dumps({"step": self.pair.done, **figures}) + "\n")
