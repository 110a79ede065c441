"""What audits found out, kept, so that a check can say what it is worth without running one.

An audit asks the reference alone. What it finds is settled by the reference, its config, the weights and the probe, so
that is what it is kept under, whatever the port. Those of the ports that come with Parity are shipped; others are in
the user's cache, where `parity audit` puts them.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from parity.explain.config_mutations import fields, silent
from parity.packages import FIXTURES
from parity.pair import reference as references
from parity.pair.pair import Pair
from parity.records import Audit, Coverage, FieldCoverage, MutationCoverage

# Raised when an audit would find something else: other mutations, other weights, other grounds. Then `make coverage`.
VERSION = 4

SHIPPED = "coverage.json"


def key(pair: Pair) -> str:
    """What an audit of this pair is kept under: a hash of all that settles it.

    Weights follow from the config and the seed. Rounded to another dtype they are as random, and hide as little.
    """
    settings = pair.reference.settings
    settled = {
        "audit": VERSION,
        "transformers": references.VERSION,
        "class": pair.reference.class_name,
        "settings": {name: value for name, value in sorted(fields(settings).items()) if not silent(name)},
        "seed": pair.seed,
        "shape": list(pair.input_ids.shape),
        "tokens": hashlib.sha256(pair.input_ids.contiguous().numpy().tobytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(settled, sort_keys=True, default=str).encode()).hexdigest()[:32]


def known(pair: Pair) -> Coverage | None:
    """What an audit of this pair found, if there was one; costs two small files."""
    name = key(pair)
    entry = _shipped().get(name) or _read(_cached(name))
    try:
        return None if entry is None else _coverage(entry)
    except (KeyError, TypeError, ValueError):  # whoever wrote it, it says nothing
        return None


def keep(pair: Pair, found: Audit) -> bool:
    """Put what an audit found where the next check looks; False if nothing can be written there."""
    path = _cached(key(pair))
    if path is None:
        return False
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            name = file.name
            json.dump(asdict(found.coverage), file)
        Path(name).replace(path)
    except OSError:
        if name is not None:
            with suppress(OSError):
                Path(name).unlink()
        return False
    return True


def shipped(audits: Mapping[str, Audit], before: Mapping[str, Any] | None = None) -> str:
    """The text of the shipped file, given what was found by key.

    Args:
        audits: what was found.
        before: the file as it was, parsed; of ports that were not audited now it keeps what still holds.
    """
    versions = {"audit": VERSION, "transformers": references.VERSION}
    entries = {name: {"port": found.port, **asdict(found.coverage)} for name, found in audits.items()}
    ports = {found.port for found in audits.values()}
    if before is not None and versions.items() <= before.items():
        kept = {name: each for name, each in before["coverages"].items() if each["port"] not in ports}
        entries = dict(sorted({**kept, **entries}.items(), key=lambda each: each[1]["port"]))
    return json.dumps({**versions, "coverages": entries}, indent=1) + "\n"


def _cached(name: str) -> Path | None:
    folder = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(folder) if folder else Path.home() / ".cache"
    except RuntimeError:  # an account without a home
        return None
    return home / "parity" / "coverage" / f"{name}.json"


@cache
def _shipped() -> Mapping[str, Any]:
    text = (resources.files(FIXTURES) / SHIPPED).read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)["coverages"]
    return found


def _read(path: Path | None) -> Mapping[str, Any] | None:
    try:
        found = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _coverage(entry: Mapping[str, Any]) -> Coverage:
    named, mutations = entry["fields"], entry["mutations"]
    return Coverage(
        FieldCoverage(tuple(map(str, named["seen"])), tuple(map(str, named["blind"]))),
        MutationCoverage(int(mutations["caught"]), int(mutations["applicable"]), tuple(map(str, mutations["missed"]))),
    )
