"""The flattened code of a module: what is shown, where it comes from, and that its line numbers are true."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from parity.explain.source import Flattened, Piece, flatten
from parity.pair import reference as references
from parity.pair.small_config import shrink

CONFIGS = Path(__file__).parents[2] / "fixtures" / "configs"
SITE_PACKAGES = Path(torch.__file__).parents[1]


@functools.cache
def model(config: str) -> nn.Module:
    """A reference on its small config."""
    described = references.describe(json.loads((CONFIGS / f"{config}.json").read_text()))
    small = shrink(described.config, described.settings)
    return references.build(references.describe(small.config), promoted=False)


def code(config: str, module: str) -> dict[str, Piece]:
    """The pieces of a module of a reference, by name."""
    return by_name(flatten(model(config).get_submodule(module)))


def by_name(flattened: Flattened) -> dict[str, Piece]:
    """Its pieces; none is there twice."""
    pieces = {piece.name: piece for piece in flattened.pieces}
    assert len(pieces) == len(flattened.pieces)
    return pieces


def text(piece: Piece) -> str:
    """Its code."""
    return "\n".join(line for _, line in piece.lines)


def stands_for(piece: Piece) -> dict[str, str]:
    """What its expressions stand for."""
    return {each.expression: each.name for each in piece.resolved}


def wrapped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A decorator that leaves the function as it is."""

    @functools.wraps(function)
    def around(*arguments: object) -> Tensor:
        return function(*arguments)

    return around


@wrapped
def doubled(x: Tensor) -> Tensor:
    """Something that a forward calls."""
    return once(once(x))


def once(x: Tensor) -> Tensor:
    """Called twice."""
    return x + 0


def never(x: Tensor) -> Tensor:
    """Called from a branch that is not taken."""
    return x


class Base(nn.Module):
    """Defines all but one method."""

    scaled = False

    def __init__(self) -> None:
        super().__init__()
        self.act = functools.partial(nn.functional.gelu, approximate="tanh")

    def helper(self, x: Tensor) -> Tensor:
        """Overridden."""
        return x

    @wrapped
    def forward(self, x: Tensor) -> Tensor:
        """Calls what a derived class says."""
        if self.scaled:
            x = never(x)
        return self.act(doubled(self.helper(x)))


class Derived(Base):
    """Overrides one method, and calls what it overrides."""

    def helper(self, x: Tensor) -> Tensor:
        """Passes on."""
        return super().helper(x)


def test_methods_are_resolved_to_the_class_that_defines_them() -> None:
    """Inherited, overridden, and called through super(); decorators unwrapped, a branch not taken left alone."""
    pieces = by_name(flatten(Derived()))
    assert list(pieces) == ["Base.__init__", "Base.forward", "doubled", "once", "Derived.helper", "Base.helper"]
    assert {name for name, piece in pieces.items() if piece.inherited_from == "Base"} == {
        "Base.__init__",
        "Base.forward",
        "Base.helper",
    }
    assert "return self.act(doubled(self.helper(x)))" in text(pieces["Base.forward"])
    assert stands_for(pieces["Base.forward"]) == {"self.act": "partial(torch._C._nn.gelu, approximate='tanh')"}


def test_docstrings_are_left_out() -> None:
    """Line numbers then have a gap."""
    piece = by_name(flatten(Derived()))["doubled"]
    assert [line for _, line in piece.lines] == [
        "@wrapped",
        "def doubled(x: Tensor) -> Tensor:",
        "    return once(once(x))",
    ]
    first = piece.line
    assert [number for number, _ in piece.lines] == [first, first + 1, first + 3]


def test_code_without_a_file_is_said_in_a_line() -> None:
    """Made at run time, or a container that never runs."""
    names: dict[str, type[nn.Module]] = {"Module": nn.Module}
    exec("class Made(Module):\n    def forward(self, x):\n        return x", names)
    assert flatten(names["Made"]()).missing == ("the source of Made.forward cannot be found",)
    empty = flatten(nn.ModuleList())
    assert empty.pieces == ()
    assert empty.missing == ("ModuleList has no forward of its own in Python",)


@pytest.mark.parametrize("config", ["gemma-3-270m", "gpt2", "llama-3.2-1b"])
def test_line_numbers_are_true_for_every_module(config: str) -> None:
    """Each line shown is that line of the file, which is named relative to site-packages."""
    shown = {piece for module in model(config).modules() for piece in flatten(module).pieces}
    assert len(shown) > 20
    for piece in shown:
        lines = (SITE_PACKAGES / piece.file).read_text(encoding="utf-8").splitlines()
        for number, line in piece.lines:
            assert line.strip() == lines[number - 1].strip(), (piece.name, number)


def test_attention_is_the_function_that_runs_and_helpers_come_once() -> None:
    """repeat_kv is called twice, rotate_half from two expressions; hub kernels are unwrapped."""
    pieces = code("gemma-3-270m", "model.layers.0.self_attn")
    assert list(pieces) == [
        "Gemma3Attention.__init__",
        "Gemma3Attention.forward",
        "apply_rotary_pos_emb",
        "rotate_half",
        "eager_attention_forward",
        "repeat_kv",
    ]
    assert pieces["eager_attention_forward"].file == "transformers/models/gemma3/modeling_gemma3.py"
    resolved = stands_for(pieces["Gemma3Attention.forward"])
    assert "eager_attention_forward" in resolved.values()
    assert resolved["self.q_norm"] == "Gemma3RMSNorm"
    assert resolved["self.q_proj"] == "Linear"


def test_a_flag_of_the_config_decides_what_is_followed() -> None:
    """GPT-2 upcasts and reorders only on request."""
    assert "GPT2Attention._upcast_and_reordered_attn" not in code("gpt2", "transformer.h.0.attn")
    attention = model("gpt2").get_submodule("transformer.h.1.attn")
    attention.reorder_and_upcast_attn = True  # type: ignore[assignment]
    try:
        assert "GPT2Attention._upcast_and_reordered_attn" in by_name(flatten(attention))
    finally:
        attention.reorder_and_upcast_attn = False  # type: ignore[assignment]


def test_forward_of_torch_through_super() -> None:
    """The scaled embedding multiplies what torch's own returns."""
    pieces = code("gemma-3-270m", "model.embed_tokens")
    assert pieces["Embedding.forward"].inherited_from == "Embedding"
    assert pieces["Embedding.forward"].file == "torch/nn/modules/sparse.py"


@pytest.mark.parametrize(
    ("config", "module", "activation", "holds"),
    [
        ("gemma-3-270m", "model.layers.0.mlp", "GELUTanh.forward", "self.act(input)"),
        ("gpt2", "transformer.h.0.mlp", "NewGELUActivation.forward", "0.044715"),
        ("llama-3.2-1b", "model.layers.0.mlp", "SiLUActivation.forward", "silu(input)"),
    ],
)
def test_activations_are_shown_with_the_block(config: str, module: str, activation: str, holds: str) -> None:
    """Whatever class the name in the config stands for."""
    assert holds in text(code(config, module)[activation])


def test_the_rope_function_of_the_config_is_found() -> None:
    """Looked up in a registry by the config's rope type."""
    pieces = code("llama-3.2-1b", "model.rotary_emb")
    assert "low_freq_factor" in text(pieces["_compute_llama3_parameters"])
    assert "_compute_llama3_parameters" not in code("gemma-3-270m", "model.rotary_emb")


def test_the_model_shows_how_masks_are_made() -> None:
    """Down to the rule of the window; what is set up for saving and the like is named only."""
    flattened = flatten(model("gemma-3-270m").get_submodule("model"))
    pieces = by_name(flattened)
    assert "sliding_window" in text(pieces["sliding_window_overlay"])
    assert "create_bidirectional_mask" not in pieces
    assert "PreTrainedModel.post_init" in {each.name for each in flattened.not_shown}
    assert stands_for(pieces["Gemma3TextModel.forward"])["self.layers[...]"] == "6 x Gemma3DecoderLayer"
