"""The code that really runs for a module: inheritance, decorators, registries and other indirection resolved.

It is found by reading, not by running: names in a function are looked up where Python would look them up, `self` stands
for the module at hand and `config` for its config. A condition that these two settle decides which branch is followed.
"""

import ast
import contextlib
import functools
import inspect
import linecache
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType

from torch import nn

_UNKNOWN = object()
_WITHOUT_EFFECT = (nn.Dropout, nn.Identity)  # in eval mode
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
_COMPARE: Mapping[type[ast.cmpop], Callable[[object, object], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
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


@dataclass(frozen=True)
class _Call:
    """A function to read: what `self` is in it, the class that defines it, and how deep in the library it is."""

    function: FunctionType
    instance: nn.Module
    owner: type | None
    depth: int


@dataclass(frozen=True)
class _Found:
    """An expression in a function and the object that it stands for.

    owner is the class that an attribute of `self` was found in; indirect, that the expression hides what it stands for.
    """

    expression: str
    value: object
    owner: type | None = None
    indirect: bool = False


class _Walk:
    """From function to function, each read once."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.package = _package(type(module).__module__)
        self.pieces: dict[CodeType, Piece] = {}
        self.resolved: dict[CodeType, dict[str, Resolved]] = {}
        self.not_shown: dict[CodeType, Resolved] = {}
        self.missing: dict[object, str] = {}

    def found(self) -> tuple[Piece, ...]:
        """All pieces, with what was resolved in them."""
        return tuple(
            replace(piece, resolved=tuple(self.resolved.get(code, {}).values())) for code, piece in self.pieces.items()
        )

    def method(self, instance: nn.Module, name: str) -> _Call | None:
        """Take `__init__` or `forward` of a module, wherever in its ancestry it is defined."""
        owner = next(owner for owner in type(instance).__mro__ if name in vars(owner))
        function = plain(vars(owner)[name])
        owner = _definer(type(instance), name, function)
        if owner is nn.Module or not isinstance(function, FunctionType):
            if name == "forward":
                self.missing[type(instance)] = f"{type(instance).__name__} has no forward of its own in Python"
            return None
        if name == "__init__" and owner is not type(instance) and not self._near(owner.__module__, instance):
            return None  # the library's base classes, which set up loading and saving
        return self._take(_Call(function, instance, owner, 0))

    def follow(self, call: _Call) -> None:
        """Take whatever a function calls, and what that calls in its turn."""
        definition = _definition(call.function)
        if definition is None or (call.function.__name__ == "__init__" and _package(_home(call.function)) == "torch"):
            return
        for found in _References(call, self.module).read(definition):
            self._resolve(found, call)

    def _near(self, module: str, instance: nn.Module) -> bool:
        """Whether this is the model's own code, as against what its library offers to every model."""
        return _family(module) in {_family(type(self.module).__module__), _family(type(instance).__module__)}

    def _take(self, call: _Call) -> _Call | None:
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

    def _resolve(self, found: _Found, call: _Call) -> None:
        value = plain(found.value)
        if isinstance(value, functools.partial):
            self._note(call, found.expression, _written(value))
            self._resolve(replace(found, value=value.func, indirect=False), call)
        elif isinstance(value, nn.Module):
            self._child(found.expression, value, call)
        elif isinstance(value, FunctionType):
            self._function(found, value, call)
        elif value is _UNKNOWN and call.function.__name__ != "__init__":  # the module tells what became of that
            self._note(call, found.expression, "chosen when it runs")
        elif isinstance(value, BuiltinFunctionType) and found.indirect:
            self._note(call, found.expression, _written(value))

    def _function(self, found: _Found, function: FunctionType, call: _Call) -> None:
        home = _home(function)
        if found.indirect:
            self._note(call, found.expression, function.__qualname__, *_place(function))
        near, package = self._near(home, call.instance), _package(home)
        foreign = package != self.package if found.owner is None else package not in {self.package, "torch"}
        if found.owner is nn.Module or (found.owner is None and package == "torch") or (foreign and not near):
            return
        depth = 0 if near else call.depth + 1
        of_base_class = found.owner is not None and not near and package != "torch"
        helper = _family(home) == f"{self.package}.utils"  # asks about the environment, computes nothing
        if of_base_class or helper or depth > _LIBRARY_DEPTH:
            self._leave_out(found.expression, function)
            return
        taken = self._take(_Call(function, call.instance, found.owner, depth))
        if taken is not None:
            self.follow(taken)

    def _leave_out(self, expression: str, function: FunctionType) -> None:
        code = function.__code__
        if code not in self.pieces:
            self.not_shown[code] = Resolved(expression, function.__qualname__, *_place(function))

    def _child(self, expression: str, child: nn.Module, call: _Call) -> None:
        """Say what it is. The code of an activation is shown as well, other modules have a page of their own."""
        if isinstance(child, _CONTAINERS):
            kinds = [type(member) for member in child.children()]
            for kind in dict.fromkeys(kinds):
                self._note(call, f"{expression}[...]", f"{kinds.count(kind)} x {kind.__name__}", *class_place(kind))
            return
        self._note(call, expression, type(child).__name__, *class_place(type(child)))
        if _is_function_like(child):
            names = ("forward",) if _package(type(child).__module__) == "torch" else ("__init__", "forward")
            for taken in [self.method(child, name) for name in names]:
                if taken is not None:
                    self.follow(taken)

    def _note(self, call: _Call, expression: str, name: str, file: str = "", line: int = 0) -> None:
        notes = self.resolved.setdefault(call.function.__code__, {})
        notes.setdefault(f"{expression} {name}", Resolved(expression, name, file, line))


class _References(ast.NodeVisitor):
    """The functions and modules that a function mentions, in the order of its text."""

    def __init__(self, call: _Call, module: nn.Module):
        self.call = call
        self.module = module
        self.found: list[_Found] = []
        self.local: set[str] = set()
        closure = zip(call.function.__code__.co_freevars, call.function.__closure__ or (), strict=True)
        self.globals = {**call.function.__globals__, **dict(_filled(closure))}

    def read(self, definition: ast.FunctionDef) -> list[_Found]:
        """All of them, with what each stands for."""
        for node in ast.walk(definition):
            if isinstance(node, ast.arg):
                self.local.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.local.add(node.id)
        self.visit_FunctionDef(definition)
        return self.found

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Decorators and annotations do not take part in the computation."""
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """As above."""
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        """Only the branch that is taken, where that is settled."""
        settled = self._truth(node.test)
        self.visit(node.test)
        for taken, branch in ((settled is not False, node.body), (settled is not True, node.orelse)):
            for part in branch if isinstance(branch, list) else [branch]:
                if taken:
                    self.visit(part)

    visit_IfExp = visit_If  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        """`super().method(...)`, and `REGISTRY.get_interface(key, default)`, which stands for one of its entries."""
        chosen = self._value(node)
        if chosen is not _UNKNOWN:
            self._add(node, chosen, indirect=True)
            return
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).startswith("super("):
            self._inherited(node.func)
        else:
            self.visit(node.func)
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(part)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """`REGISTRY[key]`: one entry, or, where the key is one of several that the module holds, all of these."""
        registry = self._value(node.value)
        if not isinstance(registry, Mapping) or not isinstance(node.ctx, ast.Load):
            self.generic_visit(node)
            return
        several = self._value(node.slice.value) if isinstance(node.slice, ast.Subscript) else _UNKNOWN
        keys = list(several.values()) if isinstance(several, Mapping) else [self._value(node.slice)]
        for key in keys:
            if key is not _UNKNOWN:
                self._add(node, _entry(registry, key), indirect=True)
            elif any(callable(value) for value in registry.values()):
                self._add(node, _UNKNOWN)
        self.visit(node.slice)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """`self.name`, or a name in an imported module."""
        base = self._value(node.value)
        if isinstance(base, nn.Module):
            if isinstance(node.ctx, ast.Load):
                self._of_module(node, base)
        elif isinstance(base, ModuleType):
            self._add(node, getattr(base, node.attr, None))
        else:
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        """A global, or a name of an enclosing function."""
        if isinstance(node.ctx, ast.Load) and node.id not in self.local:
            self._add(node, self.globals.get(node.id))

    def _of_module(self, node: ast.Attribute, instance: nn.Module) -> None:
        value, owner = _attribute(instance, node.attr)
        values = list(value.values()) if isinstance(value, dict) else [value]  # such as one function for each kind
        for each in values:
            self._add(node, each, owner, indirect=owner is None)

    def _inherited(self, node: ast.Attribute) -> None:
        order = type(self.call.instance).__mro__
        start = order.index(self.call.owner) + 1 if self.call.owner in order else len(order)
        owner = next((owner for owner in order[start:] if node.attr in vars(owner)), None)
        if owner is not None and not (node.attr == "__init__" and _family(owner.__module__) != self._own_family()):
            function = plain(vars(owner)[node.attr])
            self._add(node, function, _definer(owner, node.attr, function))

    def _own_family(self) -> str:
        return _family(type(self.module).__module__)

    def _add(self, node: ast.expr, value: object, owner: type | None = None, indirect: bool = False) -> None:
        if value is not None:
            self.found.append(_Found(ast.unparse(node), value, owner, indirect))

    def _value(self, node: ast.expr) -> object:
        """What an expression stands for, as far as that is settled before anything runs."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._named(node.id)
        if isinstance(node, ast.Attribute):
            base = self._value(node.value)
            return _attribute(base, node.attr)[0] if isinstance(base, nn.Module) else _guarded(getattr, base, node.attr)
        if isinstance(node, ast.Subscript):
            base, key = self._value(node.value), self._value(node.slice)
            return _entry(base, key) if isinstance(base, Mapping) and key is not _UNKNOWN else _UNKNOWN
        return self._returned(node) if isinstance(node, ast.Call) else _UNKNOWN

    def _returned(self, node: ast.Call) -> object:
        """Of the two calls that only look something up."""
        function: object = _UNKNOWN
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get_interface":
            function = self._value(node.func)
        elif isinstance(node.func, ast.Name) and node.func.id == "getattr":
            function = getattr
        return _guarded(function, *map(self._value, node.args))

    def _truth(self, node: ast.expr) -> bool | None:
        """Whether a condition holds; None if that depends on the run."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._truth(node.operand)
            return None if inner is None else not inner
        if isinstance(node, ast.BoolOp):
            decisive = isinstance(node.op, ast.Or)
            parts = {self._truth(part) for part in node.values}
            return decisive if decisive in parts else None if None in parts else not decisive
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            sides = self._value(node.left), self._value(node.comparators[0])
            compare = _COMPARE.get(type(node.ops[0]))
            return compare(*sides) if compare is not None and all(map(_is_setting, sides)) else None
        value = self._value(node)
        return bool(value) if _is_setting(value) else None

    def _named(self, name: str) -> object:
        if name not in self.local:
            return self.globals.get(name, _UNKNOWN)
        if name == "self":
            return self.call.instance
        if name == "module":  # how attention functions, which are no methods, call the module that they work for
            return self.module
        return getattr(self.call.instance, "config", _UNKNOWN) if name == "config" else _UNKNOWN


def plain(value: object) -> object:
    """What a decorator, a descriptor or a bound method wraps."""
    while True:
        if isinstance(value, staticmethod | classmethod | MethodType):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.cached_property):
            value = value.func
        elif isinstance(value, FunctionType) and hasattr(value, "__wrapped__"):
            value = inspect.unwrap(value)
        else:
            return value


def _definer(kind: type, name: str, function: object) -> type:
    """The class that a method is written in: a base class may wrap it anew in each class derived from it."""
    return [owner for owner in kind.__mro__ if name in vars(owner) and plain(vars(owner)[name]) is function][-1]


def _attribute(instance: nn.Module, name: str) -> tuple[object, type | None]:
    """An attribute as it is stored, without running a property, and the class that it is stored in, if any."""
    for place in (vars(instance), vars(instance)["_modules"]):
        if name in place:
            return place[name], None
    for owner in type(instance).__mro__:
        if name in vars(owner):
            value = vars(owner)[name]
            return value, _definer(type(instance), name, plain(value))
    return None, None


def _is_function_like(module: nn.Module) -> bool:
    """Such as an activation: no parameters, buffers or children, and not without effect."""
    parts = (module.parameters(), module.buffers(), module.children())
    return not isinstance(module, _WITHOUT_EFFECT) and not any(True for part in parts for _ in part)


def _is_setting(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _family(module: str) -> str:
    """What the modules of one model share, `transformers.models` say."""
    return ".".join(module.split(".")[:2])


def _place(function: FunctionType) -> tuple[str, int]:
    return _shown(function.__code__.co_filename, _home(function)), function.__code__.co_firstlineno


def _written(value: object) -> str:
    """A partial, or something built in, as code."""
    if isinstance(value, functools.partial):
        arguments = [repr(each) for each in value.args] + [f"{name}={each!r}" for name, each in value.keywords.items()]
        return f"partial({', '.join([_written(value.func), *arguments])})"
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None) or repr(value)
    return f"{module}.{name}" if module else name


def _entry(registry: Mapping[object, object], key: object) -> object:
    value = _guarded(registry.__getitem__, key)
    return None if value is _UNKNOWN else value


def _guarded(function: object, *arguments: object) -> object:
    """Call something of the library's, if all of it is known; it may well refuse."""
    if not callable(function) or any(argument is _UNKNOWN for argument in arguments):
        return _UNKNOWN
    try:
        return function(*arguments)
    except Exception:
        return _UNKNOWN


def _filled(closure: Iterable[tuple[str, CellType]]) -> Iterator[tuple[str, object]]:
    for name, cell in closure:
        with contextlib.suppress(ValueError):  # still empty
            yield name, cell.cell_contents
