"""`parity generate --cache-dtype` as a user meets it: measured, limited, told in every format, and bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Run = Callable[..., tuple[int, str, str]]
Port = Callable[..., Path]

DTYPES = ("float32", "int8", "turbo4", "turbo2")
ASKED = tuple(word for name in DTYPES for word in ("--cache-dtype", name))
PROMPTS = ("--prompt", "A generator is", "--prompt", "What")
SHORT = ("--max-new-tokens", "24")


@pytest.fixture(scope="module")
def saved(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format of one generation, `report.*` in a folder."""
    from parity.generation import generate
    from parity.report.formats import GENERATION

    folder = tmp_path_factory.mktemp("caches")
    made = generate(
        pretrained=small_checkpoint, prompt=PROMPTS[1::2], max_new_tokens=24, cache_dtypes=(*DTYPES, "int8")
    )
    assert made.exit_code == 0, "a measurement is no failure"
    for form, render in GENERATION.items():
        (folder / f"report.{form}").write_text(render(made), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def document(saved: Path) -> dict[str, Any]:
    """The JSON, held against its schema."""
    root = Path(__file__).parents[2]
    made: dict[str, Any] = json.loads((saved / "report.json").read_text())
    jsonschema.validate(made, json.loads((root / "parity" / "report" / "generation-1.json").read_text()))
    return made


def test_figures_follow_from_each_other(document: dict[str, Any]) -> None:
    """Bytes by hand, nothing lost where nothing is rounded, each text as long alike as its first flip says."""
    caches = document["caches"]
    assert [each["dtype"] for each in caches["stored"]] == list(DTYPES), "a second time is once"
    vectors = 4 * 2  # layers, heads; of 16 coordinates, as keys and as values
    assert caches["bytes_per_token"] == 2 * vectors * 16 * 4
    sizes = {"float32": (64, 64), "int8": (18, 18), "turbo4": (6 + 2 + 4, 8 + 2), "turbo2": (2 + 2 + 4, 4 + 2)}
    for each in caches["stored"]:
        assert each["bytes_per_token"] == vectors * sum(sizes[each["dtype"]])
        assert each["verdict"] == "measured"
        assert len(each["blocks"]) == 4
        assert each["tokens"] == sum(row["tokens"] for row in each["rows"]) == 2 * 23
        for row, full in zip(each["rows"], document["rows"], strict=True):
            ids = full["port_ids"]
            first = next((at for at, (a, b) in enumerate(zip(ids, row["ids"], strict=False)) if a != b), None)
            assert first == (row["flips"][0]["index"] if row["flips"] else None)
            for flip in row["flips"]:
                assert (ids[flip["index"]], flip["margin"] > 0) == (flip["full"], True)
    plain, int8, turbo4, turbo2 = caches["stored"]
    assert (plain["mean_kl"], plain["agreeing"], plain["bytes"]) == (0.0, plain["tokens"], caches["bytes"])
    assert 0 < int8["mean_kl"] < turbo4["mean_kl"] < turbo2["mean_kl"] <= turbo2["largest_kl"]
    assert turbo2["agreeing"] < turbo2["tokens"]
    assert document["verdict"] is None, "nothing was compared with a reference"


def test_it_can_be_told_again(saved: Path, run: Run) -> None:
    """From the JSON, in every format, as it was told at first."""
    for form in ("text", "json", "markdown", "html"):
        code, out, err = run("report", saved / "report.json", "--format", form)
        assert (code, err) == (0, "")
        first = (saved / f"report.{form}").read_text(encoding="utf-8")
        if form == "text":  # where a console writes tabs as blanks
            out, first = " ".join(out.split()), " ".join(first.split())
        assert out == first


@pytest.mark.parametrize(
    "edit",
    [
        lambda caches: caches["stored"][1].update(verdict="within"),
        lambda caches: caches["stored"][1].update(agreeing=0),
        lambda caches: caches["stored"][1]["places"].pop(),
        lambda caches: caches["stored"][1].update(bytes_per_token=1),
    ],
    ids=["verdict", "choices", "places", "bytes"],
)
def test_an_edited_one_is_refused(saved: Path, run: Run, tmp_path: Path, edit: Callable[[Any], object]) -> None:
    """What does not follow from its figures is not told."""
    made = json.loads((saved / "report.json").read_text())
    edit(made["caches"])
    (tmp_path / "edited.json").write_text(json.dumps(made))
    code, out, err = run("report", tmp_path / "edited.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "was edited or is damaged" in err


def test_the_text_has_verdicts_and_a_table(saved: Path) -> None:
    """A line for each way, the same figures by layer, where texts part, what was stored."""
    text = (saved / "report.text").read_text()
    lines = text.splitlines()
    verdicts = [line for line in lines if line.startswith("  LOSS")]
    assert [line.split()[1] for line in verdicts] == [f"{name}:" for name in DTYPES]
    assert "  LOSSLESS float32: 100.0 % of the bytes; 46 of 46 choices alike, mean KL 0 nats; nothing is lost" in text
    assert [line.split()[0] for line in verdicts[1:]] == ["LOSSY"] * 3
    head = next(line for line in lines if line.startswith("  cache "))
    rows = lines[lines.index(head) + 1 :][: 1 + len(DTYPES)]
    assert [row.split()[0] for row in rows] == ["full", *DTYPES]
    assert all(len(row) <= len(head) for row in rows), "columns stand below their heads"
    layers = lines[lines.index("Error by layer, in %") + 3 :][:4]
    assert [line.split()[:2] for line in layers] == [["0", "8"], ["1", "all"], ["2", "8"], ["3", "all"]]
    assert all(len(line.split()) == 2 + 3 * len(DTYPES) for line in layers)
    assert "turbo2, prompt " in text
    assert "as keys: layers.{0-3}.keys; 8 vectors of 16 for each token" in text
    assert "PASS" not in text
    assert "\x1b" not in text


def test_on_a_narrow_terminal_layers_are_told_in_parts(saved: Path) -> None:
    """So that no line is longer than the terminal is wide."""
    from parity.report.generation_text import render
    from parity.report.saved import read

    made = read(saved / "report.json")
    text = [line.plain for line in render(made, width=80)]  # type: ignore[arg-type]
    table = text[text.index("\nError by layer, in %") :]
    assert sum(line.split()[:1] == ["layer"] for line in table) == 2
    assert max(len(line) for line in table if line.split()[:1] == ["0"]) <= 80


def test_the_page_has_a_picture(saved: Path) -> None:
    """Both panels, a line for each way that loses something, and its figures for whoever cannot see it."""
    page = (saved / "report.html").read_text(encoding="utf-8")
    assert page.count('<svg class="errors"') == 1
    picture = page[page.index('<svg class="errors"') : page.index("</svg>")]
    assert "output of each block" in picture
    for name in DTYPES[1:]:
        assert picture.count(f"<title>{name}, layer 3: ") == 3, "keys, values, output"
    assert "<title>float32, layer" not in picture, "nothing is off, and a logarithm has no place for that"
    assert '<p class="verdict lossy">' in page


def test_limits_decide_the_exit_code(run: Run, small_checkpoint: Path) -> None:
    """1 for one that is passed, whichever cache passes it; which one is said."""
    call = ("generate", "--pretrained", small_checkpoint, *SHORT, "--prompt", "What")
    both = ("--cache-dtype", "int8", "--cache-dtype", "turbo2")
    code, out, err = run(*call, *both, "--max-cache-error", "0.1")
    assert (code, err) == (1, "")
    assert "  WITHIN   int8:" in out
    beyond = next(line for line in out.splitlines() if line.startswith("  BEYOND"))
    assert "turbo2:" in beyond
    assert beyond.endswith("more than --max-cache-error 0.1")
    code, out, _ = run(*call, *both, "--max-cache-error", "2", "--max-kl", "50")
    assert code == 0
    assert "BEYOND" not in out
    assert out.count("WITHIN") == 2
    code, out, _ = run(*call, "--cache-dtype", "turbo2", "--max-kl", "1e-9")
    assert code == 1
    assert "more than --max-kl 1e-09" in out


def test_beside_a_reference_both_verdicts_stand(run: Run, small_checkpoint: Path) -> None:
    """The port passes, its quantised cache is what it is."""
    code, out, err = run(
        "generate",
        "gemma3",
        "--pretrained",
        small_checkpoint,
        *SHORT,
        *PROMPTS,
        "--compare-hf",
        "--cache-dtype",
        "int4",
    )
    assert (code, err) == (0, "")
    assert out.startswith("PASS  gemma3 against")
    assert "\n  LOSSY    int4: " in out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--cache-dtype", "int3"), ("there is no cache dtype 'int3'", "turbo3.5", "float8")),
        (("--cache-dtype", "int8", "--no-cache"), ("--cache-dtype and --no-cache exclude each other",)),
        (("--max-kl", "0.1"), ("--max-kl limits what a quantised cache costs", "--cache-dtype")),
        (("--cache-dtype", "int8", "--max-cache-error", "-1"), ("--max-cache-error -1.0 is no limit",)),
        (("--cache-dtype", "int8", "--max-kl", "nan"), ("--max-kl nan is no limit",)),
        (("--cache-dtype", "int8", "--max-new-tokens", "1"), ("of one new token nothing is read from a cache",)),
    ],
)
def test_bad_input(run: Run, small_checkpoint: Path, arguments: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """One line, a next step, 2."""
    code, out, err = run("generate", "--pretrained", small_checkpoint, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    for text in wanted:
        assert text in err


def test_a_port_without_a_cache(run: Run, root: Path, small_checkpoint: Path, broken_port: Port) -> None:
    """It is named, and what it lacks."""
    port = broken_port(("def new_cache(", "def another_cache("))
    code, out, err = run("generate", port, "--pretrained", small_checkpoint, *SHORT, "--cache-dtype", "int8")
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    assert "has no cache. Give it new_cache" in err
