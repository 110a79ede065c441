"""The pair: one port and one reference on one config, one checkpoint and one probe."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parity.errors import ParityError
from parity.packages import FIXTURES
from parity.pair import port as ports
from parity.pair import probe, running
from parity.pair import reference as references
from parity.pair.kept import Kept
from parity.pair.port import ConfigRefused, DoesNotFit, LoadedPort, Port
from parity.pair.program import Program, full
from parity.pair.promote import precision
from parity.pair.reference import ConfigRejected, Reference
from parity.pair.small_config import SmallConfig, probe_length, shrink, with_experts
from parity.pair.weights import Tensors, randomise

Watch = AbstractContextManager[object] | None


@dataclass(frozen=True)
class Pair:
    """What is compared.

    program: the calls that both are run with. dtype is that of the checkpoint and of the plain runs. reference_model is
    in it already, port_model in float32 until it is known what its parameters hold. `promoted_reference` and
    `promoted_port_model` build their float64 twins, the port's from promoted_port. kept: what was found out of the
    reference on this checkpoint and program.
    """

    port: Port
    promoted_port: Port
    reference: Reference
    checkpoint: Path
    program: Program
    seed: int
    notes: tuple[str, ...]
    reference_model: nn.Module
    port_model: LoadedPort
    dtype: torch.dtype = torch.float32
    kept: Kept = field(default_factory=Kept)

    @property
    def input_ids(self) -> Tensor:
        """All tokens of the program, `[B, T]`."""
        return self.program.input_ids


@dataclass(frozen=True)
class _Ground:
    """The reference's half of a pair: its model with random weights, these as a checkpoint, and the probe."""

    reference: Reference
    model: nn.Module
    checkpoint: Path
    program: Program
    notes: tuple[str, ...]
    dtype: torch.dtype
    kept: Kept


def make(
    target: object,
    config: Path | None,
    reference: str | None,
    small: bool,
    seed: int,
    directory: Path,
    dtype: torch.dtype = torch.float32,
    deep: bool = False,
    kept: Kept | None = None,
) -> Pair:
    """Find both sides, write the reference's random weights to `directory` and load them into the port.

    Args:
        target: the port, as on the command line or a Python object.
        config: a config.json; else that of `reference`, else the built-in one of the port's first model type.
        reference: a directory or Hub id whose config.json is used.
        small: shrink the config first.
        seed: of weights and probe.
        directory: an empty directory for config.json and model.safetensors.
        dtype: of the weights in the checkpoint.
        deep: shrink widths alone, and keep all layers.
        kept: what a session found out of the reference; all other arguments but the port must be the same in it.

    Raises:
        ParityError: any bad input on the way.
    """
    kept = kept or Kept()
    port = ports.resolve(target)
    told = _found(port, config, reference, kept)
    described, notes = told[0], list(told[1])
    check_model_type(port, described.model_type)
    both = port, ports.resolve(target, promoted=True)

    def on(shrunk: SmallConfig) -> Pair:
        name = ("ground", json.dumps(shrunk.config, sort_keys=True, default=str))
        there = references.on(described, shrunk.config)
        given = None if there.stand_in is None else there.stand_in.told(shrunk.config)
        ground = kept.once(name, lambda: _ground(there, shrunk.tokens, seed, directory, dtype, kept), given)
        return _on(both, ground, seed, notes)

    if not small:
        return on(SmallConfig(described.config, probe_length(described.settings)))

    strict, faithful = shrunk(described, True, deep), shrunk(described, False, deep)
    try:
        return on(strict)
    except (ConfigRefused, DoesNotFit, ConfigRejected) as error:
        if faithful.config == strict.config:
            raise
        differing = [name for name in strict.config if strict.config[name] != faithful.config.get(name)]
        notes.append(f"{', '.join(differing)} kept as related in the real config; not covered: {_reason(error)}")
    return on(faithful)


def shrunk(reference: Reference, adversarial: bool = True, deep: bool = False) -> SmallConfig:
    """The small config of a reference; see `shrink`.

    What a stand-in's function reads and the config leaves out is given where it does not follow from the rest, as the
    number of groups may from that of experts.
    """
    small = shrink(reference.config, reference.settings, adversarial, deep)
    stand_in, given = reference.stand_in, reference.config
    if stand_in is None:
        return small
    bare = {name: value for name, value in small.config.items() if name in given}
    own = stand_in.config(given)
    read = [name for name in reference.settings if name not in given and stand_in.reads(given, name)]
    wanted = {name: small.config.get(name, own.get(name)) for name in read}
    for config in (bare, with_experts(bare, 2), with_experts(bare, 4)):
        made = stand_in.config(config)
        if all(made.get(name) == value for name, value in wanted.items()):
            return replace(small, config=config)
    return replace(small, config=bare | wanted)


def _found(port: Port, config: Path | None, reference: str | None, kept: Kept) -> tuple[Reference, list[str]]:
    """The reference, found once unless the port itself says which it is."""
    if port.stand_ins:
        return _find_reference(port, config, reference)
    return kept.once(("reference", port.model_types[0]), lambda: _find_reference(port, config, reference))


def find_reference(port: Port, config: Path | None, reference: str | None) -> tuple[Reference, list[str]]:
    """The reference on the config that a check of `port` uses before shrinking it, and what of it is not covered.

    Args:
        port: the port, resolved.
        config: a config.json; else that of `reference`, else the built-in one of the port's first model type.
        reference: a directory or Hub id whose config.json is used.

    Raises:
        ParityError: no such config, not one that the reference accepts, or not of a model type of the port's.
    """
    described, notes = _find_reference(port, config, reference)
    check_model_type(port, described.model_type)
    return described, notes


def refuse_part(reference: Reference, config: Mapping[str, Any]) -> None:
    """Refuse a stand-in for the language model in a checkpoint of more, whose names nothing is said of.

    Raises:
        ParityError: it is such a one.
    """
    if reference.stand_in is not None and references.text_part(config) is not config:
        raise ParityError(
            f"{reference.title}, a part of the checkpoint: STAND_INS names tensors of whole checkpoints only",
            "Give a checkpoint of the language model alone.",
        )


def _find_reference(port: Port, config: Path | None, reference: str | None) -> tuple[Reference, list[str]]:
    source, raw = _read_config(port, config, reference)
    language_model = references.text_part(raw)
    notes = [] if language_model is raw else [f"text part of {source} compared, the rest is not covered"]
    described = references.describe(language_model, port.stand_ins)
    return described, [*notes, *described.notes]


def promoted_reference(pair: Pair, watch: Watch = None) -> nn.Module:
    """The reference built in promoted float64, with the pair's weights; with somebody who watches, if wanted."""
    model = references.build(pair.reference, True, watch)
    model.load_state_dict(pair.reference_model.state_dict())
    return model


def promoted_port_model(pair: Pair, watch: Watch = None, asked: Callable[[str], None] | None = None) -> LoadedPort:
    """The port built in promoted float64 and loaded; with somebody who watches, if wanted.

    `asked` is told of every tensor that the port's loader asks for.
    """
    tensors = Tensors(pair.checkpoint, True, asked=asked)
    return ports.build(pair.promoted_port, pair.reference.config, tensors, True, pair.seed, watch)


def stored_in(pair: Pair, dtype: torch.dtype) -> Pair:
    """The pair with its weights in another dtype, as `from_pretrained` gives them; the port in float32 as yet.

    Args:
        pair: in whatever dtype.
        dtype: the other one; if it is the pair's own, only the port is loaded anew.

    Raises:
        ParityError: no room for them.
    """
    model, checkpoint = pair.reference_model, pair.checkpoint
    if dtype != pair.dtype:
        model, checkpoint = pair.kept.once(("stored", dtype), lambda: _stored_in(pair, dtype))
    tensors = Tensors(checkpoint, False)
    loaded = ports.build(pair.port, pair.reference.config, tensors, False, pair.seed)
    return replace(pair, checkpoint=checkpoint, reference_model=model, port_model=loaded, dtype=dtype)


def _stored_in(pair: Pair, dtype: torch.dtype) -> tuple[nn.Module, Path]:
    """The reference with its weights in another dtype, and the directory of these."""
    try:
        directory = Path(tempfile.mkdtemp(dir=pair.checkpoint))
        model = references.stored_in(pair.reference, pair.reference_model, directory / "before", dtype)
        references.save(model, directory, pair.reference.config, pair.reference.stand_in)
    except OSError as error:
        raise ParityError(f"cannot write the weights: {error}", "Free some space, or set TMPDIR.") from error
    return model, directory


def perturbed(pair: Pair, tensor: str) -> LoadedPort:
    """The port in promoted float64, loaded from a checkpoint in which one tensor has other values."""
    tensors = Tensors(pair.checkpoint, True, frozenset({tensor}))
    return ports.build(pair.promoted_port, pair.reference.config, tensors, True, pair.seed)


def _ground(reference: Reference, length: int, seed: int, directory: Path, dtype: torch.dtype, kept: Kept) -> _Ground:
    """The reference's half, on exactly this config."""
    model = references.build(reference, promoted=False)
    randomise(model, seed, references.input_axes(model))
    try:
        directory = Path(tempfile.mkdtemp(dir=directory))
        if dtype != torch.float32:
            model = references.stored_in(reference, model, directory / "float32", dtype)
        references.save(model, directory, reference.config, reference.stand_in)
    except OSError as error:
        raise ParityError(
            f"cannot write the reference's weights: {error}", "Free some space, or set TMPDIR."
        ) from error
    made = probe.make(reference.settings, length, seed)
    return _Ground(reference, model, directory, full(made.input_ids), made.notes, dtype, Kept(kept.keeps))


def _on(both: tuple[Port, Port], ground: _Ground, seed: int, notes: list[str]) -> Pair:
    """The pair, given the port and its twin imported for float64."""
    port, promoted_port = both
    loaded = ports.build(port, ground.reference.config, Tensors(ground.checkpoint, False), False, seed)
    with torch.no_grad(), precision(False):
        running.call(port, loaded.model, ground.program.input_ids)
    return Pair(
        port=port,
        promoted_port=promoted_port,
        reference=ground.reference,
        checkpoint=ground.checkpoint,
        program=ground.program,
        seed=seed,
        notes=(*notes, *ground.notes),
        reference_model=ground.model,
        port_model=loaded,
        dtype=ground.dtype,
        kept=ground.kept,
    )


def _reason(error: ParityError) -> str:
    return re.sub(r"\s*\([^()]*, line \d+: .*\)$", "", error.problem)


def config_of(source: str) -> Mapping[str, Any]:
    """The parsed config.json that a path, a directory or a Hub id stands for.

    Raises:
        ParityError: there is none, or it is not a JSON object.
    """
    path = Path(source)
    return _parse(path if path.is_file() or path.suffix == ".json" else _reference_config(source))


def config_of_port(port: Port) -> tuple[str, Mapping[str, Any]]:
    """The built-in config of a port's first model type: its file's name, and parsed.

    Raises:
        ParityError: none comes with Parity.
    """
    return _read_config(port, None, None)


def default_config(model_type: str) -> Mapping[str, Any] | None:
    """The config that comes with Parity for a model type, parsed; None if there is none."""
    defaults = json.loads((resources.files(FIXTURES) / "defaults.json").read_text(encoding="utf-8"))
    name = defaults.get(model_type)
    return None if name is None else json.loads(shipped(name).read_text(encoding="utf-8"))


def shipped(name: str) -> Path:
    """Where a config that comes with Parity lies."""
    return Path(str(resources.files(FIXTURES) / "configs" / name))


def _read_config(port: Port, config: Path | None, reference: str | None) -> tuple[str, Mapping[str, Any]]:
    if config is not None:
        return str(config), _parse(config)
    if reference is not None:
        return reference, _parse(_reference_config(reference))
    folder = resources.files(FIXTURES)
    defaults = json.loads((folder / "defaults.json").read_text(encoding="utf-8"))
    model_type = port.model_types[0]
    if model_type not in defaults:
        known = "gives no MODEL_TYPES" if not port.declares_model_types else f"is of model type {model_type!r}"
        raise ParityError(
            f"{port.name} {known}, and no config for it comes with Parity",
            "Give one: --config FILE, or --reference DIR_OR_HUB_ID.",
        )
    name = defaults[model_type]
    return name, json.loads((folder / "configs" / name).read_text(encoding="utf-8"))


def _parse(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ParityError(f"there is no config {path}", "Give the path of a config.json.")
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ParityError(f"{path} is not JSON: {error}", "Give a config.json as it is on the Hub.") from error
    if not isinstance(parsed, dict):
        raise ParityError(
            f"{path} holds a {type(parsed).__name__}, not an object", "Give a config.json as it is on the Hub."
        )
    return parsed


def _reference_config(reference: str) -> Path:
    directory = Path(reference)
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise ParityError(f"{directory} has no config.json", "Give a directory in the layout of the Hub.")
        return directory / "config.json"
    if directory.is_absolute() or reference.startswith("."):
        raise ParityError(f"there is no directory {reference}", "Give a directory with a config.json, or a Hub id.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(reference, "config.json"))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ParityError(
            f"{reference} is no directory, and its config.json cannot be had from the Hub: {first}",
            "Check the id, your access and the network, or give a local directory.",
        ) from error


def check_model_type(port: Port, model_type: str) -> None:
    """Hold a config's model type against those that a port says it implements.

    Raises:
        ParityError: it is none of them.
    """
    if port.declares_model_types and model_type not in port.model_types:
        raise ParityError(
            f"{port.name} implements {', '.join(port.model_types)}, the config is of model_type {model_type!r}",
            "Give the config of an architecture that the port implements, or add it to MODEL_TYPES.",
        )
