"""Make the card of every config that comes with Parity, and put them into a page as a table.

python -m bench.cards --write docs/cards.md
"""

import argparse
from pathlib import Path

from bench.marked import filled
from parity.card.card import card
from parity.card.facts import billions
from parity.card_records import Card
from parity.report.card_words import size

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
KIB = 1024

# What is published: parameters as names or cards of models give them, KiB per token as a gallery of architectures lists
# them; and why a figure here is another one.
PUBLISHED: dict[str, tuple[str, str, str]] = {
    "deepseek-v3": ("671 B, 37 B active", "68.6", "active: 36.6 B without the embedding"),
    "deepseek-v3.2": ("671 B, 37 B active", "68.6", "the indexers are 0.9 B, and their keys 15.25 KiB more"),
    "gemma-3-270m": ("270 M", "18, then 3", ""),
    "gemma-4-26b-a4b": ("26 B, 4 B active", "", "text part alone"),
    "gemma-4-31b": ("31 B", "", ""),
    "gemma-4-e2b": (
        "2 B effective",
        "35",
        "text part; 2.35 B are embeddings of layers; 20 layers share keys and values",
    ),
    "glm-4.5-air": ("106 B, 12 B active", "184", "active: 12.2 B without embedding and head"),
    "glm-5": ("744 B, 40 B active", "87.8", "active: 39.9 B without embedding and head; indexers' keys 19.5 KiB more"),
    "gpt2": ("124 M", "", ""),
    "gpt2-xl": ("1.5 B", "300", "rounded down"),
    "llama-3-8b": ("8 B", "128", ""),
    "llama-3.2-1b": ("1.23 B", "", ""),
    "nemotron-3-nano-30b-a3b": ("30 B, 3 B active", "", "active: 3.2 B without the embedding"),
    "nemotron-3-super-120b-a12b": ("120 B, 12 B active", "", "active: 12.2 B without the embedding"),
    "olmo-3-32b": ("32 B", "", ""),
    "qwen3-0.6b": ("0.6 B", "112", ""),
    "qwen3-30b-a3b": ("30.5 B, 3.3 B active", "", ""),
    "qwen3-4b": ("4.0 B", "144", ""),
    "qwen3.5-0.8b": ("0.8 B", "", "text part alone"),
    "qwen3.5-35b-a3b": ("35 B, 3 B active", "", "text part; active: 2.4 B without embedding and head"),
    "smollm3-3b": ("3 B", "", ""),
}
_HEAD = "| config | attention | parameters | active | published | KiB per token | published | state | why another |\n"


def main() -> None:
    """Make them; a word on each, so that one can follow."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, required=True, metavar="PAGE", help="Where the table goes.")
    options = parser.parse_args()
    rows = []
    for path in sorted(CONFIGS.glob("*.json")):
        made = card(path.stem)
        if made.reference is None:  # nobody to measure against
            continue
        measured = made.kv_cache.measured
        if not made.parameters.agree or measured is None or not measured.agree:
            raise SystemExit(f"{path.stem}: count and formula do not agree")
        rows.append(row(path.stem, made))
        print(path.stem, flush=True)
    table = f"{_HEAD}|---|---|---:|---:|---|---:|---|---:|---|\n{''.join(rows)}"
    page = options.write.read_text(encoding="utf-8")
    options.write.write_text(filled(page, "cards", table), encoding="utf-8")


def row(name: str, made: Card) -> str:
    """A line of the table."""
    kept, parameters = made.kv_cache, made.parameters
    grows, later = kept.per_token() / KIB, kept.per_token(saturated=True) / KIB
    said, listed, why = PUBLISHED.get(name, ("", "", ""))
    cells = (
        f"`{name}`",
        made.fact("attention") or "",
        billions(parameters.total),
        billions(parameters.active) if parameters.active != parameters.total else "",
        said,
        f"{grows:g}" + (f", then {later:g}" if later != grows else ""),
        listed,
        size(kept.fixed()) if kept.fixed() else "",
        why,
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
