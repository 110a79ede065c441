"""Where a wrong number comes from: from the line that uses it back to the line that makes it, by reading the port.

The trace sees operations on tensors. A scale, an eps or a window is a plain number long before it meets one, and the
line to mend is where it got its value.
"""

import ast
import linecache
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

_HOPS = 6
_SMALL, _LARGE = 1e-3, 1e3  # numbers between these are too common to be known by their value


@dataclass(frozen=True)
class Use:
    """An expression that uses a number: its file, first and last line and column, what names stood for there, the
    module that was running, the lines of the same file from which the function was called, the nearest first, and
    whether every layer uses the same number.
    """

    file: str
    line: int
    span: tuple[int, int, int, int]
    scope: Mapping[str, Any]
    module_name: str
    callers: tuple[int, ...] = ()
    steady: bool = False


@dataclass(frozen=True)
class _Code:
    """A parsed source file."""

    tree: ast.Module

    @classmethod
    def of(cls, file: str) -> "_Code | None":
        try:
            return cls(ast.parse("".join(linecache.getlines(file))))
        except (SyntaxError, ValueError):
            return None

    @cached_property
    def outer(self) -> Mapping[ast.AST, ast.AST]:
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


def origin(use: Use, wrong: float, hops: int | None = None) -> int:
    """The line that gives a wrong number its value; the line of its use if that cannot be told, or is it.

    Args:
        use: where the number meets a tensor.
        wrong: the number.
        hops: from name to name, not further back than so many.
    """
    code = _Code.of(use.file)
    statement = code.statement(use.line) if code else None
    if code is None or statement is None:
        return use.line
    for operand in _operands(code.expression(statement, use.span)):
        value = _evaluated(operand, use.scope)
        if value is None or not _alike(value, wrong):
            continue
        if not _passes_on(operand):
            return operand.lineno
        line = _chase(code, operand, use, hops or _HOPS)
        return use.line if line is None else _literal(code, wrong, line)
    return use.line


def _literal(code: _Code, wrong: float, line: int) -> int:
    """The one line that spells a telling number out, where what it was followed to does not: a default, as a rule."""
    if _SMALL < abs(wrong) < _LARGE:
        return line
    spelt = {
        node.lineno
        for node in ast.walk(code.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
        and _alike(float(node.value), wrong)
    }
    return spelt.pop() if len(spelt) == 1 and line not in spelt else line


def built_at(file: str, module_name: str, numbers: Sequence[float] = ()) -> int | None:
    """The line that makes a module, where its file assigns it to the attribute that it is called by.

    Args:
        file: where to look.
        module_name: of the module.
        numbers: that it was made with; where a name stands for the only one, the line that gives it its value.
    """
    code = _Code.of(file)
    last = module_name.rpartition(".")[2]
    found = [
        node
        for node in (ast.walk(code.tree) if code else ())
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        if any(_parts(target)[-2:] == ["self", last] for target in node.targets)
    ]
    if code is None or len(found) != 1:
        return None
    call = found[0].value
    assert isinstance(call, ast.Call)
    names = [value for value in (*call.args, *(each.value for each in call.keywords)) if isinstance(value, ast.Name)]
    for name in names if numbers else ():
        given = _local(code, name, last)
        if given is not None and isinstance(given[0], ast.Constant) and given[0].value in numbers:
            return given[1]
    return found[0].lineno


def assigned_at(file: str, module: str, parameter: str) -> int | None:
    """The line that assigns a module's parameter from outside, or copies into it; None if none does, or several do."""
    code = _Code.of(file)
    found = set()
    for node in ast.walk(code.tree) if code else ():
        targets: list[ast.expr] = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "copy_":
            targets = [node.func.value]
        if any([module, parameter] == [part for part in _parts(each) if part != "data"][-2:] for each in targets):
            found |= {each.lineno for each in targets}
    return found.pop() if len(found) == 1 else None


def collected_at(file: str, line: int) -> int | None:
    """The line that collects several values in a list or tuple, which a line uses by name; None if it uses none."""
    code = _Code.of(file)
    statement = code.statement(line) if code else None
    for name in ast.walk(statement) if code and statement else ():
        given = _local(code, name, "") if code and isinstance(name, ast.Name) else None
        if given is not None and isinstance(given[0], ast.List | ast.ListComp | ast.Tuple | ast.GeneratorExp):
            return given[1]
    return None


def fields_at(file: str) -> dict[str, int]:
    """What a file asks a mapping for by name, each with the first line: `hf["name"]` and `hf.get("name")`."""
    code = _Code.of(file)
    found: dict[str, int] = {}
    for node in ast.walk(code.tree) if code else ():
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key = node.slice
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            key = node.args[0]
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            found.setdefault(key.value, key.lineno)
    return found


def field_at(file: str, name: str) -> int | None:
    """The line that works out a field of a config, through the one function that it is taken from, if it is."""
    code = _Code.of(file)
    given = _keyword(code, name, "") if code else None
    if code is None or given is None:
        return None
    value, line = given
    called = _parts(value.func)[-1:] if isinstance(value, ast.Call) else []
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
    code = _Code.of(file)
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
    code = _Code.of(file)
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
    code = _Code.of(file)
    node: ast.AST | None = code.statement(line) if code else None
    found = None
    while code is not None and node is not None and not isinstance(node, ast.FunctionDef | ast.ClassDef):
        node = code.outer.get(node)
        if isinstance(node, kinds) and (found is None or outermost):
            found = node
    return found.lineno if isinstance(found, ast.stmt) else None


def listed_at(file: str, text: str) -> int | None:
    """The one line on which a text is an entry of a table, a dict or a list of names; None if it is in several."""
    code = _Code.of(file)
    found = {
        node.lineno
        for node in (ast.walk(code.tree) if code else ())
        if isinstance(node, ast.Constant) and node.value == text
        if code is not None and isinstance(code.outer.get(node), ast.Dict | ast.List | ast.Tuple)
    }
    return found.pop() if len(found) == 1 else None


def returned_at(file: str, line: int) -> int | None:
    """The line on which a function returns what it computed on an earlier one; None if it is not told apart."""
    code = _Code.of(file)
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


def _operands(node: ast.AST) -> list[ast.expr]:
    """The values that an expression works on."""
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.Call):
        return [*node.args, *(keyword.value for keyword in node.keywords)]
    return [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]


_PLAIN = (
    ast.Name, ast.Attribute, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Subscript, ast.operator, ast.unaryop, ast.Load,
)  # fmt: skip


def _evaluated(operand: ast.expr, scope: Mapping[str, Any]) -> float | None:
    """The number that an expression of names and arithmetic stands for; None if it is no number, or calls anything."""
    if not all(isinstance(node, _PLAIN) for node in ast.walk(operand)):
        return None
    try:
        value = eval(compile(ast.Expression(operand), "<operand>", "eval"), {"__builtins__": {}}, dict(scope))
    except Exception:  # names of another scope, or whatever an author's property raises
        return None
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _alike(value: float, other: float) -> bool:
    return abs(value - other) <= 1e-9 * max(abs(value), abs(other))


def _parts(name: ast.expr) -> list[str]:
    if isinstance(name, ast.Name):
        return [name.id]
    if isinstance(name, ast.Attribute):
        inner = _parts(name.value)
        return [*inner, name.attr] if inner else []
    return []


def _chase(code: _Code, name: ast.expr, use: Use, hops: int) -> int | None:
    """From a name to what it was given, hop by hop; None if nothing in the file gives it a value."""
    expression: ast.expr | None = name
    line: int | None = None
    for _ in range(hops):
        found = _given(code, expression, use) if expression is not None else None
        if found is None:
            return line
        expression, line = found
        if not _passes_on(expression):
            return line
    return line


def _passes_on(expression: ast.expr) -> bool:
    """Whether an expression only hands another name on."""
    return isinstance(expression, ast.Name | ast.Attribute)


def _given(code: _Code, name: ast.expr, use: Use) -> tuple[ast.expr, int] | None:
    """What a name was assigned, passed as an argument, or set to as a field."""
    parts = _parts(name)
    last = use.module_name.rpartition(".")[2]
    if not parts:
        return None
    if isinstance(name, ast.Name):
        return _local(code, name, last, use.callers)
    if parts[0] == "self" and len(parts) == 2:
        kind = code.around(name, ast.ClassDef)
        found = _assigned_to_self(code, kind, parts[1], use.steady) if isinstance(kind, ast.ClassDef) else None
        return found or _keyword(code, parts[1], "")
    return _keyword(code, parts[-1], "")


def _local(code: _Code, name: ast.Name, last: str, callers: Sequence[int] = ()) -> tuple[ast.expr, int] | None:
    function = code.around(name, ast.FunctionDef, ast.AsyncFunctionDef)
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    before = [
        (node.value, node.lineno)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and node.lineno < name.lineno and _assigns(node, name.id)
    ]
    unpacked = [
        (part, node.lineno)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and node.lineno < name.lineno
        for part in _unpacked(node, name.id)
    ]
    if before or unpacked:
        return max([*before, *unpacked], key=lambda found: found[1])
    names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    return _argument(code, function, names, name.id, last, callers) if name.id in names else None


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _unpacked(node: ast.Assign, name: str) -> Iterator[ast.expr]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for left, right in zip(target.elts, node.value.elts, strict=False):
                if isinstance(left, ast.Name) and left.id == name:
                    yield right


def _argument(
    code: _Code,
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    names: Sequence[str],
    name: str,
    last: str,
    callers: Sequence[int],
) -> tuple[ast.expr, int] | None:
    """What the callers of a function, or of the class that it constructs, pass for a parameter."""
    kind = code.around(function, ast.ClassDef, ast.FunctionDef)
    built = isinstance(kind, ast.ClassDef) and function.name == "__init__"
    called = kind.name if built and isinstance(kind, ast.ClassDef) else function.name
    place = names.index(name) - (names[0] in ("self", "cls"))
    passed: list[tuple[ast.Call, ast.expr]] = []
    for call in code.calls():
        if not _parts(call.func) or _parts(call.func)[-1] != called:
            continue
        keyword = next((each.value for each in call.keywords if each.arg == name), None)
        value = keyword or (call.args[place] if place < len(call.args) else None)
        if value is not None and not isinstance(value, ast.Starred):
            passed.append((call, value))
    if not passed:
        return None
    made = [each for line in callers for each in passed if each[0].lineno <= line <= (each[0].end_lineno or line)]
    near = [entry for entry in passed if _assigned_name(code, entry[0]) == last]
    _, value = (made or near or passed)[0]
    return value, value.lineno


def _assigned_name(code: _Code, call: ast.Call) -> str:
    """The attribute or name that the result of a call is assigned to."""
    node = code.around(call, ast.Assign, ast.AnnAssign)
    targets = node.targets if isinstance(node, ast.Assign) else []
    return next((_parts(target)[-1] for target in targets if _parts(target)), "")


def _assigned_to_self(
    code: _Code, kind: ast.ClassDef, attribute: str, steady: bool = False
) -> tuple[ast.expr, int] | None:
    """What an attribute is set to; what a condition makes of it later counts if it is not the same in all layers."""
    changed = [
        (node.value, node.lineno)
        for node in ast.walk(kind)
        if isinstance(node, ast.AugAssign) and _parts(node.target) == ["self", attribute]
        if not (steady and isinstance(code.outer.get(node), ast.If))
    ]
    if changed:
        return changed[-1]
    for node in ast.walk(kind):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if _parts(target) == ["self", attribute]:
                    return node.value, node.lineno
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for left, right in zip(target.elts, node.value.elts, strict=False):
                        if _parts(left) == ["self", attribute]:
                            return right, node.lineno
    return None


def _keyword(code: _Code, attribute: str, called: str) -> tuple[ast.expr, int] | None:
    """What a field is set to where its object is made, if that happens in one place."""
    found = [keyword.value for call in code.calls() for keyword in call.keywords if keyword.arg == attribute]
    return (found[0], found[0].lineno) if len(found) == 1 else None
