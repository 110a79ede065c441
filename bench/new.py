"""Begin ports of architectures whose own port is left out, and count: findings, findings at marks, lines to parity.

python -m bench.new --write docs/new.md
"""

import argparse
import ast
import difflib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.finished import FINISHED, Edits
from bench.marked import filled
from parity.card.diff import source_of
from parity.new import nearest
from parity.new.start import start
from parity.new_records import Start
from parity.pipeline import check

CONFIGS = {
    "qwen3": "qwen3-0.6b", "smollm3": "smollm3-3b", "olmo3": "olmo-3-32b", "gemma3": "gemma-3-270m",
    "glm4_moe": "glm-4.5-air", "qwen3_moe": "qwen3-30b-a3b", "gpt2": "gpt2", "llama3": "llama-3.2-1b",
}  # fmt: skip
_COMMENT = re.compile(r"^\s*# DIFFERS \d+: .*(\n\s*# .*)*\n|  # DIFFERS \d+$", re.MULTILINE)


@dataclass(frozen=True)
class Begun:
    """A port that was begun: its start, and the lines that were written and taken out to reach parity.

    by_hand: it was finished, and checked. Else lines are those of the port that was left out which are not in the
    file, and the other way round.
    """

    name: str
    start: Start
    written: int
    removed: int
    by_hand: bool


def main() -> None:
    """Begin them; a word on each, so that one can follow."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, required=True, metavar="PAGE", help="Where the tables go.")
    parser.add_argument("--only", action="append", metavar="PORT", help="This one alone; repeatable, writes nothing.")
    options = parser.parse_args()
    rows = []
    for name in options.only or CONFIGS:
        found = begun(name)
        rows.append(row(found))
        print(rows[-1], end="", flush=True)
    if options.only:
        return
    page = options.write.read_text(encoding="utf-8")
    page = filled(page, "new", f"{HEAD}{''.join(rows)}")
    page = filled(page, "nearest", f"{NEAREST_HEAD}{''.join(choices())}")
    options.write.write_text(page, encoding="utf-8")


HEAD = (
    "| port left out | begun with | tensors with a place | marks | of these by the cards | findings | at marks"
    " | at marks of the cards | at the statement | lines written | taken out | |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n"
)
NEAREST_HEAD = "| port | nearest by cards | lines that it lacks | fewest | with |\n|---|---|---:|---:|---|\n"


def begun(name: str) -> Begun:
    """Begin a port without its own in the choice, and finish it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"my_{name}.py"
        found, text = start(f"my_{name}", CONFIGS[name], without=[name], output=file)
        if name not in FINISHED:
            own = source_of(name).read_text(encoding="utf-8")
            return Begun(name, found, *apart(text, own), by_hand=False)
        done = finished(text, FINISHED[name])
        file.write_text(done, encoding="utf-8")
        report = check(str(file), small_config=True)
        if report.verdict != "pass":
            raise SystemExit(f"{name}: finished, and the check gives {report.verdict}: {report.findings[:1]}")
        return Begun(name, found, *apart(text, done), by_hand=True)


def finished(text: str, edits: Edits) -> str:
    """The file without its marks, and with what was written by hand."""
    text = _COMMENT.sub("", text)
    for old, new in edits:
        if old in text:
            text = text.replace(old, new)
        else:
            raise SystemExit(f"an edit does not fit: {old!r}")
    return text


def apart(text: str, done: str) -> tuple[int, int]:
    """Lines of code that the second has and the first has not, and the other way round."""
    told = list(difflib.unified_diff(code(text), code(done), n=0, lineterm=""))[2:]
    return sum(line.startswith("+") for line in told), sum(line.startswith("-") for line in told)


def code(text: str) -> list[str]:
    """Lines of code in one form, without comments and docstrings, and without what only names the file."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return [line for line in _lines(ast.unparse(tree)) if line.strip() and not line.startswith("MODEL_TYPES")]


def _lines(text: str) -> Iterator[str]:
    """A map of weights with a line for each entry."""
    for line in text.splitlines():
        yield from line.replace("', '", "',\n'").splitlines() if line.startswith("WEIGHTS") else [line]


def row(found: Begun) -> str:
    """A line of the table."""
    told = found.start
    known = {mark.number for mark in told.marks if mark.origin == "card"}
    blind = sum(each.mark in known for each in told.findings)
    cells = (
        f"`{found.name}`", f"`{told.nearest}`", f"{told.loaded} of {told.tensors}", str(len(told.marks)),
        str(len(known)),
        str(len(told.findings)), str(told.at_marks), str(blind), str(sum(each.exact for each in told.findings)),
        str(found.written), str(found.removed), "by hand" if found.by_hand else "diff",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def choices() -> Iterator[str]:
    """For each port, whether the nearest by cards is the one that shares most code with it."""
    found, _ = nearest.candidates((), lambda _: None)
    for each in found:
        others = [other for other in found if other is not each]
        own = each.file.read_text(encoding="utf-8")
        lines = {other.port.name: apart(other.file.read_text(encoding="utf-8"), own)[0] for other in others}
        first = nearest.ranked(each.side, others)[0].name
        best = min(lines, key=lambda name: lines[name])
        same = "the same" if lines[best] == lines[first] else f"`{best}`"
        yield f"| `{each.port.name}` | `{first}` | {lines[first]} | {lines[best]} | {same} |\n"


if __name__ == "__main__":
    main()
