"""Audit the fields of the configs that come with Parity, and write which have no effect.

python -m bench.effects --write fixtures/effects.json
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from parity.card.target import find
from parity.explain.audit import audited_fields
from parity.explain.config_mutations import config_mutations
from parity.pair import pair as pairs
from parity.pair import reference as references
from parity.pair.mapped import without_memory
from parity.pair.reference import Reference

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"


def main() -> None:
    """Audit and write; a word on each config, so that one can follow."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="Where the result goes.")
    parser.add_argument("--configs", nargs="*", metavar="NAME", help="Configs; by default all that have a port.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    audits = {}
    for name in options.configs or sorted(path.stem for path in CONFIGS.glob("*.json")):
        port = find(name).port
        if port is not None:
            audits[name] = fields(port, CONFIGS / f"{name}.json")
            print(f"{name}: {len(audits[name]['no_effect'])} fields without effect", flush=True)
    if options.write:
        told = {"transformers": references.VERSION, "configs": audits}
        options.write.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def fields(port: str, config: Path) -> dict[str, object]:
    """The class of a config's reference, and its fields by whether they change the function."""
    with tempfile.TemporaryDirectory() as directory:
        pair = pairs.make(port, config, None, True, 0, Path(directory))
        full, _ = pairs.find_reference(pair.port, config, None)
        try:
            found = audited_fields(pair, full.settings)
        except RuntimeError:  # a class that does not run on heads as wide as the full-size config's
            found = audited_fields(pair, {})
    shows = [each.name for each in found if each.verdict == "no_effect" and rotates(full, each.name)]
    return {
        "class": pair.reference.class_name,
        "effect": [*(each.name for each in found if each.verdict in ("seen", "blind")), *shows],
        "no_effect": [each.name for each in found if each.verdict == "no_effect" and each.name not in shows],
    }


def rotates(reference: Reference, name: str) -> bool:
    """Whether a field of rope acts on heads of their full width, where it has no effect on narrow ones."""
    if not name.startswith("rope_parameters."):
        return False
    was = tables(reference)
    others = [each for each in config_mutations(reference) if each.field == name]
    return any(tables(references.describe(each.config)) != was for each in others)


def tables(reference: Reference) -> dict[str, list[float]]:
    """Buffers of the full-size reference, which is built without weights."""
    model = references.build(reference, False, without_memory())
    return {name: each.flatten().tolist() for name, each in model.named_buffers() if not each.is_meta}


if __name__ == "__main__":
    main()
