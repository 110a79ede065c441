"""Opening a checkpoint: what is in it without reading it, and one line for everything that can be wrong with one."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from parity.errors import ParityError
from parity.names import fold
from parity.pair import reference as references
from parity.pair import safetensors_header
from parity.pair.checkpoint import open_checkpoint
from parity.pair.mapped import Mapped, described
from parity.pair.streamed import reference_on
from parity.pair.text_names import text_names

LLAMA = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 32, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in one file."""
    save_file({"a.weight": torch.ones(2, 3), "b": torch.arange(4)}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The same in two files with an index."""
    (folder / "model.safetensors").unlink()
    save_file({"a.weight": torch.ones(2, 3).bfloat16()}, folder / "one.safetensors")
    save_file({"b": torch.arange(4)}, folder / "two.safetensors")
    index(folder, {"a.weight": "one.safetensors", "b": "two.safetensors"})
    return folder


def index(folder: Path, placed: object) -> None:
    """Write the index."""
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def refused(source: object, *wanted: str, trust: bool = False) -> None:
    """One line that says what is wanted."""
    with pytest.raises(ParityError) as error:
        open_checkpoint(str(source), trust_remote_code=trust)
    text = str(error.value)
    assert "\n" not in text
    for each in wanted:
        assert each in text, text


def test_one_file(folder: Path) -> None:
    """Names, shapes and dtypes come from the header."""
    opened = open_checkpoint(str(folder))
    assert opened.files == dict.fromkeys(("a.weight", "b"), folder / "model.safetensors")
    assert (opened.entries["a.weight"].shape, opened.entries["a.weight"].dtype) == ((2, 3), torch.float32)
    assert opened.entries["b"].dtype == torch.int64
    assert opened.nbytes == 24 + 32
    assert (opened.revision, opened.has_tokenizer, opened.notes) == (None, False, ())


def test_several_files(sharded: Path) -> None:
    """Each tensor is in the file that the index names."""
    opened = open_checkpoint(str(sharded))
    assert {name: path.name for name, path in opened.files.items()} == {
        "a.weight": "one.safetensors",
        "b": "two.safetensors",
    }
    assert opened.entries["a.weight"].dtype == torch.bfloat16


def test_a_tokenizer_is_seen(folder: Path) -> None:
    """In whatever form; its settings alone are none."""
    (folder / "tokenizer_config.json").write_text("{}")
    assert not open_checkpoint(str(folder)).has_tokenizer
    (folder / "vocab.json").write_text("{}")
    assert not open_checkpoint(str(folder)).has_tokenizer
    (folder / "merges.txt").write_text("")
    assert open_checkpoint(str(folder)).has_tokenizer


def test_mapped_tensors_share_their_memory(sharded: Path) -> None:
    """A name always gives the same memory, and the values that were stored."""
    tensors = Mapped(open_checkpoint(str(sharded)).files)
    assert tensors["a.weight"].data_ptr() == tensors["a.weight"].data_ptr()
    assert torch.equal(tensors["b"], torch.arange(4))
    assert set(tensors) == {"a.weight", "b"}


def test_the_config_can_be_refused_before_the_weights_are_looked_at(folder: Path) -> None:
    """Nobody waits for a download of the wrong architecture."""
    (folder / "model.safetensors").unlink()

    def accept(config: object) -> None:
        raise ParityError("wrong architecture", "Give another.")

    with pytest.raises(ParityError, match="wrong architecture"):
        open_checkpoint(str(folder), accept=accept)


def test_directories_have_no_revisions(folder: Path) -> None:
    """--revision is for the Hub."""
    with pytest.raises(ParityError, match="has no revisions"):
        open_checkpoint(str(folder), revision="main")


def test_no_such_directory(tmp_path: Path) -> None:
    """Told from an id on the Hub by how it is written."""
    refused(tmp_path / "nowhere", "there is no directory")
    refused("./nowhere", "there is no directory ./nowhere")
    refused("a/b/c", "there is no directory a/b/c")


def test_a_file(folder: Path) -> None:
    """The directory is wanted."""
    refused(folder / "model.safetensors", "is a file", "Give a directory")


@pytest.mark.parametrize(
    ("text", "wanted"), [(None, "has no config.json"), ("{", "is not JSON"), ("[]", "holds a list, not an object")]
)
def test_config(folder: Path, text: str | None, wanted: str) -> None:
    """Missing, not JSON, not an object."""
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    refused(folder, wanted)


def test_pickled_weights_are_never_loaded(folder: Path) -> None:
    """And the way to convert them is told."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    refused(folder, "pytorch_model.bin, a pickle", "never loaded", "save_pretrained")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("adapter_config.json", "holds an adapter"),
        ("weights.safetensors", "neither model.safetensors nor model.safetensors.index.json"),
        ("README.md", "holds no weights"),
    ],
)
def test_no_weights(folder: Path, name: str, wanted: str) -> None:
    """What is there instead is named."""
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("")
    refused(folder, wanted)


def test_a_shard_that_is_not_there(sharded: Path) -> None:
    """Named, with how many there should be."""
    (sharded / "two.safetensors").unlink()
    refused(sharded, "lacks two.safetensors", "which model.safetensors.index.json names")


def test_a_tensor_that_is_not_in_its_shard(sharded: Path) -> None:
    """The index lies."""
    index(sharded, {"a.weight": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    refused(sharded, "tensor 'b' is in one.safetensors, and it is not")


@pytest.mark.parametrize(
    ("placed", "wanted"), [(["a"], "has no weight_map"), ({"a": "../other.safetensors"}, "not a file beside it")]
)
def test_index(sharded: Path, placed: object, wanted: str) -> None:
    """Of another form, or leading elsewhere."""
    index(sharded, placed)
    refused(sharded, wanted)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's bytes."""
    path.write_bytes(change(path.read_bytes()))


def with_header(**described: object) -> bytes:
    """A safetensors file of only a header."""
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda raw: raw[:-8], "is truncated: 48 bytes of data, its header says 56"),
        (lambda raw: raw[:40], "is truncated: 40 bytes, its header alone takes"),
        (lambda raw: raw + b"more", "goes on for 4 bytes after its last tensor"),
        (lambda _: b"", "is not a safetensors file"),
        (lambda _: b"<html><body>Sign in</body></html>", "is not a safetensors file"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
        (lambda _: struct.pack("<Q", 4) + b"nope", "its header is not JSON"),
        (lambda _: struct.pack("<Q", 2) + b"[]", "its header is a list"),
        (lambda _: with_header(a={"dtype": "F32"}), "does not describe 'a'"),
        (lambda _: with_header(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}), "gives 'a' 4 bytes"),
        (lambda _: with_header(a={"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}), "stored as F4"),
    ],
)
def test_weights_file(folder: Path, change: Callable[[bytes], bytes], wanted: str) -> None:
    """Cut off, something else altogether, or with a header that cannot be right."""
    rewrite(folder / "model.safetensors", change)
    refused(folder, wanted, "model.safetensors")


def test_header_of_a_real_file(folder: Path) -> None:
    """As the library wrote it."""
    assert set(safetensors_header.read(folder / "model.safetensors")) == {"a.weight", "b"}


def test_quantised_weights(folder: Path) -> None:
    """Not compared."""
    (folder / "config.json").write_text(json.dumps(LLAMA | {"quantization_config": {"quant_method": "fp8"}}))
    refused(folder, "quantised (fp8)", "bfloat16")


def test_code_that_is_not_needed_is_not_run(folder: Path) -> None:
    """The architecture is known, so it is only noted."""
    (folder / "modeling_mine.py").write_text("raise SystemExit('it was run')")
    (folder / "config.json").write_text(json.dumps(LLAMA | {"auto_map": {"AutoModel": "modeling_mine.Mine"}}))
    (note,) = open_checkpoint(str(folder)).notes
    assert "modeling_mine.py" in note
    assert "was not run" in note


def test_code_that_is_needed_is_not_run_without_leave(folder: Path) -> None:
    """And it is said how to give it."""
    (folder / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoModel": "modeling_mine.Mine"}})
    )
    refused(folder, "its own Python code", "not run", "--trust-remote-code")


# ------------------------------------------------------------------------------------------ against the reference


def shapes() -> dict[str, torch.Tensor]:
    """What the reference stores for LLAMA."""
    model = references.build(references.describe(LLAMA), promoted=False)
    return {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}


def loaded(tmp_path: Path, stored: dict[str, torch.Tensor]) -> set[str]:
    """The names of weights that the reference has after these were written and loaded."""
    save_file({name: value.contiguous() for name, value in stored.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    opened = open_checkpoint(str(tmp_path))
    return set(reference_on(references.describe(opened.config), Mapped(opened.files), opened.entries, True).names)


def test_a_tied_model_lacks_its_head(tmp_path: Path) -> None:
    """And that is fine."""
    assert loaded(tmp_path, shapes()) == set(shapes())


def test_the_base_model_alone(tmp_path: Path) -> None:
    """Its names lack the prefix, and it loads all the same."""
    stored = {name.removeprefix("model."): value for name, value in shapes().items()}
    assert loaded(tmp_path, stored) == set(shapes())


def test_a_prefix_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    """It would load nothing, and say nothing."""
    with pytest.raises(ParityError, match=r"lacks .*model\.embed_tokens\.weight.*prefix does not fit"):
        loaded(tmp_path, {f"wrapped.{name}": value for name, value in shapes().items()})


def test_missing_and_unexpected_tensors(tmp_path: Path) -> None:
    """Named, those of one kind as one."""
    stored = shapes()
    lacking = {name: value for name, value in stored.items() if "q_proj" not in name}
    with pytest.raises(ParityError, match=r"lacks model\.layers\.\{0,1\}\.self_attn\.q_proj\.weight"):
        loaded(tmp_path, lacking)
    with pytest.raises(ParityError, match=r"holds model\.layers\.0\.self_attn\.q_proj\.bias, for which"):
        loaded(tmp_path, stored | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(16)})


def test_what_the_reference_ignores_on_purpose(tmp_path: Path) -> None:
    """Old checkpoints store rotary tables."""
    assert loaded(tmp_path, shapes() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})


def test_a_tensor_of_another_shape_or_kind(tmp_path: Path) -> None:
    """Told from the headers."""
    stored = shapes()
    with pytest.raises(ParityError, match=r"'model\.norm\.weight' has shape \[17\].*expects \[16\]"):
        loaded(tmp_path, stored | {"model.norm.weight": torch.ones(17)})
    with pytest.raises(ParityError, match=r"'model\.norm\.weight' is stored as int64.*floating-point"):
        loaded(tmp_path, stored | {"model.norm.weight": torch.ones(16).long()})


def test_fused_experts_are_made_of_those_stored() -> None:
    """One by one on disk, together in memory; and placed without reading any."""
    config = LLAMA | {
        "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "head_dim": 8, "decoder_sparse_step": 1,
    }  # fmt: skip
    model = references.build(references.describe(config), promoted=False)
    stored = {f"model.layers.{layer}.mlp.experts.{expert}.{kind}_proj.weight" for layer in (0, 1) for expert in range(4)
              for kind in ("gate", "up", "down")}  # fmt: skip
    widths = {"gate": (24, 16), "up": (24, 16), "down": (16, 24)}
    tensors = {name: torch.randn(widths[name.split(".")[-2].removesuffix("_proj")]) for name in stored}
    placement = references.placement(model, {name: value.to("meta") for name, value in tensors.items()})
    assert placement.unexpected == ()
    made = {name: value for each in placement.made for name, value in each.made_of(tensors).items()}
    fused = made["model.layers.1.mlp.experts.gate_up_proj"]
    apart = [tensors[f"model.layers.1.mlp.experts.2.{kind}_proj.weight"] for kind in ("gate", "up")]
    assert torch.equal(fused[2], torch.cat(apart))
    kinds = ["model.layers.{0,1}.mlp.experts.down_proj", "model.layers.{0,1}.mlp.experts.gate_up_proj"]
    assert sorted(fold(made)) == kinds


def test_names_inside_a_larger_model() -> None:
    """The language model's, whatever stands before them; nothing of the rest."""
    expected = ["model.embed.weight", "model.layers.0.a", "model.layers.1.a", "lm_head.weight"]
    for body, head in (("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")):
        stored = {f"{body}embed.weight", f"{body}layers.0.a", f"{body}layers.1.a", f"{head}weight"}
        stored |= {"vision.layers.0.a", "vision.layers.2.b"}
        found = text_names(expected, stored)
        assert set(found) == set(expected)
        assert found["model.layers.1.a"] == f"{body}layers.1.a"
        assert found["lm_head.weight"] == f"{head}weight"
        tied = text_names(expected, (stored | {"vision.norm.weight"}) - {f"{head}weight"})
        assert "lm_head.weight" not in tied


def test_described_tensors_take_no_memory(folder: Path) -> None:
    """They are shapes."""
    bare = described(open_checkpoint(str(folder)).entries)
    assert bare["a.weight"].is_meta
    assert bare["a.weight"].shape == (2, 3)
