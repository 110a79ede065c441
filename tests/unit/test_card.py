"""Cards: what is computed from a config is what its reference has and keeps, and what is published."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.card import card as cards
from parity.card import memory, parameters, structure
from parity.card.card import layers_of
from parity.card.fields import Fields, check
from parity.card.layers import read
from parity.card_records import Card, KVCache
from parity.errors import ParityError
from parity.pair import reference as references
from parity.pair.small_config import shrink

CONFIGS = Path(__file__).parents[2] / "fixtures" / "configs"
NAMES = sorted(  # those that transformers has; of others there is nothing to measure
    path.stem for path in CONFIGS.glob("*.json") if references.implements(json.loads(path.read_text(encoding="utf-8")))
)
KIB = 1024

# Of the gallery and of reference caches, in KiB per token in bfloat16, before and after windows are full. GLM-5 has the
# cache of GLM-5.1. Gemma 4 E2B is listed at 35, its reference keeps 18.
PUBLISHED = {
    "gpt2-xl": (300, 300),
    "llama-3-8b": (128, 128),
    "qwen3-4b": (144, 144),
    "qwen3-0.6b": (112, 112),
    "gemma-3-270m": (18, 3),
    "gemma-4-e2b": (18, 6),
    "deepseek-v3": (68.625, 68.625),
    "deepseek-v3.2": (68.625, 68.625),
    "glm-5": (87.75, 87.75),
    "glm-4.5-air": (184, 184),
}
# What a reduced model keeps of the real one's widths: all that the cache is made of.
KEPT = (
    "head_dim", "num_key_value_heads", "global_head_dim", "num_global_key_value_heads", "kv_lora_rank",
    "qk_rope_head_dim", "index_head_dim", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
    "linear_value_head_dim", "ssm_state_size", "mamba_num_heads", "mamba_head_dim", "n_groups", "n_embd", "n_head",
)  # fmt: skip
WINDOW = 48


@cache
def card(name: str) -> Card:
    """A card, made once."""
    return cards.card(name)


def text_of(name: str) -> Mapping[str, Any]:
    """The language model's part of a released config."""
    return references.text_part(json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))


def kept(name: str) -> KVCache:
    """What a released config says is kept of tokens, from its fields alone."""
    return memory.cache(layers_of(text_of(name)))


def reduced(name: str) -> dict[str, Any]:
    """A released config with two layers of each kind, whose cache has the real widths, and nothing else is as wide."""
    config = text_of(name)
    small = dict(shrink(config, references.describe(config).settings).config)
    small |= {field: config[field] for field in KEPT if field in config and field in small}
    if "kv_lora_rank" in small:
        small["head_dim"] = small["qk_rope_head_dim"]
    if "num_key_value_heads" in small:
        small["num_attention_heads"] = small["num_key_value_heads"]
    if "head_dim" not in small and "n_embd" not in small and "kv_lora_rank" not in small:
        small["hidden_size"] = small["num_attention_heads"] * (config["hidden_size"] // config["num_attention_heads"])
    if small.get("sliding_window"):
        small["sliding_window"] = WINDOW
    return small


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_is_what_the_reference_keeps(name: str) -> None:
    """Bytes of the reference's own cache in bfloat16, run on tokens, before and past the window; and parameters."""
    reference = references.describe(reduced(name))
    layers, unknown = read(Fields(reference.settings, reference.config))
    assert unknown == ()
    computed = memory.cache(layers)
    model = references.build(reference, promoted=False).bfloat16()
    for tokens in (5, WINDOW + 9):
        found = structure.cached(model, torch.ones(2, tokens, dtype=torch.long))
        assert sum(size for layer in found for _, size in layer.values()) == 2 * computed.bytes(tokens), tokens
        for number, layer in enumerate(found):
            own = [kind for kind in computed.kinds if number in kind.layers]
            assert sum(size for _, size in layer.values()) == 2 * own[0].bytes(tokens, "bfloat16") // len(own[0].layers)
    inspected = structure.inspect(reference, layers)
    counted = parameters.count(Fields(reference.settings, reference.config), layers, inspected)
    assert counted.counted_total == sum(each.numel() for each in model.parameters())
    assert counted.agree, (counted.formula_total - counted.total, counted.formula_active - counted.active)


@pytest.mark.parametrize("name", PUBLISHED)
def test_bytes_per_token_are_those_published(name: str) -> None:
    """In KiB, the whole stack, before any window is full and after all are."""
    found = kept(name)
    assert (found.per_token() / KIB, found.per_token(saturated=True) / KIB) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("gpt2", 124_439_808, 124_439_808),
        ("llama-3.2-1b", 1_235_814_400, 1_235_814_400),
        ("qwen3-0.6b", 596_049_920, 596_049_920),
        ("qwen3-30b-a3b", 30_532_122_624, 3_353_032_704),
        ("gemma-4-e2b", 4_628_569_344, 4_628_569_344),
        ("nemotron-3-nano-30b-a3b", 31_577_937_344, 3_580_073_408),
    ],
)
def test_parameters_of_released_models(name: str, total: int, active: int) -> None:
    """At full size, counted in the reference without memory, and by formula; the cache of all layers is measured."""
    found = card(name)
    assert (found.parameters.total, found.parameters.active, found.parameters.agree) == (total, active, True)
    measured = found.kv_cache.measured
    assert measured is not None
    assert measured.agree
    assert measured.growth == found.kv_cache.per_token()


def test_an_indexer_is_told_apart() -> None:
    """What the reference keeps is more than keys and values; both figures are there, and why."""
    found = kept("deepseek-v3.2")
    assert found.indexer_per_token() == 61 * 128 * 2
    assert found.bytes(1) == found.per_token() + found.indexer_per_token()
    assert any("indexer's keys are kept as well" in why for why in found.why)


def test_a_published_figure_that_is_not_measured_is_explained() -> None:
    """35 KiB are what all layers would keep if none shared and all were alike."""
    why = " ".join(kept("gemma-4-e2b").why)
    assert "20 of 35 layers (15-34) use keys and values of earlier ones" in why
    assert "1 of 256 and 1 of 512 features" in why
    assert "would be 35.0 KiB per token" in why


def test_dtypes_windows_and_states() -> None:
    """A cache in eight bits is half, a window bounds it, a recurrent state keeps its dtype and its size."""
    gemma = kept("gemma-3-270m")
    assert gemma.per_token("float8") == 9 * KIB
    assert gemma.per_token("int4") == 4.5 * KIB
    assert gemma.bytes(100_000) - gemma.bytes(50_000) == 50_000 * 3 * KIB
    nemotron = kept("nemotron-3-nano-30b-a3b")
    state = 23 * 64 * 64 * 128 * 4
    convolution = 23 * (64 * 64 + 2 * 8 * 128) * 4
    assert nemotron.fixed("bfloat16") == state + 2 * convolution
    assert nemotron.fixed("float8") == state + convolution


@pytest.mark.parametrize(
    ("name", "attention", "decoder"),
    [
        ("gpt2", "MHA", "dense"),
        ("qwen3-0.6b", "GQA", "dense"),
        ("gemma-3-270m", "MQA, sliding", "dense"),
        ("gemma-4-e2b", "MQA, sliding, shared keys and values", "dense"),
        ("smollm3-3b", "GQA, layers without rope", "dense"),
        ("nemotron-3-nano-30b-a3b", "GQA", "hybrid, sparse MoE"),
        ("qwen3-30b-a3b", "GQA", "sparse MoE"),
    ],
)
def test_kinds(name: str, attention: str, decoder: str) -> None:
    """What a gallery would call it."""
    found = card(name)
    assert (found.fact("attention"), found.fact("decoder")) == (attention, decoder)


def test_norms_positions_and_ties_come_from_the_reference() -> None:
    """No field says any of these."""
    gemma, olmo, gpt2 = card("gemma-3-270m"), card("smollm3-3b"), card("gpt2")
    assert gemma.fact("norm") == "RMSNorm, scales by 1 + weight"
    assert gemma.fact("placement") == "before attention, after attention, before feed-forward, after feed-forward"
    assert gemma.fact("head") == "the embedding"
    assert gemma.fact("embedding scale") == "25.2982 (embed_tokens)"  # the root of 640
    assert olmo.fact("placement") == "before attention, before feed-forward"
    assert olmo.fact("without rope") == "9 of 36 layers (3,7,11,15,19,23,27,31,35)"
    assert gpt2.fact("norm") == "LayerNorm"
    assert gpt2.fact("positions") == "a table that is learned"
    assert gpt2.fact("biases") == "c_attn, c_proj, c_fc"


def test_fields_act_or_do_not_as_audits_found() -> None:
    """The same field acts in one config and not in another of the same class."""
    wide = {each.name: each.effect for each in card("gemma-4-e2b").fields}
    plain = {each.name: each.effect for each in card("gemma-4-31b").fields}
    assert (wide["use_double_wide_mlp"], plain["use_double_wide_mlp"]) == ("acts", "no_effect")
    gemma = {each.name: each.effect for each in card("gemma-3-270m").fields}
    assert gemma["attn_logit_softcapping"] == "no_effect"
    assert gemma["sliding_window"] == "acts"
    assert gemma["max_position_embeddings"] == "no_effect"
    assert gemma["initializer_range"] == "silent"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_key_value_heads": 3}, "16 heads cannot share 3 key-value heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"layer_types": ["full_attention"]}, "1 layers are listed, and num_hidden_layers is 28"),
        ({"head_dim": None, "hidden_size": 1000}, "hidden_size 1000 is no multiple of 16 heads"),
        ({"num_experts": 4, "num_experts_per_tok": 5}, "5 experts are chosen for each token, and there are 4"),
        ({"num_kv_shared_layers": 28}, "28 of 28 layers share keys and values"),
    ],
)
def test_fields_that_contradict_each_other(change: dict[str, Any], told: str) -> None:
    """Each is told with a next step."""
    config = {**text_of("qwen3-0.6b"), **change}
    with pytest.raises(ParityError, match=told):
        check(Fields(config, config))


def test_nobody_knows_the_architecture() -> None:
    """Figures from the fields, the rest unknown, and that is said."""
    fields = dict(text_of("llama-3.2-1b"))
    assert memory.cache(layers_of(fields)).per_token() == 32 * KIB
    counted = parameters.count(Fields(fields, fields), layers_of(fields), None)
    assert counted.agree is None
    assert counted.estimated
    assert counted.total == 1_235_814_400  # two norms and a gate are what it has
