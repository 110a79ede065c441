"""Decoding with a cache: the port's greedy text against the reference's `generate`, and what both cost per token.

python -m bench.decoding                                  200 tokens of every port's small config, in float64
python -m bench.decoding --rates                          and tokens per second, on configs of two sizes in float32
python -m bench.decoding --rates --write docs/architectures.md
"""

import argparse
import ast
import io
import json
import statistics
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.marked import filled
from parity.compare.generation import Batch, Models, Rules, Run, together
from parity.pair import pair as pairs
from parity.pair import reference as references
from parity.pair.port import built_in_names, resolve
from parity.pair.promote import precision

MODELS = Path(__file__).parents[1] / "models"
# Of the fields that a small config has; the widths between projections follow from the size.
LARGER: dict[str, Any] = {
    "hidden_size": 768, "n_embd": 768, "n_head": 12, "head_dim": 64, "global_head_dim": 128, "vocab_size": 16384,
    "vocab_size_per_layer_input": 16384, "sliding_window": 128, "kv_lora_rank": 128, "q_lora_rank": 256,
    "qk_nope_head_dim": 64, "v_head_dim": 64, "index_head_dim": 64, "index_n_heads": 8, "index_topk": 64,
    "mamba_head_dim": 64, "mamba_num_heads": 24, "ssm_state_size": 64, "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}  # fmt: skip
WIDTHS = {
    "intermediate_size": 4, "moe_intermediate_size": 1, "moe_shared_expert_intermediate_size": 1, "n_inner": 4,
}  # fmt: skip
MILLIONS = 100
NEW, RATED, PROMPT, CPU = 200, 64, 8, torch.device("cpu")
ROUNDING = 1e-9  # of logits in float64; more is another function
HEADS = ("port", "lines of code", "same tokens", "different ones among them", "logits apart by")
RATES = ("tokens/s, small", "`generate`", "ratio", "tokens/s, 100M", "`generate`", "ratio")


@dataclass(frozen=True)
class Decoded:
    """What came of one generation: how many choices agree, how varied the text is, how far logits were apart.

    alone: choices that agree with the reference where that runs a full forward per token, if its logits are others with
    its cache than without. largest: of the last of the two.
    """

    port: str
    asked: int
    agreed: int
    alone: int | None
    distinct: int
    largest: float


@dataclass(frozen=True)
class Rate:
    """Tokens per second of both after the first token, medians over runs."""

    port: float
    reference: float


def decoded(port: str, new: int = NEW) -> Decoded:
    """Cached greedy text of a port and its reference, on its small config in float64."""
    with paired(port, _longer(port, new), torch.float64) as (pair, models):
        run = together(models, _prompt(pair), _rules(new), lambda *_: None)
        agreed, alone = _agreed(run), None
        if agreed < new or _largest(run) > ROUNDING:
            run = together(models, _prompt(pair), replace(_rules(new), reference_cached=False), lambda *_: None)
            alone = _agreed(run)
        return Decoded(port, new, agreed, alone, len(set(run.reference[0])), _largest(run))


def _largest(run: Run) -> float:
    return max(meeting.largest for meeting in run.meetings[0])


def _agreed(run: Run) -> int:
    """Choices before the first that differs."""
    pairs_ = zip(run.port[0], run.reference[0], strict=True)
    return next((at for at, (ours, theirs) in enumerate(pairs_) if ours != theirs), len(run.port[0]))


def rates(port: str, config: Mapping[str, Any], new: int, runs: int) -> Rate:
    """What a token costs with a cache in float32, port and reference in one run."""
    with paired(port, config, torch.float32) as (pair, models):
        clocks = [_clocks(together(models, _prompt(pair), _rules(new), lambda *_: None)) for _ in range(runs + 1)][1:]
        ours, theirs = (statistics.median(each) for each in zip(*clocks, strict=True))
        return Rate(ours, theirs)


@contextmanager
def paired(port: str, config: Mapping[str, Any], dtype: torch.dtype) -> Iterator[tuple[pairs.Pair, Models]]:
    """A port and its reference with the same random weights, in float64 or float32."""
    with TemporaryDirectory() as folder, torch.no_grad():
        (root := Path(folder) / "made").mkdir()
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        pair = pairs.make(port, path, None, False, 0, root)
        if dtype == torch.float32:
            yield pair, Models(pair.port, pair.port_model.model, pair.reference_model, CPU)
            return
        ours, theirs = pairs.promoted_port_model(pair), pairs.promoted_reference(pair)
        with precision(dtype):
            yield pair, Models(pair.promoted_port, ours.model, theirs, CPU)


def small(port: str) -> dict[str, Any]:
    """The small config of a port's own default."""
    reference = pairs.find_reference(resolve(port), None, None)[0]
    return dict(pairs.shrunk(reference).config)


def larger(port: str) -> dict[str, Any]:
    """The small config made wide enough for about 100 million parameters."""
    base = _longer(port, NEW)
    kept = ("head_dim",) if "kv_lora_rank" in base else ()  # that of the rotated features alone
    base |= {name: value for name, value in LARGER.items() if name in base and name not in kept}
    base |= {"n_inner": 0} if "n_embd" in base else {}

    def widened(unit: int) -> dict[str, Any]:
        return base | {name: times * unit for name, times in WIDTHS.items() if name in base}

    few, many = (_parameters(port, widened(unit)) for unit in (64, 128))
    unit = 64 * (1 + (MILLIONS * 1e6 - few) / (many - few))
    return widened(max(8, round(unit / 8) * 8))


def _parameters(port: str, config: Mapping[str, Any]) -> int:
    """Of the reference, without memory for them."""
    described = pairs.find_reference(resolve(port), None, None)[0]
    with torch.device("meta"):
        model = references.build(references.on(described, config), False)
    return sum(each.numel() for each in model.parameters())


def _longer(port: str, new: int) -> dict[str, Any]:
    """The small config with a head of its own: tied to random weights it repeats the last token, which says little."""
    return _fitting(small(port) | {"tie_word_embeddings": False}, new)


def _fitting(config: Mapping[str, Any], new: int) -> dict[str, Any]:
    """A config with a context that holds the text."""
    names = ("max_position_embeddings", "n_positions", "n_ctx")
    return {name: max(value, PROMPT + new) if name in names else value for name, value in config.items()}


def _prompt(pair: pairs.Pair) -> Batch:
    return Batch(pair.input_ids[:1, :PROMPT], None)


def _rules(new: int) -> Rules:
    return Rules(new, frozenset(), 0, True, True)


def _clocks(run: Run) -> tuple[float, float]:
    """Tokens per second after the first, of port and reference."""
    clocks = (run.port_clock.seconds[1:], run.reference_clock.seconds[1:])
    ours, theirs = (len(seconds) / sum(seconds) for seconds in clocks)
    return ours, theirs


def lines(port: str) -> int:
    """Lines of a port that hold code: no blank line, no comment, no docstring."""
    text = (MODELS / f"{port}.py").read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [
        node.body[0] for node in ast.walk(ast.parse(text)) if isinstance(node, documented) and ast.get_docstring(node)
    ]
    skipped = {line for doc in docs for line in range(doc.lineno, (doc.end_lineno or doc.lineno) + 1)}
    kinds = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    held = {line for token in tokens if token.type not in kinds for line in range(token.start[0], token.end[0] + 1)}
    return len(held - skipped)


def main() -> None:
    """Decode, print the table, write it into a page."""
    parser = argparse.ArgumentParser(prog="python -m bench.decoding", description=__doc__)
    parser.add_argument("ports", nargs="*", metavar="PORT", help="by default all")
    parser.add_argument("--new", type=int, default=NEW, help="tokens to generate")
    parser.add_argument("--rates", action="store_true", help="measure tokens per second as well")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each, after one that does not count")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into a page between its marks")
    arguments = parser.parse_args()
    found = []
    for port in arguments.ports or built_in_names():
        row = _row(decoded(port, arguments.new))
        for config in (small(port), larger(port)) if arguments.rates else ():
            rate = rates(port, _fitting(config, RATED), RATED, arguments.runs)
            row += (f"{rate.port:.0f}", f"{rate.reference:.0f}", f"{rate.port / rate.reference:.2f}")
        found.append(row)
        print(" | ".join(row), flush=True)
    heads = HEADS + (RATES if arguments.rates else ())
    table = Table(*heads)
    for row in found:
        table.add_row(*row)
    Console(width=160).print(table)
    if arguments.write:
        text = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(filled(text, "decoded", markdown([heads, *found])), encoding="utf-8")


def _row(found: Decoded) -> tuple[str, ...]:
    agreed = f"{found.agreed} of {found.asked}"
    agreed += "" if found.alone is None else f"; without its cache {found.alone}"
    return (f"`{found.port}`", str(lines(found.port)), agreed, str(found.distinct), f"{found.largest:.0e}")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    rule = "|" + "---|" * len(rows[0])
    return "\n".join((head, rule, *others, ""))


if __name__ == "__main__":
    main()
