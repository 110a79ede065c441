"""`parity generate` as a user meets it: tokens, texts, near-ties and faults, formats, and bad input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.checkpoints.small import SPECIAL, settings, tokenizer
from parity.pair import reference as references

Run = Callable[..., tuple[int, str, str]]
Port = Callable[..., Path]

BOS, EOS = SPECIAL.index("<bos>"), SPECIAL.index("<eos>")
PROMPTS = ("--prompt", "A generator is", "--prompt", "What")
COMPARED = ("--compare-hf", "--max-new-tokens", "24")
POSITIONS = "positions = torch.arange(start, real.shape[1], device=x.device)[None]"
LOGITS = "        return logits if cap is None"


@pytest.fixture
def checkpoint(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint, to be written to."""
    return Path(shutil.copytree(small_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def document(run: Run, root: Path, small_checkpoint: Path) -> Callable[..., dict[str, Any]]:
    """Generate as JSON: the document, held against its schema; the exit code is that of its verdict."""
    schema = json.loads((root / "parity" / "report" / "generation-1.json").read_text())

    def generate(*arguments: object, pretrained: Path = small_checkpoint) -> dict[str, Any]:
        code, out, err = run("generate", *arguments, "--pretrained", pretrained, "--format", "json")
        assert err == ""
        made: dict[str, Any] = json.loads(out)
        jsonschema.validate(made, schema)
        assert code == {"pass": 0, None: 0, "fail": 1}[made["verdict"]]
        return made

    return generate


def refused(result: tuple[int, str, str], *wanted: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with all that is wanted in it."""
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    for text in wanted:
        assert text in err, err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_port_passes(document: Callable[..., dict[str, Any]], dtype: str) -> None:
    """A batch padded on the left; the logits are apart by what rounding explains, and by no more."""
    made = document("gemma3", *COMPARED, *PROMPTS, "--dtype", dtype)
    assert (made["verdict"], made["dtype"], made["cached"]) == ("pass", dtype, True)
    assert [prompt["ids"] for prompt in made["prompts"]] == [[2, 37, 281, 277], [2, 308]]
    assert made["prompts"][0]["pieces"] == ["<bos>", "A", " generator", " is"]
    for row in made["rows"]:
        assert len(row["reference_ids"]) == row["teacher_forced"]["tokens"] == 24
        assert len(set(row["reference_ids"])) > 8, "a text that repeats itself tells little"
        assert row["teacher_forced"]["beyond_rounding"] is None
        assert not [each for each in row["teacher_forced"]["differences"] if each["verdict"] == "fault"]
        if dtype == "float32":
            assert row["port_ids"] == row["reference_ids"]
            assert row["port_text"] == row["reference_text"]
            assert row["teacher_forced"]["mean_kl"] < 1e-12
    speeds = made["tokens_per_second"]
    assert all(speeds[side][how] > 0 for side in ("port", "reference") for how in ("cached", "uncached"))
    assert speeds["ratio"]["cached"] == pytest.approx(speeds["port"]["cached"] / speeds["reference"]["cached"])


def test_the_text_report_of_a_right_port(run: Run, small_checkpoint: Path) -> None:
    """Verdict first, tokens with their pieces, the text once; nothing is coloured or cut off a terminal."""
    code, out, err = run("generate", "--pretrained", small_checkpoint, *COMPARED, "--prompt", "A generator is")
    assert (code, err) == (0, "")
    assert out.startswith("PASS  gemma3 against Gemma3ForCausalLM: the same 24 new tokens\n")
    assert "2 '<bos>'  37 'A'  281 ' generator'  277 ' is'" in out
    assert "24 of 24 choices agree; logits differ by" in out
    assert "with a cache" in out
    assert "\x1b" not in out
    assert out.count("  both ") == 1


def test_a_decode_offset_counted_twice(document: Callable[..., dict[str, Any]], broken_port: Port) -> None:
    """Prefill is right; the fault is at the first token that differs, it comes with the cache, and the rest is told."""
    port = broken_port((POSITIONS, POSITIONS.replace("[None]", "[None] + 9 * start")))
    made = document(port, *COMPARED, *PROMPTS)
    assert made["verdict"] == "fail"
    for row in made["rows"]:
        ours, theirs = row["port_ids"], row["reference_ids"]
        first = next(at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        found = row["first_difference"]
        assert first > 0
        assert (found["index"], found["verdict"]) == (first, "fault")
        assert (found["port"]["id"], found["reference"]["id"]) == (ours[first], theirs[first])
        assert found["port_margin"] > 1000 * found["rounding"]
        assert row["blame"]["stage"] == "cache"
        assert "its own cached and uncached text differ" in row["blame"]["text"]
        assert row["blame"]["next_step"].endswith("--small-config --stage cache")
        along = row["teacher_forced"]
        assert along["tokens"] == 24
        assert along["differences"][0] == found
        assert along["agreeing"] + len(along["differences"]) == 24


def test_a_window_that_evicts_one_early(document: Callable[..., dict[str, Any]], broken_port: Port) -> None:
    """Nothing is wrong before the window is full."""
    port = broken_port(
        ('"sliding_attention": config.sliding_window - 1', '"sliding_attention": config.sliding_window - 2')
    )
    made = document(port, "--compare-hf", "--max-new-tokens", 40, "--prompt", "What")
    (row,) = made["rows"]
    assert made["verdict"] == "fail"
    assert row["blame"]["stage"] == "cache"
    assert row["teacher_forced"]["beyond_rounding"] == 9 - 2  # a window of nine, two tokens of prompt
    assert row["first_difference"]["index"] >= 9 - 2


@pytest.mark.parametrize(
    ("edits", "arguments", "stage"),
    [
        ([('    "model.layers.{}.mlp.up_proj.weight": "layers.{}.mlp.up_proj.weight",\n', "")], (), "weights"),
        ([("x32.pow(2)", "x32.abs()")], (), "forward"),
        ([("[:, -input_ids.shape[1] :]\n", "[:, -input_ids.shape[1] :] | 1\n")], (), "batch"),
        ([("[:, -input_ids.shape[1] :]\n", "[:, -input_ids.shape[1] :] | 1\n")], ("--no-cache",), "batch"),
    ],
    ids=["weights", "forward", "batch", "batch without a cache"],
)
def test_where_a_fault_belongs(
    document: Callable[..., dict[str, Any]],
    broken_port: Port,
    edits: list[tuple[str, str]],
    arguments: tuple[str, ...],
    stage: str,
) -> None:
    """A wrong norm shows in one full forward, a mask that is not looked at only where there is padding.

    What was never loaded is named.
    """
    made = document(broken_port(*edits), *COMPARED, *PROMPTS, *arguments)
    blamed = [row["blame"] and row["blame"]["stage"] for row in made["rows"]]
    assert blamed == ([None, stage] if stage == "batch" else [stage, stage])
    assert made["rows"][1]["first_difference"]["verdict"] == "fault"
    if stage == "weights":
        assert "layers.{0-3}.mlp.up_proj.weight" in made["rows"][0]["blame"]["text"]


def test_the_fault_comes_first_in_the_text(run: Run, broken_port: Port, small_checkpoint: Path) -> None:
    """Both candidates, both sides' logits for them, the rounding, and what to do next."""
    port = broken_port((POSITIONS, POSITIONS.replace("[None]", "[None] + 9 * start")))
    code, out, _ = run("generate", port, "--pretrained", small_checkpoint, *COMPARED, "--prompt", "A generator is")
    assert code == 1
    assert "another text from new token 3 on" in out.splitlines()[0]
    look = out.partition("Look first at\n")[2].partition("\n\n")[0]
    assert "1. new token 3: the port gives 277 ' is', the reference 312 ' like'" in look
    assert look.count("margin") == 2
    assert f"parity check {port} --reference {small_checkpoint} --small-config --stage cache" in look
    assert "fault    new token 3" in out


def twin(checkpoint: Path, document: Callable[..., dict[str, Any]]) -> int:
    """Give the reference's first choice a twin: another token with the same row in the head. Returns the twin."""
    (first, *_) = document("gemma3", *COMPARED, "--prompt", "What", pretrained=checkpoint)["rows"][0]["reference_ids"]
    tensors = load_file(checkpoint / "model.safetensors")
    other = first + 1
    tensors["lm_head.weight"][other] = tensors["lm_head.weight"][first]
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    return int(other)


@pytest.mark.parametrize(("bump", "verdict"), [(2e-7, "near_tie"), (1e-3, "fault")])
def test_a_near_tie_is_told_from_a_fault(
    document: Callable[..., dict[str, Any]], broken_port: Port, checkpoint: Path, bump: float, verdict: str
) -> None:
    """The reference cannot choose between two twins; a port that prefers one by as much as rounding does is right.

    A port that prefers it by a thousand times that is wrong, though the reference's own margin is nothing.
    """
    other = twin(checkpoint, document)
    port = broken_port((LOGITS, f"        logits[..., {other}] += {bump}\n{LOGITS}"))
    made = document(port, *COMPARED, "--prompt", "What", pretrained=checkpoint)
    (row,) = made["rows"]
    found = row["first_difference"]
    assert (found["index"], found["port"]["id"], found["verdict"]) == (0, other, verdict)
    assert found["reference_margin"] == 0
    assert row["port_ids"][1:] != row["reference_ids"][1:], "the twins are different tokens to go on from"
    assert made["verdict"] == ("pass" if verdict == "near_tie" else "fail")
    assert row["teacher_forced"]["tokens"] == 24


def test_a_near_tie_is_said_plainly(
    run: Run, document: Callable[..., dict[str, Any]], broken_port: Port, checkpoint: Path
) -> None:
    """In the first line, with its figures below."""
    other = twin(checkpoint, document)
    port = broken_port((LOGITS, f"        logits[..., {other}] += 2e-7\n{LOGITS}"))
    code, out, _ = run("generate", port, "--pretrained", checkpoint, *COMPARED, "--prompt", "What")
    assert code == 0
    assert out.splitlines()[0].endswith("the same text but for near-ties, 1 in 24 new tokens")
    assert "near-tie new token 1" in out
    assert "  port " in out
    assert "  reference " in out


def test_the_same_text_from_other_logits_is_not_kept_quiet(
    run: Run, document: Callable[..., dict[str, Any]], broken_port: Port, small_checkpoint: Path
) -> None:
    """The text is the same, and something is wrong all the same: a fault, in the first line."""
    port = broken_port((LOGITS, f"        logits = logits * 1.001\n{LOGITS}"))
    made = document(port, *COMPARED, "--prompt", "What")
    assert made["verdict"] == "fail"
    assert made["rows"][0]["teacher_forced"]["beyond_rounding"] == 0
    code, out, _ = run("generate", port, "--pretrained", small_checkpoint, *COMPARED, "--prompt", "What")
    assert code == 1
    assert "from new token 1 on, logits differ by more than rounding explains" in out
    assert "but logits further apart than rounding explains" in out.splitlines()[0]
    shifted = broken_port((LOGITS, f"        logits = logits + 3\n{LOGITS}"))  # which no softmax sees
    along = document(shifted, *COMPARED, "--prompt", "What")["rows"][0]["teacher_forced"]
    assert along["beyond_rounding"] is None


def test_logits_that_are_no_numbers(document: Callable[..., dict[str, Any]], broken_port: Port) -> None:
    """NaN is a fault, whatever token it gives; its figures are null."""
    port = broken_port((LOGITS, f"        logits = logits * float('nan')\n{LOGITS}"))
    made = document(port, *COMPARED, "--prompt", "What")
    found = made["rows"][0]["first_difference"]
    assert (made["verdict"], found["verdict"], found["port_margin"]) == ("fail", "fault", None)


def test_a_port_without_a_mask_runs_each_prompt_alone(
    document: Callable[..., dict[str, Any]], broken_port: Port
) -> None:
    """And says so; the reference's texts are those of single prompts too."""
    together = document("gemma3", *COMPARED, *PROMPTS)
    port = broken_port(
        ("attention_mask: Tensor | None = None, cache", "cache"),
        ("if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]", ""),
    )
    made = document(port, *COMPARED, *PROMPTS)
    assert made["notes"] == ["the port takes no attention_mask: each prompt is run alone, on both sides"]
    assert [row["port_ids"] for row in made["rows"]] == [row["port_ids"] for row in together["rows"]]
    assert made["verdict"] == "pass"


def test_a_port_without_a_cache(document: Callable[..., dict[str, Any]], broken_port: Port) -> None:
    """Full forwards, said; against the reference with its cache."""
    port = broken_port(("    def new_cache(", "    def no_cache("))
    made = document(port, *COMPARED, "--prompt", "What")
    assert (made["verdict"], made["cached"]) == ("pass", False)
    assert made["notes"] == ["the port has no cache: its text is of one full forward per token"]
    speeds = made["tokens_per_second"]
    assert speeds["port"]["cached"] is None
    assert min(speeds["port"]["uncached"], speeds["reference"]["cached"], speeds["reference"]["uncached"]) > 0


def test_what_is_timed(document: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache the whole text; without one a few tokens from its middle on, of both sides."""
    asked: list[tuple[bool, int, int]] = []
    real = references.generate

    def generate(model: Any, ids: torch.Tensor, mask: Any, most: int, *rest: Any) -> torch.Tensor:
        asked.append((rest[2], ids.shape[1], most))
        return real(model, ids, mask, most, *rest)

    monkeypatch.setattr(references, "generate", generate)
    assert document("gemma3", *COMPARED, "--prompt", "A generator is")["verdict"] == "pass"
    assert asked == [(True, 4, 24), (False, 4 + 12, 8)]


def test_no_cache_hides_what_is_wrong_with_it(document: Callable[..., dict[str, Any]], broken_port: Port) -> None:
    """--no-cache is for both sides."""
    port = broken_port((POSITIONS, POSITIONS.replace("[None]", "[None] + 9 * start")))
    made = document(port, *COMPARED, "--prompt", "What", "--no-cache")
    assert (made["verdict"], made["cached"]) == ("pass", False)
    assert made["tokens_per_second"]["reference"]["cached"] is None


def test_a_port_that_wants_the_mask_of_all_tokens(document: Callable[..., dict[str, Any]], broken_port: Port) -> None:
    """As `generate` gives it: found out, not asked for."""
    port = broken_port(
        (
            "        real = (real if cache is None else cache.extend(real)).bool()\n",
            "        if cache is not None:\n"
            "            real = torch.ones(input_ids.shape[0], cache.length + input_ids.shape[1], dtype=torch.bool)\n"
            "            real = real if attention_mask is None else real & attention_mask.bool()\n"
            "            cache.length = real.shape[1]\n"
            "        real = real.bool()\n",
        ),
    )
    made = document(port, *COMPARED, *PROMPTS)
    assert made["verdict"] == "pass"


def test_generation_stops_at_the_end_of_text(document: Callable[..., dict[str, Any]], checkpoint: Path) -> None:
    """Each row for itself: ids of generation_config.json, one or several, else of config.json."""
    whole = document("gemma3", *COMPARED, *PROMPTS, pretrained=checkpoint)
    first, second = (row["reference_ids"] for row in whole["rows"])
    end = next(token for token in first[3:] if token not in second)
    settings(checkpoint, "generation_config.json", eos_token_id=[EOS, end])
    made = document("gemma3", *COMPARED, *PROMPTS, pretrained=checkpoint)
    assert made["verdict"] == "pass"
    assert [row["stopped"] for row in made["rows"]] == ["end of text", "length"]
    for row in made["rows"]:
        assert row["port_ids"] == row["reference_ids"]
    assert made["rows"][0]["port_ids"] == first[: first.index(end) + 1]
    assert made["rows"][1]["port_ids"] == second
    settings(checkpoint, "generation_config.json", eos_token_id=None)
    settings(checkpoint, "config.json", eos_token_id=end)
    again = document("gemma3", *COMPARED, *PROMPTS, pretrained=checkpoint)
    assert [row["port_ids"] for row in again["rows"]] == [row["port_ids"] for row in made["rows"]]


def test_the_context_is_kept(run: Run, document: Callable[..., dict[str, Any]], small_checkpoint: Path) -> None:
    """64 tokens: a note where fewer new ones fit, one line where none do."""
    made = document("gemma3", "--compare-hf", "--prompt", "A generator is", "--max-new-tokens", 70)
    assert len(made["rows"][0]["port_ids"]) == 60
    assert made["notes"] == ["generation ends after 60 tokens, not 70: the context is 64 tokens"]
    arguments = ("--pretrained", small_checkpoint, "--prompt", "What is a generator? " * 20)
    refused(run("generate", "gemma3", *arguments), "leaves no room in the context of 64", "shorter")


def test_a_conversation(document: Callable[..., dict[str, Any]]) -> None:
    """The template's own BOS and no other, and a word about the one that a tokenizer would add."""
    made = document("gemma3", *COMPARED, "--chat", "--prompt", "What")
    (prompt,) = made["prompts"]
    assert prompt["rendered"] == "<bos><start_of_turn>user\nWhat<end_of_turn>\n<start_of_turn>model\n"
    assert prompt["ids"].count(BOS) == 1
    assert made["findings"] == []
    assert made["notes"] == [
        "the chat template writes <bos> itself, and the tokenizer would add another: "
        "the template's text is encoded without special tokens"
    ]


ENCODE = """
from tokenizers import Tokenizer

TOKENIZER = Tokenizer.from_file({file!r})


def encode(text{more}):
    ids = TOKENIZER.encode(text, add_special_tokens={special}).ids
    return {ids}
"""


@pytest.mark.parametrize(
    ("more", "special", "ids", "chat", "wanted"),
    [
        ("", "True", "ids", False, None),
        ("", "True", "ids", True, "the port's own encode gives a doubled <bos>: 2 in front, 1 by the reference"),
        ("", "False", "ids", False, "the port's own encode gives a missing <bos>: 0 in front, 1 by the reference"),
        (", add_special_tokens=True", "add_special_tokens", "ids", True, None),
        ("", "True", "ids[:-1] + [40]", False, "other ids from token 2 on: 40 'D', 308 'What' by the reference"),
    ],
    ids=["right", "doubled", "missing", "told", "other"],
)
def test_a_ports_own_way_from_text_to_ids(
    document: Callable[..., dict[str, Any]],
    root: Path,
    tmp_path: Path,
    small_checkpoint: Path,
    more: str,
    special: str,
    ids: str,
    chat: bool,
    wanted: str | None,
) -> None:
    """Compared before any model runs; a difference is the port's fault, and the texts are compared all the same."""
    port = tmp_path / "port.py"
    file = str(small_checkpoint / "tokenizer.json")
    text = (root / "models/gemma3.py").read_text() + ENCODE.format(file=file, more=more, special=special, ids=ids)
    port.write_text(text)
    made = document(port, "--compare-hf", "--max-new-tokens", 3, "--prompt", "What", *(["--chat"] if chat else []))
    assert made["verdict"] == ("fail" if wanted else "pass")
    assert made["rows"][0]["port_ids"] == made["rows"][0]["reference_ids"]
    if wanted:
        (finding,) = made["findings"]
        assert (finding["cause"], finding["fault"]) == ("input-tokens", True)
        assert wanted in finding["title"]


def test_files_that_disagree(document: Callable[..., dict[str, Any]], checkpoint: Path) -> None:
    """tokenizer.json without the BOS that AutoTokenizer adds: named, and no fault of the port's."""
    tokenizer(begin=False).save(str(checkpoint / "tokenizer.json"))
    plain = document("gemma3", *COMPARED, "--prompt", "What", pretrained=checkpoint)
    assert (plain["findings"], plain["prompts"][0]["ids"]) == ([], [308])
    chat = document("gemma3", *COMPARED, "--prompt", "What", "--chat", pretrained=checkpoint)
    assert chat["notes"] == []  # nothing would double it
    settings(
        checkpoint, "tokenizer_config.json", chat_template="{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}"
    )
    made = document("gemma3", *COMPARED, "--prompt", "What", "--chat", pretrained=checkpoint)
    assert made["verdict"] == "pass"
    assert [finding["title"] for finding in made["findings"]] == [
        "the prompt: a doubled <bos>: the template writes it twice"
    ]


def test_a_tokenizer_that_is_more_than_its_file(
    run: Run, document: Callable[..., dict[str, Any]], checkpoint: Path
) -> None:
    """tokenizer_config.json may add tokens, which a port that reads tokenizer.json alone does not get."""
    settings(checkpoint, "tokenizer_config.json", additional_special_tokens=["at"])
    made = document("gemma3", *COMPARED, "--prompt", "What", pretrained=checkpoint)
    assert made["verdict"] == "pass", "no fault of the port's, which is given ids"
    assert made["findings"] == [
        {
            "cause": "input-tokens",
            "fault": False,
            "title": "the prompt: tokenizer.json alone gives other ids from token 2 on: "
            "308 'What', 283 'Wh' by AutoTokenizer",
        }
    ]
    settings(checkpoint, "tokenizer_config.json", additional_special_tokens=[f"tool{each}" for each in range(10)])
    arguments = ("--pretrained", checkpoint, "--prompt", "tool9")
    refused(run("generate", "gemma3", *arguments), "token id 323 is not in the vocabulary of 320")


def test_conversations_without_a_beginning(document: Callable[..., dict[str, Any]], checkpoint: Path) -> None:
    """A template that writes no BOS, where plain text begins with one."""
    settings(checkpoint, "tokenizer_config.json", chat_template="{{ messages[0]['content'] }}")
    made = document("gemma3", *COMPARED, "--prompt", "What", "--chat", pretrained=checkpoint)
    assert made["prompts"][0]["ids"] == [308]
    assert made["notes"] == [
        "the chat template writes no <bos>, which plain text begins with: conversations begin without it"
    ]


def test_a_reference_that_gives_no_numbers(run: Run, checkpoint: Path) -> None:
    """There is nothing to compare with; a port that gives NaN too has not passed."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    arguments = ("--compare-hf", "--pretrained", checkpoint, "--prompt", "What")
    refused(run("generate", "gemma3", *arguments), "the reference's logits are NaN at new token 1")


def test_sampling_is_refused(run: Run, document: Callable[..., dict[str, Any]], checkpoint: Path) -> None:
    """In one line as an option, in a note where the checkpoint asks for it."""
    for option in (["--temperature", "0.7"], ["--top-p", "0.9"], ["--top-k", "5"], ["--do-sample"]):
        refused(run("generate", "--compare-hf", *option), option[0], "sampled text cannot", f"Leave {option[0]} out")
    settings(checkpoint, "generation_config.json", do_sample=True, temperature=0.7, repetition_penalty=1.3)
    made = document("gemma3", *COMPARED, "--prompt", "What", pretrained=checkpoint)
    assert made["verdict"] == "pass"
    assert made["notes"] == [
        "generation_config.json asks for sampling (temperature 0.7); the reference is run greedily all the same",
        "generation_config.json sets repetition_penalty 1.3, which is left out: the highest logit is taken",
    ]


@pytest.mark.parametrize("text", ["[2, 37, 281, 277]", "[[2, 37, 281, 277]]", "2 37 281\n277\n"])
def test_ids_in_place_of_text(
    document: Callable[..., dict[str, Any]], checkpoint: Path, tmp_path: Path, text: str
) -> None:
    """Without a tokenizer the output is ids too."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    file = tmp_path / "ids.json"
    file.write_text(text)
    made = document("gemma3", *COMPARED, "--tokens", file, pretrained=checkpoint)
    assert made["prompts"] == [{"prompt": None, "rendered": None, "ids": [2, 37, 281, 277], "pieces": [""] * 4}]
    assert (made["verdict"], made["rows"][0]["port_text"]) == ("pass", "")
    assert (
        made["rows"][0]["port_ids"]
        == document("gemma3", *COMPARED, "--prompt", "A generator is")["rows"][0]["port_ids"]
    )


def test_ids_in_the_text_report(
    run: Run, document: Callable[..., dict[str, Any]], checkpoint: Path, tmp_path: Path
) -> None:
    """Where there is no tokenizer."""
    (checkpoint / "tokenizer.json").unlink()
    (tmp_path / "ids").write_text("2 37 281 277")
    arguments = ("--pretrained", checkpoint, "--tokens", tmp_path / "ids", "--max-new-tokens", 3)
    code, out, _ = run("generate", "gemma3", "--compare-hf", *arguments)
    assert code == 0
    assert "  2  37  281  277\n" in out
    ids = document("gemma3", "--prompt", "A generator is", "--max-new-tokens", 3)["rows"][0]["port_ids"]
    assert f"  both       {' '.join(map(str, ids))}\n" in out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--max-new-tokens", 0), ("nothing to generate in 0 new tokens",)),
        (("--prompt", "What", "--tokens", "ids"), ("ids are given, and text too",)),
        (("--tokens", "nowhere"), ("cannot read nowhere",)),
        (("--device", "nonsense"), ("there is no device 'nonsense'", "cuda")),
        (("--dtype", "int8"), ("'int8' is not one of",)),
        (("--revision", "main"), ("which has no revisions",)),
        (("--prompt", ""), ()),
    ],
)
def test_bad_input(run: Run, small_checkpoint: Path, arguments: tuple[object, ...], wanted: tuple[str, ...]) -> None:
    """One line, exit code 2; an empty prompt is one of BOS alone."""
    result = run(
        "generate", "gemma3", "--compare-hf", "--max-new-tokens", 2, "--pretrained", small_checkpoint, *arguments
    )
    if wanted:
        refused(result, *wanted)
    else:
        assert result[0] == 0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("[2, 320]", "token id 320 is not in the vocabulary of 320"), ("-1", "token id -1"), ("[]", "no token ids"),
     ("[[]]", "no token ids"), ("two", "no token ids"), ("[2.5]", "no token ids"), ('{"ids": 1}', "no token ids")],
)  # fmt: skip
def test_ids_that_are_none(run: Run, small_checkpoint: Path, tmp_path: Path, text: str, wanted: str) -> None:
    """In one line, before a model is built."""
    (tmp_path / "ids").write_text(text)
    refused(run("generate", "gemma3", "--pretrained", small_checkpoint, "--tokens", tmp_path / "ids"), wanted)


def test_text_without_a_tokenizer(run: Run, checkpoint: Path) -> None:
    """What to do instead."""
    (checkpoint / "tokenizer.json").unlink()
    refused(run("generate", "gemma3", "--pretrained", checkpoint), "no tokenizer", "--tokens FILE")


def test_a_conversation_without_a_template(run: Run, checkpoint: Path) -> None:
    """Base models have none."""
    settings(checkpoint, "tokenizer_config.json", chat_template=None)
    refused(run("generate", "gemma3", "--pretrained", checkpoint, "--chat"), "no chat template", "Leave out --chat")


def test_a_port_of_another_architecture(run: Run, checkpoint: Path) -> None:
    """Told before any weights are read, or downloaded."""
    (checkpoint / "model.safetensors").unlink()
    refused(run("generate", "llama3", "--pretrained", checkpoint), "implements llama", "'gemma3_text'")
    refused(run("generate", "gemma3", "--pretrained", checkpoint), "holds no weights")
    refused(run("generate", "llama3"), "no checkpoint for llama3 comes with Parity", "--pretrained")


def test_a_checkpoint_that_lacks_a_tensor(run: Run, checkpoint: Path) -> None:
    """`from_pretrained` would fill it with random numbers."""
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    refused(run("generate", "gemma3", "--compare-hf", "--pretrained", checkpoint), "lacks 'model.norm.weight'")


def test_logits_of_the_wrong_shape(run: Run, broken_port: Port, small_checkpoint: Path) -> None:
    """There is no token to take from them."""
    port = broken_port((LOGITS, f"        logits = logits.mT\n{LOGITS}"))
    refused(run("generate", port, "--pretrained", small_checkpoint, "--prompt", "What"), "logits are", "[B, T, V]")


def test_the_port_alone(
    run: Run, document: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, small_checkpoint: Path
) -> None:
    """The text and a line about it; the reference is not built, and nothing is said to have passed."""
    monkeypatch.setattr(references, "pretrained", lambda *_: pytest.fail("the reference was loaded"))
    code, out, err = run("generate", "gemma3", "--pretrained", small_checkpoint, *PROMPTS, "--max-new-tokens", 24)
    assert (code, err) == (0, "")
    assert out.startswith("<bos>" if "rendered" in out else "A generator is")
    assert "\nWhat" in out
    assert "48 new tokens by gemma3, float32, with a cache" in out
    assert "PASS" not in out
    made = document("gemma3", *PROMPTS, "--max-new-tokens", 24)
    assert (made["verdict"], made["reference"]) == (None, None)
    assert made["rows"][1]["port_text"] in out
    assert made["rows"][0]["reference_ids"] is None


def test_a_file(run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    """Whole, and nothing on stdout."""
    arguments = ("--pretrained", small_checkpoint, *COMPARED, "-o", tmp_path / "report.txt")
    assert run("generate", "gemma3", *arguments) == (0, "", "")
    assert (tmp_path / "report.txt").read_text().startswith("PASS  gemma3")
    refused(run("generate", "gemma3", "--output", "nowhere/report.txt"), "cannot write nowhere/report.txt")


def test_what_the_loader_is_given(document: Callable[..., dict[str, Any]], root: Path, checkpoint: Path) -> None:
    """bfloat16 values read as float32, so that a loader that folds the norms' +1 loses nothing by it."""
    tensors = {name: value.bfloat16() for name, value in load_file(checkpoint / "model.safetensors").items()}
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    port = root / "fixtures/benign/folded_offset.py"
    (row,) = document(port, *COMPARED, "--prompt", "What", pretrained=checkpoint)["rows"]
    assert row["teacher_forced"]["beyond_rounding"] is None
    low = document(port, *COMPARED, "--prompt", "What", "--dtype", "bfloat16", pretrained=checkpoint)
    assert low["verdict"] == "pass"


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_language_model_of_a_larger_one(
    document: Callable[..., dict[str, Any]], checkpoint: Path, prefix: str
) -> None:
    """Its tensors have other names there, and others stand beside them."""
    alone = document("gemma3", *COMPARED, "--prompt", "What")
    tensors = load_file(checkpoint / "model.safetensors")
    renamed = {
        prefix + name.removeprefix("model."): value for name, value in tensors.items() if name != "lm_head.weight"
    }
    renamed[f"{prefix.partition('.')[0]}.lm_head.weight" if prefix.startswith("l") else "lm_head.weight"] = tensors[
        "lm_head.weight"
    ]
    save_file(renamed | {"vision_tower.weight": torch.ones(3)}, checkpoint / "model.safetensors", {"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    made = document("gemma3", *COMPARED, "--prompt", "What", pretrained=checkpoint)
    assert made["verdict"] == "pass"
    assert made["rows"][0]["port_ids"] == made["rows"][0]["reference_ids"] == alone["rows"][0]["port_ids"]
    assert "the rest is not covered" in made["notes"][0]


def test_the_checkpoint_that_comes_with_parity(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No argument but the one; on real weights the port gives the reference's text."""
    monkeypatch.chdir(root)
    code, out, err = run("generate", "--compare-hf", "--max-new-tokens", 16)
    assert (code, err) == (0, "")
    assert "the same 16 new tokens" in out
    assert "fixtures/checkpoints/gemma3-tiny, float32" in out
    assert torch.get_default_dtype() == torch.float32
