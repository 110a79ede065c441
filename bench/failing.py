"""What a failing check costs beside the passing one, on the small config: both in one process, in turn."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import parity
from bench.bugs.edits import default_config, source
from bench.bugs.llama3 import MUTANTS

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "bugs"
BUGS = {
    "gemma3": (
        "silu", "window_off_by_one", "final_norm_eps", "tiled_kv_heads", "wrong_local_rope_base",
        "feedforward_norms_swapped", "norm_never_loaded", "two_activation_and_window",
    ),
    "llama3": ("gelu", "kv_tiled", "rope_interleaved", "scaling_factor_multiplies", "eps_of_llama_2", "no_mask"),
}  # fmt: skip
Case = tuple[Path, Path]  # a port and its config


def cases(port: str, folder: Path) -> dict[str, Case]:
    """The port itself, under its own name, and the same with one bug each."""
    config = default_config(port)
    found = {port: (source(port), config)}
    if port == "gemma3":
        return found | {name: (FIXTURES / f"{name}.py", config) for name in BUGS[port]}
    written = {mutant.name: mutant.write(folder) for mutant in MUTANTS if mutant.name in BUGS[port]}
    return found | {name: (written[name].path, written[name].config) for name in BUGS[port]}


def seconds(path: Path, config: Path) -> float:
    """The time of one check."""
    began = time.perf_counter()
    parity.check(path, config=config, small_config=True)
    return time.perf_counter() - began


def ratios(times: Mapping[str, Iterable[float]], port: str) -> dict[str, float]:
    """Medians of the failing checks over that of the passing one."""
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {name: medians[name] / medians[port] for name in medians if name != port}


def measured(port: str, runs: int) -> dict[str, list[float]]:
    """Seconds of each check, run in turn; a first round that does not count pays for imports."""
    times: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        every = cases(port, Path(folder))
        for number in range(runs + 1):
            for name, case in every.items():
                taken = seconds(*case)
                if number:
                    times.setdefault(name, []).append(taken)
    return times


def main() -> None:
    """Print the times of each check as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.failing", description=__doc__)
    parser.add_argument("port", choices=BUGS)
    parser.add_argument("--runs", type=int, default=5, help="timed rounds, after one that does not count")
    arguments = parser.parse_args()
    json.dump(measured(arguments.port, arguments.runs), sys.stdout)


if __name__ == "__main__":
    main()
