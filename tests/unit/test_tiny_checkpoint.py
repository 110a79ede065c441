"""The small trained checkpoint: complete, small, readable by the reference and by the port, and it writes English."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_fixtures.loading import fill, renamed
from parity_models.gemma3 import WEIGHTS, Config, Model
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from fixtures.checkpoints import train_gemma3_tiny as training

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "fixtures" / "checkpoints" / "gemma3-tiny"
FILES = {
    "README.md", "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
PROMPTS = ["The with statement", "If the object is", "A function definition", "Return the number of"]


@cache
def tokenizer() -> Any:
    """As the reference loads it."""
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@cache
def reference() -> Gemma3ForCausalLM:
    """In float32."""
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)


def stored() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of the weights file."""
    with safe_open(CHECKPOINT / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def greedy(prompt: str, new: int = 64) -> torch.Tensor:
    """The prompt's tokens and what follows them, `[1, T]`; 64 more than fill the window."""
    given = tokenizer()(prompt, return_tensors="pt")
    return reference().generate(**given, do_sample=False, min_new_tokens=new, max_new_tokens=new)


@cache
def passages() -> list[training.Passage]:
    """The text it was trained on, as this Python has it."""
    return training.passages()


def words(text: str) -> list[str]:
    """In lower case."""
    return re.findall("[a-z]+", text.lower())


def test_it_is_small_and_holds_nothing_else() -> None:
    """Under 6 MB, and no file but those of a checkpoint and its card."""
    assert {path.name for path in CHECKPOINT.iterdir()} == FILES
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 6_000_000


def test_its_weights_are_stored_as_a_released_checkpoint_stores_them() -> None:
    """In bfloat16, the head tied, and every tensor trained away from zero."""
    tensors, metadata = stored()
    assert metadata == {"format": "pt"}
    assert "lm_head.weight" not in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert all(tensor.float().std() > 0 for tensor in tensors.values())


def test_its_config_is_what_the_reference_reads_from_it() -> None:
    """It has no field that the reference would not know, or would change."""
    written = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    assert written == training.CONFIG
    read = AutoConfig.from_pretrained(CHECKPOINT).to_dict()
    assert {field: read.get(field, "missing") for field in written} == written
    assert set(Gemma3TextConfig().to_dict()) >= set(written)


def test_it_fills_the_port_and_the_port_equals_the_reference() -> None:
    """Every tensor has a place, every parameter a tensor, past the window as before it."""
    model = Model(Config.from_hf(training.CONFIG))
    fill(model, renamed(stored()[0], WEIGHTS))
    input_ids = tokenizer()(passages()[0].answer, return_tensors="pt").input_ids
    assert input_ids.shape[1] > training.CONFIG["sliding_window"]
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids), reference()(input_ids).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", ["The with statement.", " a  b\n\n\tc", "naïve 2,048 ☃", "x = {'a': [1, 2]}\n"])
def test_its_tokenizer_gives_back_the_text_after_one_bos(text: str) -> None:
    """Whatever the text."""
    ids = tokenizer()(text).input_ids
    assert ids[0] == tokenizer().bos_token_id
    assert ids.count(tokenizer().bos_token_id) == 1
    assert tokenizer().decode(ids, skip_special_tokens=True) == text


def test_its_chat_template_is_the_form_it_was_trained_on() -> None:
    """Turns between their tokens, after one BOS."""
    turns = [{"role": "user", "content": "What is assert?"}, {"role": "assistant", "content": "A statement."}]
    asked = tokenizer().apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
    assert asked == "<bos><start_of_turn>user\nWhat is assert?<end_of_turn>\n<start_of_turn>model\n"
    ids = tokenizer().apply_chat_template(turns, return_dict=False)
    trained = training.encode(
        tokenizer().backend_tokenizer, training.Passage(("A statement.",), ("What is assert?",))
    ).chats[0]
    assert [*ids, tokenizer().eos_token_id] == trained


def test_it_writes_english() -> None:
    """Words of the training text, and not a few of them over and over."""
    known = {word for passage in passages() for text in passage.paragraphs for word in words(text)}
    for prompt in PROMPTS:
        written = words(tokenizer().decode(greedy(prompt)[0], skip_special_tokens=True))
        assert len(written) > 20, written
        assert sum(word in known for word in written) >= 0.8 * len(written), written
        assert len(set(written)) > 0.4 * len(written), written


def test_its_choices_are_neither_ties_nor_certain() -> None:
    """The best token leads by a margin that varies, as in a trained model."""
    with torch.no_grad():
        best = torch.cat([reference()(greedy(prompt)).logits[0].topk(2).values for prompt in PROMPTS])
    margins = best[:, 0] - best[:, 1]
    assert 0.5 < margins.mean() < 10
    assert margins.min() < 0.5
    assert margins.max() > 2


def test_training_writes_the_same_files(tmp_path: Path) -> None:
    """Two steps of it."""
    command = [sys.executable, "-m", "fixtures.checkpoints.train_gemma3_tiny", "--steps", "2", "--output"]
    subprocess.run([*command, str(tmp_path / "made")], cwd=ROOT, check=True, capture_output=True)
    assert {path.name for path in (tmp_path / "made").iterdir()} == FILES
