"""The picture in the README: a failing check as a terminal shows it. `python -m bench.picture` draws it again."""

import contextlib
import io
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

import parity
from parity.report.text import render

ROOT = Path(__file__).resolve().parents[1]
PORT = "fixtures/bugs/window_off_by_one.py"
PICTURE = ROOT / "docs" / "images" / "check.svg"
WIDTH = 132
LINES = 34  # the rest is boundaries of the same kind

# As rich has it, without the fonts that it would fetch from the network.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; white-space: pre; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> None:
    """Run the check, draw its beginning."""
    with contextlib.chdir(ROOT):
        report = parity.check(PORT, small_config=True)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    for line in [part for text in render(report, width=WIDTH) for part in text.split("\n", allow_blank=True)][:LINES]:
        console.print(line, no_wrap=True, overflow="ellipsis")
    title = f"parity check {PORT} --small-config"
    drawn = console.export_svg(title=title, code_format=FORMAT, theme=MONOKAI, unique_id="parity")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text("".join(f"{line.rstrip()}\n" for line in drawn.splitlines()), encoding="utf-8")


if __name__ == "__main__":
    main()
