"""`parity check --pretrained`: real checkpoints, block by block."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.checkpoints.small import BOS, EOS, PAD, settings, tokenizer
from parity.pair import reference as references
from parity.pair.weights import randomise

Run = Callable[..., tuple[int, str, str]]

# Real config.json files at sizes that are not the small config's, so that what it tells has to be carried over.
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "gemma-3-270m.json",
        {
            "hidden_size": 96, "intermediate_size": 144, "num_hidden_layers": 8,
            "num_attention_heads": 6, "head_dim": 32, "num_key_value_heads": 2, "vocab_size": 320,
            "sliding_window": 16, "max_position_embeddings": 512,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] * 2,
            "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
        },
    ),
    "qwen3": (
        "qwen3-0.6b.json",
        {
            "hidden_size": 96, "intermediate_size": 144, "num_hidden_layers": 5, "num_attention_heads": 6,
            "head_dim": 32, "num_key_value_heads": 3, "vocab_size": 320, "bos_token_id": 2, "eos_token_id": 1,
        },
    ),
    "llama3": (
        "llama-3.2-1b.json",
        {
            "hidden_size": 96, "intermediate_size": 144, "num_hidden_layers": 5, "num_attention_heads": 6,
            "head_dim": 16, "num_key_value_heads": 3, "vocab_size": 320, "bos_token_id": 2, "eos_token_id": 1,
        },
    ),
    "gpt2": (
        "gpt2.json",
        {"n_embd": 96, "n_layer": 5, "n_head": 6, "vocab_size": 320, "bos_token_id": 2, "eos_token_id": 1},
    ),
}  # fmt: skip


def write(folder: Path, port: str, shard: str = "50GB") -> Path:
    """A checkpoint in bfloat16 as `save_pretrained` writes it."""
    name, sizes = SIZES[port]
    root = Path(__file__).parents[2]
    config = json.loads((root / "fixtures" / "configs" / name).read_text()) | sizes
    model = references.build(references.describe(config), False)
    with torch.no_grad():
        randomise(model, 0, references.input_axes(model))
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)  # type: ignore[operator]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 with a tokenizer; not to be written to."""
    folder = write(tmp_path_factory.mktemp("checkpoint"), "gemma3")
    tokenizer().save(str(folder / "tokenizer.json"))
    settings(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    settings(folder, "tokenizer_config.json", bos_token=BOS, eos_token=EOS, pad_token=PAD)
    return folder


@pytest.fixture
def copied(gemma: Path, tmp_path: Path) -> Path:
    """The same without a tokenizer, to be written to."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((gemma / name).read_bytes())
    return tmp_path


def report(result: tuple[int, str, str], code: int) -> dict[str, Any]:
    """The JSON report of a run that ended with `code`."""
    assert result[0] == code, result
    assert result[2] == ""
    found: dict[str, Any] = json.loads(result[1])
    return found


def refused(result: tuple[int, str, str], *wanted: str) -> None:
    """Exit code 2 and one line."""
    code, out, err = result
    assert (code, out) == (2, ""), (out, err)
    assert err.count("\n") == 1
    assert err.startswith("parity: ")
    for text in wanted:
        assert text in err, err


@pytest.mark.parametrize("port", SIZES)
@pytest.mark.parametrize("shard", ["50GB", "100KB"])
def test_the_ports_pass(run: Run, root: Path, tmp_path: Path, port: str, shard: str) -> None:
    """Every boundary of every block, from one file and from several."""
    write(tmp_path, port, shard)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or shard == "50GB"
    found = report(run("check", port, "--pretrained", tmp_path, "--format", "json"), 0)
    jsonschema.validate(found, json.loads((root / "parity/report/schema-1.json").read_text()))
    assert found["weights"] == "pretrained"
    assert [(stage["name"], stage["verdict"]) for stage in found["stages"]][:2] == [
        ("weights", "pass"),
        ("forward", "pass"),
    ]
    assert {stage["verdict"] for stage in found["stages"][2:]} == {"not_run"}
    boundaries = found["boundaries"]
    assert {boundary["verdict"] for boundary in boundaries} <= {"exact", "ok"}
    layers = SIZES[port][1].get("num_hidden_layers") or SIZES[port][1]["n_layer"]
    blocks = [each["port_module"] for each in boundaries if each["kind"] == "output" and each["name"].count(".") == 2]
    assert [name for name in blocks if name.startswith("layers.")] == [f"layers.{index}" for index in range(layers)]
    assert boundaries[-1]["name"] == "logits"
    assert max(boundary["relative"] for boundary in boundaries) < 1e-13


@pytest.mark.parametrize(
    "port",
    ["benign/fused_qkv.py", "benign/folded_offset.py", "benign/permuted_heads.py", "rewrites/gemma3_flat.py"],
)
def test_other_ways_to_write_it_pass(run: Run, root: Path, gemma: Path, port: str) -> None:
    """Loaders that fuse, compute and reorder; and a port without any blocks, which is run whole."""
    found = report(run("check", root / "fixtures" / port, "--pretrained", gemma, "--format", "json"), 0)
    flat = "flat" in port
    assert len(found["boundaries"]) == 1 if flat else len(found["boundaries"]) > 200
    assert ("both models were run whole" in found["stages"][1]["reason"]) == flat


@pytest.mark.parametrize(
    ("port", "model", "boundaries"),
    [
        ("add_and_norm", "llama3", 80),
        ("channels_first", "llama3", 120),
        ("flat", "llama3", 1),
        ("folded_norms", "llama3", 100),
        ("plain_dict", "llama3", 1),
        ("row_by_row", "llama3", 1),
        ("time_first", "llama3", 30),
        ("centred_stream", "gpt2", 10),
        ("torchscript", "qwen3", 130),
        ("numpy_tables", "gemma3", 4),
    ],
)
def test_other_structures_pass(run: Run, root: Path, tmp_path: Path, port: str, model: str, boundaries: int) -> None:
    """Residuals handed on apart, other axes, no modules, and what more there is."""
    write(tmp_path, model)
    path = root / "tests" / "ports" / "structures" / f"{port}.py"
    found = report(run("check", path, "--pretrained", tmp_path, "--format", "json"), 0)
    assert len(found["boundaries"]) >= boundaries
    assert found["boundaries"][-1]["verdict"] in ("exact", "ok")


@pytest.mark.parametrize("model", ["gpt2", "llama3", "qwen3"])
def test_other_people_s_ports_pass(run: Run, root: Path, tmp_path: Path, model: str) -> None:
    """With an adapter of ten lines, and loaders that know of no mapped files."""
    write(tmp_path, model)
    path = root / "tests" / "ports" / "thirdparty" / f"llms_from_scratch_{model}.py"
    code, out, _ = run("check", path, "--pretrained", tmp_path, "--format", "json")  # one of them prints
    assert code == 0
    assert len(json.loads(out)["boundaries"]) > 60


def test_a_port_in_the_finest_pieces(run: Run, root: Path, tmp_path: Path) -> None:
    """A projection per head, of which there are others than on the small config."""
    write(tmp_path, "qwen3")
    port = root / "fixtures/rewrites/qwen3_split.py"
    found = report(run("check", port, "--pretrained", tmp_path, "--format", "json"), 0)
    assert any(each["reference_module"].endswith("q_proj") for each in found["boundaries"])


LAYERS = "        self.layers = nn.ModuleList(DecoderLayer(config) for _ in config.layer_types)\n"
INDEXED = (
    ("        self.activation = nn.GELU", "        self.index = -1\n        self.activation = nn.GELU"),
    ("self.activation(self.gate", "(nn.functional.silu if self.index == 6 else self.activation)(self.gate"),
    (LAYERS, LAYERS + "        for at, layer in enumerate(self.layers):\n            layer.mlp.index = at\n"),
)


def test_a_fault_in_one_block_is_named_with_its_line(
    run: Run, gemma: Path, broken_port: Callable[..., Path], root: Path
) -> None:
    """A fault that a small config of three layers does not have; one with all layers tells line and cause."""
    port = broken_port(*INDEXED)
    found = report(run("check", port, "--pretrained", gemma, "--format", "json"), 1)
    jsonschema.validate(found, json.loads((root / "parity/report/schema-1.json").read_text()))
    (finding,) = found["findings"]
    assert finding["reference_module"].startswith("model.layers.6.mlp")
    assert finding["port_module"].startswith("layers.6.mlp")
    assert finding["cause"] == "activation"
    assert "nn.functional.silu" in finding["port_source"]["text"]
    assert any("of the checkpoint" in line for line in finding["evidence"])
    own = [each["name"] for each in found["boundaries"] if each["verdict"] == "diff" and not each["inherited"]]
    assert all(name.startswith("model.layers.6.mlp") for name in own)
    after = [each for each in found["boundaries"] if each["name"] in ("model.layers.7", "logits")]
    assert [each["inherited"] for each in after] == [True, True]


@pytest.mark.parametrize(
    ("bug", "cause", "module"),
    [
        ("erf_gelu", "activation", "model.layers.0.mlp"),
        ("final_norm_eps", "norm-eps", "model.norm"),
        ("no_embedding_scale", "embed-scale", "model.embed_tokens"),
        ("qk_norm_missing", "qknorm-missing-or-width", "model.layers.0.self_attn"),
        ("norm_never_loaded", "weights-silently-missing", "model.layers.0.self_attn.k_norm"),
    ],
)
def test_a_fault_everywhere_is_told_as_on_the_small_config(
    run: Run, root: Path, gemma: Path, bug: str, cause: str, module: str
) -> None:
    """Line and cause are carried over, to the first block that shows it."""
    found = report(run("check", root / f"fixtures/bugs/{bug}.py", "--pretrained", gemma, "--format", "json"), 1)
    first = found["findings"][0]
    assert first["cause"] == cause
    assert first["reference_module"].startswith(module)
    assert first["port_source"] is not None


LEXICOGRAPHIC = """
import re

from parity_models import gemma3
from parity_models.gemma3 import MODEL_TYPES, Config, Model


def load_weights(model, tensors):
    places = dict(model.named_parameters())
    layers = sorted({found[1] for name in tensors if (found := re.match(r"model\\.layers\\.(\\d+)\\.", name))})
    for name, tensor in tensors.items():
        for template, target in gemma3.WEIGHTS.items():
            found = re.fullmatch(re.escape(template).replace(r"\\{\\}", r"(\\d+)"), name)
            if found:
                places[target.format(*(layers.index(each) for each in found.groups()))].data.copy_(tensor)
"""


def test_layers_in_the_order_of_their_names_are_found_out(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer 10 before layer 2: nothing that fewer layers could show."""
    kinds = [*SIZES["gemma3"][1]["layer_types"], *["sliding_attention"] * 3, "full_attention"]
    monkeypatch.setitem(SIZES["gemma3"][1], "layer_types", kinds)
    monkeypatch.setitem(SIZES["gemma3"][1], "num_hidden_layers", 12)
    write(tmp_path / "checkpoint", "gemma3")
    port = tmp_path / "port.py"
    port.write_text(LEXICOGRAPHIC)
    found = report(run("check", port, "--pretrained", tmp_path / "checkpoint", "--format", "json"), 1)
    (finding,) = found["findings"]
    assert (finding["cause"], finding["stage"]) == ("weights-misplaced", "weights")
    assert finding["title"] == "layers.2 runs in the place of layer 2 and holds the tensors of layer 10"


def test_a_fault_that_these_weights_do_not_show_is_noted(
    run: Run, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key/value head cannot be repeated in the wrong order."""
    monkeypatch.setitem(SIZES["gemma3"][1], "num_key_value_heads", 1)
    write(tmp_path, "gemma3")
    code, out, _ = run("check", root / "fixtures/bugs/tiled_kv_heads.py", "--pretrained", tmp_path)
    assert code == 0
    assert "the small config shows 1 fault(s) that this checkpoint and prompt do not" in out


def test_a_nan_in_the_weights_is_a_finding(run: Run, copied: Path) -> None:
    """Found as its block is lifted; what comes after it is not compared."""
    weights = load_file(copied / "model.safetensors")
    weights["model.layers.3.mlp.up_proj.weight"][5, 7] = float("nan")
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    found = report(run("check", "gemma3", "--pretrained", copied, "--format", "json"), 1)
    (finding,) = found["findings"]
    assert finding["stage"] == "weights"
    assert finding["title"] == "model.layers.3.mlp.up_proj.weight of the checkpoint holds a NaN or an infinity"
    assert found["stages"][0]["verdict"] == "fail"
    assert not any(each["name"].startswith("model.layers.4") for each in found["boundaries"])
    assert "not compared from block 4 on" in found["stages"][1]["reason"]


def test_an_infinity_in_the_embedding_is_a_finding(run: Run, copied: Path) -> None:
    """Large weights are looked at where they are used."""
    weights = load_file(copied / "model.safetensors")
    weights["model.embed_tokens.weight"][9, 9] = float("inf")
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    found = report(run("check", "gemma3", "--pretrained", copied, "--format", "json"), 1)
    assert found["findings"][0]["title"].startswith("model.embed_tokens.weight of the checkpoint")


def test_a_flat_port_with_a_fault_is_told_all_that_the_small_config_shows(
    run: Run, root: Path, gemma: Path, tmp_path: Path
) -> None:
    """Its logits alone are compared, and line and cause are known all the same."""
    port = tmp_path / "port.py"
    text = (root / "fixtures/rewrites/gemma3_flat.py").read_text()
    port.write_text(text.replace('F.gelu(gate, approximate="tanh")', "F.silu(gate)"))
    first = report(run("check", port, "--pretrained", gemma, "--format", "json"), 1)["findings"][0]
    assert first["cause"] == "activation"
    assert "F.silu(gate)" in first["port_source"]["text"]
    refused(run("check", port, "--pretrained", gemma, "--max-blocks", 2), "--max-blocks: no blocks", "Leave it out")


def test_a_constructor_that_looks_into_its_parameters(run: Run, gemma: Path, tmp_path: Path) -> None:
    """It gets real ones."""
    port = tmp_path / "port.py"
    port.write_text(
        "from parity_models import gemma3\nfrom parity_models.gemma3 import MODEL_TYPES, WEIGHTS, Config\n"
        "class Model(gemma3.Model):\n    def __init__(self, config):\n        super().__init__(config)\n"
        "        assert self.lm_head.weight.abs().mean().item() > 0\n"
    )
    assert run("check", port, "--pretrained", gemma)[0] == 0


def test_progress_off_a_terminal_is_a_line_now_and_then(run: Run, gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr."""
    monkeypatch.setattr("parity.console._EVERY", 0.0)
    code, out, err = run("check", "gemma3", "--pretrained", gemma, "--format", "json")
    assert code == 0
    json.loads(out)
    assert "parity: 3 of 8 blocks, about" in err
    assert "largest relative error" in err


def test_progress_on_a_terminal_is_a_bar(gemma: Path, tmp_path: Path) -> None:
    """Gone when it is done; the report is untouched."""
    main, side = os.openpty()
    output = tmp_path / "report.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "parity", "check", "gemma3", "--pretrained", gemma, "--format", "json", "-o", output],
        stderr=side,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160"},
    )
    os.close(side)
    drawn = b""
    with suppress(OSError):  # at its end
        while part := os.read(main, 65536):
            drawn += part
    os.close(main)
    assert process.wait(timeout=120) == 0
    assert json.loads(output.read_text())["verdict"] == "pass"
    assert b"blocks" in drawn


def test_the_first_blocks_only(run: Run, gemma: Path) -> None:
    """As asked, so a pass, and it is said what was left out."""
    found = report(run("check", "gemma3", "--pretrained", gemma, "--max-blocks", 3, "--format", "json"), 0)
    names = {each["name"] for each in found["boundaries"]}
    assert "model.layers.2" in names
    assert not names & {"model.layers.3", "logits"}
    assert "3 of 8 blocks compared, as asked" in found["stages"][1]["reason"]
    refused(run("check", "gemma3", "--pretrained", gemma, "--max-blocks", 0), "--max-blocks is 0")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_lower_precision(run: Run, root: Path, gemma: Path, dtype: str) -> None:
    """Faults show that are larger than its rounding."""
    assert run("check", "gemma3", "--pretrained", gemma, "--dtype", dtype)[0] == 0
    bug = root / "fixtures/bugs/no_embedding_scale.py"
    code, out, _ = run("check", bug, "--pretrained", gemma, "--dtype", dtype)
    assert code == 1
    assert f"{dtype}, as far as its rounding lets one see" in out


def test_prompts(run: Run, gemma: Path, tmp_path: Path) -> None:
    """Text through the tokenizer, or ids from a file; Parity's own text otherwise."""
    check = partial(run, "check", "gemma3", "--max-blocks", 1, "--format", "json", "--pretrained")

    def length(*options: object) -> int:
        reason = report(check(gemma, *options), 0)["stages"][1]["reason"]
        return int(reason.split("prompt of ")[1].split()[0])

    assert length("--prompt", "What is a generator?") < length()
    (tmp_path / "ids.json").write_text("[2, 3, 5, 7, 11]")
    assert length("--tokens", tmp_path / "ids.json") == 5
    (tmp_path / "ids.txt").write_text("2 3\n5 7 11 13\n")
    assert length("--tokens", tmp_path / "ids.txt") == 6


def test_unusable_prompts(run: Run, gemma: Path, copied: Path, tmp_path: Path) -> None:
    """Each in one line that says what to do."""
    check = partial(run, "check", "gemma3", "--pretrained")
    ids = tmp_path / "ids"
    refused(check(copied, "--prompt", "Hello"), "there is no tokenizer in", "Give --tokens FILE")
    refused(check(gemma, "--prompt", "Hello", "--tokens", ids), "--prompt and --tokens are both given")
    refused(check(gemma, "--tokens", ids), "cannot read", "ids")
    ids.write_text("[]")
    refused(check(gemma, "--tokens", ids), "holds no token ids")
    ids.write_text("1 320")
    refused(check(gemma, "--tokens", ids), "token id 320 is outside the vocabulary of 320")
    ids.write_text("[-1]")
    refused(check(gemma, "--tokens", ids), "token id -1 is outside the vocabulary")
    ids.write_text(" ".join(["7"] * 513))
    refused(check(gemma, "--tokens", ids), "the prompt has 513 tokens, the model was made for 512")
    ids.write_text("[[1, 2], [3]]")
    refused(check(gemma, "--tokens", ids), "of different lengths")


def test_what_does_not_go_together(run: Run, gemma: Path) -> None:
    """Options that contradict each other, or mean nothing alone."""
    check = partial(run, "check", "gemma3")
    refused(check("--pretrained", gemma, "--small-config"), "--small-config and --pretrained are both given")
    refused(check("--pretrained", gemma, "--reference", gemma), "--reference and --pretrained are both given")
    refused(check("--pretrained", gemma, "--revision", "main"), "has no revisions")
    refused(check("--prompt", "Hello"), "--prompt is for a real checkpoint")
    refused(check("--max-blocks", 2), "--max-blocks is for a real checkpoint")
    refused(check("--dtype", "float64"), "no dtype 'float64'")
    refused(check("--pretrained", gemma, "--device", "tpu"), "there is no device 'tpu'", "cpu, cuda, mps")
    refused(check("--pretrained", gemma, "--device", "mps"), "mps has no float64", "--dtype float32")


def test_a_device_that_is_not_there(run: Run, gemma: Path) -> None:
    """One line."""
    refused(run("check", "gemma3", "--pretrained", gemma, "--device", "cuda:99"), "no cuda:99 device", "--device cpu")


def test_another_architecture(run: Run, gemma: Path) -> None:
    """Told before anything is loaded."""
    refused(
        run("check", "llama3", "--pretrained", gemma),
        "llama3 implements llama, the config is of model_type 'gemma3_text'",
    )


def test_weights_that_do_not_fit_the_config(run: Run, copied: Path) -> None:
    """The tensor and both shapes."""
    settings(copied, "config.json", intermediate_size=160)
    refused(
        run("check", "gemma3", "--pretrained", copied),
        "'model.layers.0.mlp.down_proj.weight' has shape [96, 144]", "expects [96, 160]",
    )  # fmt: skip


def test_a_tensor_that_the_port_has_no_place_for(run: Run, gemma: Path, broken_port: Callable[..., Path]) -> None:
    """A port whose names fit the small config's checkpoint alone is told which parameters stay empty."""
    port = broken_port(('    "model.norm.weight": "norm.weight",\n', ""))
    code, out, err = run("check", port, "--pretrained", gemma, "--format", "json")
    assert (code, err) == (1, "")  # the small config tells it as a fault of loading, and where
    assert json.loads(out)["findings"][0]["cause"] == "weights-silently-missing"


def test_a_stage_that_needs_the_small_config(run: Run, gemma: Path) -> None:
    """Asked for and not run: incomplete."""
    code, out, _ = run(
        "check", "gemma3", "--pretrained", gemma, "--max-blocks", 1, "--stage", "cache", "--format", "json"
    )
    assert code == 2
    assert json.loads(out)["verdict"] == "incomplete"


def test_memory_that_runs_out(run: Run, gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to lower."""
    from parity.compare.streaming import Lockstep

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(Lockstep, "block", full)
    refused(run("check", "gemma3", "--pretrained", gemma), "out of memory on cpu in block 1 of 8", "--max-blocks")


def test_a_block_that_fails_at_full_size(run: Run, gemma: Path, broken_port: Callable[..., Path]) -> None:
    """The port's own error and line, and nothing that it prints on stdout."""
    port = broken_port(
        (
            "        return self.down_proj(self.activation",
            "        print('at work')\n        assert x.shape[-1] != 96, 'too wide'\n"
            "        return self.down_proj(self.activation",
        )
    )
    code, out, err = run("check", port, "--pretrained", gemma)
    assert (code, out) == (2, "")
    assert "layers.0 of the port raised AssertionError: too wide" in err
    assert "'too wide'" in err.splitlines()[-1]


WAITING = """
import time
from pathlib import Path

import torch
from parity_models import gemma3
from parity_models.gemma3 import MODEL_TYPES, WEIGHTS, Config


class Model(gemma3.Model):
    def __init__(self, config):
        super().__init__(config)
        if config.hidden_size == 96:
            self.layers[3].register_forward_pre_hook(self.wait)

    def wait(self, *_):
        if self.layers[3].mlp.up_proj.weight.dtype == torch.float64:
            Path({marker!r}).touch()
            time.sleep(600)
"""


def test_interrupted(gemma: Path, tmp_path: Path, interrupted: Run) -> None:
    """The report of what was compared by then; exit code 2, and nothing left behind."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    marker, port = tmp_path / "waiting", tmp_path / "port.py"
    port.write_text(WAITING.replace("{marker!r}", repr(str(marker))))
    command = ("check", port, "--pretrained", gemma, "--format", "json")
    code, out, err = interrupted(*command, marker=marker, temporary=temporary)
    assert (code, err) == (2, "")
    found = json.loads(out)
    assert found["verdict"] == "incomplete"
    assert "interrupted after 3 of 8 blocks" in found["stages"][1]["reason"]
    names = {each["name"] for each in found["boundaries"]}
    assert "model.layers.2" in names
    assert "model.layers.3" not in names
    assert list(temporary.iterdir()) == []


def test_a_port_that_cannot_be_shrunk(run: Run, gemma: Path, broken_port: Callable[..., Path]) -> None:
    """Its logits are compared all the same."""
    port = broken_port(
        ("            head_dim=hf", "            head_dim=32 if hf['hidden_size'] == 96 else 1 / 0 or hf")
    )
    code, out, err = run("check", port, "--pretrained", gemma)
    assert (code, err) == (0, ""), err
    assert "the port cannot be shrunk" in out
    assert "logits: max=" in out


CODE = {
    "configuration_mine.py": """
from transformers import Qwen3Config


class MineConfig(Qwen3Config):
    model_type = "mine"
""",
    "modeling_mine.py": """
from transformers import Qwen3ForCausalLM

from .configuration_mine import MineConfig


class MineForCausalLM(Qwen3ForCausalLM):
    config_class = MineConfig
""",
}


def test_an_architecture_that_the_checkpoint_brings(
    run: Run, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code is run if that is allowed, and only then."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = write(tmp_path / "checkpoint", "qwen3")
    for name, text in CODE.items():
        (folder / name).write_text(text)
    mapped = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    settings(folder, "config.json", model_type="mine", auto_map=mapped)
    port = tmp_path / "port.py"
    port.write_text(
        (root / "models/qwen3.py").read_text().replace('MODEL_TYPES = ("qwen3",)', 'MODEL_TYPES = ("mine",)')
    )
    refused(run("check", port, "--pretrained", folder), "its own Python code", "not run", "--trust-remote-code")
    assert not (tmp_path / "modules").exists()
    found = report(run("check", port, "--pretrained", folder, "--trust-remote-code", "--format", "json"), 0)
    assert found["reference"] == "MineForCausalLM"
    assert "Python code of the checkpoint was run" in found["stages"][1]["reason"]
    refused(run("check", port, "--pretrained", folder), "its own Python code", "not run", "--trust-remote-code")


def test_the_language_model_inside_a_larger_one(run: Run, copied: Path) -> None:
    """Its tensors go by the names they would have alone; the rest is left aside, and said so."""
    stored = load_file(copied / "model.safetensors")
    inside = {f"model.language_model.{name.removeprefix('model.')}": value for name, value in stored.items()}
    save_file(inside | {"model.vision_tower.layers.0.norm.weight": torch.ones(5)}, copied / "model.safetensors")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    found = report(run("check", "gemma3", "--pretrained", copied, "--format", "json"), 0)
    assert len(found["boundaries"]) == 283
    assert found["unmatched"]["tensors"] == ["model.vision_tower.layers.0.norm.weight"]
    assert "the rest is not covered" in found["stages"][1]["reason"]


EXPERTS = """
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

MODEL_TYPES = ("qwen3_moe",)


class Config:
    @staticmethod
    def from_hf(hf):
        config = Qwen3MoeConfig.from_dict(dict(hf))
        config._attn_implementation = config._experts_implementation = "eager"
        config.dtype = torch.get_default_dtype()
        return config


class Model(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.inner = Qwen3MoeForCausalLM(config)

    def forward(self, input_ids):
        return self.inner(input_ids, use_cache=False).logits


def load_weights(model, tensors):
    places = dict(model.inner.named_parameters())
    for name, tensor in tensors.items():
        before, experts, after = name.partition(".experts.")
        if not experts:
            places[name].data.copy_(tensor)
            continue
        number, kind, _ = after.split(".")
        if kind == "down_proj":
            places[f"{before}.experts.down_proj"].data[int(number)] = tensor
        else:
            half = tensor.shape[0] * (kind == "up_proj")
            places[f"{before}.experts.gate_up_proj"].data[int(number), half : half + tensor.shape[0]] = tensor
"""


def test_experts_stored_one_by_one_and_fused_in_memory(run: Run, tmp_path: Path) -> None:
    """More of them than on the small config; one layer without any."""
    config = {
        "model_type": "qwen3_moe", "hidden_size": 96, "intermediate_size": 144, "moe_intermediate_size": 80,
        "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 32, "vocab_size": 320,
        "num_experts": 16, "num_experts_per_tok": 4, "mlp_only_layers": [1], "tie_word_embeddings": False,
    }  # fmt: skip
    model = references.build(references.describe(config), False)
    with torch.no_grad():
        randomise(model, 0, {})
    model.to(torch.bfloat16).save_pretrained(tmp_path)  # type: ignore[operator]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "model.layers.0.mlp.experts.7.up_proj.weight" in load_file(tmp_path / "model.safetensors")
    port = tmp_path / "port.py"
    port.write_text(EXPERTS)
    found = report(run("check", port, "--pretrained", tmp_path, "--format", "json"), 0)
    assert len(found["boundaries"]) > 100


def test_blocks_that_leave_something_for_later_blocks(run: Run, root: Path, tmp_path: Path) -> None:
    """Keys and values in a dict, experts that are given other tokens in each block, and tensors that nobody uses."""
    released = json.loads((root / "fixtures" / "configs" / "gemma-4-e2b.json").read_text())
    text = released["text_config"] | {
        "hidden_size": 96, "intermediate_size": 144, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 32,
        "global_head_dim": 48, "vocab_size": 320, "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 16,
        "num_hidden_layers": 7, "num_kv_shared_layers": 3, "sliding_window": 16,
        "layer_types": [*["sliding_attention", "sliding_attention", "full_attention"] * 2, "full_attention"],
        "enable_moe_block": True, "num_experts": 12, "top_k_experts": 4, "moe_intermediate_size": 48,
    }  # fmt: skip
    model = references.build(references.describe(text), False)
    with torch.no_grad():
        randomise(model, 0, {})
    model.to(torch.bfloat16).save_pretrained(tmp_path)  # type: ignore[operator]
    stored = load_file(tmp_path / "model.safetensors")
    attention = "model.layers.{}.self_attn.{}.weight"
    spare = [attention.format(layer, name) for layer in (4, 5, 6) for name in ("k_proj", "v_proj", "k_norm")]
    assert not stored.keys() & set(spare)
    stored |= {name: torch.ones(4, 4, dtype=torch.bfloat16) for name in spare}
    inside = {name.replace("model.", "model.language_model."): value for name, value in stored.items()}
    save_file(inside, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(released | {"text_config": text}))

    other_order = ("places, rows = torch.where(chosen.t() == index)", "rows, places = torch.where(chosen == index)")
    port = tmp_path / "port.py"
    port.write_text(f'from parity_fixtures.rewrite import rewrite\n\nrewrite(globals(), "gemma4", {other_order!r})\n')
    found = report(run("check", port, "--pretrained", tmp_path, "--format", "json"), 0)
    assert {boundary["verdict"] for boundary in found["boundaries"]} <= {"exact", "ok"}
    names = {boundary["name"] for boundary in found["boundaries"]}
    assert {f"model.layers.{layer}.self_attn.o_proj" for layer in range(7)} <= names
    assert {f"model.layers.{layer}.experts.act_fn[0]" for layer in range(7)} <= names
    assert found["unmatched"] == {
        "reference": [], "port": [],
        "tensors": sorted(name.replace("model.", "model.language_model.") for name in spare),
    }  # fmt: skip

    tokens = tmp_path / "tokens.json"
    tokens.write_text("[3, 1, 4, 1, 5]")
    arguments = ("--pretrained", tmp_path, "--tokens", tokens, "--max-new-tokens", 3, "--compare-hf")
    assert run("generate", "gemma4", *arguments)[0] == 0
