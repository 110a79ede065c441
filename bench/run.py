"""Speed as ratios, and cost as the config grows, all measured in one run."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


def timed(command: Sequence[str]) -> float:
    """Wall seconds of one command that must not fail."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def ratio(name: str, command: Sequence[str], base: Sequence[str], runs: int, limit: float) -> tuple[str, ...]:
    """Medians of two commands run in turn, and their ratio beside the limit it is held to."""
    pairs = [(timed(command), timed(base)) for _ in track(range(runs + 1), name, console=Console(stderr=True))][1:]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return name, f"{ours:.2f} s", f"{theirs:.2f} s", f"{ours / theirs:.2f}", f"{limit:.2f}"


def watched(runs: int) -> Iterator[tuple[str, ...]]:
    """Medians of a check after saving, in a watch, and of a fresh one, in turn; a cause found later has no limit."""
    command = [sys.executable, "-m", "bench.watch", "--runs", str(runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent)
    for name, pairs in json.loads(done.stdout).items():
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        held = "" if "cause" in name else "0.20"
        yield f"watch, {name} / fresh check", f"{ours:.2f} s", f"{theirs:.2f} s", f"{ours / theirs:.2f}", held


def explained(port: str, runs: int) -> Iterator[tuple[str, ...]]:
    """Rows of failing checks beside the passing one of the same port: the median over its bugs, and the dearest."""
    command = [sys.executable, "-m", "bench.failing", port, "--runs", str(runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent)
    medians = {name: statistics.median(found) for name, found in json.loads(done.stdout).items()}
    passing = medians.pop(port)
    dearest = max(medians, key=medians.__getitem__)
    for name, seconds in (
        (f"{port}, median of {len(medians)} bugs", statistics.median(medians.values())),
        (f"{port}, dearest: {dearest}", medians[dearest]),
    ):
        yield name, f"{seconds:.2f} s", f"{passing:.2f} s", f"{seconds / passing:.2f}", "3.00"


def scaled(small: dict[str, Any], layers: int, width: int) -> dict[str, Any]:
    """The small config with other depth, and all its widths times a factor."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    widths = {name: small[name] * width for name in ("hidden_size", "intermediate_size", "head_dim", "vocab_size")}
    return {**small, **widths, "num_hidden_layers": layers, "layer_types": [kinds[i % 3] for i in range(layers)]}


def measured(config: dict[str, Any]) -> dict[str, float]:
    """Seconds inside `parity.check` and peak memory in MiB, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(path)], check=True, capture_output=True, text=True
        )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def one(path: str) -> None:
    """Check Gemma 3 on one config and print what it cost; imports are paid before the clock starts."""
    from parity import check
    from parity.pair import reference

    reference.build(reference.describe(json.loads(Path(path).read_text(encoding="utf-8"))), promoted=False)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    report = check("gemma3", config=path)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if report.verdict != "pass":
        raise SystemExit(f"the check does not pass: {report.verdict}")
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak": peak / 1024,
                "grown": (peak - base) / 1024,
                "boundaries": len(report.boundaries),
            }
        )
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each command, after one that does not count")
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one)
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    python, parity = sys.executable, str(BIN / "parity")
    small = json.loads((HERE / "small.json").read_text(encoding="utf-8"))

    speed = Table("", "Parity", "beside", "ratio", "held to", title="Speed, medians of whole processes run in turn")
    speed.add_row(
        *ratio("parity --help / import typer", [parity, "--help"], [python, "-c", "import typer"], arguments.runs, 2.0)
    )
    check = [parity, "check", "gemma3", "--small-config"]
    speed.add_row(*ratio("check gemma3 / bare script", check, [python, str(HERE / "bare.py")], arguments.runs, 1.25))

    for row in watched(arguments.runs):
        speed.add_row(*row)

    cost = Table(
        "", "failing", "passing", "ratio", "held to", title="Cost of explaining a failure, small config, imports apart"
    )
    for port in track(("gemma3", "llama3"), "failing checks", console=Console(stderr=True)):
        for row in explained(port, arguments.runs):
            cost.add_row(*row)

    growth = Table(
        "layers",
        "width",
        "boundaries",
        "seconds",
        "per layer",
        "peak MiB",
        title="Cost of parity.check as Gemma 3 grows, imports apart",
    )
    for layers, width in track(
        [(2, 1), (8, 1), (32, 1), (2, 4), (8, 4), (32, 4)], "growth", console=Console(stderr=True)
    ):
        grown = measured(scaled(small, layers, width))
        growth.add_row(
            str(layers), f"x{width}", f"{grown['boundaries']:.0f}", f"{grown['seconds']:.2f}",
            f"{grown['seconds'] / layers:.3f}", f"{grown['peak']:.0f}",
        )  # fmt: skip
    console = Console(width=110)
    console.print(speed)
    console.print(cost)
    console.print(growth)


if __name__ == "__main__":
    main()
