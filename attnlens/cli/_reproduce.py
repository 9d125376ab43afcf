"""The command `attnlens reproduce`: progress bars around the run, and where the report is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import TimeRemainingColumn

import attnlens
from attnlens import _files
from attnlens.cli._options import loads_a_model
from attnlens.cli._output import bars, plain, status

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder of records, report and pictures.")]


@loads_a_model
def reproduce(
    out: Out = Path("out/reproduce"),
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A bundled model, a folder, or a Hugging Face id; may be given several times. By default all bundled.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few examples: minutes instead of hours.")] = False,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="Examples per size; the other counts in proportion.", metavar="N"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Models measured at a time; by default one per CPU.", metavar="N"),
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option(
            "--again",
            metavar="REPORT.json",
            help="Measure 300 further scenes, of another stream, and say how many of that report's figures hold.",
            show_default=False,
        ),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Make the report again from the records; measure nothing.")
    ] = False,
    *,
    options: dict[str, Any],
) -> None:
    """Repeat the paper's measurements on the bundled models, and write one report with tables and pictures.

    How accuracy falls with the target's size and what a crop restores (ViCrop's Table 1), where each layer looks
    (Figure 3), every recipe against no crop, human, centre and random crops (Table 2), one choice changed at a time
    (Table 3), kinds of question, and what each costs. The report is OUT/report.md, its numbers OUT/report.json.

    Every answer is recorded when it is given: stop at any time with Ctrl-C, and the same command goes on from there. A
    larger count adds to the records of a smaller one.

    [bold]attnlens reproduce --quick[/]
    [bold]attnlens reproduce out/mine --model pocket/llava --model my_folder/my_model --count 50[/]
    [bold]attnlens reproduce --report-only[/]
    [bold]attnlens reproduce out/again --again out/reproduce/report.json[/]
    """
    from attnlens.evaluate import _agreement, _report, _reproduce
    from attnlens.show import _charts

    _charts.available()
    reported = None if again is None else _report.read(again)
    if not report_only:
        from attnlens import pocket
        from attnlens.evaluate import _plan

        models = model or [f"pocket/{name}" for name in pocket.names()]
        chosen = _plan.AGAIN if again is not None else _plan.QUICK if quick else _plan.FULL
        folder = _reproduce.writable(out)
        _run(models, folder, chosen if count is None else chosen.scaled(count), jobs or os.cpu_count() or 1, options)
    with status("Writing the report"):
        target = _report.write(_files.expanded(out))
        found = None if reported is None else _agreement.compared(reported, _report.read(target.with_suffix(".json")))
    if found is not None:
        target = target.with_name("again.md")
        _agreement.write(target, found)
        typer.echo(_agreement.summary(found))
    typer.echo(plain(str(target)).plain)


def _run(models: list[str], out: Path, plan: Any, jobs: int, options: dict[str, Any]) -> None:
    from attnlens.evaluate import _reproduce

    try:
        with bars(TimeRemainingColumn()) as shown:
            whole = shown.add_task("all models", total=None) if len(models) > 1 else None
            labels = {name: plain(_reproduce.label(name)).plain for name in models}
            tasks = {name: shown.add_task(label, total=None) for name, label in labels.items()}

            def progress(name: str, done: int, total: int) -> None:
                shown.update(tasks[name], completed=done, total=total)
                known = [task for task in shown.tasks if task.id != whole]
                if whole is not None and all(task.total is not None for task in known):
                    total = sum(int(task.total or 0) for task in known)
                    shown.update(whole, completed=sum(int(task.completed) for task in known), total=total)

            _reproduce.run(
                models, out, plan, version=attnlens.__version__, jobs=jobs, progress=progress, options=options
            )
    except KeyboardInterrupt:
        again = "Stopped. Every answer so far is recorded; the same command goes on from here."
        Console(stderr=True).print(plain(again, style="yellow"), soft_wrap=True)
        raise typer.Exit(130) from None
