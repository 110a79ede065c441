"""What `parity check --pretrained` costs beside two bare forwards, and what memory it takes.

    python -m bench.pretrained qwen3 DIR [DIR ...]

Each run is a process of its own. The bare one loads the reference in float64 and runs it once on the same tokens, drops
it, and does the same with the port. Memory is the highest anonymous memory (RssAnon) that a thread saw in
/proc/self/status, every five milliseconds: mapped files, which the system can drop at any time, do not count.
"""

import argparse
import gc
import json
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

TOKENS = 41


class Memory:
    """Watches the anonymous memory of this process."""

    def __init__(self) -> None:
        self.peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.005)


def anonymous() -> int:
    """MiB of anonymous memory in use."""
    match = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(match[1]) // 1024 if match else 0


def ids(directory: str) -> list[int]:
    """The tokens that both runs get."""
    import torch

    vocabulary = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    return torch.randint(0, vocabulary, (TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()


def bare(port: str, directory: str) -> None:
    """Load and run each model once in float64."""
    import importlib

    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    given = torch.tensor([ids(directory)])
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
        reference(given, use_cache=False)
        del reference
        gc.collect()
        torch.set_default_dtype(torch.float64)
        from parity.pair import port as ports
        from parity.pair.checkpoint import open_checkpoint
        from parity.pair.mapped import Mapped

        module = importlib.import_module(f"parity_models.{port}")
        untouched = [mock.patch.object(kind, "reset_parameters") for kind in (nn.Linear, nn.Embedding)]
        with untouched[0], untouched[1]:  # random numbers that the weights would overwrite cost more than the forward
            model = module.Model(module.Config.from_hf(config))
        ports.load(ports.resolve(port), model, Mapped(open_checkpoint(directory).files))
        model.eval()(given)


def check(port: str, directory: str) -> None:
    """The check, on the same tokens."""
    from parity import check as run

    tokens = Path(directory) / "tokens.json"
    report = run(port, pretrained=directory, tokens=tokens)
    if report.verdict != "pass":
        raise SystemExit(f"the check does not pass: {report.verdict}")


def measured(what: str, port: str, directory: str) -> dict[str, float]:
    """Seconds on the clock and of processor time, and MiB, of one process."""
    began, used = time.perf_counter(), processor()
    done = subprocess.run(
        [sys.executable, "-m", "bench.pretrained", port, directory, "--one", what],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    peak = json.loads(done.stdout.splitlines()[-1])["peak"]
    return {"wall": time.perf_counter() - began, "cpu": processor() - used, "peak": peak}


def processor() -> float:
    """Processor seconds of all processes started so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def block_bytes(directory: str) -> int:
    """Bytes of the largest block's weights in float64."""
    from parity.pair.checkpoint import open_checkpoint

    sizes: dict[str, int] = {}
    for name, entry in open_checkpoint(directory).entries.items():
        block = re.match(r".*?\.\d+\.", name)
        if block:
            sizes[block[0]] = sizes.get(block[0], 0) + 8 * entry.nbytes // entry.dtype.itemsize
    return max(sizes.values())


def main() -> None:
    """Print a line for each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port")
    parser.add_argument("directories", nargs="+")
    parser.add_argument("--one", choices=["bare", "check"], help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=3, help="of each, in turn, after one that does not count")
    parser.add_argument("--skip-bare", action="store_true", help="measure the check alone")
    given = parser.parse_args()
    if given.one:
        memory = Memory()
        (bare if given.one == "bare" else check)(given.port, given.directories[0])
        print(json.dumps({"peak": memory.peak}))
        return
    for directory in given.directories:
        (Path(directory) / "tokens.json").write_text(json.dumps(ids(directory)), encoding="utf-8")
        kinds = ["check"] if given.skip_bare else ["check", "bare"]
        rows = [{kind: measured(kind, given.port, directory) for kind in kinds} for _ in range(given.runs + 1)][1:]
        told = {
            kind: {what: statistics.median(row[kind][what] for row in rows) for what in ("wall", "cpu", "peak")}
            for kind in kinds
        }
        limit = 2 * block_bytes(directory) / 2**20 + 800 * 10**6 / 2**20
        print(f"{directory}: two blocks + 800 MB are {limit:.0f} MiB")
        for kind, found in told.items():
            print(f"  {kind:5}  {found['wall']:6.1f} s  processor {found['cpu']:6.1f} s  peak {found['peak']:.0f} MiB")
        if "bare" in told:
            wall, cpu = (told["check"][what] / told["bare"][what] for what in ("wall", "cpu"))
            print(f"  check / bare: {wall:.2f} on the clock, {cpu:.2f} of processor time", flush=True)


if __name__ == "__main__":
    main()
