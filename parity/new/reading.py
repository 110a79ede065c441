"""Where to read in the reference: the line that uses a module, that reads a field, or that does something."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from parity.names import shown, template
from parity.new.code import Code
from parity.new_records import Read

_ROOTS = ("Model", "ForCausalLM")


class Reading:
    """A reference, asked where something is done in its code."""

    def __init__(self, model: nn.Module):
        self._kinds = {template(name): type(module) for name, module in model.named_modules()}
        self._codes: dict[str, Code] = {}

    def has(self, module: str) -> bool:
        """Whether there is such a module, `{}` for numbers."""
        return module in self._kinds

    def use(self, module: str) -> Read | None:
        """The line of the parent's forward that calls a module."""
        parent, _, attribute = module.rpartition(".")
        while parent.rpartition(".")[2] == "{}" or parent not in self._kinds or not self._method(self._kinds[parent]):
            if not parent:
                break
            parent, _, attribute = parent.rpartition(".")
        return self.line(parent, rf"self\.{re.escape(attribute)}\b")

    def line(self, module: str, *words: str) -> Read | None:
        """The first statement of a module's forward with one of these words; None if there is no such module."""
        kind = self._kinds.get(module)
        found = None if kind is None else self._method(kind)
        if kind is None or found is None:
            return None
        owner, code, file = found
        return _read(owner, code, file, f"{owner}.forward", words)

    def class_of(self, module: str) -> str:
        """The name of a module's class; empty if there is no such module."""
        kind = self._kinds.get(module)
        return "" if kind is None else kind.__name__

    def field(self, name: str) -> Read | None:
        """The first line of the model's own classes that reads a field of the config, by the last part of its name."""
        leaf = name.rpartition(".")[2]
        words = rf"config\.{re.escape(leaf)}\b", rf"[\"']{re.escape(leaf)}[\"']"
        for word in words:
            for kind in dict.fromkeys(self._kinds.values()):
                for owner in kind.__mro__:
                    found = self._file(owner)
                    if found is None:
                        continue
                    code, file = found
                    for spot in code.spots:
                        if spot.where.startswith(f"{owner.__name__}.") and re.search(word, spot.text):
                            at = _line(code, spot.line, spot.last, word)
                            return Read(spot.where.partition(".")[0], shown(file), at, code.lines[at - 1].strip())
        return None

    def _method(self, kind: type) -> tuple[str, Code, str] | None:
        """The class that defines a forward, in a file of the model's library."""
        for owner in kind.__mro__:
            if "forward" in vars(owner):
                found = self._file(owner)
                return None if found is None else (owner.__name__, *found)
        return None

    def _file(self, kind: type) -> tuple[Code, str] | None:
        if kind.__module__.startswith(("torch", "builtins")):
            return None
        try:
            file = inspect.getsourcefile(kind)
        except (TypeError, OSError):
            return None
        if file is None:
            return None
        if file not in self._codes:
            self._codes[file] = Code(Path(file).read_text(encoding="utf-8"))
        return self._codes[file], file


def _read(owner: str, code: Code, file: str, where: str, words: tuple[str, ...]) -> Read | None:
    spot = code.of(where, *words)
    if spot is None:
        return None
    word = next((each for each in words if re.search(each, spot.text)), "")
    at = _line(code, spot.line, spot.last, word) if word else spot.line
    return Read(owner, shown(file), at, code.lines[at - 1].strip())


def _line(code: Code, first: int, last: int, word: str) -> int:
    return next((line for line in range(first, last + 1) if re.search(word, code.lines[line - 1])), first)


def functions(text: str) -> Iterator[str]:
    """Names of functions at the top of a file."""
    yield from (node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
