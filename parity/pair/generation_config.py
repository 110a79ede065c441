"""When generation stops, and what a checkpoint's generation_config.json asks for that a comparison leaves aside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parity.errors import ParityError
from parity.pair.checkpoint import Checkpoint

_FILE = "generation_config.json"
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_OTHER_CHOICES = {  # settings that make `generate` take another token than the one with the highest logit, and neutral
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, {}),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
}


@dataclass(frozen=True)
class Stops:
    """ends: ids at which a row stops; pad: what follows in a batch; notes: what of the file was left aside."""

    ends: frozenset[int]
    pad: int
    notes: tuple[str, ...]


def stops(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Stops:
    """Read them from generation_config.json, and what it does not say from the language model's config.

    Raises:
        ParityError: the file is not a JSON object, or the ids are no ids.
    """
    settings = _settings(checkpoint)
    ends = _ids("eos_token_id", settings, config, checkpoint.config)
    pads = _ids("pad_token_id", settings, config, checkpoint.config) or ends[:1] or (0,)
    return Stops(frozenset(ends), pads[0], tuple(_left_aside(settings)))


def _settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    path = checkpoint.directory / _FILE
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParityError(f"{path} is not JSON: {error}", "Restore it as it is on the Hub.") from error
    if not isinstance(settings, dict):
        raise ParityError(f"{path} holds a {type(settings).__name__}, not an object", "Restore it as it is on the Hub.")
    return settings


def _ids(name: str, *places: Mapping[str, Any]) -> tuple[int, ...]:
    """One id or several, of the first place that gives any."""
    for place in places:
        value = place.get(name)
        found = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(each) is int for each in found):
            raise ParityError(f"{name} is {value!r}", "It must be an id, or a list of ids.")
        if found:
            return tuple(each for each in found if each >= 0)  # some say -1 for none
    return ()


def _left_aside(settings: Mapping[str, Any]) -> list[str]:
    notes = []
    if settings.get("do_sample"):
        how = ", ".join(f"{name} {settings[name]}" for name in _SAMPLING if settings.get(name) is not None)
        asks = f"{_FILE} asks for sampling" + (f" ({how})" if how else "")
        notes.append(f"{asks}; the reference is run greedily all the same")
    for name, neutral in _OTHER_CHOICES.items():
        if settings.get(name) not in neutral:
            notes.append(f"{_FILE} sets {name} {settings[name]}, which is left out: the highest logit is taken")
    return notes
