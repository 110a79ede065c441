"""Loads that go wrong: each is found by content, named, and not also blamed on the forward."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import parity
from parity.records import Report

Load = Callable[..., Report]

# A loader that puts every tensor where WEIGHTS says, except that some places are given another tensor.
PORT = """
import re

from parity_fixtures.rewrite import rewrite

rewrite(globals(), "gemma3")


def wanted(name):
{wanted}
    return name


def load_weights(model, tensors):
    places = dict(model.named_parameters(remove_duplicate=False))
    for name in [*tensors, *EXTRA]:
        numbers = re.findall(r"\\.(\\d+)\\.", name)
        template = re.sub(r"\\.\\d+\\.", ".{{}}.", name)
        source = wanted(name)
        if source is not None:
            places[WEIGHTS[template].format(*numbers)].copy_(tensors[source])


EXTRA = {extra}
"""


@pytest.fixture
def load(tmp_path: Path, configs: Path) -> Load:
    """Check a port that loads `wanted(name)` in place of `name`."""

    def run(wanted: str, extra: list[str] | None = None, **changes: object) -> Report:
        path = tmp_path / "port.py"
        path.write_text(PORT.format(wanted="\n".join(f"    {line}" for line in wanted.splitlines()), extra=extra or []))
        config = json.loads((configs / "gemma-3-270m.json").read_text()) | changes
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config))
        return parity.check(path, config=file, small_config="hidden_size" not in changes)

    return run


def test_the_loader_itself_is_right(load: Load) -> None:
    """Nothing exchanged, nothing found."""
    assert load("pass").verdict == "pass"


def test_next_layers_tensor(load: Load) -> None:
    """One tensor taken from the layer after."""
    report = load("if name == 'model.layers.1.mlp.up_proj.weight': return 'model.layers.2.mlp.up_proj.weight'")
    assert len(report.findings) == 1
    first = report.findings[0]
    assert first.cause == "weights-misplaced"
    assert first.reference_module == "model.layers.1.mlp.up_proj"
    assert first.port_module == "layers.1.mlp.up_proj"
    assert "holds model.layers.2.mlp.up_proj.weight" in first.title


def test_two_layers_exchange_a_tensor(load: Load) -> None:
    """Both places are named, by one finding."""
    report = load(
        "pair = ['model.layers.0.self_attn.q_norm.weight', 'model.layers.3.self_attn.q_norm.weight']\n"
        "if name in pair: return pair[1 - pair.index(name)]"
    )
    assert [finding.cause for finding in report.findings] == ["weights-misplaced"]
    assert report.findings[0].reference_module == "model.layers.0.self_attn.q_norm"
    assert report.findings[0].evidence == ("also model.layers.3.self_attn.q_norm",)


def test_one_norm_never_loaded(load: Load) -> None:
    """Only the one layer is named."""
    report = load("if name == 'model.layers.4.post_attention_layernorm.weight': return None")
    assert [finding.cause for finding in report.findings] == ["weights-silently-missing"]
    assert report.findings[0].reference_module == "model.layers.4.post_attention_layernorm"
    assert report.findings[0].evidence == ()


def test_matrix_never_loaded(load: Load) -> None:
    """A random matrix left in place."""
    report = load("if name.endswith('2.self_attn.v_proj.weight'): return None")
    assert [finding.reference_module for finding in report.findings] == ["model.layers.2.self_attn.v_proj"]


def test_q_and_k_norm_exchanged(load: Load) -> None:
    """Both norms hold the other's tensor in every layer: the place is named, whichever way it is read."""
    report = load(
        "if 'q_norm' in name: return name.replace('q_norm', 'k_norm')\n"
        "if 'k_norm' in name: return name.replace('k_norm', 'q_norm')"
    )
    assert report.verdict == "fail"
    assert report.findings[0].reference_module.startswith("model.layers.0.self_attn")


def test_untied_head_that_reuses_the_embedding(load: Load) -> None:
    """The head's own tensor is in the checkpoint, and nowhere in the port."""
    report = load("if name == 'lm_head.weight': return 'model.embed_tokens.weight'", tie_word_embeddings=False)
    assert report.verdict == "fail"
    assert report.findings[0].reference_module == "lm_head"
    assert report.findings[0].port_module == "lm_head"


def test_layers_in_the_order_of_their_names(load: Load) -> None:
    """0, 1, 10, 11, 2 ...: layers hold each other's tensors."""
    kinds = ["sliding_attention", "full_attention"] * 6
    report = load(
        "order = sorted(range(12), key=str)\n"
        "return re.sub(r'layers\\.(\\d+)', lambda match: f'layers.{order[int(match[1])]}', name)",
        hidden_size=56, intermediate_size=88, head_dim=24, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=157, sliding_window=7, num_hidden_layers=12, layer_types=kinds,
    )  # fmt: skip
    assert report.verdict == "fail"
    assert report.findings[0].stage == "weights"
    assert report.findings[0].cause == "weights-misplaced"
    assert len(report.findings) == 1
