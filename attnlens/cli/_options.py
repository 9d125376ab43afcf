"""What several commands share: how image, question, model and layer are named, and how the model is loaded."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnlens.cli._output import notes, plain, status
from attnlens.errors import AttnLensError

if TYPE_CHECKING:
    from attnlens.lens import Lens

DEFAULT_MODEL = "pocket/llava"
DEFAULT_HINT = (
    f"The default model, {DEFAULT_MODEL}, is a small one that knows coloured signs with a digit, as in "
    "`attnlens demo`, and nothing else. For photographs name a model: --model llava-hf/llava-1.5-7b-hf."
)

ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)]
QuestionArgument = Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.", show_default=False)]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"A bundled model, a folder, or a Hugging Face id; by default {DEFAULT_MODEL}.",
        metavar="MODEL",
        show_default=False,
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter", "-a", metavar="NAME|FILE", help="By default the one for the model's type.", show_default=False
    ),
]
Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="DTYPE", help="float32, bfloat16, ...; by default the checkpoint's own."),
]
FROM_PRETRAINED: dict[str, Any] = {
    "device_map": Annotated[
        str | None,
        typer.Option(
            "--device-map", metavar="MAP", help="auto, or a JSON mapping of modules to devices.", show_default=False
        ),
    ],
    "revision": Annotated[
        str | None,
        typer.Option(
            "--revision", metavar="NAME", help="Branch, tag or commit of a Hugging Face id.", show_default=False
        ),
    ],
    "load_option": Annotated[
        list[str] | None,
        typer.Option(
            "--load-option",
            metavar="KEY=VALUE",
            help="Another option of transformers' from_pretrained, such as attn_implementation=eager; VALUE is JSON or "
            "text. May be given several times.",
            show_default=False,
        ),
    ],
    "allow_missing_weights": Annotated[
        bool,
        typer.Option(
            "--allow-missing-weights", help="Load a checkpoint that lacks weights: random numbers stand there."
        ),
    ],
}
"""What every command that loads a model takes beside its name, device and dtype."""
_OWN_FLAG = {"adapter", "device", "dtype", *FROM_PRETRAINED}
Layer = Annotated[
    str | None,
    typer.Option("--layer", "-l", metavar="N|mean", help="Where to read attention; by default the adapter's."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that the checkpoint brings along.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file if there is one.")]


def loads_a_model(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command` the options of `FROM_PRETRAINED`, which it gets as the mapping `options` that `load` takes."""
    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.name != "options"]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in FROM_PRETRAINED.items()
    ]
    more[-1] = more[-1].replace(default=False)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        options = load_options(**{name: given.pop(name) for name in FROM_PRETRAINED})
        command(**given, options=options)

    run.__signature__ = signature.replace(parameters=own + more)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in own + more}
    return run


def load_options(
    device_map: str | None, revision: str | None, load_option: list[str] | None, allow_missing_weights: bool
) -> dict[str, Any]:
    """The options of `attnlens.load`; only those that were given. Raises AttnLensError."""
    found: dict[str, Any] = {}
    for text in load_option or ():
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise AttnLensError(f"--load-option {text!r} is not KEY=VALUE, such as attn_implementation=eager.")
        if key in _OWN_FLAG:
            raise AttnLensError(f"--load-option {key}=... has an option of its own: --{key.replace('_', '-')}.")
        if key in ("model", "name", "processor") or key in found:
            raise AttnLensError(f"--load-option {key}=... cannot be given{' twice' if key in found else ''}.")
        found[key] = _value(value)
    if device_map is not None:
        found["device_map"] = _value(device_map)
    if revision is not None:
        found["revision"] = revision
    if allow_missing_weights:
        found["allow_missing_weights"] = True
    return found


def _value(text: str) -> Any:
    """JSON, else the text itself; Python's True, False and None are what they look like."""
    words = {"True": True, "False": False, "None": None}
    try:
        return words[text] if text in words else json.loads(text)
    except (ValueError, RecursionError):
        return text


def named(model: str | None) -> str:
    """The model that was asked for; else the default one, with a word on standard error on what it is."""
    if model is None:
        notes().print(plain(DEFAULT_HINT, style="yellow"), soft_wrap=True)
    return model or DEFAULT_MODEL


def loaded(
    name: str, adapter: str | None = None, device: str | None = None, dtype: str | None = None, **options: Any
) -> Lens:
    """The model, while a spinner turns on a terminal's standard error."""
    with status(f"Loading {name}"):
        from transformers import logging

        from attnlens.lens import load

        logging.disable_progress_bar()
        return load(name, adapter=adapter, device=device, dtype=dtype, **options)


def layer_option(text: str | None) -> dict[str, Any]:
    """The option for a recipe's map; none where the adapter's default is wanted."""
    if text is None:
        return {}
    if text == "mean":
        return {"layer": "mean"}
    try:
        return {"layer": int(text)}
    except ValueError:
        raise AttnLensError(f"--layer {text!r} is neither a layer's number nor 'mean'.") from None
