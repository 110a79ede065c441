"""What a card is asked of: a config, a checkpoint's directory, a Hub id, a port, or a config that comes with Parity."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from parity.errors import ParityError
from parity.packages import FIXTURES
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import reference as references


@dataclass(frozen=True)
class Target:
    """What was found: its config.json, whole, where it is from, and the port that implements it, if one is known."""

    name: str
    source: str
    config: Mapping[str, Any]
    port: str | None


def find(text: str) -> Target:
    """Find it.

    Raises:
        ParityError: there is nothing of the name, or it is no config.
    """
    path = Path(text)
    if not _is_port(text) and (path.exists() or path.suffix == ".json" or "/" in text):
        config = pairs.config_of(text)
        name = path.stem if path.suffix == ".json" else text
        return Target(name, text, config, _port_of(config))
    shipped = _shipped()
    if text.lower() in shipped and text not in ports.built_in_names():
        config = json.loads(shipped[text.lower()])
        return Target(text, f"{text.lower()}.json", config, _port_of(config))
    if _is_port(text) or text in ports.built_in_names() or "." in text:
        source, config = pairs.config_of_port(ports.resolve(text))
        return Target(text, source, config, text)
    near = get_close_matches(text.lower(), [*ports.built_in_names(), *shipped], 3)
    raise ParityError(
        f"there is no config, port or released architecture {text!r}",
        f"Did you mean {' or '.join(near)}?" if near else "Give a config.json, a Hub id such as owner/name, or a port.",
    )


def _is_port(text: str) -> bool:
    return text.endswith(".py") or ".py:" in text


def _shipped() -> dict[str, str]:
    """Configs that come with Parity, by name."""
    folder = resources.files(FIXTURES) / "configs"
    return {
        each.name.removesuffix(".json").lower(): each.read_text(encoding="utf-8")
        for each in folder.iterdir()
        if each.name.endswith(".json")
    }


def _port_of(config: Mapping[str, Any]) -> str | None:
    """The port that comes with Parity for an architecture."""
    model_type = references.text_part(config).get("model_type")
    for name in ports.built_in_names():
        try:
            port = ports.resolve(name)
        except ParityError:  # somebody else's that does not import
            continue
        if model_type in port.model_types:
            return name
    return None
