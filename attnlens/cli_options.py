"""What several commands share: how a model is named, and how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from attnlens.lens.lens import Lens

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


def loaded(name: str, adapter: str | None = None, device: str | None = None, dtype: str | None = None) -> Lens:
    """The model, while a spinner turns on a terminal's standard error."""
    with Console(stderr=True).status(f"Loading {name} ..."):
        from transformers.utils import logging

        from attnlens.lens import load

        logging.disable_progress_bar()
        return load(name, adapter=adapter, device=device, dtype=dtype)
