"""Seconds from saving a port to its verdict in `parity check --watch`, beside a fresh run of the same command."""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "models"
SMALL = Path(__file__).with_name("small.json")
WRONG = ('nn.GELU(approximate="tanh")', "nn.SiLU()")
_RULE = "-" * 80


def command(parity: str, port: Path) -> list[str]:
    """The check that is watched."""
    return [parity, "check", str(port), "--config", str(SMALL)]


def timings(parity: str, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Save the port right and wrong in turn, and check it once in a fresh process each time: seconds of both.

    A wrong port has its verdict and places first, which is one pair, and the whole report with line and cause later.
    """
    found: dict[str, list[tuple[float, float]]] = {"passing": [], "failing": [], "failing, line and cause": []}
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port.py"
        text = (MODELS / "gemma3.py").read_text(encoding="utf-8")
        port.write_text(text, encoding="utf-8")
        watch = subprocess.Popen(
            [*command(parity, port), "--watch"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            _report(watch, "pass")
            for number in range(runs):
                first, whole, fresh = _saved(watch, parity, port, f"{text.replace(*WRONG)}\n# {number}\n", "fail")
                found["failing"].append((first, fresh))
                found["failing, line and cause"].append((whole, fresh))
                _, whole, fresh = _saved(watch, parity, port, f"{text}\n# {number}\n", "fail before, pass now")
                found["passing"].append((whole, fresh))
        finally:
            watch.send_signal(signal.SIGINT)
            watch.communicate()
    return found


def _saved(
    watch: "subprocess.Popen[str]", parity: str, port: Path, text: str, verdict: str
) -> tuple[float, float, float]:
    """Seconds to the verdict and to the end of the report of a watch, and of a fresh check, after saving a port."""
    began = time.perf_counter()
    port.write_text(text, encoding="utf-8")
    first, whole = _report(watch, verdict)
    fresh = time.perf_counter()
    done = subprocess.run(command(parity, port), check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if done.returncode != int(verdict == "fail"):
        raise SystemExit(f"a fresh check exits with {done.returncode}")
    return first - began, whole - began, time.perf_counter() - fresh


def _report(watch: "subprocess.Popen[str]", verdict: str) -> tuple[float, float]:
    """When the next report begins and when it ends; it begins with its verdict."""
    assert watch.stdout is not None
    line, first = watch.stdout.readline(), time.perf_counter()
    for each in watch.stdout:
        if each.rstrip("\n") == _RULE:
            break
    if not line.startswith(verdict):
        raise SystemExit(f"not {verdict}: {line}")
    return first, time.perf_counter()


def main() -> None:
    """Print the seconds of each round, after one that does not count, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.watch", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="timed rounds, after one that does not count")
    arguments = parser.parse_args()
    parity = str(Path(sys.executable).with_name("parity"))
    json.dump({name: pairs[1:] for name, pairs in timings(parity, arguments.runs + 1).items()}, sys.stdout)


if __name__ == "__main__":
    main()
