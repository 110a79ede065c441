"""Saved reports: JSON read back into the records that it was written from, so that they can be told again.

What does not follow from the rest of a report, a verdict above all, shows that somebody changed it, and is refused.
"""

import json
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any

from parity import __version__
from parity.errors import ParityError
from parity.gate_records import Gate
from parity.generation_records import Generation
from parity.records import Report
from parity.report.saved_check import Doubtful, report
from parity.report.saved_gate import gate
from parity.report.saved_generation import generation

SCHEMA = 1
_AGAIN = "Write it anew with --format json=FILE."
_LONG = 200  # letters of what a schema's validator says
Saved = Report | Generation | Gate
_SCHEMAS = {"check": "schema-1.json", "generation": "generation-1.json", "gate": "gate-1.json"}


def read(path: Path) -> Saved:
    """What was saved in a file by `--format json`.

    Raises:
        ParityError: the file cannot be read, or is no report of a schema known here, or was edited.
    """
    document = _parsed(path)
    kind = _kind(document, path)
    try:
        return _built(document, kind, path)
    except Doubtful as doubt:
        raise ParityError(f"{path} was edited or is damaged: {doubt}", _AGAIN) from doubt


def _built(document: dict[str, Any], kind: str, path: Path) -> Saved:
    _hold(document, _SCHEMAS[kind], path)
    if kind == "gate":
        return gate(document, lambda inner: _check(inner, path))
    _restore(document)
    return report(document) if kind == "check" else generation(document)


def _check(document: dict[str, Any], path: Path) -> Report:
    """The report of one case of a gate."""
    _hold(document, _SCHEMAS["check"], path)
    _restore(document)
    return report(document)


def _parsed(path: Path) -> Any:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ParityError(f"cannot read {path}: {error.strerror}", "Give a file that --format json wrote.") from error
    if not text.strip():
        raise ParityError(f"{path} is empty", _AGAIN)
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        whole = error.doc.strip()
        if whole.startswith("{") and (error.pos >= len(error.doc.rstrip()) or not whole.endswith("}")):
            raise ParityError(f"{path} ends in the middle, in line {error.doc.count(chr(10)) + 1}", _AGAIN) from error
        raise ParityError(f"{path} is not JSON: {error.msg} in line {error.lineno}", _AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise ParityError(f"{path} is not JSON: {error or 'nested too deeply'}", _AGAIN) from error


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _kind(document: Any, path: Path) -> str:
    """Which report it is, of a schema that is known here."""
    if not isinstance(document, dict) or type(document.get("schema")) is not int:
        raise ParityError(f"{path} is JSON, but not a report of Parity's", "Give a file that --format json wrote.")
    kind = str(document.get("kind", "audit" if {"probe", "score", "causes"} <= document.keys() else "check"))
    if kind not in _SCHEMAS:
        raise ParityError(f"{path} is of kind {kind!r}", "Checks, generations and gates can be told again.")
    if document["schema"] > SCHEMA:
        versions = document.get("versions")
        writer = versions.get("parity") if isinstance(versions, dict) else None
        by = f" of Parity {writer}" if isinstance(writer, str) else ""
        raise ParityError(
            f"{path} has schema {document['schema']}{by}; Parity {__version__} knows schema {SCHEMA}", "Update Parity."
        )
    return kind


def _hold(document: dict[str, Any], schema: str, path: Path) -> None:
    """Hold a document to its schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    text = files("parity.report").joinpath(schema).read_text(encoding="utf-8")
    worst = best_match(Draft202012Validator(json.loads(text)).iter_errors(document))
    if worst is not None:
        where = worst.json_path.removeprefix("$").lstrip(".")
        said = textwrap.shorten(f"{where}: {worst.message}" if where else worst.message, _LONG, placeholder=" ...")
        raise ParityError(f"{path} is not a report of schema {SCHEMA}: {said}", _AGAIN)


def _restore(document: dict[str, Any]) -> None:
    """Put numbers that are not finite back where they were."""
    for pointer, word in document.get("details", {}).get("not_finite", {}).items():
        holder: Any = document
        *path, last = [int(part) if part.isdecimal() else part for part in pointer.split("/")[1:]]
        try:
            for part in path:
                holder = holder[part]
            if holder[last] is not None:
                raise Doubtful(f"{pointer} is {holder[last]} and {word} at once")
            holder[last] = float(word)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Doubtful(f"it has no {pointer}, which is said to be {word}") from error
