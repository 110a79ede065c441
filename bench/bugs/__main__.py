"""Measure how many bugs Parity finds, and how well it names them: `python -m bench.bugs`."""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from bench.bugs.catalogue import BENIGN, MUTANTS, SEVERAL, STAGED
from bench.bugs.page import page
from bench.bugs.run import Named, Notes, run
from bench.bugs.tables import Sheet, misses, sheets

Case = TypeVar("Case", bound=Named)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.bugs", description=__doc__)
    parser.add_argument("--only", metavar="GLOB", default="*", help="cases by name, such as 'gemma3/*eps*'")
    parser.add_argument("--every", metavar="N", type=int, default=1, help="only each Nth case, for a quicker look")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the results as a page of Markdown")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every outcome as JSON")
    parser.add_argument("--notes", metavar="FILE", type=Path, help="go on from what this file says, and add to it")
    parser.add_argument("--no-baseline", action="store_true", help="leave the baseline out")
    arguments = parser.parse_args()

    def picked(cases: Iterable[Case]) -> tuple[Case, ...]:
        return tuple(case for case in cases if fnmatchcase(case.key, arguments.only))[:: arguments.every]

    mutants = picked((*MUTANTS, *STAGED))
    with_baseline, notes = not arguments.no_baseline, Notes(arguments.notes)
    results = run(mutants, picked(SEVERAL), picked(BENIGN), arguments.jobs, with_baseline, notes)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")
    if arguments.write:
        arguments.write.write_text(page(results, arguments.every), encoding="utf-8")
    console = Console(width=110)
    for sheet in sheets(results):
        console.print(_table(sheet))
    for line in misses(results):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(sheet: Sheet) -> Table:
    first, *others = sheet.heads
    table = Table(first, title=sheet.title, title_justify="left")
    for head in others:
        table.add_column(head, justify="right")
    for row in sheet.rows:
        table.add_row(*(cell.replace("`", "") for cell in row))
    return table


if __name__ == "__main__":
    main()
