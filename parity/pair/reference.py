"""The reference: a Hugging Face `transformers` model. The only file that knows transformers."""

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from parity.errors import ParityError
from parity.pair.program import Program
from parity.pair.promote import precision

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VERSION: str = transformers.__version__


class ConfigRejected(ParityError):
    """The reference's own class cannot be built on a config."""


@dataclass(frozen=True)
class Reference:
    """One reference architecture with one config.

    config is the parsed config.json that both sides are built from; settings are all fields with the class's defaults
    filled in, under the class's own names.
    """

    model_type: str
    class_name: str
    config: Mapping[str, Any]
    settings: Mapping[str, Any]


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's section of a multimodal config, or the config itself."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) and "model_type" in inner else config


def describe(config: Mapping[str, Any]) -> Reference:
    """Find the causal-LM class that `config` (a parsed config.json) belongs to, and read the config with it.

    Raises:
        ParityError: no or unknown `model_type`, no causal LM for it, or a value that the class rejects.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ParityError(
            "the config has no model_type", 'Add "model_type", for instance "llama", or use a config.json.'
        )
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or model_type not in CONFIG_MAPPING:
        near = get_close_matches(model_type, list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), 3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Check the spelling, or upgrade transformers."
        raise ParityError(f"transformers {VERSION} has no causal language model of model_type {model_type!r}", hint)
    class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    reference = Reference(model_type, class_name, dict(config), {})
    return Reference(model_type, class_name, dict(config), _config_object(reference).to_dict())


def build(reference: Reference, promoted: bool, watch: AbstractContextManager[object] | None = None) -> nn.Module:
    """The reference model in eval mode, its parameters as its own initialiser leaves them.

    Eager attention and eager experts: the first shows its mask, the second runs in float64. `watch` is entered while
    the class is being built.

    Raises:
        ParityError: the class rejects the config.
    """
    config = _config_object(reference)
    model_class = getattr(transformers, reference.class_name)
    try:
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
    model_class = getattr(transformers, reference.class_name)
    lowered: nn.Module = model_class.from_pretrained(directory, config=_config_object(reference), dtype=dtype)
    return lowered.eval()


def logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    """`[B, T]` int64 -> logits `[B, T, V]`, without a cache."""
    result: Tensor = model(input_ids=input_ids, use_cache=False).logits
    return result


def execute(model: nn.Module, program: Program) -> Tensor:
    """Run the reference's part of a program; logits `[B, T, V]`."""
    if not program.cached and program.real is None:
        return logits(model, program.input_ids)
    found: list[Tensor] = []
    cache = None
    for turn in program.turns:
        result = model(
            input_ids=turn.input_ids,
            attention_mask=None if turn.real is None else turn.real.long(),
            position_ids=program.positions(turn),
            use_cache=program.cached,
            **({} if cache is None else {"past_key_values": cache}),
        )
        cache = result.past_key_values if program.cached else None
        found.append(result.logits)
    return program.joined(found)


def save(model: nn.Module, directory: Path, config: Mapping[str, Any]) -> None:
    """Write weights as `save_pretrained` does, and config.json as given, so that both sides read the same fields."""
    model.save_pretrained(directory)  # type: ignore[operator]
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def input_axes(model: nn.Module) -> dict[str, int]:
    """Parameters whose input dimension is not the last one: name -> axis (GPT-2 stores `[in, out]`)."""
    return {f"{name}.weight": 0 for name, module in model.named_modules() if isinstance(module, Conv1D)}


def _config_object(reference: Reference) -> Any:
    config_class = CONFIG_MAPPING[reference.model_type]
    try:
        config = config_class.from_dict(dict(reference.config))
    except Exception as error:  # transformers raises its own validation classes beside the built-in ones
        raise ConfigRejected(
            f"{config_class.__name__} rejects the config: {error}", "Mend the value in the config."
        ) from error
    config.dtype = torch.get_default_dtype()
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return config
