"""One look at a time: a model is looked into by one thread, in evaluation mode, and is afterwards as it was.

A look switches what runs in a model: its attention, its parameters' gradients, its mode. So there is one lock for each
model, whatever number of lenses it has; two models are looked into side by side.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from attnlens._upstream import without_compiled_code
from attnlens.errors import AttnLensError, first_line

Method = TypeVar("Method", bound=Callable[..., Any])

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


def exclusively(method: Method) -> Method:
    """A method that looks into the `model` of its object, or runs it: `exclusive` all the while."""

    @functools.wraps(method)
    def alone(self: Any, *args: Any, **kwargs: Any) -> Any:
        with exclusive(self.model):
            return method(self, *args, **kwargs)

    return cast(Method, alone)


@contextmanager
def exclusive(model: nn.Module) -> Iterator[None]:
    """Only this thread looks into `model` in here; no dropout, no compiled code, no inference mode of the caller.

    In training mode, dropout and checkpointing would make every map another one; each module's mode is put back.
    Compiled code has no place for the attention that is looked at. What is made in inference mode has no gradients, and
    a reading is kept for later questions.
    """
    outside = torch.inference_mode(mode=False) if torch.is_inference_mode_enabled() else nullcontext()
    with lock_of(model), outside, without_compiled_code(model), _evaluating(model), _explaining(model):
        yield


@contextmanager
def _explaining(model: nn.Module) -> Iterator[None]:
    """What a model's own code raises, on inputs that do not fit it, as one `AttnLensError`; memory that is out is left
    to those who wait for that."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise AttnLensError(
            f"{type(model).__name__} fails on what its processor makes of the image and the question "
            f"({type(error).__name__}: {first_line(error)}). Does the processor belong to the model, and does the "
            "adapter? See whether the model answers in transformers alone, with this processor."
        ) from error


def lock_of(model: nn.Module) -> threading.RLock:
    """Held by the thread that looks into `model`."""
    with _making:
        return _locks.setdefault(model, threading.RLock())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """By each module's flag: `train()` of some modules does more (LoRA layers that merge), and sets all alike."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
