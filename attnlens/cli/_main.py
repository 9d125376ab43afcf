"""The commands: demo, look, recipes; and, from modules of their own, ask, reproduce, layers, doctor, adapters and data.

Results go to standard output, everything else (progress, warnings, errors) to standard error. With --json, standard
output is one JSON object. What is heavy is imported inside the commands, so that --help is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import attnlens
from attnlens.cli._adapters import app as adapters_app
from attnlens.cli._ask import ask, asked
from attnlens.cli._data import app as data_app
from attnlens.cli._doctor import doctor
from attnlens.cli._layers import layers as layers_command
from attnlens.cli._options import (
    DEFAULT_MODEL,
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
from attnlens.cli._output import (
    QUIET,
    finite,
    numbers,
    peak_of,
    plain,
    print_answer,
    print_json,
    print_peaks,
    print_table,
    quietly,
    status,
)
from attnlens.cli._reproduce import reproduce
from attnlens.errors import AttnLensError

if TYPE_CHECKING:
    from attnlens.importance import ImportanceMap
    from attnlens.lens import Lens

DEMO_AREA = 0.004
"""Of the demo's sign, relative to the image: too small for the model to read, large enough to be noticed."""


class _Commands(TyperGroup):
    """Turns an AttnLensError into one red message and exit code 2; takes --quiet wherever it stands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = args[: args.index("--")] if "--" in args else args
        if "--quiet" in own:
            args = ["--quiet", *(one for one in own if one != "--quiet"), *args[len(own) :]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AttnLensError as error:
            Console(stderr=True).print(plain(str(error), style="red"), soft_wrap=True)
            raise typer.Exit(2) from None


app: typer.Typer = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Shows where a multimodal LLM looks in an image, and asks it again with the crop that matters.",
    epilog='Start with: [bold]attnlens demo[/], then [bold]attnlens ask photo.jpg "What does the sign say?"[/]\n\n'
    "Exit codes: 0 done; 1 something was found wrong (check, draft, doctor); 2 input that cannot be used; 130 stopped "
    "with Ctrl-C.",
)
recipes_app = typer.Typer(no_args_is_help=True, help="The ways to look twice: which map, which search, which answer.")
app.add_typer(adapters_app, name="adapters")
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")
app.command()(reproduce)
app.command("layers")(layers_command)
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"attnlens {attnlens.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Print results and errors alone: no hints, no progress. Anywhere in the line."),
    ] = False,
) -> None:
    """What every command shares."""
    QUIET.set(quiet)


@app.command()
def demo(
    seed: Annotated[int, typer.Option("--seed", help="Which scene; every number is another one.", min=0)] = 5,
    recipe: Annotated[str, typer.Option("--recipe", "-r", metavar="RECIPE", help="How to look twice.")] = "rel-att",
    save: Annotated[Path, typer.Option("--save", "-o", metavar="FILE", help="Where the picture goes.")] = Path(
        "out/demo.png"
    ),
    as_json: Json = False,
) -> None:
    """Ask a small bundled model about a small sign, see where it looks, get the better answer.

    Needs no network: model and scenes are part of the package. The model sees the scene at a resolution at which the
    sign's colour shows and its digit does not; the recipe finds where the model looks and shows it that crop.

    [bold]attnlens demo[/]
    [bold]attnlens demo --seed 12 --recipe grad-att --save out/twelve.png[/]
    """
    from attnlens import show
    from attnlens.pocket import scenes

    target = show.writable(save)
    scene = scenes.scene(seed=seed, target_area=DEMO_AREA)
    with quietly():
        lens = loaded(DEFAULT_MODEL)
        result = asked(lens, [scene.image], scene.question, recipe, box=scene.box if recipe == "human" else None)
        figure = show.answer_figure(
            result.image,
            result.importance,
            result.boxes,
            result.question,
            result.first_answer,
            result.answer,
            expected=scene.answer,
            true_box=scene.box,
        )
        show.save(figure, target)
    if as_json:
        print_json(
            question=scene.question,
            expected=scene.answer,
            first_answer=result.first_answer,
            answer=result.answer,
            box=numbers(result.boxes[0]) if result.boxes else None,
            true_box=numbers(scene.box) if scene.box else None,
            cost=result.cost.as_dict(),
            picture=str(target),
        )
    else:
        print_answer(result, target, expected=scene.answer, true_box=scene.box)


app.command()(ask)


@app.command()
@loads_a_model
def look(
    image: ImageArgument,
    question: QuestionArgument,
    model: Model = None,
    adapter: Adapter = None,
    layer: Layer = None,
    device: Device = None,
    dtype: Dtype = None,
    save: Annotated[Path, typer.Option("--save", "-o", metavar="FILE", help="Where the picture goes.")] = Path(
        "out/look.png"
    ),
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Show where a model looks when it is asked a question: three maps side by side, and a strip of its layers.

    [bold]rel-att[/] is attention for the question over attention for a generic one, [bold]grad-att[/] attention times
    its gradient, [bold]pure-grad[/] the gradient on the pixels. The strip shows rel-att at every layer: look there for
    the layer to read in a new model, and hand it over with --layer.

    [bold]attnlens look street.jpg "What does the red sign say?" --save look.png[/]
    """
    from attnlens import show
    from attnlens._images import open_image

    target = show.writable(save)
    reads = layer_option(layer)
    picture = open_image(image)
    model = named(model)
    with quietly():
        lens = loaded(model, adapter, device, dtype, **options)
        with status("Looking"):
            found, strip = _maps(lens, picture, question, reads)
        show.save(show.look_figure(picture, found, strip), target)
    peaks = {name: peak_of(importance) for name, importance in found.items()}
    if as_json:
        maps = {name: {"peak": peaks[name], "values": finite(found[name])} for name in found}
        layers = {title: peak_of(importance) for title, importance in strip}
        print_json(question=question, model=model, maps=maps, layers=layers, picture=str(target))
        return
    print_peaks(peaks, target)


@recipes_app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """The recipes that can be used by name: what each looks for, what it costs, and where it is from.

    Passes are those of the model beyond the first answer's: a [bold]tail[/] is a question on an image that is read
    already, a [bold]whole[/] one reads it again. A YAML file works in place of a name.
    """
    from dataclasses import asdict

    from attnlens import recipes

    cards = {name: recipes.card(name) for name in recipes.names()}
    if as_json:
        print_json(recipes={name: asdict(one) for name, one in cards.items()})
        return
    titles = ("recipe", "signal", "passes", "gradient", "regions", "source")
    rows = [
        (name, one.signal, one.passes, "yes" if one.gradient else "no", one.regions, one.source)
        for name, one in cards.items()
    ]
    print_table(titles, rows)


def _maps(
    lens: Lens, image: Any, question: str, options: dict[str, Any]
) -> tuple[dict[str, ImportanceMap], list[tuple[str, ImportanceMap]]]:
    """The three maps by their recipes' names, and relative attention at every layer by title."""
    from attnlens import maps

    reading = lens.read(image)
    found = {
        "rel-att": maps.relative_attention(reading, question, **options),
        "grad-att": maps.gradient_attention(reading, question, **options),
        "pure-grad": maps.input_gradient(reading, question),
    }
    layers = reading.trace(question).layers
    return found, [(f"layer {layer}", maps.relative_attention(reading, question, layer=layer)) for layer in layers]
