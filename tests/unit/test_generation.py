"""What a generation is judged by: near-ties, what a run measures, and how ids, ends and pieces are read."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import parity
from fixtures.checkpoints.small import settings, write
from parity.compare import near_ties
from parity.compare.generation import Batch, Meeting, Models, Rules, alone, apart, mask_style, meet, together
from parity.compare.lower import Stored, lower_like
from parity.generation_records import (
    NEAR_TIE,
    Difference,
    Generation,
    Prompt,
    Row,
    Speed,
    TeacherForced,
    Token,
    TokenFinding,
    ratio,
)
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair import running
from parity.pair.checkpoint import open_checkpoint
from parity.pair.generation_config import stops
from parity.pair.promote import precision
from parity.pair.text import Words, ids_in
from parity.pair.weights import Tensors
from parity.records import Versions
from parity.report import generation_text
from parity.report.beside import visible
from parity.report.generation_live import Screen


def difference(reference_margin: float, port_margin: float, rounding: float = 1.0) -> Difference:
    """A place with these margins."""
    return Difference(0, Token(1), Token(2), (reference_margin, 0.0), (0.0, port_margin), rounding)


@pytest.mark.parametrize(
    ("reference_margin", "port_margin", "verdict"),
    [
        (0.0, 0.0, "near_tie"),
        (NEAR_TIE, NEAR_TIE, "near_tie"),
        (NEAR_TIE * 1.01, 0.0, "fault"),
        (0.0, NEAR_TIE * 1.01, "fault"),
        (math.nan, 0.0, "fault"),
        (0.0, math.nan, "fault"),
        (0.0, math.inf, "fault"),
    ],
)
def test_a_near_tie_takes_both_margins(reference_margin: float, port_margin: float, verdict: str) -> None:
    """A port that is sure of the wrong token is wrong, however unsure the reference is; so is NaN."""
    assert difference(reference_margin, port_margin).verdict == verdict


def test_rounding_that_is_nothing_excuses_nothing() -> None:
    """And NaN in its place does not either."""
    assert difference(1e-30, 0.0, 0.0).verdict == "fault"
    assert difference(0.0, 0.0, math.nan).verdict == "fault"


def generation(*rows: Row, findings: tuple[TokenFinding, ...] = (), reference: str = "Reference") -> Generation:
    """A generation of these rows."""
    prompts = tuple(Prompt((Token(2, "<bos>"), Token(7, "A")), "A") for _ in rows)
    return Generation(
        Versions("0", "1", "2"), "port", reference, "here", None, "float32", "cpu", True, prompts, rows,
        Speed(0.1, 20.0, 5.0), Speed(0.2, 10.0, None), findings,
    )  # fmt: skip


def row(*differences: Difference, first: Difference | None = None, beyond: int | None = None) -> Row:
    """A row with these differences along the reference's tokens."""
    forced = TeacherForced(3, differences, 0.0, 1.0, beyond, 0.0)
    tokens = (Token(1, "a"), Token(2, "b"), Token(3, "c"))
    return Row(tokens, "abc", "length", tokens, "abc", first, forced)


def test_the_verdict_is_of_all_rows_and_of_all_tokens() -> None:
    """A fault hides behind nothing: neither a near-tie before it, nor another row, nor the same text."""
    tie, fault = difference(1.0, 1.0), difference(9.0, 1.0)
    assert generation(row()).verdict == "pass"
    assert generation(row(tie, first=tie)).verdict == "pass"
    assert generation(row(), row(tie, fault, first=tie)).verdict == "fail"
    assert generation(row(first=fault)).verdict == "fail"
    assert generation(row(), findings=(TokenFinding("other ids", True),)).verdict == "fail"
    assert generation(row(), findings=(TokenFinding("other files", False),)).verdict == "pass"
    assert generation(row(beyond=1)).verdict == "fail"
    assert generation(row(), reference="").verdict is None
    assert [generation(each).exit_code for each in (row(), row(fault))] == [0, 1]
    assert generation(row(), reference="").exit_code == 0


def test_the_text_names_what_is_first() -> None:
    """In the headline; a near-tie before a fault does not take its place."""
    tie, fault = difference(1.0, 1.0), replace(difference(9.0, 1.0), index=2)
    headline = next(iter(generation_text.render(generation(row(), row(tie, fault, first=tie))))).plain
    assert headline.endswith("another choice at new token 3 of prompt 2, along the reference's text")
    off = next(iter(generation_text.render(generation(row(beyond=1))))).plain
    assert off.endswith("the same 3 new tokens, but logits further apart than rounding explains")
    assert any("from new token 2 on" in line.plain for line in generation_text.render(generation(row(beyond=1))))


def test_on_a_terminal_texts_that_differ_stand_beside_each_other() -> None:
    """From the first different letter on in colour; off it, or where it is narrow, above each other."""
    fault = difference(9.0, 1.0)
    one = replace(row(fault, first=fault), port=(Token(1, "a"),))
    one = replace(one, port_text="the same words and then others", reference_text="the same end")
    wide = list(generation_text.render(generation(one), width=100))
    both = next(line for line in wide if "the same words" in line.plain)
    assert "│ the same end" in both.plain
    assert {both.plain[span.start : span.end] for span in both.spans if span.style == "yellow"} == {"end"}
    for width in (None, 60):
        lines = [line.plain for line in generation_text.render(generation(one), width=width)]
        assert "  port       the same words and then others" in lines
        assert "  reference  the same end" in lines


def test_a_ratio_needs_both() -> None:
    """And a reference that took time."""
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is ratio(3.0, None) is ratio(3.0, 0.0) is None


def test_text_that_would_steer_a_terminal_is_written_out() -> None:
    """A model may generate any byte."""
    assert visible("a\x1b[2J\rb\n\tc\x9b") == "a\\x1b[2J\\rb\n\tc\\x9b"


def test_logits_are_compared_up_to_a_constant() -> None:
    """Which no softmax sees; of vocabularies padded differently what both have; infinities that agree are equal."""
    reference = torch.tensor([1.0, 3.0, 2.0, -math.inf])
    port = torch.tensor([6.0, 8.5, 7.0, -math.inf, 0.0])
    found = meet(4, reference, port)
    assert (found.index, found.chosen) == (4, (1, 1))
    assert found.largest == pytest.approx(1 / 3)
    assert 0 < found.divergence < 0.2
    assert meet(0, reference, reference).largest == meet(0, reference, reference).divergence == 0.0
    assert apart(torch.tensor([6.0, 8.0]), torch.tensor([1.0, 3.0])) == 0.0
    beyond = meet(0, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0, 5.0]))  # a token that the reference has not
    assert beyond.chosen == (0, 2)
    assert math.isnan(beyond.reference_logits[1])
    assert math.isnan(meet(0, reference[:3], torch.full((3,), math.nan)).largest)


def models(checkpoint: Path, port: object = "gemma3") -> Models:
    """Both sides of a checkpoint."""
    opened = open_checkpoint(str(checkpoint))
    reference = references.describe(opened.config)
    found = ports.resolve(port)
    loaded = ports.build(
        found, opened.config, Stored(checkpoint, {name: name for name in opened.files}, torch.float32, None), False, 0
    )
    plain = references.pretrained(reference, checkpoint, torch.float32)
    return Models(found, loaded.model, plain, torch.device("cpu"))


def exact_logits(checkpoint: Path, ids: list[int]) -> Tensor:
    """Those of the port in promoted float64, `[T, V]`."""
    opened = open_checkpoint(str(checkpoint))
    port = ports.resolve("gemma3", promoted=True)
    loaded = ports.build(port, opened.config, Tensors(checkpoint, True), True, 0)
    with torch.no_grad(), precision(True):
        return running.call(port, loaded.model, torch.tensor([ids]))[0]


def greedy(model: nn.Module, ids: list[int], most: int) -> list[int]:
    """Written without any of Parity's code: a full forward for each token."""
    for _ in range(most):
        ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-most:]


RULES = Rules(most=12, ends=frozenset(), pad=0, port_cached=True, reference_cached=True)
PROMPTS = [[2, 37, 281, 277], [2, 308]]


def nobody(row: int, side: str, token: int) -> None:
    """Is told nothing."""


def test_a_run_gives_the_greedy_text_of_each_row(small_checkpoint: Path) -> None:
    """Padded on the left, cached or not, the port alone or beside the reference; each is told token by token."""
    both = models(small_checkpoint)
    assert both.reference_model is not None
    with torch.no_grad():
        wanted = tuple(tuple(greedy(both.reference_model, prompt, 12)) for prompt in PROMPTS)
    batch = Batch.of(PROMPTS, 0, both.device)
    told: dict[tuple[int, str], list[int]] = {}
    run = together(both, batch, RULES, lambda row, side, token: told.setdefault((row, side), []).append(token))
    assert run.port == run.reference == wanted
    assert told == {(at, side): list(wanted[at]) for at in (0, 1) for side in ("port", "reference")}
    assert [len(each) for each in run.meetings] == [12, 12]
    assert len(run.port_clock.seconds) == len(run.reference_clock.seconds) == 12
    uncached = replace(RULES, port_cached=False, reference_cached=False)
    assert together(both, batch, uncached, nobody).port == wanted
    assert alone(both, batch, RULES, nobody).port == wanted


def test_rows_end_by_themselves(small_checkpoint: Path) -> None:
    """What a row would say after its end is neither kept nor compared."""
    both = models(small_checkpoint)
    batch = Batch.of(PROMPTS, 0, both.device)
    whole = together(both, batch, RULES, nobody).reference
    end = next(token for token in whole[0][3:] if token not in whole[1])
    run = together(both, batch, replace(RULES, ends=frozenset({end})), nobody)
    assert run.port == run.reference == (whole[0][: whole[0].index(end) + 1], whole[1])
    assert [len(each) for each in run.meetings] == [len(each) for each in run.reference]
    assert run.port_clock.rows[0] == 2
    assert run.port_clock.rows[-1] == 1


def test_the_ports_tokens_or_the_references(small_checkpoint: Path) -> None:
    """After the first difference there is nothing to compare in free runs; along the reference's tokens there is."""
    both = models(small_checkpoint)
    with torch.no_grad():
        both.port_model.lm_head.weight[100] *= 40  # type: ignore[index, union-attr]
    batch = Batch.of(PROMPTS[:1], 0, both.device)
    free, along = (together(both, batch, RULES, nobody, forced) for forced in (False, True))
    first = free.meetings[0][-1]
    assert len(free.meetings[0]) < 12
    assert first.chosen[1] == 100
    assert len(along.meetings[0]) == 12
    assert along.meetings[0][: first.index + 1] == free.meetings[0]
    assert [each.chosen[0] for each in along.meetings[0]] == list(free.reference[0]) == list(along.reference[0])


def test_rounding_is_of_the_reference_alone(small_checkpoint: Path) -> None:
    """Float32 of it is some 1e-6; a text that it would not choose by itself contradicts it."""
    both = models(small_checkpoint)
    assert both.reference_model is not None
    described = references.describe(open_checkpoint(str(small_checkpoint)).config)
    exact = near_ties.promoted(described, both.reference_model)
    text = together(both, Batch.of(PROMPTS[:1], 0, both.device), RULES, nobody).reference[0]
    found = near_ties.rounding(both.reference_model, exact, PROMPTS[0], text)
    assert len(found.errors) == 12
    assert 1e-8 < max(found.errors) < 1e-5
    ids = [*PROMPTS[0], *text[:-1]]
    with torch.no_grad():
        plain = both.reference_model(input_ids=torch.tensor([ids])).logits[0, 3:].double()
    for error, ours, true in zip(found.errors, plain, exact_logits(small_checkpoint, ids)[3:], strict=True):
        assert error == pytest.approx(apart(ours, true), rel=1e-6)
    assert found.contradicted == ()
    other = (*text[:5], (text[5] + 1) % 320, *text[6:])
    assert near_ties.rounding(both.reference_model, exact, PROMPTS[0], other).contradicted[0] == 5


def test_logits_go_beyond_rounding_where_they_do() -> None:
    """Held against the rounding of that very token, and told apart from the choice that is made there."""
    noise = near_ties.Rounding((1.0, 10.0, 1.0, 1.0), ())
    same = [
        Meeting(at, (1, 1), (0.0, 0.0), (0.0, 0.0), largest, 0.5) for at, largest in enumerate((7.9, 79.0, 8.1, 9.0))
    ]
    found = near_ties.teacher_forced(same, noise, Token)
    assert (found.beyond, found.largest, found.rounding, found.differences, found.mean_kl) == (2, 79.0, 10.0, (), 0.5)
    broken = near_ties.teacher_forced([*same[:2], replace(same[2], largest=math.nan)], noise, Token)
    assert broken.beyond == 2
    assert math.isnan(broken.largest)
    assert near_ties.teacher_forced(same[:2], noise, Token).beyond is None


def test_a_long_prompt_is_shortened_on_a_terminal_only() -> None:
    """Its first and last tokens are shown there."""
    made = generation(row())
    prompt = Prompt(tuple(Token(number) for number in range(100)))
    for width, wanted in ((100, "(68 more)"), (None, " 50 ")):
        lines = [line.plain for line in generation_text.render(replace(made, prompts=(prompt,)), width)]
        assert any(wanted in line for line in lines)


def test_line_ends_without_end_are_counted() -> None:
    """A model that is lost may make many."""
    lines = [line.plain for line in generation_text.render(generation(replace(row(), port_text="a\n\n\n")))]
    assert "  both       a (and 3 line ends)" in lines


def test_a_mask_means_what_it_works_with(small_checkpoint: Path, root: Path, tmp_path: Path) -> None:
    """A port may want the mask of the call's tokens, or of all so far."""
    source = (root / "models/gemma3.py").read_text()
    cut = "attention_mask[:, -input_ids.shape[1] :]"
    picky = "attention_mask.view(input_ids.shape)"
    assert source.count(cut) == 1
    for name, text, style in (("call", source.replace(cut, picky), "call"), ("either", source, "call")):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        assert mask_style(models(small_checkpoint, path), [2, 37, 281, 277, 40], 0) == style
    total = tmp_path / "total.py"
    total.write_text(
        source.replace(
            cut,
            "attention_mask.view(-1, input_ids.shape[1] + (cache.length if cache else 0))[:, -input_ids.shape[1] :]",
        )
    )
    assert mask_style(models(small_checkpoint, total), [2, 37, 281, 277, 40], 0) == "total"


class Half(nn.Module):
    """Two weights, a table of the checkpoint's values, and one that the model made up."""

    def __init__(self, first: Tensor, second: Tensor, bias: Tensor):
        super().__init__()
        self.fused = nn.Parameter(torch.cat((first, second)))
        self.own = nn.Parameter(torch.ones(3))
        self.bias = nn.Buffer(bias.clone())
        self.angles = nn.Buffer(torch.arange(16.0) ** 0.7)


def test_lowering_follows_the_reference() -> None:
    """What it keeps in float32 stays so, tables of one's own too; everything else is rounded, buffers included."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(8, 6, generator=generator) for _ in range(2))
    bias, kept = torch.randn(16, generator=generator), torch.randn(10, generator=generator)
    tensors = {"first": first, "second": second, "bias": bias, "kept": kept}
    reference = nn.Module()
    for name, value in tensors.items():
        reference.register_buffer(name, value if name == "kept" else value.bfloat16())
    port = Half(first, second, bias)
    port.router = nn.Parameter(kept.clone())
    lower_like(port, reference, tensors, torch.bfloat16)
    dtypes = {name: value.dtype for name, value in (*port.named_parameters(), *port.named_buffers())}
    low, high = torch.bfloat16, torch.float32
    assert dtypes == {"fused": low, "own": low, "bias": low, "angles": high, "router": high}
    lower_like(port, reference, tensors, high)
    assert port.fused.dtype == low, "nothing is done in float32"


def test_ends_and_padding(small_checkpoint: Path, tmp_path: Path, configs: Path) -> None:
    """One id or several, of generation_config.json first; padding falls back to the end of text."""
    path = write(tmp_path / "own", json.loads((configs / "gemma-3-270m.json").read_text()))

    def found(**generation_config: Any) -> tuple[set[int], int]:
        settings(path, "generation_config.json", **generation_config)
        opened = open_checkpoint(str(path))
        made = stops(opened, opened.config)
        return set(made.ends), made.pad

    assert found() == ({1, 4}, 0)
    assert found(eos_token_id=5) == ({5}, 0)
    assert found(eos_token_id=None) == ({1}, 0)
    settings(path, "config.json", pad_token_id=None)
    assert found(eos_token_id=[7, 5], pad_token_id=None) == ({5, 7}, 7)
    settings(path, "config.json", eos_token_id=None)
    assert found(eos_token_id=None) == (set(), 0)
    with pytest.raises(parity.ParityError, match="eos_token_id is 'end'"):
        found(eos_token_id="end")
    (path / "generation_config.json").write_text("[1]")
    with pytest.raises(parity.ParityError, match="holds a list"):
        stops(open_checkpoint(str(path)), {})


def test_ids_of_a_file(tmp_path: Path) -> None:
    """One row or several."""
    path = tmp_path / "ids"
    for text, wanted in (("[[1, 2], [3]]", [[1, 2], [3]]), ("1 2\n3", [[1, 2, 3]]), ("5", [[5]]), ("[1]", [[1]])):
        path.write_text(text)
        assert ids_in(path) == wanted
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(parity.ParityError, match="cannot read"):
        ids_in(path)


class Stripping:
    """A tokenizer that drops a text's first space, as some do."""

    pieces = {1: " the", 2: "\ufffd", 3: ""}  # noqa: RUF012

    def decode(self, ids: list[int], **_: object) -> str:
        """The text."""
        return "".join(self.pieces[each] for each in ids).removeprefix(" ")

    def convert_ids_to_tokens(self, number: int) -> str:
        """The vocabulary's name."""
        return f"<{number}>"


def test_pieces_keep_their_space() -> None:
    """And what is no text has its name."""
    words = Words(Stripping())
    assert [words.token(each).piece for each in (1, 2, 3)] == [" the", "\ufffd", "<3>"]
    assert Words().token(1) == Token(1)
    assert Words().text([1, 2]) == ""


def test_what_a_terminal_shows_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both texts beside each other, as much as fits of their ends, and what is being done."""
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=12, color_system=None)
    screen = Screen(console)
    screen.begin([Prompt((Token(2),), "Tell\x1b me")], ("port", "reference"))
    screen.tokens(0, "port", "\n".join(f"line {number}" for number in range(40)))
    screen.tokens(0, "reference", "\n".join(f"line {number}" for number in range(39)))
    shown = _rendered(screen)
    assert len(shown.splitlines()) <= 12
    assert "Tell\\x1b me" in shown
    assert "line 39" in shown
    assert "line 38" in shown.partition("line 38")[2], "on both sides"
    assert "generating" in shown
    assert "line 3 " not in shown
    screen.progress("measuring rounding")
    assert "measuring rounding" in _rendered(screen)


def _rendered(screen: Screen) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=12, color_system=None)
    console.print(screen)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
