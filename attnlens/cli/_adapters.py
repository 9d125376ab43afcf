"""The commands `attnlens adapters`: what there is, and whether it is true of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from attnlens.cli._options import Adapter, Device, Force, Json, TrustRemoteCode, loads_a_model
from attnlens.cli._output import (
    bars,
    notes,
    plain,
    print_fields,
    print_json,
    print_table,
    short_path,
    status,
)
from attnlens.errors import AttnLensError

if TYPE_CHECKING:
    from rich.text import Text

    from attnlens.conformance import Finding, Report

_STYLES = {None: "dim", True: "green", False: "red"}
"""By whether a check passed."""

app = typer.Typer(no_args_is_help=True, help="The YAML files that say how a model family is read.")


@app.command("list")
def list_adapters() -> None:
    """The adapters that can be used by name, and the files they are in.

    Your own are found in the folders of ATTNLENS_ADAPTERS and in ~/.config/attnlens/adapters.
    """
    from attnlens import adapters

    rows = []
    for name, path in sorted(adapters.available().items()):
        try:
            spec = adapters.find(path)
            shown = [", ".join(spec.model_types), spec.grid.kind, str(spec.defaults.layer)]
        except AttnLensError:
            shown = [f"not valid: attnlens adapters show {name}", "", ""]
        rows.append((name, *shown, short_path(path)))
    print_table(("name", "model types", "grid", "layer", "file"), rows)


@app.command("show")
def show_adapter(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="See [bold]attnlens adapters list[/].")],
) -> None:
    """Print an adapter's YAML, to read it or to start one of your own from it.

    [bold]attnlens adapters show llava > my_model.yaml[/]
    """
    from rich.syntax import Syntax

    from attnlens.adapters import _library, _safeyaml
    from attnlens.adapters._rendering import with_header

    path = _library.path_of(name)
    text = with_header(_safeyaml.read_text(path))
    console = Console()
    if console.is_terminal:
        console.print(Syntax(plain(text).plain, "yaml", background_color="default", word_wrap=True))
    else:
        typer.echo(text, nl=False)
    notes().print(plain(str(path), style="dim"), soft_wrap=True)
    _library.read(path)


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of adapters, with which an editor completes and checks them.

    An adapter names it in its first line: # yaml-language-server: $schema=PATH
    """
    from attnlens.adapters._schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command("table")
def table_page(
    findings: Annotated[Path, typer.Argument(metavar="FILE", help="What check --tiny --all --json printed.")],
) -> None:
    """Print what check found as a page of Markdown: one row for each model type.

    [bold]attnlens adapters check --tiny --all --json > checks.json[/]
    [bold]attnlens adapters table checks.json > models.md[/]
    """
    from attnlens.conformance._table import markdown, read

    typer.echo(markdown(read(findings)), nl=False)


@app.command("check")
@loads_a_model
def check_adapter(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A bundled model, a folder or a Hugging Face id; with [bold]--tiny[/] a model type, such as llava.",
            show_default=False,
        ),
    ] = None,
    adapter: Adapter = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Prove it on a tiny random model of the type MODEL, made on the spot.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="With --tiny: every question-answering model type there is.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, metavar="N", help="With --all: types checked at a time.")
    ] = 1,
    as_json: Json = False,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    *,
    options: dict[str, Any],
) -> None:
    """Prove that an adapter is true of a model; the exit code is 1 where anything is not.

    Rows of attention and their gradients against one full eager pass, image tokens against the grid, painted patches
    against the pixels that each token sees, two images, a crop added to a reading, and answers against the model's
    own generate. A checkpoint is loaded in float32 and checked with its own processor; a tiny model with its type's
    image processor.

    [bold]attnlens adapters check pocket/llava[/]
    [bold]attnlens adapters check my/model --adapter my_model.yaml[/]
    [bold]attnlens adapters check idefics3 --tiny[/]
    [bold]attnlens adapters check --tiny --all[/]
    """
    if every != (model is None) or (every and not tiny):
        raise AttnLensError("Name one MODEL to check, or give --tiny --all for every model type.")
    if tiny and options:
        raise AttnLensError(f"A tiny model is made, not loaded: with --tiny there is no use for {', '.join(options)}.")
    if model is not None:
        reports = [_one(model, adapter, tiny, device, trust_remote_code, options)]
    else:
        reports = _every(adapter, jobs)
    if as_json:
        from attnlens.conformance._table import document

        print_json(**document(reports))
    elif model is not None:
        _print_findings(reports[0])
    else:
        _print_summary(reports)
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


@app.command("draft")
def draft_adapter(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A folder, a Hugging Face id, or a model type such as llava.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the YAML here instead of printing it.")
    ] = None,
    force: Force = False,
    hide: Annotated[
        str | None, typer.Option("--hide", metavar="NAME", help="Do as if this adapter did not exist.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write an adapter for a model that none is known for, and say of each line whether it was read, tried or guessed.

    Of a checkpoint the config and the processor are read, no weights. A tiny random model of its type is made, every
    known way to lay a grid over the image is tried on it, then every way to cut the prompt, until all checks pass. The
    exit code is 1 where some do not.

    [bold]attnlens adapters draft my/model --out my_model.yaml[/]
    [bold]attnlens adapters check my/model --adapter my_model.yaml[/]
    """
    from attnlens.adapters import _writing

    target = None if out is None else _writing.checked_target(out, force)
    with status(f"Drafting an adapter for {model}"):
        from attnlens.conformance._drafting.draft import draft

        drafted = draft(model, exclude=hide, trust_remote_code=trust_remote_code)
    if target is None:
        typer.echo(drafted.text(), nl=False)
    else:
        _writing.write_text(target, drafted.text())
        notes().print(plain(f"Written to {target}"), soft_wrap=True)
    if not drafted.passed:
        raise typer.Exit(1)


def _one(
    model: str,
    adapter: str | None,
    tiny: bool,
    device: str | None,
    trust_remote_code: bool,
    options: dict[str, Any],
) -> Report:
    with status(f"Checking {model}"):
        from transformers import logging

        from attnlens.conformance import check_model, check_tiny

        logging.disable_progress_bar()
        if tiny:
            return check_tiny(model, adapter)
        return check_model(model, adapter, device=device, trust_remote_code=trust_remote_code, **options)


def _every(adapter: str | None, jobs: int) -> list[Report]:
    from attnlens.conformance import check_all
    from attnlens.conformance._types import question_answerers

    types = question_answerers() if adapter is None else list(_adapters_types(adapter))
    with bars() as progress:
        task = progress.add_task("model types", total=len(types))
        reports = []
        for report in check_all(types, adapter, jobs):
            progress.update(task, advance=1, description=report.model_type)
            reports.append(report)
    return sorted(reports, key=lambda report: types.index(report.model_type))


def _adapters_types(adapter: str) -> tuple[str, ...]:
    from attnlens import adapters

    return adapters.find(adapter).model_types


def _print_findings(report: Report) -> None:
    console = Console()
    console.print(plain(f"{report.model_type} with the adapter {report.adapter}", style="bold"))
    facts = {"grid": report.grid, "strategy": report.strategy, "image processor": report.image_processor}
    console.print(plain(", ".join(f"{name} {value}" for name, value in facts.items() if value), style="dim"))
    for finding in report.findings:
        label = f"{_mark(finding).plain:5}  {finding.check:14}"
        print_fields([(label, plain(finding.detail, style=_STYLES[finding.passed]))])


def _print_summary(reports: list[Report]) -> None:
    from attnlens.conformance import CHECKS
    from attnlens.conformance._types import NOT_ASKED

    console = Console()
    rows: list[tuple[Text | str, ...]] = []
    for report in reports:
        marks = {finding.check: _mark(finding) for finding in report.findings}
        facts = (report.model_type, report.adapter, report.grid, report.strategy)
        rows.append((*facts, *(marks.get(name, plain("")) for name in CHECKS)))
    print_table(("model type", "adapter", "grid", "strategy", *CHECKS), rows)
    for report in reports:
        for finding in report.findings:
            if finding.passed is False:
                console.print(plain(f"{report.model_type}: {finding.check}: {finding.detail}", style="red"))
    passed = sum(report.passed for report in reports)
    console.print(plain(f"{passed} of {len(reports)} model types pass", style="bold"))
    console.print(plain(f"Not question answerers: {', '.join(NOT_ASKED)}", style="dim"))


def _mark(finding: Finding) -> Text:
    words = {None: "n/a", True: "ok", False: "FAILS"}
    return plain(words[finding.passed], style=_STYLES[finding.passed])
