"""Stand-ins: names on disk and back, and what is refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import ParityError
from parity.pair import pair as pairs
from parity.pair import reference as references
from parity.pair.port import Port, resolve
from parity.pair.stand_in import Apart, StandIn, declared

NAMES = {
    "embed": "table",
    "layers.{}.qkv": ("layers.{}.q", "layers.{}.k", "layers.{}.v"),
    "layers.{}.experts.{}.up": "layers.{}.mlp.{}.up",
}
LLAMA = {
    "model_type": "llama", "vocab_size": 61, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def made(names: object = NAMES, function: Callable[..., Any] = dict) -> StandIn:
    """One stand-in, as a port declares it."""
    return declared("port", {"ours": (function, names)})["ours"]


def tensors() -> dict[str, torch.Tensor]:
    """Of a stand-in with two layers of two experts; queries have more rows than keys and values."""
    rows = {"q": 6, "k": 2, "v": 2}
    found = {f"layers.{layer}.{part}": torch.rand(count, 3) for layer in range(2) for part, count in rows.items()}
    found |= {f"layers.{layer}.mlp.{expert}.up": torch.rand(4, 3) for layer in range(2) for expert in range(2)}
    return {"table": torch.rand(5, 3), **found}


def test_to_disk_and_back() -> None:
    """Parts lie one after another on disk, and are views of that when they are read."""
    own = tensors()
    stored = made().stored(own)
    assert set(stored) == {"embed", *(f"layers.{n}.qkv" for n in (0, 1)), *(
        f"layers.{n}.experts.{m}.up" for n in (0, 1) for m in (0, 1)
    )}  # fmt: skip
    assert torch.equal(stored["layers.1.qkv"], torch.cat([own[f"layers.1.{part}"] for part in "qkv"]))
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    apart = Apart(stored, made().apart(shapes, {name: tensor.shape for name, tensor in own.items()}))
    assert set(apart) == set(own)
    assert all(torch.equal(apart[name], own[name]) for name in own)
    assert apart["layers.0.k"].untyped_storage().data_ptr() == stored["layers.0.qkv"].untyped_storage().data_ptr()
    assert made().name_on_disk("layers.1.k") == "layers.1.qkv"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"embed": None}, "names no tensor on disk for table"),
        ({"layers.{}.experts.{}.up": None}, "names no tensor on disk for layers.{0,1}.mlp.{0,1}.up"),
        ({"head": "layers.0.q"}, "names more than one tensor on disk for layers.0.q"),
        ({"layers.{}.qkv": ("layers.{}.q", "layers.{}.k", "layers.{}.v", "layers.{}.g")}, "not there: layers.{0,1}.g"),
    ],
)
def test_a_map_that_does_not_fit(change: Mapping[str, Any], wanted: str) -> None:
    """Every tensor of the stand-in lies in exactly one on disk."""
    names = {name: parts for name, parts in {**NAMES, **change}.items() if parts}
    with pytest.raises(ParityError) as raised:
        made(names).stored(tensors())
    assert "STAND_INS['ours']" in raised.value.problem
    assert wanted in raised.value.problem


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["ours"], "STAND_INS is a list, not a dictionary"),
        ({"ours": dict}, "is not a function of the config and a dictionary of names"),
        ({"ours": (dict, ["a"])}, "is not a function of the config and a dictionary of names"),
        ({"ours": (dict, {"a": "b", "c": "b"})}, "names more than one tensor on disk for b"),
        ({"ours": (dict, {"a.{}": "b"})}, "gives other numbers of {} on its two sides for a.{}"),
        ({"ours": (dict, {"a": ()})}, "gives other numbers of {} on its two sides for a"),
    ],
)
def test_a_declaration_of_another_form(given: object, wanted: str) -> None:
    """Told when the port is read, before anything is built."""
    with pytest.raises(ParityError) as raised:
        declared("port", given)
    assert wanted in raised.value.problem


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda hf: hf["absent"], "raised KeyError: 'absent'"),
        (lambda _: 1, "gives no config with a model_type"),
        (lambda _: {"model_type": "nothing"}, "gives model_type 'nothing', of which transformers"),
    ],
)
def test_a_function_that_gives_no_config(function: Callable[..., Any], wanted: str) -> None:
    """Whatever it raises or returns."""
    with pytest.raises(ParityError) as raised:
        references.describe({"model_type": "ours"}, {"ours": made(function=function)})
    assert wanted in raised.value.problem


def test_rows_that_do_not_fit() -> None:
    """A tensor on disk has as many rows as lie in it."""
    sizes = {name: tensor.shape for name, tensor in tensors().items()}
    with pytest.raises(ParityError) as raised:
        made().apart({"layers.0.qkv": (11, 3)}, sizes)
    assert raised.value.problem == "tensor 'layers.0.qkv' has shape [11, 3], and 6 + 2 + 2 rows should lie in it"


def test_a_name_that_only_the_stand_in_has() -> None:
    """A checkpoint under the stand-in's names is not one of what it stands in for."""
    with pytest.raises(ParityError) as raised:
        made().apart({"table": (5, 3)}, {})
    assert "does not say where tensor 'table' of the checkpoint goes" in raised.value.problem


def test_a_class_of_its_own_is_used() -> None:
    """A stand-in counts only where transformers has no class."""
    described = references.describe(LLAMA, {"llama": StandIn("llama", lambda _: {"model_type": "gpt2"}, {})})
    assert (described.class_name, described.stand_in, described.notes) == ("LlamaForCausalLM", None, ())
    other = references.describe(
        LLAMA | {"model_type": "ours"}, {"ours": StandIn("ours", lambda hf: {**hf, "model_type": "llama"}, {})}
    )
    assert other.title == "LlamaForCausalLM standing in for ours"
    assert "has no class for ours: LlamaForCausalLM stands in for it" in other.notes[0]
    assert references.build(other, promoted=False).config.hidden_size == LLAMA["hidden_size"]


@pytest.fixture
def sarvam() -> Port:
    """A port with two stand-ins."""
    return resolve("sarvam")


def test_what_follows_from_the_number_of_experts_still_follows(sarvam: Port, configs: Path) -> None:
    """The number of groups, of which the config says nothing, is not written into the small one."""
    reference, _ = pairs.find_reference(sarvam, configs / "sarvam-105b.json", None)
    assert "n_group" not in reference.config
    small = pairs.shrunk(reference)
    assert set(small.config) <= set(reference.config)
    settings = references.on(reference, small.config).settings
    assert (settings["n_routed_experts"], settings["n_group"], settings["topk_group"]) == (32, 4, 2)
    smaller = {**reference.config, "num_experts": 32}  # its groups are as many as those of the small config
    again = pairs.shrunk(references.on(reference, smaller))
    assert references.on(reference, again.config).settings["n_group"] == 4
    assert pairs.shrunk(references.on(reference, small.config)).config == small.config


def test_what_does_not_follow_is_given(configs: Path) -> None:
    """A setting that the function reads, and that no number of experts gives."""
    config = json.loads((configs / "qwen3-30b-a3b.json").read_text())
    config |= {"model_type": "ours"}
    del config["head_dim"]
    stand_in = StandIn("ours", lambda hf: {**hf, "model_type": "qwen3_moe", "head_dim": hf.get("head_dim", 128)}, {})
    small = pairs.shrunk(references.describe(config, {"ours": stand_in})).config
    assert small["head_dim"] == 24
