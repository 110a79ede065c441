"""Seconds from saving a port to its verdict in `parity check --watch`, beside a fresh run of the same command."""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "models"
SMALL = Path(__file__).with_name("small.json")
_RULE = "-" * 80


def command(parity: str, port: Path) -> list[str]:
    """The check that is watched."""
    return [parity, "check", str(port), "--config", str(SMALL)]


def timings(parity: str, runs: int) -> Iterator[tuple[float, float]]:
    """Save the port with one line more, and check it once in a fresh process, in turn: seconds of both."""
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port.py"
        text = (MODELS / "gemma3.py").read_text(encoding="utf-8")
        port.write_text(text, encoding="utf-8")
        watch = subprocess.Popen(
            [*command(parity, port), "--watch"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            _report(watch)
            for number in range(runs):
                began = time.perf_counter()
                port.write_text(f"{text}\n# saved {number + 1} times\n", encoding="utf-8")
                _report(watch)
                saved = time.perf_counter() - began
                began = time.perf_counter()
                subprocess.run(command(parity, port), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                yield saved, time.perf_counter() - began
        finally:
            watch.send_signal(signal.SIGINT)
            watch.communicate()


def _report(watch: "subprocess.Popen[str]") -> None:
    """Wait for the end of the next report, which has to pass."""
    assert watch.stdout is not None
    verdict = watch.stdout.readline()
    for line in watch.stdout:
        if line.rstrip("\n") == _RULE:
            break
    if not verdict.startswith("pass"):
        raise SystemExit(f"the watch does not pass: {verdict}")


def main() -> None:
    """Print the seconds of each round, after one that does not count, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.watch", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="timed rounds, after one that does not count")
    arguments = parser.parse_args()
    parity = str(Path(sys.executable).with_name("parity"))
    json.dump(list(timings(parity, arguments.runs + 1))[1:], sys.stdout)


if __name__ == "__main__":
    main()
