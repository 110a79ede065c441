"""The reference: a Hugging Face `transformers` model. The only file that knows transformers."""

import copy
import json
import os
from collections.abc import Callable, Collection, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import torch
import transformers
import transformers.modeling_utils  # every model needs it, and its import is best paid for with the others
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from parity.errors import ParityError
from parity.pair.promote import precision
from parity.pair.stand_in import StandIn

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VERSION: str = transformers.__version__


class ConfigRejected(ParityError):
    """The reference's own class cannot be built on a config."""


@dataclass(frozen=True)
class Reference:
    """One reference architecture with one config.

    config is the parsed config.json that both sides are built from; settings are all fields with the class's defaults
    filled in, under the class's own names. stand_in: what makes the class's config of that one, if the class is of
    another model type, and what its tensors are called on disk.
    """

    model_type: str
    class_name: str
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    stand_in: StandIn | None = None

    @property
    def title(self) -> str:
        """The class, and what it stands in for."""
        return self.class_name if self.stand_in is None else f"{self.class_name} standing in for {self.model_type}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a comparison with a stand-in does not show."""
        if self.stand_in is None:
            return ()
        return (
            f"transformers {VERSION} has no class for {self.model_type}: {self.class_name} stands in for it, because "
            f"the port says that it computes the same function; code released for {self.model_type} was not run, so "
            "that nothing shows where both differ from it",
        )


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's section of a multimodal config, or the config itself."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) and "model_type" in inner else config


def implements(config: Mapping[str, Any]) -> bool:
    """Whether transformers itself has the causal-LM class that a parsed config.json belongs to.

    One that was adopted earlier in this process does not count: each checkpoint's code needs its own leave.
    """
    return text_part(config).get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def adopt(directory: Path, config: Mapping[str, Any]) -> None:
    """Take an architecture's classes from the Python code that a checkpoint brings: it is run, so it must be trusted.

    Args:
        directory: of the checkpoint.
        config: its config.json, parsed, whose auto_map names the classes.

    Raises:
        ParityError: the code has no causal language model, or fails.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    named = config.get("auto_map") or {}
    try:
        config_class, model_class = (
            get_class_from_dynamic_module(named[name], str(directory), local_files_only=True)
            for name in ("AutoConfig", "AutoModelForCausalLM")
        )
        transformers.AutoConfig.register(config["model_type"], config_class, exist_ok=True)
        transformers.AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    except Exception as error:  # somebody else's code
        raise ParityError(
            f"the Python code in {directory} gives no causal language model: {type(error).__name__}: {error}",
            "Check auto_map in its config.json for AutoConfig and AutoModelForCausalLM.",
        ) from error


def _class_name(model_type: object) -> str | None:
    """The causal-LM class for a model_type, transformers' own or one that was adopted; None if there is none."""
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return None
    name: str | None = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if name is None and CONFIG_MAPPING[model_type] in MODEL_FOR_CAUSAL_LM_MAPPING:
        name = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]].__name__
    return name


def _model_class(reference: Reference) -> Any:
    own = getattr(transformers, reference.class_name, None)
    return own or MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[_own_config(reference)["model_type"]]]


def _own_config(reference: Reference) -> Mapping[str, Any]:
    """The config that the class itself is built from."""
    return reference.config if reference.stand_in is None else reference.stand_in.config(reference.config)


def describe(config: Mapping[str, Any], stand_ins: Mapping[str, StandIn] | None = None) -> Reference:
    """Find the causal-LM class that `config` (a parsed config.json) belongs to, and read the config with it.

    Args:
        config: the parsed config.json.
        stand_ins: by model type, what to take where transformers has no class for it.

    Raises:
        ParityError: no or unknown `model_type`, no causal LM for it, or a value that the class rejects.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ParityError(
            "the config has no model_type", 'Add "model_type", for instance "llama", or use a config.json.'
        )
    class_name = _class_name(model_type)
    stand_in = None if class_name else (stand_ins or {}).get(model_type)
    if stand_in is not None:
        own = stand_in.config(config)["model_type"]
        class_name = _class_name(own)
        if class_name is None:
            raise stand_in.wrong(
                f"gives model_type {own!r}, of which transformers {VERSION} has no causal language model"
            )
    if class_name is None:
        near = get_close_matches(model_type, list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), 3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Check the spelling, or upgrade transformers."
        raise ParityError(f"transformers {VERSION} has no causal language model of model_type {model_type!r}", hint)
    reference = Reference(model_type, class_name, dict(config), {}, stand_in)
    return replace(reference, settings=_config_object(reference).to_dict())


def on(reference: Reference, config: Mapping[str, Any]) -> Reference:
    """The same reference on another config.

    Raises:
        ParityError: the class rejects it.
    """
    return describe(config, {} if reference.stand_in is None else {reference.model_type: reference.stand_in})


def build(reference: Reference, promoted: bool, watch: AbstractContextManager[object] | None = None) -> nn.Module:
    """The reference model in eval mode, its parameters as its own initialiser leaves them.

    Eager attention and eager experts: the first shows its mask, the second runs in float64. `watch` is entered while
    the class is being built.

    Raises:
        ParityError: the class rejects the config.
    """
    config = _config_object(reference)
    model_class = _model_class(reference)
    try:
        torch.manual_seed(0)  # some initialisers draw what random weights are then spread around
        with precision(promoted, watch):
            model: nn.Module = model_class(config)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise ConfigRejected(
            f"{reference.class_name} rejects the config: {error}", "Mend the value in the config."
        ) from error
    return model.double().eval() if promoted else model.float().eval()


def rebuilt(reference: Reference, module: nn.Module) -> nn.Module:
    """One module of the reference, in promoted float64, made on its own as the model makes it from a config.

    Raises:
        ParityError: the class rejects the config, or is not made from a config alone.
    """
    config = _config_object(reference)
    try:
        with precision(True):
            made: nn.Module = type(module)(config)
    except Exception as error:  # a class that does not validate its config fails anywhere
        raise ConfigRejected(
            f"{type(module).__name__} rejects the config: {error}", "Mend the value in the config."
        ) from error
    return made.double().eval()


def stored_in(reference: Reference, model: nn.Module, directory: Path, dtype: torch.dtype) -> nn.Module:
    """The model as `from_pretrained` gives it in `dtype`, its weights rounded; `directory` is for a file on the way.

    Not what `model.to(dtype)` gives: rotary tables, and what the class keeps in float32, stay as they are.
    """
    model.save_pretrained(directory)  # type: ignore[operator]
    model_class = _model_class(reference)
    lowered: nn.Module = model_class.from_pretrained(directory, config=_config_object(reference), dtype=dtype)
    return lowered.eval()


def logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    """`[B, T]` int64 -> logits `[B, T, V]`, without a cache."""
    result: Tensor = model(input_ids=input_ids, use_cache=False).logits
    return result


@dataclass(frozen=True)
class Made:
    """Parameters that the reference makes of several tensors of a checkpoint, such as fused experts.

    tensors: what they are made of, in order, each with the part that it plays in the conversion.
    """

    tensors: tuple[tuple[str, str], ...]
    first: str
    model: nn.Module
    converter: Any

    def made_of(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters by name, of tensors as they are stored."""
        converter = copy.deepcopy(self.converter)
        for name, part in self.tensors:
            converter.add_tensor(self.first, name, part, partial(stored.__getitem__, name))
        with torch._C.DisableTorchFunction():
            made = converter.convert(self.first, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@dataclass(frozen=True)
class Placement:
    """Where the reference puts the tensors of a checkpoint.

    plain: parameter or buffer -> the tensor that it holds as it is; made: those that are converted; missing: what gets
    nothing; unexpected: tensors that go nowhere, without those that the class ignores on purpose, which are spare.
    """

    plain: Mapping[str, str]
    made: tuple[Made, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    spare: frozenset[str] = frozenset()


def placement(model: nn.Module, described: Mapping[str, Tensor]) -> Placement:
    """Place a checkpoint's tensors as `from_pretrained` does: renamed, fused, split, with or without a prefix.

    Args:
        model: the reference; its parameters need no memory.
        described: the checkpoint's tensors, which need none either.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    expected = model.state_dict()
    prefix = model.base_model_prefix
    plain: dict[str, str] = {}
    groups: dict[str, list[tuple[str, str]]] = {}
    unexpected = set()
    for name in sorted(described, key=dot_natural_key):
        target, part = rename_source_key(name, renamings, converters, prefix, expected)
        if target not in expected and name in expected:
            target, part = rename_source_key(name, [], [], prefix, expected)
        if target not in expected:
            unexpected.add(name)
        elif part is None:
            plain[target] = name
        else:
            groups.setdefault(target, []).append((name, part))
    made = tuple(Made(tuple(found), target, model, by_pattern[found[0][1]]) for target, found in groups.items())
    given = {*plain, *(name for each in made for name in each.made_of(described))}
    info = SimpleNamespace(missing_keys=set(expected) - _with_tied(model, given), unexpected_keys=set(unexpected))
    model._adjust_missing_and_unexpected_keys(info)  # type: ignore[operator]
    left = frozenset(info.unexpected_keys)
    return Placement(plain, made, tuple(sorted(info.missing_keys)), tuple(sorted(left)), frozenset(unexpected) - left)


def _with_tied(model: nn.Module, names: Set[str]) -> set[str]:
    """Names of parameters, and the other names of the same parameters."""
    by_name = dict(model.named_parameters(remove_duplicate=False))
    held = {id(by_name[name]) for name in names if name in by_name}
    return {*names, *(name for name, parameter in by_name.items() if id(parameter) in held)}


def save(model: nn.Module, directory: Path, config: Mapping[str, Any], stand_in: StandIn | None = None) -> None:
    """Write weights as `save_pretrained` does, and config.json as given, so that both sides read the same fields.

    A stand-in's weights are written under the names of what it stands in for.

    Raises:
        ParityError: the stand-in does not say for each of its tensors where on disk it lies.
    """
    model.save_pretrained(directory)  # type: ignore[operator]
    if stand_in is not None:
        files = sorted(directory.glob("*.safetensors"))
        tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
        stored = stand_in.stored(tensors)
        for file in directory.glob("model*.safetensors*"):
            file.unlink()
        save_file(stored, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def input_axes(model: nn.Module) -> dict[str, int]:
    """Parameters whose input dimension is not the last one: name -> axis (GPT-2 stores `[in, out]`)."""
    return {f"{name}.weight": 0 for name, module in model.named_modules() if isinstance(module, Conv1D)}


def pretrained(
    reference: Reference, directory: Path, dtype: torch.dtype, tensors: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """The model with a checkpoint's weights, as `from_pretrained(directory, dtype=dtype)` gives it, in eval mode.

    Args:
        reference: which model, on the checkpoint's config.
        directory: the checkpoint.
        dtype: of the run.
        tensors: what to take for the directory's weights, if the model is a part of what the checkpoint holds.

    Raises:
        ParityError: the weights do not fit the class, or some of them are not there.
    """
    model_class = _model_class(reference)
    config = _config_object(reference)
    try:
        model, told = model_class.from_pretrained(
            directory if tensors is None else None,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            state_dict=None if tensors is None else dict(tensors),
        )
    except Exception as error:  # whatever reading and converting the tensors raises
        first = str(error).strip().partition("\n")[0]
        raise ParityError(
            f"{reference.class_name} cannot load {directory}: {first}", "Check config.json against the weights."
        ) from error
    missing = sorted(told["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ParityError(
            f"{directory} lacks {missing[0]!r}{more}, which {reference.class_name} needs",
            "Check config.json against the weights.",
        )
    loaded: nn.Module = model.eval()
    return loaded


def tokenizer(directory: Path, trust_remote_code: bool = False) -> Any:
    """The checkpoint's tokenizer as `AutoTokenizer` reads it, offline.

    Raises:
        ParityError: it cannot be read.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # a tokenizer fails in as many ways as there are classes of them
        first = str(error).strip().partition("\n")[0]
        raise ParityError(
            f"AutoTokenizer cannot read the tokenizer in {directory}: {type(error).__name__}: {first}",
            "Restore its files, or give ids: --tokens FILE.",
        ) from error


class _Listener(transformers.LogitsProcessor):  # type: ignore[misc]
    """Passes the logits of each step on to somebody, and changes nothing."""

    def __init__(self, step: Callable[[Tensor], object]):
        self._step = step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._step(scores)
        return scores


def generate(
    model: nn.Module,
    input_ids: Tensor,
    real: Tensor | None,
    most: int,
    ends: Collection[int],
    pad: int,
    cached: bool,
    step: Callable[[Tensor], object],
) -> Tensor:
    """`generate(do_sample=False)` with nothing of the checkpoint's own generation_config mixed in.

    Args:
        model: the reference.
        input_ids: `[B, T]` int64, padded on the left.
        real: `[B, T]`, true for real tokens; None if all are.
        most: tokens to generate.
        ends: ids at which a row stops.
        pad: what follows in a row that has stopped.
        cached: with the reference's cache, else a full forward per token.
        step: called with each step's logits, `[B, V]` float32, before the next token is taken from them.

    Returns:
        The new tokens, `[B, at most most]`.
    """
    model.generation_config = transformers.GenerationConfig()
    settings = transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=most,
        use_cache=cached,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
    )
    made: Tensor = model.generate(  # type: ignore[operator]
        input_ids,
        attention_mask=(torch.ones_like(input_ids) if real is None else real).long(),
        generation_config=settings,
        logits_processor=transformers.LogitsProcessorList([_Listener(step)]),
    )
    return made[:, input_ids.shape[1] :]


def _config_object(reference: Reference) -> Any:
    own = dict(_own_config(reference))
    config_class = CONFIG_MAPPING[own["model_type"]]
    try:
        config = config_class.from_dict(own)
    except Exception as error:  # transformers raises its own validation classes beside the built-in ones
        raise ConfigRejected(
            f"{config_class.__name__} rejects the config: {error}", "Mend the value in the config."
        ) from error
    config.dtype = torch.get_default_dtype()
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return config
