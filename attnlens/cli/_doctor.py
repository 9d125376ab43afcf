"""The command `attnlens doctor`: what works here, and what to do about what does not."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

import attnlens
from attnlens.cli._options import Json
from attnlens.cli._output import plain, print_json, status

if TYPE_CHECKING:
    from attnlens.doctor import Finding

_STYLES = {"ok": "green", "note": "yellow", "fails": "bold red"}


def doctor(as_json: Json = False) -> None:
    """See what works here, and what to do about what does not.

    Looked at are the versions of what attnlens needs, against those that it was tested with; torchvision, which need
    not be there but must not be broken; every device with its memory, and which dtypes and attention implementations
    compute rightly on it; the bundled models, which are loaded, look and answer; the cache of downloads, the folders
    of adapters.

    Each finding is [green]ok[/], a [yellow]note[/], or [red]fails[/]; what to do about it stands below it, after ->.
    The exit code is 1 where something fails, else 0. Nothing is downloaded or changed, and it takes about half a
    minute.

    Run it after an installation or an upgrade, on a new machine, and before you report a defect:

    [bold]attnlens doctor[/]

    [bold]attnlens doctor --json > doctor.json[/]

    Where no command starts at all, [bold]python -m attnlens.doctor[/] says the same in plain lines.
    """
    from attnlens.doctor import examine

    with status("Trying what works here"):
        findings = list(examine())
    failed = any(one.state == "fails" for one in findings)
    if as_json:
        print_json(attnlens=attnlens.__version__, works=not failed, findings=[asdict(one) for one in findings])
    else:
        _print(findings)
    raise typer.Exit(1 if failed else 0)


def _print(findings: list[Finding]) -> None:
    console = Console()
    console.print(plain(f"attnlens {attnlens.__version__}"))
    widest = max(len(one.name) for one in findings)
    for area, group in groupby(findings, lambda one: one.area):
        console.print(plain(f"\n{area}", style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=widest)
        table.add_column(overflow="fold")
        for one in group:
            table.add_row(plain(one.state, style=_STYLES[one.state]), plain(one.name), plain(one.seen))
            if one.advice:
                table.add_row("", "", plain(f"-> {one.advice}"))
        console.print(table)
    counts = {state: sum(one.state == state for one in findings) for state in ("fails", "note")}
    told = {"fails": "nothing fails", "note": "no notes"} | {
        state: f"{count} {'finding' if count == 1 else 'findings'} to mend" if state == "fails" else f"{count} to note"
        for state, count in counts.items()
        if count
    }
    console.print(plain(f"\n{told['fails']}, {told['note']}"))
