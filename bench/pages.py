"""Run what a page of the documentation shows, and put the outputs into it: `python -m bench.pages [PAGE ...]`.

A page is read from the top. A comment before a block says what the block is: `<!-- file: NAME -->` a file to write,
`<!-- edit: NAME -->` a change to it, hunks apart by `@@`, `<!-- output: COMMAND -->` what a command prints, of which
`<!-- output: COMMAND # 1 2 -->` takes these paragraphs.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/tutorial.md", "docs/writing-a-port.md")

_BLOCK = re.compile(r"(<!-- (file|edit|output): ([^\n]*?) -->\n```\w+\n)(.*?)(```\n)", re.DOTALL)
_ENTRY = "import sys; from parity.cli import main; sys.argv[0] = 'parity'; main()"
Run = Callable[[list[str]], str]


def refreshed(page: str, folder: Path, run: Run) -> str:
    """The page with its outputs as they are now.

    Args:
        page: Markdown.
        folder: where its files are written, and its commands run.
        run: a command's arguments, the first one `parity`, to what it prints.
    """

    def block(match: re.Match[str]) -> str:
        begin, kind, argument, body, end = match.groups()
        if kind == "file":
            (folder / argument).write_text(body, encoding="utf-8")
        elif kind == "edit":
            path = folder / argument
            path.write_text(edited(path.read_text(encoding="utf-8"), body), encoding="utf-8")
        else:
            command, _, wanted = argument.partition(" # ")
            body = _paragraphs(run(shlex.split(command)), wanted)
        return f"{begin}{body}{end}"

    return _BLOCK.sub(block, page)


def edited(text: str, difference: str) -> str:
    """The text with each hunk of a difference applied; what a hunk changes has to occur once."""
    for hunk in re.split(r"^@@.*\n", difference, flags=re.MULTILINE):
        lines = [line or " " for line in hunk.splitlines()]
        old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        if text.count(old) != 1:
            raise ValueError(f"what a hunk changes occurs {text.count(old)} times: {old!r}")
        text = text.replace(old, new)
    return text


def prepared(folder: Path) -> Path:
    """A folder from which commands find what the repository has."""
    for name in ("fixtures", "models", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def _paragraphs(printed: str, wanted: str) -> str:
    if not wanted:
        return printed.rstrip("\n") + "\n"
    paragraphs = printed.rstrip("\n").split("\n\n")
    return "\n\n".join(paragraphs[int(number) - 1] for number in wanted.split()) + "\n"


def _run(folder: Path) -> Run:
    """Commands in processes of their own."""

    def run(command: list[str]) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _ENTRY, *command[1:]],
            cwd=folder, capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        return done.stdout or done.stderr

    return run


def main() -> None:
    """Rewrite the pages named, or all that have outputs, and say which have changed."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("pages", metavar="PAGE", nargs="*", help=f"default: {' '.join(PAGES)}")
    for name in parser.parse_args().pages or PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            after = refreshed(before, prepared(Path(folder)), _run(Path(folder)))
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{name} has changed")


if __name__ == "__main__":
    main()
