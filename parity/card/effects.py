"""Which fields of a config act: what audits of the references found out, kept beside the configs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from parity.card.meaning import phrase
from parity.card_records import Effect, FieldFact
from parity.errors import ParityError
from parity.explain.config_mutations import fields, silent, written
from parity.names import fold, template
from parity.packages import FIXTURES
from parity.pair import reference as references
from parity.pair.reference import Reference

_FILE = "effects.json"
_LONGEST = 44  # letters of a value

# What says which tensors there are, and how large: no audit has to try another value to know that it acts.
_SHAPING = re.compile(
    r"(hidden|shared)_layers$|^(mlp_)?layer_types$|layers_block_type$|^per_layer_config|_size_per_layer_input$|^enable_moe"
)
_CODE = "auto_map"  # names Python code of the checkpoint


@cache
def _audits() -> Sequence[Mapping[str, Any]]:
    text = (resources.files(FIXTURES) / _FILE).read_text(encoding="utf-8")
    return [{**found, "name": name} for name, found in json.loads(text)["configs"].items()]


@dataclass(frozen=True)
class _Audited:
    """Fields that act and fields that have no effect."""

    acts: frozenset[str]
    idle: frozenset[str]


def told(settings: Mapping[str, Any], reference: Reference | None) -> Iterator[FieldFact]:
    """Every field with its value, what it is and whether it acts; those that say nothing of the function last.

    Args:
        settings: all fields with their defaults, or a bare config.
        reference: whose fields they are; None if nobody knows the architecture, and then nobody knows what acts.
    """
    audited = None if reference is None else _audited(reference)
    renamed = {} if reference is None or audited is None else _renamed(reference, audited)
    kinds: dict[tuple[str, str, Effect], list[str]] = {}
    for name, value in fields(settings).items():
        kinds.setdefault((template(name), _short(value), _effect(name, value, audited)), []).append(name)
    found = [
        FieldFact(fold(names)[0], value, "acts" if kind in renamed else effect, _phrase(kind, renamed.get(kind)))
        for (kind, value, effect), names in kinds.items()
    ]
    given = {} if reference is None else reference.config
    found += [
        FieldFact(name, _short(given[name]), "acts", _phrase(name, others))
        for name, others in renamed.items()
        if name not in settings
    ]
    yield from sorted(found, key=lambda each: each.effect == "silent")


def _phrase(name: str, others: Sequence[str] | None) -> str:
    return "; ".join(filter(None, [phrase(name), f"read as {', '.join(others)}" if others else ""]))


def _renamed(reference: Reference, audited: _Audited) -> dict[str, list[str]]:
    """Fields of config.json that act through others, which the class makes of them: with these."""
    acting = {name.partition(".")[0] for name in audited.acts} | {
        name for name, value in reference.settings.items() if _effect(name, value, audited) == "acts"
    }
    found = {}
    for name, value in reference.config.items():
        if silent(name) or name in acting:
            continue
        without = {each: other for each, other in reference.config.items() if each != name}
        for changed in (without, {**without, name: _other(value)}):
            others = [each for each in _moved(reference, changed) if each != name and each in acting]
            if others:
                found[name] = others
                break
    return found


def _moved(reference: Reference, config: Mapping[str, Any]) -> list[str]:
    """Fields that the class reads otherwise from a changed config; none if it does not take that."""
    try:
        settings = references.describe(config).settings
    except ParityError:
        return []
    return [name for name, value in settings.items() if value != reference.settings.get(name)]


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value


def _audited(reference: Reference) -> _Audited | None:
    """The audit of this very config, else what all audits of its class say: what acts in one of them may act here."""
    own = [each for each in _audits() if each["class"] == reference.class_name]
    here = _function(reference.settings)
    same = [each for each in own if _function(_settings(each["name"])) == here]
    chosen = same[:1] or own
    if not chosen:
        return None
    acts = frozenset(name for each in chosen for name in each["effect"])
    return _Audited(acts, frozenset(name for each in chosen for name in each["no_effect"]) - acts)


@cache
def _settings(name: str) -> Mapping[str, Any]:
    text = (resources.files(FIXTURES) / "configs" / f"{name}.json").read_text(encoding="utf-8")
    return references.describe(references.text_part(json.loads(text))).settings


def _function(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: written(value) for name, value in fields(settings).items() if not silent(name)}


def _effect(name: str, value: Any, audited: _Audited | None) -> Effect:
    if silent(name) or name.startswith(_CODE):
        return "silent"
    if audited is not None and _in(name, audited.acts):
        return "acts"
    if audited is not None and _in(name, audited.idle):
        return "no_effect"
    if value is None or value == []:
        return "off"
    return "acts" if audited is not None and _SHAPING.search(template(name)) else "unknown"


def _in(name: str, names: frozenset[str]) -> bool:
    """Whether a field is among these, or in a table that is; tables of rope parameters have a name for each layer."""
    return any(name == each or name.startswith(f"{each}.") for each in names)


def _short(value: Any) -> str:
    """A value as in a config.json; a long list by its runs."""
    if isinstance(value, list | tuple) and len(value) > 4:
        counts = {str(each): sum(str(other) == str(each) for other in value) for each in value}
        if len(counts) < 4:
            return ", ".join(f"{count} x {each}" for each, count in counts.items())
    text = written(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
