"""The small config hides nothing: real settings, distinct widths, two layers of each kind, no constant tensor."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from parity.pair import probe
from parity.pair import reference as references
from parity.pair.promote import precision
from parity.pair.small_config import shrink
from parity.pair.weights import randomise

FIELD = [
    "llama", "qwen3", "qwen3_moe", "gemma3_text", "gpt2", "olmo3", "smollm3", "glm4_moe", "deepseek_v3", "deepseek_v32",
    "glm_moe_dsa", "qwen3_5_text", "nemotron_h", "gpt_oss", "mistral", "phi3", "gemma4_text",
]  # fmt: skip
REAL = ["gemma-3-270m.json", "llama-3.2-1b.json", "qwen3-0.6b.json", "gpt2.json"]
NEMOTRON = "nemotron-3-nano-30b-a3b.json"


def small(config: dict[str, Any], adversarial: bool = True) -> tuple[references.Reference, int]:
    """The reference on its shrunken config, and the tokens that its probe needs."""
    described = references.describe(config)
    made = shrink(described.config, described.settings, adversarial)
    return references.describe(made.config), made.tokens


@pytest.mark.parametrize("model_type", FIELD)
@pytest.mark.parametrize("adversarial", [True, False])
def test_architectures_of_the_field(model_type: str, adversarial: bool) -> None:
    """The reference builds, runs in promoted float64, and no stored tensor is constant."""
    reference, length = small(CONFIG_MAPPING[model_type]().to_dict(), adversarial)
    model = references.build(reference, promoted=True)
    randomise(model, 0, references.input_axes(model))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() > 1:
            assert tensor.std() > 0, name
    with torch.no_grad(), precision(promoted=True):
        logits = references.logits(model, probe.make(reference.settings, length, 0).input_ids)
    assert logits.dtype == torch.float64
    assert logits.shape[:2] == (3, length)
    assert bool(torch.isfinite(logits).all())
    assert 0.1 < float(logits.std()) < 100


@pytest.mark.parametrize("name", REAL)
def test_released_configs_keep_all_but_their_widths(name: str, configs: Path) -> None:
    """Only sizes, depth, context and token ids change; no field is added that the released file lacks."""
    config = json.loads((configs / name).read_text())
    made = shrink(config, references.describe(config).settings).config
    changed = {field for field in made if made[field] != config.get(field)}
    assert changed <= {
        "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
        "num_hidden_layers", "layer_types", "sliding_window", "_sliding_window_pattern", "max_position_embeddings",
        "max_window_layers", "bos_token_id", "eos_token_id", "n_embd", "n_head", "n_layer", "n_positions", "n_ctx",
    }  # fmt: skip
    assert set(made) == set(config)


def test_gemma3_widths_are_distinct_and_its_window_is_left(configs: Path) -> None:
    """No two axes can be taken for each other, and the probe goes past the window twice."""
    reference, length = small(json.loads((configs / "gemma-3-270m.json").read_text()))
    config = reference.config
    heads, kv_heads, head_dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    sizes = [
        3, length, heads, kv_heads, heads // kv_heads, head_dim, heads * head_dim, kv_heads * head_dim,
        config["hidden_size"], config["intermediate_size"], config["vocab_size"], config["sliding_window"],
    ]  # fmt: skip
    assert len(set(sizes)) == len(sizes)
    assert 1 < kv_heads < heads
    assert length > 2 * config["sliding_window"]
    assert config["layer_types"].count("full_attention") == 2
    assert config["query_pre_attn_scalar"] == 256
    assert config["rope_local_base_freq"] == 10000.0


def test_llama_has_a_config_for_ports_that_derive_head_dim(configs: Path) -> None:
    """The strict one breaks heads * head_dim = hidden_size, the faithful one keeps it."""
    config = json.loads((configs / "llama-3.2-1b.json").read_text())
    for adversarial in (True, False):
        made = small(config, adversarial)[0].config
        equal = made["num_attention_heads"] * made["head_dim"] == made["hidden_size"]
        assert equal is not adversarial
    assert made["rope_scaling"] == config["rope_scaling"]
    assert made["max_position_embeddings"] == config["max_position_embeddings"]


def test_layer_lists_follow_the_layers_that_are_kept() -> None:
    """Kinds given by a field other than layer_types stay with their layers."""
    qwen3 = CONFIG_MAPPING["qwen3"](use_sliding_window=True, max_window_layers=20, num_hidden_layers=28).to_dict()
    config = small(qwen3)[0].config
    full = [kind == "full_attention" for kind in config["layer_types"]]
    assert sum(full) == config["max_window_layers"] == 2
    moe = CONFIG_MAPPING["deepseek_v3"]().to_dict()
    assert small(moe)[0].config["first_k_dense_replace"] == 2


@pytest.mark.parametrize("adversarial", [True, False])
def test_layers_that_share_keep_layers_to_share_with(configs: Path, adversarial: bool) -> None:
    """Two of each kind that have keys of their own, so that the first cannot be taken for the last, and two without."""
    released = references.text_part(json.loads((configs / "gemma-4-e2b.json").read_text()))
    config = small(dict(released), adversarial)[0].config
    kinds, sharing = config["layer_types"], config["num_kv_shared_layers"]
    for part in (kinds[:-sharing], kinds[-sharing:]):
        assert sorted(part) == ["full_attention"] * 2 + ["sliding_attention"] * 2


def test_layers_with_heads_of_their_own_keep_them(configs: Path) -> None:
    """Other counts and widths than most layers have, in either form of the config."""
    released = dict(references.text_part(json.loads((configs / "gemma-4-31b.json").read_text())))
    config = small(released)[0].config
    own = {"head_dim": config["global_head_dim"], "num_key_value_heads": config["num_global_key_value_heads"]}
    assert all(config[name] < value < config["num_attention_heads"] * 24 for name, value in own.items())
    assert "per_layer_config" not in config

    by_layer = {name: value for name, value in released.items() if "global" not in name}
    by_layer["per_layer_config"] = {
        str(layer): {"head_dim": 512, "num_key_value_heads": 4} for layer in range(5, 60, 6)
    }
    kept = small(by_layer)[0].config
    full = [str(layer) for layer, kind in enumerate(kept["layer_types"]) if kind == "full_attention"]
    assert kept["per_layer_config"] == dict.fromkeys(full, own)
    described = references.describe(by_layer)
    deep = shrink(described.config, described.settings, deep=True).config
    assert deep["per_layer_config"] == dict.fromkeys(by_layer["per_layer_config"], own)


def test_no_token_is_padding() -> None:
    """No text has any, and the reference's embedding trains none."""
    for seed in range(5):
        ids = probe.make({"vocab_size": 23, "pad_token_id": 5}, 41, seed).input_ids
        assert not bool((ids == 5).any())
        assert set(ids.flatten().tolist()) <= set(range(23))


def test_a_letter_for_each_layer_goes_with_its_layer(configs: Path) -> None:
    """Two of each of the three kinds, in the pattern and in the class's own list."""
    config = json.loads((configs / NEMOTRON).read_text())
    made = small(config)[0]
    assert made.config["hybrid_override_pattern"] == "MEME**"
    assert made.config["num_hidden_layers"] == 6
    assert made.settings["layers_block_type"].count("full_attention") == 2


def test_layers_that_are_only_listed_are_counted(configs: Path) -> None:
    """A config without a number of layers is shrunk all the same, once."""
    kinds = ["linear_attention", "moe", "full_attention", "moe"] * 13
    config = json.loads((configs / NEMOTRON).read_text()) | {"layers_block_type": kinds}
    del config["hybrid_override_pattern"], config["num_hidden_layers"]
    once = shrink(config, references.describe(config).settings)
    assert once.config["layers_block_type"] == [*kinds[:5], "full_attention"]
    assert shrink(once.config, references.describe(once.config).settings).config == once.config


def test_initial_values_that_are_drawn_are_the_same_in_every_run(configs: Path) -> None:
    """Random weights are spread around them, and the same seed gives the same weights."""
    described = small(json.loads((configs / NEMOTRON).read_text()))[0]
    biases = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        biases.append(references.build(described, promoted=False).state_dict()["model.layers.0.mixer.dt_bias"])
    assert torch.equal(*biases)


def test_a_linear_layer_hands_a_state_on_that_is_read(configs: Path) -> None:
    """Three chunks of 64: the first finds no state to decay, the last one's is never read."""
    config = json.loads((configs / "qwen3.5-0.8b.json").read_text())["text_config"]
    assert small(config)[1] > 2 * 64


def test_random_weights_are_their_own_stream(configs: Path) -> None:
    """A tensor's values depend on its name and the seed alone."""
    config = json.loads((configs / "gemma-3-270m.json").read_text())
    first, second, other = (references.build(small(config)[0], promoted=False) for _ in range(3))
    for model, seed in ((first, 0), (second, 0), (other, 1)):
        randomise(model, seed, {})
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_a_large_vocabulary_gets_a_shorter_probe_and_says_so(configs: Path) -> None:
    """At full size the window is out of reach, which is a note and not silence."""
    full = references.describe(json.loads((configs / "gemma-3-270m.json").read_text()))
    made = probe.make(full.settings, 1029, 0)
    assert made.input_ids.shape == (1, 256)
    assert made.notes == ("sliding_window 512: the probe has 256 tokens, use --small-config",)
    reference, length = small(dict(full.config))
    assert probe.make(reference.settings, length, 0).notes == ()


def test_a_small_config_is_left_as_it_is(configs: Path) -> None:
    """Shrinking twice is shrinking once."""
    config = json.loads((configs / "gemma-3-270m.json").read_text())
    once = shrink(config, references.describe(config).settings)
    twice = shrink(once.config, references.describe(once.config).settings)
    assert twice.config == once.config
    assert twice.tokens == once.tokens


def test_norms_over_the_stream_let_through_as_much_whatever_their_weights_mean(configs: Path) -> None:
    """Gemma's are added to one, others are not; the stream stays near one in the last layer."""
    for name in ("gemma-3-270m.json", "llama-3.2-1b.json", "gpt2.json"):
        reference, length = small(json.loads((configs / name).read_text()))
        model = references.build(reference, promoted=True)
        randomise(model, 0, references.input_axes(model))
        sizes: list[float] = []
        for module in model.modules():
            if type(module).__name__.endswith("DecoderLayer") or type(module).__name__.endswith("Block"):
                module.register_forward_hook(lambda _m, _i, out: sizes.append(_size(out)))  # noqa: B023
        with torch.no_grad(), precision(promoted=True):
            references.logits(model, probe.make(reference.settings, length, 0).input_ids)
        assert len(sizes) >= 3
        assert 0.5 < sizes[-1] < 3


def _size(value: Any) -> float:
    """Root mean square over the tokens that are neither the largest nor the smallest."""
    value = value[0] if isinstance(value, tuple) else value
    return float(value.pow(2).mean(-1).sqrt().median())


def test_scaled_rope_has_wavelengths_on_each_side_of_its_limits(configs: Path) -> None:
    """Within a factor of two, so that a limit twice or half as large makes a difference."""
    reference, _ = small(json.loads((configs / "llama-3.2-1b.json").read_text()))
    rope, width = reference.settings["rope_parameters"], reference.settings["head_dim"]
    waves = [2 * math.pi * rope["rope_theta"] ** (2 * n / width) for n in range(width // 2)]
    for factor in (rope["low_freq_factor"], rope["high_freq_factor"]):
        limit = rope["original_max_position_embeddings"] / factor
        assert any(limit / 2 < wave < limit for wave in waves)
        assert any(limit < wave < limit * 2 for wave in waves)
