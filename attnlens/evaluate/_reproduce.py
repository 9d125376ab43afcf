"""A paper in a box: measures models one process each, and keeps what it measured in OUT/records.

`run` may be killed at any time and started again; the report is made from the records alone, see `report`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from attnlens import _files
from attnlens.errors import AttnLensError
from attnlens.evaluate._plan import Plan

Progress = Callable[[str, int, int], None]
"""(model, done, total) records."""

_POLL = 0.2  # seconds between two looks at the workers' progress


class Stopped(Exception):  # noqa: N818 - no error: it was asked for
    """A worker was told to stop; everything it measured is recorded."""


def run(
    models: Sequence[str],
    out: Path,
    plan: Plan,
    *,
    version: str,
    jobs: int,
    progress: Progress,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Measures every model as `plan` says, at most `jobs` at a time, into OUT/records; what is there is kept.

    `models`: names that `attnlens.load` takes, with `options`. `version`: attnlens's own, for the records. A model
    that fails stops all. Raises AttnLensError, and KeyboardInterrupt once every worker has finished its record.
    """
    paths = record_paths(models, out)
    context = multiprocessing.get_context("spawn")
    messages, stop = context.SimpleQueue(), context.Event()
    pool = ProcessPoolExecutor(
        max_workers=max(1, min(jobs, len(models))),
        mp_context=context,
        initializer=_begin,
        initargs=(messages, stop),
    )

    def drain() -> None:
        while not messages.empty():
            progress(*messages.get())

    try:
        with _no_interrupt():
            pending: set[Future[None]] = {
                pool.submit(_measure, name, paths[name], plan, version, dict(options or {})) for name in models
            }
        while pending:
            finished, pending = wait(pending, timeout=_POLL, return_when=FIRST_COMPLETED)
            drain()
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise AttnLensError(
            "A process that measured a model was ended from outside, perhaps for want of memory. No record is lost: "
            "start the same command again to go on, with --jobs 1 if memory is short."
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the block has ended, and never reaches a process that is started in it.

    A worker takes over which signals are held back from the process that starts it. Otherwise Ctrl-C, which goes to
    all of them, would end it with a traceback while it imports, before it can say that it leaves Ctrl-C to its parent.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def label(model: str) -> str:
    """A model's name in the report: that of its folder, for a folder, since the path is the machine's business."""
    path = _files.expanded(model)
    return path.resolve().name if os.path.isdir(path) else model


def record_paths(models: Sequence[str], out: Path) -> Mapping[str, Path]:
    """For each model the file of its records. Raises AttnLensError when two would share one."""
    if not models:
        raise AttnLensError("There is no model to measure. Name one: --model pocket/llava, a folder, or a hub id.")
    paths = {model: out / "records" / f"{label(model).replace('/', '--')}.jsonl" for model in models}
    if len(set(paths.values())) < len(models):
        names = ", ".join(map(repr, models))
        raise AttnLensError(f"Two of the models {names} go by the same name. Name each once; rename a folder.")
    return paths


def writable(out: Path) -> Path:
    """`out`, made where missing, once it is sure that files can be written there. Raises AttnLensError."""
    folder = _files.expanded(out)
    probe = folder / "records" / f".writable-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AttnLensError(
            f"Nothing can be written to {str(out)!r}: {error.strerror or error}. Give a folder that is yours: "
            "attnlens reproduce out/reproduce."
        ) from None
    return folder


_channel: tuple[Any, Any]
"""In a worker: the queue of its messages, and the event that stops it."""


def _begin(messages: Any, stop: Any) -> None:
    """A worker leaves Ctrl-C to its parent, which stops it between two records, and ends when its parent has ended."""
    global _channel
    _channel = messages, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed can stop nobody, and its workers must not stand beside the next run's.

    What is cut off is the last record at most, and the next run drops a torn line.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _measure(model: str, path: Path, plan: Plan, version: str, options: dict[str, Any]) -> None:
    import torch
    from transformers import logging

    from attnlens.evaluate._measure import measure, settings
    from attnlens.evaluate._records import Records
    from attnlens.evaluate._shapes import shape_of
    from attnlens.lens import load

    messages, stop = _channel

    def tick(done: int, total: int) -> None:
        if stop.is_set():
            raise Stopped
        messages.put((model, done, total))

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    try:
        lens = load(model, **options)
        about = settings(lens, label(model), version, plan.split)
        with Records(path, about, shape_of(about)) as records:
            measure(lens, plan, records, tick)
    except Stopped:
        return
