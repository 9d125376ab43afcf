"""The command `ask`: a question about one image or several, and the crops that its second answer is given from."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from attnlens.cli._options import (
    Adapter,
    Device,
    Dtype,
    ImageArgument,
    Json,
    Layer,
    Model,
    QuestionArgument,
    layer_option,
    loaded,
    loads_a_model,
    named,
)
from attnlens.cli._output import plain, print_answer, print_json, quietly, regions, status
from attnlens.errors import AttnLensError

if TYPE_CHECKING:
    from PIL import Image

    from attnlens.lens import Lens
    from attnlens.recipes import Result

OPTIONS = {"targets": "--target", "count": "--count", "layer": "--layer"}
"""What recipes call an option, and what it is called here."""


def _probability(value: float | None) -> float | None:
    """Refuses what is none; the range that typer checks lets NaN through in some of its versions."""
    if value is not None and not 0 <= value <= 1:
        raise typer.BadParameter("expected a probability from 0 to 1")
    return value


@loads_a_model
def ask(
    image: ImageArgument,
    question: QuestionArgument,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="IMAGE",
            help="One more image that the question is about; may be given several times.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames", min=1, metavar="N", help="Of an animated IMAGE (GIF, WebP, PNG, TIFF), read N frames, not one."
        ),
    ] = None,
    model: Model = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            metavar="NAME|FILE",
            help="How to look twice, see [bold]attnlens recipes list[/]; by default rel-att, with --box human.",
        ),
    ] = None,
    adapter: Adapter = None,
    box: Annotated[
        str | None,
        typer.Option("--box", "-b", metavar="X1,Y1,X2,Y2", help="Where to look, in pixels, for the recipe human."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="TEXT",
            help="What to look for, such as 'red sign', or 'all red signs' for each of them; may be given several "
            "times. For focus, zoomeye and hide, which by default take the question's own words.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=1,
            metavar="N",
            help="How many regions to look at again (of each target), if that many stand out.",
        ),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(
            "--gate",
            min=0,
            max=1,
            metavar="P",
            callback=_probability,
            help="A model this sure of its first answer makes no crop.",
        ),
    ] = None,
    layer: Layer = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="The longest answer.")] = 20,
    device: Device = None,
    dtype: Dtype = None,
    save: Annotated[
        Path | None, typer.Option("--save", "-o", metavar="FILE", help="Picture of image, map, crop and answers.")
    ] = None,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Answer a question about an image, looking twice: once at the whole, once at the crop that matters.

    The answer to the image alone is printed too, so that you see what the crop changed.

    Of several images the crops are the best of all; each is told with the image that it lies in.
    The picture shows the image of the first of them. --box is in IMAGE.

    [bold]attnlens ask street.jpg "What does the red sign say?" --save out.png[/]
    [bold]attnlens ask street.jpg "What does the red sign say?" --model llava-hf/llava-1.5-7b-hf --recipe grad-att[/]
    [bold]attnlens ask street.jpg "What does the sign say?" --box 120,40,180,90 --json[/]
    [bold]attnlens ask street.jpg "What do the signs say?" --count 2 --gate 0.95[/]
    [bold]attnlens ask street.jpg "What does it say?" --recipe focus --target "red sign"[/]
    [bold]attnlens ask monday.jpg "What does the red sign say?" --also tuesday.jpg[/]
    [bold]attnlens ask signs.gif "What does the red sign say?" --frames 4[/]
    """
    from attnlens import show

    picture = show.writable(save) if save is not None else None
    corners, asks = _corners(box), {**_looking_for(target, count), **layer_option(layer)}
    names, images = _pictures(image, frames, also or [])
    chosen = recipe if recipe is not None else "rel-att" if corners is None else "human"
    _check(chosen, asks)
    asks |= {} if gate is None else {"gate": gate}
    model = named(model)
    with quietly():
        lens = loaded(model, adapter, device, dtype, **options)
        result = asked(lens, images, question, chosen, max_new_tokens=max_new_tokens, box=corners, **asks)
        if picture is not None:
            result.save(picture)
    if not as_json:
        print_answer(result, picture, names)
        return
    print_json(
        question=question,
        images=names,
        first_answer=result.first_answer,
        answer=result.answer,
        boxes=[region["box"] for region in regions(result)],
        regions=regions(result),
        model=model,
        recipe=chosen,
        cost=result.cost.as_dict(),
        picture=None if picture is None else str(picture),
        sure=result.skipped_crop,
    )


def asked(lens: Lens, images: Sequence[Image.Image], question: str, recipe: str, **options: Any) -> Result:
    """What `attnlens.ask` finds out, while a spinner turns; what it warns of is one line on standard error."""
    from attnlens.recipes import ask as ask_twice

    with status("Looking, and asking again"), _plain_warnings():
        return ask_twice(lens, list(images), question, recipe, **options)


def _pictures(image: str, frames: int | None, also: Sequence[str]) -> tuple[list[str], list[Image.Image]]:
    """The name and the pixels of each image asked about: IMAGE, or frames of it, and then the others."""
    from attnlens import _video
    from attnlens._images import open_image

    first = [open_image(image)] if frames is None else _video.frames(image, frames)
    return [image] * len(first) + list(also), first + [open_image(one) for one in also]


def _looking_for(targets: Sequence[str] | None, count: int | None) -> dict[str, Any]:
    """The recipe's options for what is to be looked for; none for what was not said."""
    if targets and not all(one.strip() for one in targets):
        raise AttnLensError("--target '' names nothing. Say what to look for: --target 'red sign'.")
    found: dict[str, Any] = {"targets": list(targets)} if targets else {}
    return found if count is None else {**found, "count": count}


def _check(recipe: str, options: Mapping[str, Any]) -> None:
    """Refuses, before a model is loaded, a recipe that is not there and an option that it has no use for."""
    from attnlens import recipes

    known = recipes.find(recipe).options
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in options:
        if name not in known:
            takers = ", ".join(one for one in recipes.names() if name in recipes.find(one).options)
            raise AttnLensError(
                f"The recipe {recipe!r} has no use for {OPTIONS[name]}. Leave it out, or choose with --recipe one "
                f"that takes it: {takers}."
            )


def _corners(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise AttnLensError(f"--box {text!r} is not four numbers. Write x1,y1,x2,y2 in pixels: --box 120,40,180,90.")
    return numbers


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as yellow lines on standard error, without the place in the code that they come from."""

    def shown(message: Warning | str, *_: Any, **__: Any) -> None:
        Console(stderr=True).print(plain(str(message), style="yellow"), soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = shown
        yield
