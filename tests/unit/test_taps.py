"""Taps: what is right and wrong inside attention, MLP and router; and nothing is blamed for being different alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import parity
from parity.compare.capture import run
from parity.explain.tap_pairs import Place, laid
from parity.explain.tap_places import Places, Unit
from parity.explain.taps import ABSENT, INPUT_WRONG, Tap, among
from parity.explain.trace import Ref, Session
from parity.pair import reference as references
from parity.pair.promote import precision
from parity.records import Boundary, Report
from parity.report import text

ATTENTION = ["q", "k", "v", "mask", "scores", "probabilities", "context"]
ROUTER = ["router_logits", "router_scores", "experts", "expert_weights"]
PLAIN = ["exact", "ok"]


def taps(report: Report, module: str) -> dict[str, Boundary]:
    """The taps of one module of the reference, by name."""
    found = [each for each in report.boundaries if each.kind == "tap" and each.reference_module == module]
    return {each.name.partition(":")[2]: each for each in found}


def own(found: dict[str, Boundary]) -> list[str]:
    """The taps that are wrong by themselves."""
    return [name for name, tap in found.items() if tap.verdict == "diff" and not tap.inherited]


def edited(path: Path, to: Path, *edits: tuple[str, str]) -> Path:
    """A copy of a port with some of its text replaced, each text occurring once."""
    written = path.read_text()
    for old, new in edits:
        assert written.count(old) == 1, old
        written = written.replace(old, new)
    to.write_text(written)
    return to


def check(port: Path, **options: Any) -> Report:
    """A failing check."""
    report = parity.check(port, **{"small_config": True, **options})
    assert report.verdict == "fail"
    assert [each.name for each in report.boundaries if each.stage == "forward"][-1] == "logits"
    return report


@pytest.mark.parametrize(
    ("name", "module", "wrong", "inherited"),
    [
        ("window_off_by_one", "model.layers.0.self_attn", ["mask"], ["scores", "probabilities", "context"]),
        ("wrong_attention_scale", "model.layers.0.self_attn", ["scores"], ["probabilities", "context"]),
        ("qk_norm_missing", "model.layers.0.self_attn", ["q", "k"], ["scores", "probabilities", "context"]),
        ("erf_gelu", "model.layers.0.mlp", ["activation"], []),
    ],
)
def test_a_fault_shows_at_its_tap(name: str, module: str, wrong: list[str], inherited: list[str], root: Path) -> None:
    """What comes before is right, what comes after follows from it; other layers' kinds are not blamed."""
    report = check(root / "fixtures" / "bugs" / f"{name}.py")
    found = taps(report, module)
    assert own(found) == wrong
    assert [name for name, tap in found.items() if tap.inherited] == inherited
    assert all(tap.verdict in PLAIN for name, tap in found.items() if name not in (*wrong, *inherited))
    assert all(tap.port_module.startswith("layers.0.") for tap in found.values())
    if module.endswith("self_attn"):
        assert list(found) == ATTENTION
        assert own(taps(report, "model.layers.0.mlp")) == []
    if wrong == ["mask"]:
        assert own(taps(report, "model.layers.2.self_attn")) == []  # a full layer


def test_taps_stand_between_their_modules_input_and_output(root: Path) -> None:
    """In the order data flows; and the report's other rows are what they were."""
    report = check(root / "fixtures" / "bugs" / "window_off_by_one.py")
    names = [boundary.name for boundary in report.boundaries]
    places = [names.index(f"model.layers.1.self_attn:{name}") for name in ATTENTION]
    assert places == sorted(places)
    assert names.index("model.layers.1.self_attn (input)") < places[0]
    assert places[-1] < names.index("model.layers.1.self_attn.o_proj (input)")
    assert names.index("model.layers.1.mlp:product") < names.index("model.layers.1.mlp")
    assert len(set(names)) == len(names)


def test_the_text_shows_what_is_wrong_by_itself_and_all_on_request(root: Path) -> None:
    """Legible: what follows from a wrong tap is for --all."""
    report = check(root / "fixtures" / "bugs" / "window_off_by_one.py")
    short, whole = (["".join(line.plain) for line in text.render(report, every)] for every in (False, True))
    assert [line for line in short if "self_attn:" in line and line.startswith("[DIFF]")]
    assert not [line for line in short if ":scores" in line or ":activation" in line]
    assert [line for line in whole if ":scores" in line and line.endswith("inherited")]
    assert [line for line in whole if line.startswith("[OK]") and ":activation" in line]


FLAT = [
    (("a * cos - b * sin, b * cos + a * sin", "a * cos + b * sin, b * cos - a * sin"), ["q", "k"]),
    (("behind < c.window", "behind <= c.window"), ["mask"]),
    (("q @ k.mT * c.scale", "q @ k.mT * c.scale * 1.1"), ["scores"]),
    (("(shares @ v)", "(shares @ v.flip(1))"), ["context"]),
]


@pytest.mark.parametrize(("edit", "wrong"), FLAT, ids=lambda value: str(value)[:20])
def test_a_port_without_modules_has_taps(edit: tuple[str, str], wrong: list[str], root: Path, tmp_path: Path) -> None:
    """By value and structure. What comes after the first wrong layer cannot be judged there, and says so."""
    report = check(edited(root / "fixtures" / "rewrites" / "gemma3_flat.py", tmp_path / "port.py", edit))
    first = taps(report, "model.layers.0.self_attn")
    assert own(first) == wrong
    later = taps(report, "model.layers.1.self_attn")
    assert {tap.verdict for name, tap in later.items() if name != "mask"} == {"not_compared"}
    assert {tap.note for name, tap in later.items() if name != "mask"} == {INPUT_WRONG}
    assert own(taps(report, "model.layers.0.mlp")) == []


def test_heads_one_by_one_are_taken_together(root: Path, tmp_path: Path, configs: Path) -> None:
    """A port that has a softmax for each head."""
    edit = ("self.scale = head_dim**-0.5", "self.scale = head_dim**-0.4")
    port = edited(root / "fixtures" / "rewrites" / "qwen3_split.py", tmp_path / "port.py", edit)
    found = taps(check(port, config=configs / "qwen3-0.6b.json"), "model.layers.0.self_attn")
    assert own(found) == ["scores"]
    assert found["q"].verdict == found["k"].verdict == found["mask"].verdict == "exact"


BENIGN = [
    ("sdpa", ("scale=self.scale", "scale=self.scale * 1.1"), ["context"]),
    ("sdpa", ("mask = visible[..., -k.shape[2] :]", "mask = torch.ones_like(visible).tril()"), ["mask"]),
    ("complex_rope", ("* self.scale", "* self.scale * 1.1"), ["scores"]),
    ("complex_rope", ("(weights @ v)", "(weights @ v.flip(1))"), ["context"]),
]


@pytest.mark.parametrize(("name", "edit", "wrong"), BENIGN, ids=lambda value: str(value)[:20])
def test_what_is_right_in_another_way_is_not_blamed(
    name: str, edit: tuple[str, str], wrong: list[str], root: Path, tmp_path: Path
) -> None:
    """A fault in a port that computes other values on the way: only the fault is a difference."""
    port = edited(root / "fixtures" / "benign" / f"{name}.py", tmp_path / "port.py", edit)
    found = taps(check(port), "model.layers.0.self_attn")
    assert own(found) == wrong
    if name == "sdpa":
        assert found["scores"].verdict == found["probabilities"].verdict == "not_compared"
        assert found["scores"].note == ABSENT


POSITIONS = ("torch.outer(torch.arange(length", "torch.outer(3 + torch.arange(length")
SCALE = (
    ('k = norm(k, w["k_norm"], c.eps)\n', 'k = norm(k, w["k_norm"], c.eps)\n    q = q * c.scale\n'),
    ("q @ k.mT * c.scale", "q @ k.mT"),
)
MADE_UP_FOR = [((POSITIONS,), {"q", "k"}), (SCALE, {"q"})]


@pytest.mark.parametrize(("edits", "moved"), MADE_UP_FOR, ids=["positions", "scale"])
def test_what_is_made_up_for_is_not_blamed_beside_a_fault(
    edits: tuple[tuple[str, str], ...], moved: set[str], root: Path, tmp_path: Path
) -> None:
    """Positions shifted by a constant, a scale that is in the queries; and a window that is wrong."""
    window = ("behind < c.window", "behind <= c.window")
    port = edited(root / "fixtures" / "rewrites" / "gemma3_flat.py", tmp_path / "port.py", *edits, window)
    found = taps(check(port), "model.layers.0.self_attn")
    assert own(found) == ["mask"]
    assert {name for name, tap in found.items() if tap.verdict == "not_compared"} == moved
    assert found["scores"].inherited


def test_a_passing_check_has_no_taps() -> None:
    """They cost nothing there."""
    report = parity.check("llama3", small_config=True)
    assert report.verdict == "pass"
    assert not [boundary for boundary in report.boundaries if boundary.kind == "tap"]


MIXTURE = '''
class Mixture(nn.Module):
    """Each token goes to the experts that score highest."""

    def __init__(self, config):
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, 8, bias=False)
        self.experts = nn.ModuleList(MLP(config) for _ in range(8))

    def forward(self, x):
        rows = x.flatten(0, 1)
        scores = self.gate(rows).softmax(dim=-1)
        weights, chosen = scores.topk(3, dim=-1, sorted=False)
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, rank = (chosen == number).nonzero(as_tuple=True)
            out[row] += expert(rows[row]) * weights[row, rank, None]
        return out.view_as(x)


class DecoderLayer(nn.Module):'''

EXPERTS = "".join(
    f'    "model.layers.{{}}.mlp.experts.{{}}.{part}_proj.weight": "layers.{{}}.mlp.experts.{{}}.{part}_proj.weight",\n'
    for part in ("gate", "up", "down")
)


def mixture(root: Path, tmp_path: Path, *edits: tuple[str, str]) -> Path:
    """A port with experts: the one without, and a router."""
    dense = "".join(
        f'    "model.layers.{{}}.mlp.{part}_proj.weight": "layers.{{}}.mlp.{part}_proj.weight",\n'
        for part in ("gate", "up", "down")
    )
    gate = '    "model.layers.{}.mlp.gate.weight": "layers.{}.mlp.gate.weight",\n'
    return edited(
        root / "models" / "qwen3.py",
        tmp_path / "port.py",
        ('MODEL_TYPES = ("qwen3",)', 'MODEL_TYPES = ("qwen3_moe",)'),
        (dense, gate + EXPERTS),
        ('hf["intermediate_size"]', 'hf["moe_intermediate_size"]'),
        ("\nclass DecoderLayer(nn.Module):", MIXTURE),
        ("self.mlp = MLP(config)", "self.mlp = Mixture(config)"),
        *edits,
    )


ROUTING = [
    ((".softmax(dim=-1)", ".mul(1.1).softmax(dim=-1)"), ["router_scores"]),
    (("weights = weights / weights.sum(-1, keepdim=True)", "weights = weights * 2"), ["expert_weights"]),
]


@pytest.mark.parametrize(("edit", "wrong"), ROUTING, ids=lambda value: str(value)[:20])
def test_a_router_is_looked_into(edit: tuple[str, str], wrong: list[str], root: Path, tmp_path: Path) -> None:
    """Scores, choices in whatever order, and weights."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIGS["qwen3_moe"], "mlp_only_layers": []}))
    report = check(mixture(root, tmp_path, edit), config=config, small_config=False)
    found = taps(report, "model.layers.0.mlp.gate")
    assert list(found) == ROUTER
    assert own(found) == wrong
    assert found["router_logits"].verdict in PLAIN
    assert found["experts"].verdict in PLAIN


def places(config: dict[str, Any], tokens: int = 40) -> tuple[Places, tuple[Unit, ...]]:
    """The units of a reference of that config on its own."""
    torch.manual_seed(0)
    session = Session()
    model = references.build(references.describe(config), True, session.mode)
    session.name(model)
    ids = torch.randint(3, config["vocab_size"], (2, tokens))
    with torch.no_grad(), precision(True, session.mode):
        trace = run(model, lambda: references.logits(model, ids), observer=session)
        tape = session.tape(trace.logits)
    found = Places(tape, model)
    return found, found.units()


# What the configs of two releases have in common.
DEEPSEEK: dict[str, Any] = {
    "hidden_size": 88,
    "intermediate_size": 94,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 26,
    "q_lora_rank": 38,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 14,
    "v_head_dim": 18,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": 163840,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "tie_word_embeddings": False,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "vocab_size": 149,
        "hidden_size": 56,
        "intermediate_size": 88,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 14,
        "moe_intermediate_size": 40,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [0],
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "tie_word_embeddings": False,
    },
    "deepseek_v3": {**DEEPSEEK, **{"model_type": "deepseek_v3", "vocab_size": 181, "rope_interleave": True}},
    "deepseek_v32": {
        **DEEPSEEK,
        **{"model_type": "deepseek_v32", "vocab_size": 191, "index_topk": 6, "index_head_dim": 20, "index_n_heads": 19},
    },
    "qwen35_27b": {
        "model_type": "qwen3_5_text",
        "vocab_size": 199,
        "hidden_size": 62,
        "intermediate_size": 102,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 10,
        "linear_value_head_dim": 14,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [1, 1, 1],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": False,
    },
    "nemotron3_nano": {
        "model_type": "nemotron_h",
        "vocab_size": 223,
        "hidden_size": 56,
        "layers_block_type": ["linear_attention", "moe", "linear_attention", "full_attention", "moe"],
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 64,
        "intermediate_size": 70,
        "mlp_hidden_act": "relu2",
        "ssm_state_size": 10,
        "mamba_num_heads": 8,
        "mamba_head_dim": 6,
        "n_groups": 4,
        "conv_kernel": 4,
        "expand": 2,
        "use_conv_bias": True,
        "chunk_size": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "n_shared_experts": 1,
        "moe_intermediate_size": 40,
        "moe_shared_expert_intermediate_size": 46,
        "routed_scaling_factor": 2.5,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "layer_norm_epsilon": 1e-05,
        "tie_word_embeddings": False,
    },
    "gpt2_xl": {
        "model_type": "gpt2",
        "vocab_size": 131,
        "n_positions": 48,
        "n_embd": 60,
        "n_layer": 3,
        "n_head": 5,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-05,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
    },
    "gemma4_31b": {
        "model_type": "gemma4_text",
        "vocab_size": 157,
        "hidden_size": 44,
        "intermediate_size": 76,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "global_head_dim": 24,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "full_attention"],
        "final_logit_softcapping": 30.0,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
        },
        "tie_word_embeddings": True,
    },
}

REFERENCES = [
    ("qwen3_moe", {"self_attn": ATTENTION, "mlp": ["activation", "product"], "mlp.gate": ROUTER}),
    ("deepseek_v3", {"self_attn": ATTENTION, "mlp.shared_experts": ["activation", "product"], "mlp.gate": ROUTER}),
    ("deepseek_v32", {"self_attn": ATTENTION, "self_attn.indexer": ["index_scores", "indices"], "mlp.gate": ROUTER}),
    (
        "qwen35_27b",
        {
            "self_attn": ATTENTION,
            "mlp": ["activation", "product"],
            "linear_attn": ["query", "key", "value", "g", "beta", "recurrence"],
        },
    ),
    ("nemotron3_nano", {"mixer": [*ATTENTION, "hidden_states", "dt", "B", "C", "recurrence"], "mixer.gate": ROUTER}),
    ("gpt2_xl", {"attn": ATTENTION, "mlp": ["activation"]}),
    ("gemma4_31b", {"self_attn": ATTENTION, "mlp": ["activation", "product"]}),
]


@pytest.mark.parametrize(("name", "expected"), REFERENCES, ids=[name for name, _ in REFERENCES])
def test_what_references_have(name: str, expected: dict[str, list[str]]) -> None:
    """Told by the structure of what ran: no architecture is known by name."""
    _, units = places(CONFIGS[name])
    found: dict[str, dict[str, None]] = {}
    for unit in units:
        _, _, module = unit.module.partition(".layers." if ".layers." in unit.module else ".h.")
        found.setdefault(module.partition(".")[2], {}).update(dict.fromkeys(unit.taps))
    for module, names in expected.items():
        assert sorted(found[module]) == sorted(names)
    assert set(found) - set(expected) <= {"mlp", "mlp.shared_experts", "mixer.shared_experts"}


def test_keys_are_tapped_before_they_are_repeated() -> None:
    """And rotated: the value that a cache would hold."""
    config = CONFIGS["qwen3_moe"]
    found, units = places(config, 11)
    unit = next(unit for unit in units if unit.kind == "attention")
    keys = found.tape.value(unit.taps["k"][0])
    assert keys.shape == (2, config["num_key_value_heads"], 11, config["head_dim"])
    names = [frame.code.co_name for frame in found.step(unit.taps["k"][0]).frames]
    assert any("rotary" in name for name in names)


class Odd(nn.Module):
    """Two softmaxes, one of which weighs nothing; and a product of two projections without an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, 6]` -> the same."""
        shares = torch.softmax(self.one(x) @ self.two(x).mT, dim=-1)
        mixed: Tensor = self.out(self.one(x) * self.two(x)) + torch.softmax(shares @ x, dim=-1)
        return mixed


def odd() -> Iterator[Unit]:
    """The units of that."""
    session, model = Session(), Odd()
    session.name(model)
    x = torch.randn(2, 5, 6)
    with torch.no_grad(), session.mode:
        trace = run(model, lambda: model(x), observer=session)
        tape = session.tape(trace.logits)
    yield from Places(tape, model).units()


def test_only_what_has_the_structure_is_a_unit() -> None:
    """A softmax on its own is no attention, a product of projections no activation."""
    units = list(odd())
    assert [unit.kind for unit in units] == ["attention"]
    assert list(units[0].taps) == ["q", "k", "v", "scores", "probabilities", "context"]


def test_values_are_laid_over_each_other() -> None:
    """Another order of axes is no difference, another size is no value in the same place."""
    value = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    found = laid(value.transpose(1, 2), value, "q")
    assert found is not None
    assert found.right
    assert laid(value[:1], value, "q") is None
    scaled = laid(value * 2, value, "q")
    assert scaled is not None
    assert (scaled.scaled, scaled.right, scaled.reordered) == (True, False, False)


def test_a_mask_that_hides_as_much_in_other_places_is_no_certain_fault() -> None:
    """Such as one whose axes could not be told apart."""
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    assert Place(Ref(0), Ref(0), mask.T, mask, 0.4).reordered
    assert not Place(Ref(0), Ref(0), mask.triu(2), mask, 0.4).reordered


def test_taps_are_put_between_boundaries() -> None:
    """Behind as many as each says, never behind the last one."""
    rows = [Boundary("forward", name, "", "", "output") for name in ("a", "b", "logits")]
    own = [Tap(after, Boundary("forward", f"{after}", "", "", "tap")) for after in (0, 2, 9)]
    assert [row.name for row in among(rows, own)] == ["0", "a", "b", "2", "9", "logits"]
    assert among((), own) == ()
