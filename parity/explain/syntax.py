"""An author's file as it is written: where a name is assigned, a field asked for, a value returned."""

import ast
import linecache
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Parsed:
    """A parsed source file."""

    tree: ast.Module

    @classmethod
    def of(cls, file: str) -> "Parsed | None":
        """Parse a file; None if it is not Python, or cannot be found."""
        try:
            return cls(ast.parse("".join(linecache.getlines(file))))
        except (SyntaxError, ValueError):
            return None

    @cached_property
    def outer(self) -> Mapping[ast.AST, ast.AST]:
        """The node around each node."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def around(self, node: ast.AST, *kinds: type[ast.AST]) -> ast.AST | None:
        """The innermost node of some kinds around one."""
        found = self.outer.get(node)
        while found is not None and not isinstance(found, kinds):
            found = self.outer.get(found)
        return found

    def statement(self, line: int) -> ast.stmt | None:
        """The innermost statement that holds a line."""
        found = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
        ]
        return min(found, key=lambda node: ((node.end_lineno or 0) - node.lineno, -node.lineno), default=None)

    def expression(self, statement: ast.stmt, span: tuple[int, int, int, int]) -> ast.AST:
        """The expression at a place in a statement; the statement where the place is not known."""
        for node in ast.walk(statement):
            if isinstance(node, ast.expr):
                own = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
                if own == span:
                    return node
        return statement

    def calls(self) -> Iterator[ast.Call]:
        """Every call in the file."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))


def assigned_at(file: str, module: str, parameter: str) -> int | None:
    """The line that assigns a module's parameter from outside, or copies into it; None if none does, or several do."""
    code = Parsed.of(file)
    found = set()
    for node in ast.walk(code.tree) if code else ():
        targets: list[ast.expr] = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "copy_":
            targets = [node.func.value]
        if any([module, parameter] == [part for part in parts_of(each) if part != "data"][-2:] for each in targets):
            found |= {each.lineno for each in targets}
    return found.pop() if len(found) == 1 else None


def assigned_name_at(file: str, name: str) -> int | None:
    """The line that gives a name of a module its value."""
    code = Parsed.of(file)
    for node in code.tree.body if code else ():
        if isinstance(node, ast.Assign) and assigns(node, name):
            return node.lineno
        if isinstance(node, ast.AnnAssign) and parts_of(node.target) == [name]:
            return node.lineno
    return None


def fields_at(file: str) -> dict[str, int]:
    """What a file asks a mapping for by name, each with the first line: `hf["name"]` and `hf.get("name")`."""
    code = Parsed.of(file)
    found: dict[str, int] = {}
    for node in ast.walk(code.tree) if code else ():
        key: ast.expr | None = None
        given: list[str] = []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key, given = node.slice, parts_of(node.value)
        if isinstance(node, ast.Call) and parts_of(node.func)[-1:] == ["get"] and node.args:
            key, given = node.args[0], parts_of(node.func)[:-1]
        if code and isinstance(key, ast.Constant) and isinstance(key.value, str) and _is_parameter(code, node, given):
            found.setdefault(key.value, key.lineno)
    return found


def _is_parameter(code: Parsed, node: ast.AST, parts: Sequence[str]) -> bool:
    function = code.around(node, ast.FunctionDef)
    return isinstance(function, ast.FunctionDef) and list(parts) in [[each.arg] for each in function.args.args]


def field_at(file: str, name: str) -> int | None:
    """The line that works out a field of a config, through the one function that it is taken from, if it is."""
    code = Parsed.of(file)
    given = keyword_of(code, name, "") if code else None
    if code is None or given is None:
        return None
    value, line = given
    called = parts_of(value.func)[-1:] if isinstance(value, ast.Call) else []
    for node in ast.walk(code.tree):
        if isinstance(node, ast.FunctionDef) and [node.name] == called:
            returns = [each.lineno for each in ast.walk(node) if isinstance(each, ast.Return)]
            return max(returns, default=line)
    return line


def kind_at(file: str, line: int, kind: str, kinds: Collection[str]) -> int | None:
    """The line after one of the same function on which a value made there is meant for a kind of layer.

    Args:
        file, line: where the value is made.
        kind: of the layer that is given it.
        kinds: all there are.
    """
    code = Parsed.of(file)
    statement = code.statement(line) if code else None
    function = code.around(statement, ast.FunctionDef) if code and statement else None
    names = {part.id for part in ast.walk(statement or ast.Pass()) if isinstance(part, ast.Name)}
    guards = []
    for node in ast.walk(function) if function else ():
        if not isinstance(node, ast.stmt) or node.lineno < line:
            continue
        said = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
        if isinstance(node, ast.If):
            tested = {part.value for part in ast.walk(node.test) if isinstance(part, ast.Constant)}
            inside = {part.id for each in node.body for part in ast.walk(each) if isinstance(part, ast.Name)}
            guards += [node.lineno] if tested & set(kinds) and inside & names else []
        elif kind in said and not isinstance(node, ast.For | ast.While | ast.FunctionDef):
            return node.lineno
    return guards[0] if guards else None


def rebound_at(file: str, line: int) -> list[int]:
    """The lines before one of the same function on which names got other values than they had."""
    code = Parsed.of(file)
    function = code.around(code.statement(line) or code.tree, ast.FunctionDef) if code else None
    if not isinstance(function, ast.FunctionDef):
        return []
    names = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    found = []
    for node in sorted((node for node in ast.walk(function) if isinstance(node, ast.Assign)), key=lambda n: n.lineno):
        own = {target.id for target in node.targets if isinstance(target, ast.Name)}
        found += [node.lineno] if own & names and node.lineno < line else []
        names |= own
    return found


def around_at(file: str, line: int, *kinds: type[ast.AST], outermost: bool = False) -> int | None:
    """The line of the statement of some kind around a line, inside the same function; None if there is none."""
    code = Parsed.of(file)
    node: ast.AST | None = code.statement(line) if code else None
    found = None
    while code is not None and node is not None and not isinstance(node, ast.FunctionDef | ast.ClassDef):
        node = code.outer.get(node)
        if isinstance(node, kinds) and (found is None or outermost):
            found = node
    return found.lineno if isinstance(found, ast.stmt) else None


def listed_at(file: str, text: str) -> int | None:
    """The one line on which a text is an entry of a table, a dict or a list of names; None if it is in several."""
    code = Parsed.of(file)
    found = {
        node.lineno
        for node in (ast.walk(code.tree) if code else ())
        if isinstance(node, ast.Constant) and node.value == text
        if code is not None and isinstance(code.outer.get(node), ast.Dict | ast.List | ast.Tuple)
    }
    return found.pop() if len(found) == 1 else None


def returned_early_at(file: str, line: int) -> int | None:
    """Where a function that has other ends returns what it assigned on a line, as it is: the condition for that.

    The return itself, where it does so in several places: one condition may be right.
    """
    code = Parsed.of(file)
    statement = code.statement(line) if code else None
    function = code.around(statement, ast.FunctionDef) if code and statement else None
    if not isinstance(statement, ast.Assign) or function is None or code is None:
        return None
    names = {target.id for target in statement.targets if isinstance(target, ast.Name)}
    ends = [node for node in ast.walk(function) if isinstance(node, ast.Return) and node.lineno > line]
    plain = sorted(
        (each for each in ends if isinstance(each.value, ast.Name) and each.value.id in names),
        key=lambda each: each.lineno,
    )
    guards = [each for each in plain if isinstance(code.outer.get(each), ast.If)]
    if len(ends) == len(plain) or not guards:
        return None
    guard = code.outer[guards[0]]
    return guards[-1].lineno if len(guards) > 1 else getattr(guard, "lineno", None)


def returned_at(file: str, line: int) -> int | None:
    """The line on which a function returns what it computed on an earlier one; None if it is not told apart."""
    code = Parsed.of(file)
    statement = code.statement(line) if code else None
    function = code.around(statement, ast.FunctionDef, ast.AsyncFunctionDef) if code and statement else None
    if not isinstance(statement, ast.Assign) or function is None:
        return None
    names = {part.id for target in statement.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    found = [
        node.lineno
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and node.value is not None and node.lineno > line
        if names & {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    ]
    return found[0] if len(found) == 1 else None


def parts_of(name: ast.expr) -> list[str]:
    """A dotted name in its parts; empty for any other expression."""
    if isinstance(name, ast.Name):
        return [name.id]
    if isinstance(name, ast.Attribute):
        inner = parts_of(name.value)
        return [*inner, name.attr] if inner else []
    return []


def assigns(node: ast.Assign, name: str) -> bool:
    """Whether an assignment gives a plain name a value."""
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def keyword_of(code: Parsed, attribute: str, called: str) -> tuple[ast.expr, int] | None:
    """What a field is set to where its object is made, if that happens in one place."""
    found = [keyword.value for call in code.calls() for keyword in call.keywords if keyword.arg == attribute]
    return (found[0], found[0].lineno) if len(found) == 1 else None
