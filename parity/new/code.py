"""A port's file as a tree: its functions and statements, by the names of classes and the words in them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Spot:
    """A statement of the file: its first and last line, those of a header alone where more hangs below it, its text.

    where: the function that it is in, with its class, or the name that is assigned.
    """

    where: str
    line: int
    last: int
    text: str

    def holds(self, line: int) -> bool:
        """Whether a line is one of the statement's."""
        return self.line <= line <= self.last


class Code:
    """A file that is parsed once and asked for places."""

    def __init__(self, text: str):
        self.text = text
        self.lines = text.splitlines()
        self.spots = tuple(self._walk(ast.parse(text), ""))

    def at(self, line: int) -> Spot | None:
        """The statement that a line belongs to."""
        return next((spot for spot in self.spots if spot.holds(line)), None)

    def of(self, where: str, *words: str) -> Spot | None:
        """The first statement in a function that has one of these words, patterns tried in order; else its first one.

        Args:
            where: a function, `Class.method` for one of a class.
            words: regular expressions.
        """
        own = [spot for spot in self.spots if spot.where == where and not spot.text.startswith(("def ", '"', "super("))]
        for word in words:
            for spot in own:
                if re.search(word, spot.text):
                    return spot
        return own[0] if own else None

    def has(self, where: str, word: str) -> bool:
        """Whether a function has a statement with such a word."""
        return any(spot.where == where and re.search(word, spot.text) for spot in self.spots)

    def named(self, name: str) -> Spot | None:
        """Where a name is assigned at the top of the file; the last time, if there are several."""
        return next((spot for spot in reversed(self.spots) if spot.where == name), None)

    def _walk(self, node: ast.AST, prefix: str) -> Iterator[Spot]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.stmt):
                if isinstance(child, ast.ExceptHandler | ast.match_case):
                    yield from self._walk(child, prefix)
                continue
            inner = getattr(child, "body", None)
            named = isinstance(child, ast.FunctionDef | ast.ClassDef)
            own = f"{prefix}.{getattr(child, 'name', '')}".lstrip(".") if named else prefix
            where = own if isinstance(child, ast.FunctionDef) else prefix or _assigned(child)
            last = inner[0].lineno - 1 if inner else child.end_lineno or child.lineno
            last = max(last, child.lineno)
            yield Spot(where, child.lineno, last, "\n".join(self.lines[child.lineno - 1 : last]).strip())
            yield from self._walk(child, own)


def _assigned(node: ast.stmt) -> str:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return next((each.id for each in targets if isinstance(each, ast.Name)), "")
