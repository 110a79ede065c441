"""The Gemma 3 port equals its reference on every kind of config that was released, and decodes as it reads."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_models.gemma3 import Config, Model

import parity
import parity.records
from parity.pair import reference as references
from parity.pair.promote import precision
from parity.pair.small_config import shrink

LINEAR = {"rope_type": "linear", "factor": 8.0}
VARIANTS: dict[str, dict[str, Any]] = {
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
}


@pytest.fixture
def small(configs: Path) -> Callable[..., dict[str, Any]]:
    """The released config with some fields changed, shrunk."""

    def make(**changes: Any) -> dict[str, Any]:
        config = json.loads((configs / "gemma-3-270m.json").read_text()) | changes
        config = {name: value for name, value in config.items() if not (name in changes and value is None)}
        described = references.describe(config)
        return dict(shrink(described.config, described.settings).config)

    return make


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_equals_the_reference(changes: dict[str, Any], small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Every boundary below 1e-12, everything matched."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small(**changes)))
    report = parity.check("gemma3", config=path)
    assert report.verdict == "pass"
    assert report.unmatched == parity.records.Unmatched()
    assert all(boundary.relative is not None and boundary.relative < 1e-12 for boundary in report.boundaries)
    assert len(report.boundaries) > 200


def test_layer_kinds_survive_without_a_list(small: Callable[..., dict[str, Any]]) -> None:
    """An older config gives a period only; the small one keeps that form and at least two layers of each kind."""
    config = small(**VARIANTS["no layer types"])
    assert "layer_types" not in config
    kinds = Config.from_hf(config).layer_types
    assert kinds.count("full_attention") >= 2
    assert kinds.count("sliding_attention") >= 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_activation", "gelu"),
        ("use_bidirectional_attention", True),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("layer_types", ["chunked_attention"] * 6),
    ],
)
def test_refuses_what_it_does_not_implement(field: str, value: object, small: Callable[..., dict[str, Any]]) -> None:
    """A setting outside the port is a ValueError that names it."""
    with pytest.raises(ValueError, match="not implemented"):
        Config.from_hf(small() | {field: value})


@pytest.fixture
def model(small: Callable[..., dict[str, Any]]) -> Iterator[Model]:
    """A Gemma 3 in promoted float64 whose weights are nowhere constant."""
    config = Config.from_hf(small())
    with precision(promoted=True):
        torch.manual_seed(0)
        made = Model(config).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        yield made


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[25, *[1] * 15], [1] * 40, [3, 17, 2, 18], [40]], ids=str)
def test_cached_decoding_equals_one_full_forward(model: Model, chunks: list[int]) -> None:
    """Prefill and one token, token by token, uneven chunks: all past the window of 7 and its second wrap."""
    ids = torch.randint(0, 157, (2, 40))
    cache = model.new_cache(2)
    parts = [model(part, cache=cache) for part in ids.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_sliding_layer_keeps_no_more_than_its_window(model: Model) -> None:
    """The cache of a sliding layer stops growing; that of a full layer does not."""
    cache = model.new_cache(1)
    for part in torch.randint(0, 157, (1, 30)).split(5, dim=1):
        model(part, cache=cache)
    sizes = [layer.keys.shape[2] for layer in cache.layers if layer.keys is not None]
    assert sizes == [6, 6, 30, 6, 6, 30]


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_left_padding_changes_nothing(model: Model, cached: bool) -> None:
    """A padded row gives what it gives alone, in one forward and when decoding on."""
    long, short = torch.randint(0, 157, (1, 20)), torch.randint(0, 157, (1, 12))
    ids = torch.cat((long, torch.cat((torch.zeros(1, 8, dtype=torch.long), short), dim=1)))
    mask = torch.ones_like(ids)
    mask[1, :8] = 0
    if cached:
        cache = model.new_cache(2)
        parts = [
            model(part, attention_mask=real, cache=cache)
            for part, real in zip(ids.split([10, 10], dim=1), mask.split([10, 10], dim=1), strict=True)
        ]
        logits = torch.cat(parts, dim=1)
    else:
        logits = model(ids, attention_mask=mask)
    torch.testing.assert_close(logits[:1], model(long), rtol=0, atol=1e-12)
    torch.testing.assert_close(logits[1:, 8:], model(short), rtol=0, atol=1e-12)
