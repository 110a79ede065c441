"""Where a wrong number comes from: from the line that uses it back to the line that makes it, by reading the port.

The trace sees operations on tensors. A scale, an eps or a window is a plain number long before it meets one, and the
line to mend is where it got its value.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from parity.explain.syntax import Parsed, assigns, keyword_of, parts_of

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


def origin(use: Use, wrong: float, hops: int | None = None) -> int:
    """The line that gives a wrong number its value; the line of its use if that cannot be told, or is it.

    Args:
        use: where the number meets a tensor.
        wrong: the number.
        hops: from name to name, not further back than so many.
    """
    code = Parsed.of(use.file)
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


def number_at(file: str, line: int, scope: Mapping[str, Any], wanted: float) -> tuple[int, int, int, int] | None:
    """Where the function around a line names a number: first and last line, first and last column of the name.

    The last place up to that line; None if it names none that stands for `wanted`.
    """
    code = Parsed.of(file)
    statement = code.statement(line) if code else None
    around = code.around(statement, ast.FunctionDef) if code and statement else None
    named = [
        node
        for node in (ast.walk(around) if around else ())
        if isinstance(node, ast.Name | ast.Attribute) and node.lineno <= line
    ]
    for node in sorted(named, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        value = _evaluated(node, scope)
        if value is not None and _alike(value, wanted):
            return node.lineno, node.end_lineno or node.lineno, node.col_offset, node.end_col_offset or 0
    return None


def named_origin(use: Use, wrong: float) -> int | None:
    """The line that gives a wrong number its value, where the function around its use names it; None if it does not."""
    named = number_at(use.file, use.line, use.scope, wrong)
    return None if named is None else origin(replace(use, line=named[0], span=named), wrong)


def _literal(code: Parsed, wrong: float, line: int) -> int:
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
    code = Parsed.of(file)
    last = module_name.rpartition(".")[2]
    found = [
        node
        for node in (ast.walk(code.tree) if code else ())
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        if any(parts_of(target)[-2:] == ["self", last] for target in node.targets)
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


def collected_at(file: str, line: int) -> int | None:
    """The line that collects several values in a list or tuple, which a line uses by name; None if it uses none."""
    code = Parsed.of(file)
    statement = code.statement(line) if code else None
    for name in ast.walk(statement) if code and statement else ():
        given = _local(code, name, "") if code and isinstance(name, ast.Name) else None
        if given is not None and isinstance(given[0], ast.List | ast.ListComp | ast.Tuple | ast.GeneratorExp):
            return given[1]
    return None


def _operands(node: ast.AST) -> list[ast.expr]:
    """The values that an expression works on; a name is one itself."""
    if isinstance(node, ast.Name | ast.Attribute):
        return [node]
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


def _chase(code: Parsed, name: ast.expr, use: Use, hops: int) -> int | None:
    """From a name to what it was given, hop by hop; None if nothing in the file gives it a value."""
    expression: ast.expr | None = name
    line: int | None = None
    for _ in range(hops):
        found = _given(code, expression, use) if expression is not None else None
        if found is None:
            return line
        expression, line = found
        if not _passes_on(expression):
            return _entry_of(code, expression) or line
    return line


def _entry_of(code: Parsed, expression: ast.expr) -> int | None:
    """Where a table is written out of which an expression takes an entry by a name of its own."""
    if not isinstance(expression, ast.Subscript) or not isinstance(expression.value, ast.Name):
        return None
    table = _local(code, expression.value, "") if isinstance(expression.slice, ast.Name | ast.Attribute) else None
    return table[1] if table is not None and isinstance(table[0], ast.Dict | ast.List | ast.Tuple) else None


def _passes_on(expression: ast.expr) -> bool:
    """Whether an expression only hands another name on."""
    return isinstance(expression, ast.Name | ast.Attribute)


def _given(code: Parsed, name: ast.expr, use: Use) -> tuple[ast.expr, int] | None:
    """What a name was assigned, passed as an argument, or set to as a field."""
    parts = parts_of(name)
    last = use.module_name.rpartition(".")[2]
    if not parts:
        return None
    if isinstance(name, ast.Name):
        return _local(code, name, last, use.callers)
    if parts[0] == "self" and len(parts) == 2:
        kind = code.around(name, ast.ClassDef)
        found = _assigned_to_self(code, kind, parts[1], use.steady) if isinstance(kind, ast.ClassDef) else None
        return found or keyword_of(code, parts[1], "")
    return keyword_of(code, parts[-1], "")


def _local(code: Parsed, name: ast.Name, last: str, callers: Sequence[int] = ()) -> tuple[ast.expr, int] | None:
    function = code.around(name, ast.FunctionDef, ast.AsyncFunctionDef)
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    before = [
        (node.value, node.lineno)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and node.lineno < name.lineno and assigns(node, name.id)
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


def _unpacked(node: ast.Assign, name: str) -> Iterator[ast.expr]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for left, right in zip(target.elts, node.value.elts, strict=False):
                if isinstance(left, ast.Name) and left.id == name:
                    yield right


def _argument(
    code: Parsed,
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
        if not parts_of(call.func) or parts_of(call.func)[-1] != called:
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


def _assigned_name(code: Parsed, call: ast.Call) -> str:
    """The attribute or name that the result of a call is assigned to."""
    node = code.around(call, ast.Assign, ast.AnnAssign)
    targets = node.targets if isinstance(node, ast.Assign) else []
    return next((parts_of(target)[-1] for target in targets if parts_of(target)), "")


def _assigned_to_self(
    code: Parsed, kind: ast.ClassDef, attribute: str, steady: bool = False
) -> tuple[ast.expr, int] | None:
    """What an attribute is set to; what a condition makes of it later counts if it is not the same in all layers."""
    changed = [
        (node.value, node.lineno)
        for node in ast.walk(kind)
        if isinstance(node, ast.AugAssign) and parts_of(node.target) == ["self", attribute]
        if not (steady and isinstance(code.outer.get(node), ast.If))
    ]
    if changed:
        return changed[-1]
    for node in ast.walk(kind):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if parts_of(target) == ["self", attribute]:
                    return node.value, node.lineno
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for left, right in zip(target.elts, node.value.elts, strict=False):
                        if parts_of(left) == ["self", attribute]:
                            return right, node.lineno
    return None
