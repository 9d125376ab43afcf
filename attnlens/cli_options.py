"""What several commands share: how image, question, model and layer are named, and how the model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnlens.cli_output import status
from attnlens.errors import AttnLensError

if TYPE_CHECKING:
    from attnlens.lens.lens import Lens

DEFAULT_MODEL = "pocket/llava"

ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)]
QuestionArgument = Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.", show_default=False)]
Model = Annotated[
    str, typer.Option("--model", "-m", help="A bundled model, a folder, or a Hugging Face id.", metavar="MODEL")
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
Layer = Annotated[
    str | None,
    typer.Option("--layer", "-l", metavar="N|mean", help="Where to read attention; by default the adapter's."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def loaded(name: str, adapter: str | None = None, device: str | None = None, dtype: str | None = None) -> Lens:
    """The model, while a spinner turns on a terminal's standard error."""
    with status(f"Loading {name}"):
        from transformers import logging

        from attnlens.lens import load

        logging.disable_progress_bar()
        return load(name, adapter=adapter, device=device, dtype=dtype)


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
