"""Each port equals its reference on every kind of config that was released, and decodes as it reads."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import parity
import parity.records
from parity.pair import reference as references
from parity.pair.pair import shrunk
from parity.pair.port import resolve
from parity.pair.promote import precision


@dataclass(frozen=True)
class Case:
    """One port: the released config it is tried on, with which changes, and what it refuses.

    A change to None takes the field out. Every check has at least so many boundaries. fused: what in the names of
    modules tells that one side has them apart and the other as one. others: variants that are of another released
    config.
    """

    config: str
    boundaries: int
    variants: Mapping[str, Mapping[str, Any]]
    refused: tuple[tuple[str, object], ...]
    fused: str = " "
    others: Mapping[str, str] = field(default_factory=dict)


YARN = {"rope_type": "yarn", "factor": 4.0}
LINEAR = {"rope_type": "linear", "factor": 8.0}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SLIDING = {"use_sliding_window": True, "sliding_window": 4096}
# As small as the small config, so that it is left as it is and may lack what follows from other fields.
ALREADY_SMALL = {"vocab_size": 157, "hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 3}

PORTS = {
    "gemma3": Case(
        config="gemma-3-270m.json",
        boundaries=200,
        variants={
            "released": {},
            "stretched full layers": {"rope_scaling": LINEAR, "query_pre_attn_scalar": 168},
            "stretched, in the newer form": {
                "rope_parameters": {
                    "full_attention": {**LINEAR, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
            "untied head": {"tie_word_embeddings": False},
            "softcap": {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
            "biases": {"attention_bias": True},
            "no layer types": {"layer_types": None, "sliding_window_pattern": 6, "_sliding_window_pattern": 6},
        },
        refused=(
            ("hidden_activation", "gelu"),
            ("use_bidirectional_attention", True),
            ("rope_scaling", YARN),
            ("layer_types", ["chunked_attention"] * 6),
        ),
    ),
    "gemma4": Case(
        config="gemma-4-31b.json",
        boundaries=210,
        variants={
            "released": {},
            "layer embeddings, shared keys": {},
            "experts": {},
            "without most of it": {
                **dict.fromkeys(("attention_k_eq_v", "final_logit_softcapping", "sliding_window", "rms_norm_eps")),
                **dict.fromkeys(("use_bidirectional_attention", "rope_parameters", "global_head_dim", "head_dim")),
                "attention_bias": True,
                "tie_word_embeddings": False,
            },
            "by layer": {
                **dict.fromkeys(("global_head_dim", "num_global_key_value_heads")),
                "per_layer_config": {
                    str(layer): {"head_dim": 512, "num_key_value_heads": 4} for layer in range(5, 60, 6)
                },
                "rope_parameters": {
                    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "factor": 8.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
                },
            },
        },
        refused=(
            ("hidden_activation", "gelu"),
            ("use_bidirectional_attention", "all"),
            ("rope_parameters", {"full_attention": YARN, "sliding_attention": YARN}),
            ("layer_types", ["chunked_attention"] * 6),
            ("num_kv_shared_layers", 4),
            ("per_layer_config", {"0": {"head_dim": 48}}),
            ("per_layer_config", {"2": {"hidden_size": 48}, "5": {"hidden_size": 48}}),
        ),
        others={"layer embeddings, shared keys": "gemma-4-e2b.json", "experts": "gemma-4-26b-a4b.json"},
    ),
    "gpt2": Case(
        config="gpt2.json",
        boundaries=65,
        variants={
            "released": {},
            "untied head": {"tie_word_embeddings": False},
            "own inner width": {"n_inner": 3000},
            "scores not scaled": {"scale_attn_weights": False},
            "scores scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
            "defaults": {"activation_function": None, "layer_norm_epsilon": None},
        },
        refused=(("activation_function", "relu"), ("add_cross_attention", True)),
    ),
    "llama3": Case(
        config="llama-3.2-1b.json",
        boundaries=80,
        variants={
            "released": {},
            "Llama 3": {"rope_scaling": None, "tie_word_embeddings": None},
            "in the newer form": {
                "rope_theta": None,
                "rope_scaling": None,
                "rope_parameters": {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 8192},
            },
            "original length from the context": {"rope_scaling": LLAMA3, "max_position_embeddings": 4096},
            "biases": {"attention_bias": True, "mlp_bias": True},
            "defaults": {
                **ALREADY_SMALL,
                **dict.fromkeys(("hidden_act", "head_dim", "num_key_value_heads", "rms_norm_eps", "attention_bias")),
                **dict.fromkeys(("mlp_bias", "rope_theta", "rope_scaling", "tie_word_embeddings")),
                "num_attention_heads": 4,
            },
        },
        refused=(("hidden_act", "gelu"), ("rope_scaling", YARN), ("rope_scaling", LINEAR)),
    ),
    "qwen3": Case(
        config="qwen3-0.6b.json",
        boundaries=95,
        variants={
            "released": {},
            "untied head": {"tie_word_embeddings": None},
            "in the newer form": {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "biases": {"attention_bias": True},
            "window turned off": {"sliding_window": 7, "max_window_layers": 0},
            "later layers slide": {**SLIDING, "max_window_layers": 14},
            "layer types": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 14},
            "defaults": {
                **ALREADY_SMALL,
                **dict.fromkeys(("hidden_act", "head_dim", "rms_norm_eps", "attention_bias")),
                **dict.fromkeys(("rope_theta", "rope_scaling", "tie_word_embeddings", "use_sliding_window")),
                "num_key_value_heads": 2,
            },
        },
        refused=(
            ("hidden_act", "gelu"),
            ("rope_scaling", YARN),
            ("layer_types", ["chunked_attention"] * 3),
            ("layer_types", ["sliding_attention"] * 3),
        ),
    ),
    "qwen3_moe": Case(
        config="qwen3-30b-a3b.json",
        boundaries=120,
        variants={
            "released": {},
            "dense layers between": {"mlp_only_layers": [1], "norm_topk_prob": False},
            "all slide": SLIDING,
        },
        refused=(("hidden_act", "gelu"), ("rope_scaling", YARN)),
        fused=".experts",
    ),
    "olmo3": Case(
        config="olmo-3-32b.json",
        boundaries=180,
        variants={
            "released": {},
            "not stretched": {"rope_scaling": None, "tie_word_embeddings": True, "attention_bias": True},
            "stretched by the factor alone": {
                "rope_scaling": {**YARN, "original_max_position_embeddings": 8192},
                "layer_types": None,
            },
        },
        refused=(
            ("hidden_act", "gelu"),
            ("rope_scaling", LINEAR),
            ("rope_scaling", {**YARN, "mscale": 1.0}),
            ("layer_types", ["chunked_attention"] * 6),
        ),
    ),
    "smollm3": Case(
        config="smollm3-3b.json",
        boundaries=115,
        variants={
            "released": {},
            "by interval": {"no_rope_layers": None, "no_rope_layer_interval": 2, "tie_word_embeddings": False},
            "biases": {"attention_bias": True, "mlp_bias": True},
        },
        refused=(("hidden_act", "gelu"), ("rope_scaling", YARN), ("use_sliding_window", True)),
    ),
    "glm4_moe": Case(
        config="glm-4.5-air.json",
        boundaries=120,
        variants={
            "released": {},
            "the larger one": {
                "use_qk_norm": True,
                "routed_scaling_factor": 2.5,
                "n_group": 2,
                "topk_group": 1,
                "attention_bias": False,
            },
            "shares as they are": {"norm_topk_prob": False, "n_shared_experts": 2, "partial_rotary_factor": 0.25},
        },
        refused=(("hidden_act", "gelu"), ("rope_scaling", YARN)),
        fused=".experts",
    ),
    "deepseek_v3": Case(
        config="deepseek-v3.json",
        boundaries=200,
        variants={
            "released": {},
            "queries not compressed": {"q_lora_rank": None, "rope_scaling": None},
            "halves, and scores not scaled up": {
                "rope_interleave": False,
                "rope_scaling": {
                    **YARN,
                    "original_max_position_embeddings": 4096,
                    "mscale": 0.7,
                    "mscale_all_dim": 0.0,
                },
                "attention_bias": True,
            },
        },
        refused=(("hidden_act", "gelu"), ("rope_scaling", LINEAR), ("scoring_func", "softmax")),
        fused=".experts",
    ),
    "deepseek_v32": Case(
        config="deepseek-v3.2.json",
        boundaries=230,
        variants={"released": {}},
        refused=(("hidden_act", "gelu"), ("rope_scaling", LINEAR), ("scoring_func", "softmax")),
        fused=".experts",
    ),
    "glm_moe_dsa": Case(
        config="glm-5.json",
        boundaries=200,
        variants={
            "released": {},
            "indexers shared": {"indexer_types": ["full", "full", "shared"] * 26},
        },
        refused=(("hidden_act", "gelu"), ("rope_parameters", YARN), ("indexer_types", ["none"] * 4)),
        fused=".experts",
    ),
    "qwen3_5": Case(
        config="qwen3.5-0.8b.json",
        boundaries=90,
        variants={
            "released": {},
            "experts": {
                "model_type": "qwen3_5_moe_text",
                "num_experts": 256,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 512,
                "shared_expert_intermediate_size": 512,
                "linear_num_value_heads": 32,
                "tie_word_embeddings": False,
            },
            "defaults, older fields, biases": {
                **ALREADY_SMALL,
                **dict.fromkeys(("hidden_act", "layer_types", "rms_norm_eps", "tie_word_embeddings")),
                **{"rope_parameters": None, "rope_theta": 1e6, "attention_bias": True, "linear_conv_kernel_dim": 3},
                **{
                    "head_dim": 24,
                    "linear_key_head_dim": 10,
                    "linear_value_head_dim": 14,
                    "full_attention_interval": 2,
                },
                **{"linear_num_key_heads": 2, "linear_num_value_heads": 6},
            },
        },
        refused=(
            ("hidden_act", "gelu"),
            ("attn_output_gate", False),
            ("rope_parameters", {**YARN, "rope_theta": 1e7}),
            ("layer_types", ["sliding_attention"] * 6),
        ),
        fused=".experts",
    ),
    "sarvam": Case(
        config="sarvam-30b.json",
        boundaries=130,
        variants={
            "released": {},
            "biases, and no q/k norm": {"use_qkv_bias": True, "use_qk_norm": False, "tie_word_embeddings": True},
            "in the newer form": {
                "rope_theta": None,
                "rope_scaling": None,
                "rope_parameters": {"rope_type": "default", "rope_theta": 8e6},
                "num_shared_experts": 2,
                "n_group": 2,
                "topk_group": 1,
            },
            "the larger one": {},
            "the larger one, with groups of its own": {"n_group": 8, "topk_group": 4},
        },
        refused=(
            ("hidden_act", "gelu"),
            ("score_function", "softmax"),
            ("norm_topk_prob", False),
            ("num_shared_experts", 0),
            ("num_experts_per_tok", 1),
            ("use_bias", True),
            ("rope_scaling", YARN),
            ("model_type", "sarvam_mla"),
        ),
        fused=".experts",
        others={
            "the larger one": "sarvam-105b.json",
            "the larger one, with groups of its own": "sarvam-105b.json",
        },
    ),
    "nemotron_h": Case(
        config="nemotron-3-nano-30b-a3b.json",
        boundaries=70,
        variants={
            "released": {},
            "in a latent space": {
                "moe_latent_size": 1024,
                "n_routed_experts": 512,
                "num_experts_per_tok": 22,
                "routed_scaling_factor": 5.0,
                "n_group": 2,
                "norm_topk_prob": False,
                "mlp_bias": True,
            },
            "dense, in the newer form": {
                "hybrid_override_pattern": None,
                "num_hidden_layers": None,
                "layers_block_type": ["mamba", "mlp", "mamba", "mlp", "attention", "mlp"] * 4,
                "use_bias": True,
                "use_conv_bias": False,
                "time_step_min": 0.01,
            },
        },
        refused=(("mlp_hidden_act", "silu"), ("mamba_hidden_act", "gelu"), ("hybrid_override_pattern", "MEM?")),
        fused=".experts",
    ),
}

VARIANTS = [(port, name) for port, case in PORTS.items() for name in case.variants]
REFUSED = [(port, *refused) for port, case in PORTS.items() for refused in case.refused]
SLIDE = [("gemma3", "released"), ("gemma4", "released"), ("qwen3", "later layers slide"), ("qwen3", "layer types")]
MORE = [("gemma4", "layer embeddings, shared keys"), ("sarvam", "the larger one")]
DECODE = [*((port, "released") for port in PORTS), *SLIDE[2:], *MORE]

Small = Callable[[str, str], dict[str, Any]]


def named(values: tuple[str, ...]) -> str:
    """A test's id."""
    return ": ".join(values)


@pytest.fixture
def small(configs: Path) -> Small:
    """A port's released config in one of its variants, shrunk."""

    def make(port: str, variant: str) -> dict[str, Any]:
        case = PORTS[port]
        changes = case.variants[variant]
        released = json.loads((configs / case.others.get(variant, case.config)).read_text())
        config = {**references.text_part(released), **changes}
        config = {name: value for name, value in config.items() if not (name in changes and value is None)}
        return dict(shrunk(references.describe(config, resolve(port).stand_ins)).config)

    return make


@pytest.mark.parametrize("case", VARIANTS, ids=named)
def test_equals_the_reference(case: tuple[str, str], small: Small, tmp_path: Path) -> None:
    """Every boundary below 1e-12, everything matched."""
    port, variant = case
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small(port, variant)))
    report = parity.check(port, config=path)
    assert report.verdict == "pass"
    assert report.unmatched.tensors == ()
    alone = [*report.unmatched.reference, *report.unmatched.port]
    assert [name for name in alone if PORTS[port].fused not in name] == []
    assert {stage.name for stage in report.stages if stage.verdict == "not_run"} == {"gradient"}
    exact = [boundary for boundary in report.boundaries if boundary.stage != "precision"]
    assert all(boundary.relative is not None and boundary.relative < 1e-12 for boundary in exact)
    assert all(boundary.verdict in ("exact", "ok") for boundary in report.boundaries)
    assert len(exact) > PORTS[port].boundaries


@pytest.mark.parametrize(("port", "field", "value"), REFUSED)
def test_refuses_what_it_does_not_implement(port: str, field: str, value: object, small: Small) -> None:
    """A setting outside the port is a ValueError that names it."""
    with pytest.raises(ValueError, match="not implemented"):
        import_module(f"parity_models.{port}").Config.from_hf(small(port, "released") | {field: value})


@pytest.fixture(params=DECODE, ids=named)
def model(request: pytest.FixtureRequest, small: Small) -> Iterator[Any]:
    """A port in promoted float64 whose weights are nowhere constant."""
    port, variant = request.param
    module = import_module(f"parity_models.{port}")
    with precision(promoted=True):
        torch.manual_seed(0)
        made: nn.Module = module.Model(module.Config.from_hf(small(port, variant))).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        yield made


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[25, *[1] * 15], [1] * 40, [3, 17, 2, 18], [40]], ids=str)
def test_cached_decoding_equals_one_full_forward(model: Any, chunks: list[int]) -> None:
    """Prefill and one token, token by token, uneven chunks: all past the window of 7 and its second wrap."""
    ids = torch.randint(0, 157, (2, 40))
    cache = model.new_cache(2)
    parts = [model(part, cache=cache) for part in ids.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("model", SLIDE, ids=named, indirect=True)
def test_a_sliding_layer_keeps_no_more_than_its_window(model: Any) -> None:
    """The cache of a sliding layer stops growing; that of a full layer does not."""
    cache = model.new_cache(1)
    for part in torch.randint(0, 157, (1, 30)).split(5, dim=1):
        model(part, cache=cache)
    sizes = {"sliding_attention": 6, "full_attention": 30}
    assert set(model.config.layer_types) == set(sizes)
    assert [layer.keys.shape[2] for layer in cache.layers] == [sizes[kind] for kind in model.config.layer_types]


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_left_padding_changes_nothing(model: Any, cached: bool) -> None:
    """A padded row gives what it gives alone, in one forward and when decoding on."""
    long, short = torch.randint(0, 157, (1, 20)), torch.randint(0, 157, (1, 12))
    ids = torch.cat((long, torch.cat((torch.zeros(1, 8, dtype=torch.long), short), dim=1)))
    mask = torch.ones_like(ids)
    mask[1, :8] = 0
    if cached:
        cache, chunks = model.new_cache(2), [5, 5, 9, 1]  # one chunk of padding alone, one of both
        parts = [
            model(part, attention_mask=real, cache=cache)
            for part, real in zip(ids.split(chunks, dim=1), mask.split(chunks, dim=1), strict=True)
        ]
        logits = torch.cat(parts, dim=1)
    else:
        logits = model(ids, attention_mask=mask)
    torch.testing.assert_close(logits[:1], model(long), rtol=0, atol=1e-12)
    torch.testing.assert_close(logits[1:, 8:], model(short), rtol=0, atol=1e-12)
