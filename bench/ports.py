"""Check the ports that come with Parity at every stage, and write what `parity ports` and docs/architectures.md say.

python -m bench.ports --write fixtures/ports.json --page docs/architectures.md
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import parity
from bench.marked import filled
from parity.pair.pair import find_reference
from parity.pair.port import built_in_names, resolve
from parity.records import PROMOTED_NOISE, Boundary, Report

FIXTURES = Path(__file__).parents[1] / "fixtures"
HEAD = (
    "| port | reference | config | boundaries | bit by bit | worst, promoted float64 | in bf16, bit by bit | seconds |"
)


def main() -> None:
    """Check each, write the file and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True, metavar="FILE")
    parser.add_argument("--page", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", nargs="*", metavar="PORT", help="measure these again, and keep the others' figures")
    arguments = parser.parse_args()
    kept = json.loads(arguments.write.read_text(encoding="utf-8")) if arguments.only else {}
    names = built_in_names()
    found = {name: measured(name) if name in (arguments.only or names) else kept[name] for name in names}
    arguments.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    arguments.page.write_text(
        filled(arguments.page.read_text(encoding="utf-8"), "measured", table(found)), encoding="utf-8"
    )


def measured(name: str) -> dict[str, Any]:
    """One port, on the small form of its own config, at all stages."""
    began = time.perf_counter()
    report = parity.check(name, small_config=True, gradient=True)
    seconds = time.perf_counter() - began
    print(f"{name}: {report.verdict} in {seconds:.1f} s", flush=True)
    model_types = import_module(f"parity_models.{name}").MODEL_TYPES
    configs = json.loads((FIXTURES / "defaults.json").read_text(encoding="utf-8"))
    return {
        "versions": asdict(report.versions),
        "model_types": list(model_types),
        "reference": ", ".join(references(name, model_types, configs)) or report.reference,
        "config": configs[model_types[0]],
        "stages": {stage.name: stage.verdict for stage in report.stages},
        **figures(report),
        "seconds": round(seconds, 1),
    }


def references(name: str, model_types: Iterable[str], configs: Mapping[str, str]) -> list[str]:
    """Where others stand in for the classes of a port's model types: which."""
    port = resolve(name)
    files = (FIXTURES / "configs" / configs[model_type] for model_type in model_types)
    found = [find_reference(port, file, None)[0] for file in files] if port.stand_ins else []
    return [reference.title for reference in found]


def figures(report: Report) -> dict[str, Any]:
    """How many boundaries were compared in float64, and how far the worst was off; the same of bfloat16."""
    forward = [each for each in report.boundaries if each.stage == "forward" and each.relative is not None]
    low = [each for each in report.boundaries if each.stage == "precision" and each.relative is not None]
    return {
        "boundaries": len(forward),
        "exact": exact(forward),
        "worst": max((each.relative or 0.0 for each in forward), default=PROMOTED_NOISE),
        "low_boundaries": len(low),
        "low_exact": exact(low),
    }


def exact(boundaries: Iterable[Boundary]) -> int:
    """How many are equal bit by bit."""
    return sum(each.verdict == "exact" for each in boundaries)


def table(found: dict[str, dict[str, Any]]) -> str:
    """The measured figures, a line for each port."""
    rows = [
        f"| `{name}` | `{port['reference']}` | `{port['config']}` | {port['boundaries']} | {port['exact']} | "
        f"{port['worst']:.1e} | {port['low_exact']} of {port['low_boundaries']} | {port['seconds']} |"
        for name, port in found.items()
    ]
    return "\n".join([HEAD, "|---|---|---|---|---|---|---|---|", *rows, ""])


if __name__ == "__main__":
    main()
