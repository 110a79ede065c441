"""The code that really runs for a module: inheritance, decorators, registries and other indirection resolved.

It is found by reading, not by running: names in a function are looked up where Python would look them up, `self` stands
for the module at hand and `config` for its config. A condition that these two settle decides which branch is followed.
"""

import ast
import functools
import inspect
import linecache
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType

from torch import nn

from parity.explain.called import UNKNOWN, Call, Reference, References, definer, family, package_of, plain

_WITHOUT_EFFECT = (nn.Dropout, nn.Identity)  # in eval mode
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
# How far to go from the model's own code into what its library provides to all models: far enough to reach the rule by
# which a mask is made. What lies deeper is named with its place.
_LIBRARY_DEPTH = 3


@dataclass(frozen=True)
class Resolved:
    """What an expression in the code stands for; file is empty for what is not written in Python."""

    expression: str
    name: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class Piece:
    """One function as it is written, without docstrings: its lines with the numbers that they have in the file.

    inherited_from names the class that defines a method, where that is not the class of the module; resolved says what
    the expressions in it stand for.
    """

    name: str
    file: str
    lines: tuple[tuple[int, str], ...]
    inherited_from: str = ""
    resolved: tuple[Resolved, ...] = ()

    @property
    def line(self) -> int:
        """The number of its first line, decorators included."""
        return self.lines[0][0]


@dataclass(frozen=True)
class Flattened:
    """All the code of one module, `__init__` and `forward` first, then what they call, depth first.

    not_shown names functions too far from the model to print, missing is one line for each that has no source.
    """

    class_name: str
    file: str
    line: int
    pieces: tuple[Piece, ...]
    not_shown: tuple[Resolved, ...] = ()
    missing: tuple[str, ...] = ()


def flatten(module: nn.Module) -> Flattened:
    """Collect the code that runs when `module` is built and called."""
    walk = _Walk(module)
    names = ("forward",) if isinstance(module, _CONTAINERS) else ("__init__", "forward")
    starts = [walk.method(module, name) for name in names]
    for start in reversed([start for start in starts if start is not None]):  # what forward calls comes first
        walk.follow(start)
    file, line = class_place(type(module))
    return Flattened(
        type(module).__name__,
        file,
        line,
        walk.found(),
        tuple(walk.not_shown.values()),
        tuple(walk.missing.values()),
    )


def class_place(kind: type) -> tuple[str, int]:
    """The file that defines a class, relative to where its package is installed, and its line; ("", 0) if unknown."""
    try:
        filename = inspect.getsourcefile(kind)
    except (TypeError, OSError):  # built in, or typed in
        return "", 0
    found = _file(filename).classes.get(kind.__qualname__) if filename else None
    return (_shown(filename, kind.__module__), found) if filename and found else ("", 0)


@dataclass(frozen=True)
class _File:
    """What is defined in a file: functions by first line and name, the lines of classes by qualified name."""

    functions: Mapping[tuple[int, str], ast.FunctionDef]
    classes: Mapping[str, int]


@functools.cache
def _file(filename: str) -> _File:
    functions: dict[tuple[int, str], ast.FunctionDef] = {}
    classes: dict[str, int] = {}

    def collect(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef):
                first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                functions[first, child.name] = child
                inner = f"{prefix}{child.name}.<locals>."
            elif isinstance(child, ast.ClassDef):
                classes[prefix + child.name] = child.lineno
                inner = f"{prefix}{child.name}."
            collect(child, inner)

    try:
        collect(ast.parse("".join(linecache.getlines(filename))), "")
    except SyntaxError:  # not Python, though something in memory says that it came from there
        return _File({}, {})
    return _File(functions, classes)


def _definition(function: FunctionType) -> ast.FunctionDef | None:
    code = function.__code__
    return _file(code.co_filename).functions.get((code.co_firstlineno, code.co_name))


def _shown(filename: str, module: str) -> str:
    """`package/module.py` of a file anywhere, given the dotted name that it was imported as."""
    path = Path(filename)
    depth = module.count(".") + 1 + (path.name == "__init__.py")
    return "/".join(path.parts[-depth:])


def _home(function: FunctionType) -> str:
    """The module whose file a function is written in, whatever its `__module__` claims."""
    name = function.__globals__.get("__name__")
    return name if isinstance(name, str) else ""


def _lines(definition: ast.FunctionDef, code: CodeType) -> tuple[tuple[int, str], ...]:
    left_out: set[int] = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef):
            left_out |= _docstring(node)
    lines = linecache.getlines(code.co_filename)
    kept = []
    for number in range(code.co_firstlineno, (definition.end_lineno or definition.lineno) + 1):
        text = lines[number - 1].rstrip()
        if number not in left_out and not (not text and number - 1 in left_out):
            kept.append((number, text[definition.col_offset :]))
    return tuple(kept)


def _docstring(definition: ast.FunctionDef) -> set[int]:
    """Its lines, where code follows them and none shares them."""
    first = definition.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    if not is_text or len(definition.body) == 1 or first.lineno == definition.lineno:
        return set()
    end = first.end_lineno or first.lineno
    return set() if definition.body[1].lineno == end else set(range(first.lineno, end + 1))


class _Walk:
    """From function to function, each read once."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.package = package_of(type(module).__module__)
        self.pieces: dict[CodeType, Piece] = {}
        self.resolved: dict[CodeType, dict[str, Resolved]] = {}
        self.not_shown: dict[CodeType, Resolved] = {}
        self.missing: dict[object, str] = {}

    def found(self) -> tuple[Piece, ...]:
        """All pieces, with what was resolved in them."""
        return tuple(
            replace(piece, resolved=tuple(self.resolved.get(code, {}).values())) for code, piece in self.pieces.items()
        )

    def method(self, instance: nn.Module, name: str) -> Call | None:
        """Take `__init__` or `forward` of a module, wherever in its ancestry it is defined."""
        owner = next(owner for owner in type(instance).__mro__ if name in vars(owner))
        function = plain(vars(owner)[name])
        owner = definer(type(instance), name, function)
        if owner is nn.Module or not isinstance(function, FunctionType):
            if name == "forward":
                self.missing[type(instance)] = f"{type(instance).__name__} has no forward of its own in Python"
            return None
        if name == "__init__" and owner is not type(instance) and not self._near(owner.__module__, instance):
            return None  # the library's base classes, which set up loading and saving
        return self._take(Call(function, instance, owner, 0))

    def follow(self, call: Call) -> None:
        """Take whatever a function calls, and what that calls in its turn."""
        definition = _definition(call.function)
        if definition is None or (call.function.__name__ == "__init__" and package_of(_home(call.function)) == "torch"):
            return
        for found in References(call, self.module).read(definition):
            self._resolve(found, call)

    def _near(self, module: str, instance: nn.Module) -> bool:
        """Whether this is the model's own code, as against what its library offers to every model."""
        return family(module) in {family(type(self.module).__module__), family(type(instance).__module__)}

    def _take(self, call: Call) -> Call | None:
        """Add a function's text, unless it is there already."""
        code = call.function.__code__
        if code in self.pieces or code in self.missing:
            return None
        definition = _definition(call.function)
        if definition is None:
            self.missing[code] = f"the source of {call.function.__qualname__} cannot be found"
            return None
        inherited = call.owner is not None and call.owner is not type(call.instance)
        self.pieces[code] = Piece(
            call.function.__qualname__,
            _place(call.function)[0],
            _lines(definition, code),
            call.owner.__name__ if call.owner is not None and inherited else "",
        )
        self.not_shown.pop(code, None)
        return call

    def _resolve(self, found: Reference, call: Call) -> None:
        value = plain(found.value)
        if isinstance(value, functools.partial):
            self._note(call, found.expression, _written(value))
            self._resolve(replace(found, value=value.func, indirect=False), call)
        elif isinstance(value, nn.Module):
            self._child(found.expression, value, call)
        elif isinstance(value, FunctionType):
            self._function(found, value, call)
        elif value is UNKNOWN and call.function.__name__ != "__init__":  # the module tells what became of that
            self._note(call, found.expression, "chosen when it runs")
        elif isinstance(value, BuiltinFunctionType) and found.indirect:
            self._note(call, found.expression, _written(value))

    def _function(self, found: Reference, function: FunctionType, call: Call) -> None:
        home = _home(function)
        if found.indirect:
            self._note(call, found.expression, function.__qualname__, *_place(function))
        near, package = self._near(home, call.instance), package_of(home)
        foreign = package != self.package if found.owner is None else package not in {self.package, "torch"}
        if found.owner is nn.Module or (found.owner is None and package == "torch") or (foreign and not near):
            return
        depth = 0 if near else call.depth + 1
        of_base_class = found.owner is not None and not near and package != "torch"
        helper = family(home) == f"{self.package}.utils"  # asks about the environment, computes nothing
        if of_base_class or helper or depth > _LIBRARY_DEPTH:
            self._leave_out(found.expression, function)
            return
        taken = self._take(Call(function, call.instance, found.owner, depth))
        if taken is not None:
            self.follow(taken)

    def _leave_out(self, expression: str, function: FunctionType) -> None:
        code = function.__code__
        if code not in self.pieces:
            self.not_shown[code] = Resolved(expression, function.__qualname__, *_place(function))

    def _child(self, expression: str, child: nn.Module, call: Call) -> None:
        """Say what it is. The code of an activation is shown as well, other modules have a page of their own."""
        if isinstance(child, _CONTAINERS):
            kinds = [type(member) for member in child.children()]
            for kind in dict.fromkeys(kinds):
                self._note(call, f"{expression}[...]", f"{kinds.count(kind)} x {kind.__name__}", *class_place(kind))
            return
        self._note(call, expression, type(child).__name__, *class_place(type(child)))
        if _is_function_like(child):
            names = ("forward",) if package_of(type(child).__module__) == "torch" else ("__init__", "forward")
            for taken in [self.method(child, name) for name in names]:
                if taken is not None:
                    self.follow(taken)

    def _note(self, call: Call, expression: str, name: str, file: str = "", line: int = 0) -> None:
        notes = self.resolved.setdefault(call.function.__code__, {})
        notes.setdefault(f"{expression} {name}", Resolved(expression, name, file, line))


def _is_function_like(module: nn.Module) -> bool:
    """Such as an activation: no parameters, buffers or children, and not without effect."""
    parts = (module.parameters(), module.buffers(), module.children())
    return not isinstance(module, _WITHOUT_EFFECT) and not any(True for part in parts for _ in part)


def _place(function: FunctionType) -> tuple[str, int]:
    return _shown(function.__code__.co_filename, _home(function)), function.__code__.co_firstlineno


def _written(value: object) -> str:
    """A partial, or something built in, as code."""
    if isinstance(value, functools.partial):
        arguments = [repr(each) for each in value.args] + [f"{name}={each!r}" for name, each in value.keywords.items()]
        return f"partial({', '.join([_written(value.func), *arguments])})"
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None) or repr(value)
    return f"{module}.{name}" if module else name
