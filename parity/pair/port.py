"""The port: finding it, holding it to the contract, building it and loading its weights."""

import contextlib
import importlib
import importlib.util
import linecache
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from parity.errors import ParityError
from parity.names import pattern, shown
from parity.packages import BUILT_IN, ENTRY_POINTS
from parity.pair.promote import precision
from parity.pair.stand_in import StandIn, declared
from parity.pair.weights import MissingTensor, Tensors

PORT_FAILS = (Exception, SystemExit)  # whatever a port raises, or ends with, is told as its fault


@dataclass(frozen=True)
class Port:
    """A port that fulfils the contract, not yet built."""

    name: str
    model_types: tuple[str, ...]
    declares_model_types: bool
    make_config: Callable[[Mapping[str, Any]], Any]
    make_model: Callable[[Any], nn.Module]
    weights: Mapping[str, str | None] | None
    load_weights: Callable[[nn.Module, Mapping[str, Tensor]], object] | None
    modules: Mapping[str, str] = field(default_factory=dict)
    encode: Callable[..., Any] | None = None
    stand_ins: Mapping[str, StandIn] = field(default_factory=dict)
    spoil: Callable[[nn.Module], object] | None = None


@dataclass(frozen=True)
class Spoiled:
    """A port with a fault put into it on purpose: `spoil` is called with every model of it that has been loaded."""

    port: object
    spoil: Callable[[nn.Module], object]


def built_in_names() -> list[str]:
    """Names of the ports that come with Parity, and of those that installed packages add."""
    own = [module.name for module in pkgutil.iter_modules(importlib.import_module(BUILT_IN).__path__)]
    return sorted({*own, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def resolve(target: object, promoted: bool = False) -> Port:
    """Find a port: a built-in name, a file (`port.py`, `port.py:Namespace`), a dotted module, or a Python object.

    Args:
        target: what to find.
        promoted: import a file anew in promoted float64, for the constants that it makes when imported.

    Raises:
        ParityError: nothing there, it does not import, or it lacks a name of the contract.
    """
    if isinstance(target, Spoiled):
        return replace(resolve(target.port, promoted), spoil=target.spoil)
    if not isinstance(target, str | Path):
        return _contract(getattr(target, "__name__", type(target).__name__), target, default_type="")
    text = str(target)
    path, _, namespace = text.partition(":") if ".py:" in text else (text, "", "")
    if _is_path(path):
        module: object = _import_file(Path(path), promoted)
    else:
        module = _import_name(path)
    for part in filter(None, namespace.split(".")):
        if not hasattr(module, part):
            raise ParityError(f"{path} has no {part!r}", "Name a class or namespace of the file after the colon.")
        module = getattr(module, part)
    stem = Path(path).stem if path.endswith(".py") else path.rpartition(".")[2]
    return _contract(text, module, default_type=stem)


def module_of(target: object) -> str | None:
    """The dotted module that a target is imported as; None for a file or an object."""
    text = str(target)
    if not isinstance(target, str | Path) or ".py:" in text or _is_path(text):
        return None
    added = next((entry.module for entry in entry_points(group=ENTRY_POINTS) if entry.name == text), None)
    return added or (f"{BUILT_IN}.{text}" if text in built_in_names() else text)


def _is_path(text: str) -> bool:
    return text.endswith(".py") or "/" in text or "\\" in text


def _import_file(path: Path, promoted: bool) -> ModuleType:
    if not path.is_file():
        raise ParityError(f"there is no file {path}", "Check the path.")
    name = f"_parity_port_{'promoted_' * promoted}{re.sub(r'[^0-9a-zA-Z_]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ParityError(f"{path} is not a Python file", "Give a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    linecache.checkcache()  # the file may have changed since an earlier check, and findings quote it
    with _importing(str(path)), _first_on_path(folder), quiet(), precision(promoted):
        spec.loader.exec_module(module)
    return module


def _import_name(name: str) -> object:
    known = built_in_names()
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            with _importing(name), quiet():
                loaded: object = entry.load()
            return loaded
    full = f"{BUILT_IN}.{name}" if name in known else name
    with _first_on_path(str(Path.cwd())):
        if not re.fullmatch(r"[\w.]+", full) or _find(full.partition(".")[0]) is None or _find(full) is None:
            near = get_close_matches(name, known, 3)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Built in: {', '.join(known)}; or give a file."
            raise ParityError(f"there is no port {name!r}", hint)
        with _importing(name), quiet():
            return importlib.import_module(full)


def _find(name: str) -> object:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


@contextlib.contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


@contextlib.contextmanager
def _importing(what: str) -> Iterator[None]:
    """Import a port; functions stay Python, because promotion cannot see into TorchScript."""
    try:
        with mock.patch.object(torch.jit, "script", lambda code, *_, **__: code):
            yield
    except PORT_FAILS as error:
        raise ParityError(f"{what} does not import: {said(error)}", "Mend that line first.") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What a port prints goes to stderr: stdout belongs to the report."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def said(error: BaseException) -> str:
    """An exception of the port's in one line, with the innermost line of code outside installed libraries."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _foreign(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({shown(error.filename)}, line {error.lineno})"
        return f"{type(error).__name__}: {error.msg}{where}"
    where = f" ({shown(frames[-1].filename)}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _foreign(filename: str) -> bool:
    library = Path(torch.__file__).parent
    return filename.startswith("<frozen") or Path(filename).is_relative_to(library) or _is_own(filename)


def _is_own(filename: str) -> bool:
    return Path(filename).is_relative_to(Path(__file__).parent.parent)


def _contract(name: str, module: object, default_type: str) -> Port:
    """Check the names of the contract and read the optional ones."""
    config_class, model_class = getattr(module, "Config", None), getattr(module, "Model", None)
    weights, load_weights = getattr(module, "WEIGHTS", None), getattr(module, "load_weights", None)
    if not callable(getattr(config_class, "from_hf", None)):
        raise ParityError(
            f"{name} has no Config.from_hf", "Add it: it takes the parsed config.json, docs/writing-a-port.md."
        )
    if not callable(model_class):
        raise ParityError(f"{name} has no Model", "Add it: Model(config) is an nn.Module, docs/writing-a-port.md.")
    if not isinstance(weights, Mapping) and not callable(load_weights):
        raise ParityError(
            f"{name} has neither WEIGHTS nor load_weights",
            "Add one of them: it says where checkpoint tensors go, docs/writing-a-port.md.",
        )
    types = getattr(module, "MODEL_TYPES", None)
    encode = getattr(module, "encode", None) or getattr(module, "tokenize", None)
    types = (types,) if isinstance(types, str) else types
    assert config_class is not None
    assert model_class is not None
    return Port(
        name=name,
        model_types=tuple(types or (default_type,)),
        declares_model_types=bool(types),
        make_config=config_class.from_hf,
        make_model=model_class,
        weights=weights if isinstance(weights, Mapping) and not callable(load_weights) else None,
        load_weights=load_weights if callable(load_weights) else None,
        modules=dict(getattr(module, "MODULES", None) or {}),
        encode=encode if callable(encode) else None,
        stand_ins=declared(name, getattr(module, "STAND_INS", None)),
    )


class ConfigRefused(ParityError):
    """`Config.from_hf` raised ValueError: the port does not implement a setting."""


class DoesNotFit(ParityError):
    """The port could not be built, loaded or run on this config."""


@dataclass(frozen=True)
class LoadedPort:
    """A port's model in eval mode with the checkpoint in it.

    initial holds its parameters before loading, read what the loader asked for, dropped what WEIGHTS drops on purpose.
    """

    model: nn.Module
    initial: Mapping[str, Tensor]
    read: frozenset[str]
    dropped: frozenset[str]


def made(port: Port, config: Mapping[str, Any]) -> nn.Module:
    """The port's model on `config`, as its constructor leaves it.

    Raises:
        ParityError: `Config.from_hf` or `Model` raised.
    """
    try:
        own_config = port.make_config(dict(config))
    except ValueError as error:
        raise ConfigRefused(
            f"{port.name}: Config.from_hf refuses the config: {said(error)}",
            "Implement the setting, or give another config.",
        ) from error
    except PORT_FAILS as error:
        raise ParityError(
            f"{port.name}: Config.from_hf raised {said(error)}", "Mend it; it gets the parsed config.json."
        ) from error
    try:
        model = port.make_model(own_config)
    except PORT_FAILS as error:
        raise DoesNotFit(
            f"{port.name}: Model(config) raised {said(error)}", "Mend it; it gets what Config.from_hf returns."
        ) from error
    if not isinstance(model, nn.Module):
        raise ParityError(f"{port.name}: Model(config) is a {type(model).__name__}", "It must be a torch.nn.Module.")
    return model


def build(
    port: Port,
    config: Mapping[str, Any],
    tensors: Tensors,
    promoted: bool,
    seed: int,
    watch: contextlib.AbstractContextManager[object] | None = None,
    spare: Container[str] = (),
) -> LoadedPort:
    """Build the port's model on `config` and load `tensors` into it; `watch` is entered meanwhile.

    `spare` are tensors that the reference has no use for.

    Raises:
        ParityError: `Config.from_hf`, `Model` or the loader raised, or the loader asked for a missing tensor.
    """
    torch.manual_seed(seed)
    with precision(promoted, watch), quiet():
        model = made(port, config)
        initial = {name: tensor.detach().clone() for name, tensor in model.named_parameters() if not tensor.is_meta}
        with torch.no_grad():
            dropped = load(port, model, tensors, spare)
            if port.spoil is not None:
                port.spoil(model)
    model.eval()
    model = model.double() if promoted else model.float()
    return LoadedPort(model, initial, frozenset(tensors.read), dropped)


def load(port: Port, model: nn.Module, tensors: Mapping[str, Tensor], spare: Container[str] = ()) -> frozenset[str]:
    """Fill the model; returns the tensors that WEIGHTS drops on purpose, and those of `spare` that have no place.

    Raises:
        ParityError: the loader raised, asked for a missing tensor, or puts one where it does not fit.
    """
    try:
        if port.load_weights is not None:
            port.load_weights(model, tensors)
            return frozenset()
        return _load_by_templates(port, model, tensors, spare)
    except MissingTensor as error:
        name = str(error.args[0])
        near = get_close_matches(name, list(tensors), 1)
        hint = f"The nearest there is: {near[0]}." if near else "Check the name against the checkpoint."
        raise DoesNotFit(
            f"{port.name}: the loader asks for tensor {name!r}, which the checkpoint lacks", hint
        ) from error
    except ParityError:
        raise
    except PORT_FAILS as error:
        raise DoesNotFit(
            f"{port.name}: the loader raised {said(error)}", "Mend it; it gets a mapping of name to tensor."
        ) from error


def _load_by_templates(
    port: Port, model: nn.Module, tensors: Mapping[str, Tensor], spare: Container[str]
) -> frozenset[str]:
    places = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    dropped = set()
    for name, target in placed(port, tensors):
        if target is None or (target not in places and name in spare):
            dropped.add(name)
        else:
            _copy(port, name, tensors[name], target, places)
    return frozenset(dropped)


def placed(port: Port, names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Where WEIGHTS puts tensors: each that it speaks of with its place, None for those dropped on purpose."""
    patterns = [(pattern(template), target) for template, target in (port.weights or {}).items()]
    for name in names:
        match, target = next(
            ((match, target) for pattern, target in patterns if (match := pattern.fullmatch(name))), (None, None)
        )
        if match is not None:
            yield name, None if target is None else target.format(*match.groups())


def _copy(port: Port, name: str, tensor: Tensor, place: str, places: Mapping[str, Tensor]) -> None:
    fitting(port, name, tensor.shape, place, places).copy_(tensor)


def fitting(port: Port, name: str, shape: torch.Size, place: str, places: Mapping[str, Tensor]) -> Tensor:
    """The parameter or buffer that WEIGHTS sends a tensor of a certain shape to.

    Raises:
        DoesNotFit: there is none of that name, or it has another shape.
    """
    if place not in places:
        near = get_close_matches(place, list(places), 1)
        raise DoesNotFit(
            f"{port.name}: WEIGHTS sends {name!r} to {place!r}, which the model has not",
            f"The nearest there is: {near[0]}." if near else "Check the name against the model's parameters.",
        )
    if places[place].shape != shape:
        raise DoesNotFit(
            f"{port.name}: {name!r} has shape {list(shape)}, its place {place!r} {list(places[place].shape)}",
            "Use load_weights to reshape it, or check the widths that Config.from_hf reads.",
        )
    return places[place]
