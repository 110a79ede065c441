"""What a function of the reference's calls: the names in its code that stand for functions, classes and modules."""

import ast
import contextlib
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType, ModuleType

from torch import nn

UNKNOWN = object()  # a value that only shows when the code runs


_COMPARE: Mapping[type[ast.cmpop], Callable[[object, object], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


@dataclass(frozen=True)
class Call:
    """A function to read: what `self` is in it, the class that defines it, and how deep in the library it is."""

    function: FunctionType
    instance: nn.Module
    owner: type | None
    depth: int


@dataclass(frozen=True)
class Reference:
    """An expression in a function and the object that it stands for.

    owner is the class that an attribute of `self` was found in; indirect, that the expression hides what it stands for.
    """

    expression: str
    value: object
    owner: type | None = None
    indirect: bool = False


class References(ast.NodeVisitor):
    """The functions and modules that a function mentions, in the order of its text."""

    def __init__(self, call: Call, module: nn.Module):
        self.call = call
        self.module = module
        self.found: list[Reference] = []
        self.local: set[str] = set()
        closure = zip(call.function.__code__.co_freevars, call.function.__closure__ or (), strict=True)
        self.globals = {**call.function.__globals__, **dict(_filled(closure))}

    def read(self, definition: ast.FunctionDef) -> list[Reference]:
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
        if chosen is not UNKNOWN:
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
        several = self._value(node.slice.value) if isinstance(node.slice, ast.Subscript) else UNKNOWN
        keys = list(several.values()) if isinstance(several, Mapping) else [self._value(node.slice)]
        for key in keys:
            if key is not UNKNOWN:
                self._add(node, _entry(registry, key), indirect=True)
            elif any(callable(value) for value in registry.values()):
                self._add(node, UNKNOWN)
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
        if owner is not None and not (node.attr == "__init__" and family(owner.__module__) != self._own_family()):
            function = plain(vars(owner)[node.attr])
            self._add(node, function, definer(owner, node.attr, function))

    def _own_family(self) -> str:
        return family(type(self.module).__module__)

    def _add(self, node: ast.expr, value: object, owner: type | None = None, indirect: bool = False) -> None:
        if value is not None:
            self.found.append(Reference(ast.unparse(node), value, owner, indirect))

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
            return _entry(base, key) if isinstance(base, Mapping) and key is not UNKNOWN else UNKNOWN
        return self._returned(node) if isinstance(node, ast.Call) else UNKNOWN

    def _returned(self, node: ast.Call) -> object:
        """Of the two calls that only look something up."""
        function: object = UNKNOWN
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
            return self.globals.get(name, UNKNOWN)
        if name == "self":
            return self.call.instance
        if name == "module":  # how attention functions, which are no methods, call the module that they work for
            return self.module
        return getattr(self.call.instance, "config", UNKNOWN) if name == "config" else UNKNOWN


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


def definer(kind: type, name: str, function: object) -> type:
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
            return value, definer(type(instance), name, plain(value))
    return None, None


def _is_setting(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def package_of(module: str) -> str:
    """The package that a module belongs to."""
    return module.partition(".")[0]


def family(module: str) -> str:
    """What the modules of one model share, `transformers.models` say."""
    return ".".join(module.split(".")[:2])


def _entry(registry: Mapping[object, object], key: object) -> object:
    value = _guarded(registry.__getitem__, key)
    return None if value is UNKNOWN else value


def _guarded(function: object, *arguments: object) -> object:
    """Call something of the library's, if all of it is known; it may well refuse."""
    if not callable(function) or any(argument is UNKNOWN for argument in arguments):
        return UNKNOWN
    try:
        return function(*arguments)
    except Exception:
        return UNKNOWN


def _filled(closure: Iterable[tuple[str, CellType]]) -> Iterator[tuple[str, object]]:
    for name, cell in closure:
        with contextlib.suppress(ValueError):  # still empty
            yield name, cell.cell_contents
