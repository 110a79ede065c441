"""The port that each page of docs/causes shows, and what Parity says of it."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import parity
from bench.bugs.catalogue import MUTANTS, STAGED
from bench.bugs.edits import Edit, Written, replaced
from bench.causes.edits import EXAMPLES
from parity.generation import generate
from parity.report import generation_text, text

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = ROOT / "docs" / "causes"
CHECKPOINT = ROOT / "fixtures" / "checkpoints" / "gemma3-tiny"

_MUTANTS = {mutant.key: mutant for mutant in (*MUTANTS, *STAGED, *EXAMPLES)}
_BLOCK = re.compile(r"(<!-- example: (\S+) -->\n```text\n)(.*?)(```\n)", re.DOTALL)


@dataclass(frozen=True)
class Wrapped:
    """A port of ports/ with some of its text replaced: the reference itself, with parts that one gets wrong."""

    port: str
    edits: tuple[Edit, ...] = ()

    def write(self, folder: Path) -> Written:
        """Write the port and its config to `folder`."""
        source = HERE / "ports" / f"{self.port}.py"
        path, config = folder / source.name, folder / "config.json"
        path.write_text(replaced(source.read_text(encoding="utf-8"), self.edits), encoding="utf-8")
        config.write_text(json.dumps(_config(source)), encoding="utf-8")
        return Written(path, config, ())


WRAPPED = {
    "mpt/one_series_of_slopes": Wrapped("mpt_slopes"),
    "gpt_oss/no_sinks": Wrapped("gpt_oss_without_sinks"),
}

ENCODES = '''

def encode(text):
    """The ids of a text."""
    from tokenizers import Tokenizer

    return [2, *Tokenizer.from_file({tokenizer!r}).encode(text).ids]
'''


def page_of(cause: str) -> Path:
    """Where the page of a cause is."""
    return PAGES / f"{cause}.md"


def keys(page: str) -> tuple[str, ...]:
    """The examples that a page shows."""
    return tuple(match[1] for match in _BLOCK.findall(page))


def refreshed(page: str) -> str:
    """The page with the output of its examples as it is now."""
    return _BLOCK.sub(lambda match: f"{match[1]}{shown(match[2])}{match[4]}", page)


def shown(key: str) -> str:
    """What Parity finds first in an example, as its text report has it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if key == "gemma3/bos_twice":
            return _tokens(Path(folder))
        written = (_MUTANTS | WRAPPED)[key].write(Path(folder))
        gradient = key in _MUTANTS and _MUTANTS[key].cause == "gradient-blocked"
        shrunk = key not in WRAPPED
        report = parity.check(written.path.name, config=written.config, small_config=shrunk, gradient=gradient)
        return "".join(f"{line}\n" for line in _first(line.plain for line in text.render(report)))


def _tokens(folder: Path) -> str:
    port = (ROOT / "models" / "gemma3.py").read_text(encoding="utf-8")
    path = folder / "gemma3_bos_twice.py"
    path.write_text(port + ENCODES.format(tokenizer=str(CHECKPOINT / "tokenizer.json")), encoding="utf-8")
    found = generate(path.name, compare_hf=True, pretrained=CHECKPOINT, prompt=["The with statement"], max_new_tokens=4)
    return "".join(f"{line}\n" for line in _first(line.plain for line in generation_text.render(found, None)))


def _first(lines: Iterable[str]) -> Iterator[str]:
    """The lines of the first finding."""
    inside = False
    for line in (part for several in lines for part in several.split("\n")):
        if line.startswith("  1. "):
            inside = True
        elif inside and (not line.startswith("      ") or not line.strip()):
            return
        if inside and not line.startswith("       more  "):  # the page itself
            yield line.rstrip()


def _config(source: Path) -> object:
    """The config that a port of ports/ is checked on."""
    spec = spec_from_file_location(f"cause_{source.stem}", source)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CONFIG
