"""Bugs that one full forward does not show: in decoding with a cache, and in batches of padded rows."""

from functools import partial

from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, ROTARY

MODEL = "model"
POSITIONS = "torch.arange(start, real.shape[1], device=x.device)[None]"
MASKS = (ATTENTION, MODEL, "transformer", "transformer.h.*.attn", "lm_head", "model.layers.*", "transformer.h.*")
TURNED = (ROTARY, "model.rotary_emb", *MASKS)
LEARNED = ("transformer.wpe", *MASKS)
CAUSAL = "(distance >= 0) & real[:, None, None]"


def _turning(port: str) -> tuple[Mutant, ...]:
    """Positions of a port that rotates."""
    new = partial(bug, port)
    return (
        new(
            "decode_offset_doubled",
            "position-ids",
            TURNED,
            (POSITIONS, "torch.arange(2 * start, start + real.shape[1], device=x.device)[None]"),
        ),
        new(
            "decode_positions_restart",
            "position-ids",
            TURNED,
            (POSITIONS, "torch.arange(input_ids.shape[1], device=x.device)[None]"),
        ),
        new(
            "decode_positions_one_late",
            "position-ids",
            TURNED,
            (POSITIONS, "torch.arange(start, real.shape[1], device=x.device)[None] + (start > 0)"),
        ),
        new(
            "decode_chunk_shares_position",
            "position-ids",
            TURNED,
            (POSITIONS, "torch.arange(start, real.shape[1], device=x.device)[None].clamp(max=start or real.shape[1])"),
        ),
    )


def _masking(port: str) -> tuple[Mutant, ...]:
    """Masks and caches, in whatever port."""
    new = partial(bug, port)
    return (
        new(
            "decode_not_causal",
            "attention-mask",
            MASKS,
            (CAUSAL, "((distance >= 0) | (start > 0)) & real[:, None, None]"),
        ),
        new(
            "decode_mask_from_top_left",
            "attention-mask",
            MASKS,
            ("distance = keys[start:, None] - keys", "distance = keys[: real.shape[1] - start, None] - keys"),
        ),
        new(
            "decode_pads_seen",
            "attention-mask",
            MASKS,
            (
                "(real if cache is None else cache.extend(real)).bool()",
                "(real if cache is None else cache.extend(real if start == 0 else torch.ones_like(real))"
                " | (cache.length > input_ids.shape[1])).bool()",
            ),
        ),
        new("padding_seen", "attention-mask", MASKS, (CAUSAL, "(distance >= 0) & real[:, None, None].any()")),
        new("padding_of_first_row", "attention-mask", MASKS, (CAUSAL, "(distance >= 0) & real[:1, None, None]")),
    )


gemma3 = partial(bug, "gemma3")
gpt2 = partial(bug, "gpt2")
KEPT = '{"sliding_attention": config.sliding_window - 1, "full_attention": None}'

SLIDING: tuple[Mutant, ...] = (
    gemma3("ring_keeps_one_less", "swa-cache", MASKS, (KEPT, KEPT.replace("- 1", "- 2"))),
    gemma3("ring_keeps_half", "swa-cache", MASKS, (KEPT, KEPT.replace("- 1", "// 2"))),
    gemma3("ring_in_full_layers_too", "swa-cache", MASKS, (KEPT, KEPT.replace("None", "config.sliding_window - 1"))),
    gemma3(
        "window_one_wider_in_decode",
        "swa-cache",
        MASKS,
        (KEPT, KEPT.replace("- 1", "+ 1")),
        ("(distance < self.config.sliding_window)", "(distance < self.config.sliding_window + (start > 0))"),
    ),
    gemma3(
        "no_window_in_decode",
        "swa-cache",
        MASKS,
        (KEPT, KEPT.replace("config.sliding_window - 1", "None")),
        ("(distance < self.config.sliding_window)", "((distance < self.config.sliding_window) | (start > 0))"),
    ),
)

LEARNED_POSITIONS: tuple[Mutant, ...] = (
    gpt2(
        "decode_positions_restart",
        "position-ids",
        LEARNED,
        ("(real.cumsum(dim=1) - 1).clamp(min=0)[:, start:]", "(real[:, start:].cumsum(dim=1) - 1).clamp(min=0)"),
    ),
    gpt2(
        "decode_offset_doubled",
        "position-ids",
        LEARNED,
        (
            "(real.cumsum(dim=1) - 1).clamp(min=0)[:, start:]",
            "(real.cumsum(dim=1) - 1).clamp(min=0)[:, start:] + start",
        ),
    ),
    gpt2(
        "positions_shared_by_padded_rows",
        "position-ids",
        LEARNED,
        (
            "(real.cumsum(dim=1) - 1).clamp(min=0)[:, start:]",
            "torch.arange(start, real.shape[1], device=real.device)[None]",
        ),
    ),
)


def _remembering(port: str) -> tuple[Mutant, ...]:
    """What layers with a state keep from call to call."""
    new = partial(bug, port)
    kept = "self.inputs = inputs[:, :, inputs.shape[2] - self.keep :]"
    before = "before = inputs.new_zeros(*inputs.shape[:2], self.keep) if self.inputs is None else self.inputs"
    return (
        new("convolution_begins_anew", "ssm-state", STATES, (before, before.partition(" if ")[0])),
        new(
            "convolution_keeps_one_too_old",
            "ssm-state",
            STATES,
            (kept, "self.inputs = functional.pad(inputs, (1, -1))[:, :, inputs.shape[2] - self.keep :]"),
        ),
        new(
            "convolution_window_never_moves",
            "ssm-state",
            STATES,
            (kept, f"if self.inputs is None:\n            {kept}"),
        ),
    )


STATES = ("model.layers.*", *MASKS)
qwen3_5, nemotron_h = partial(bug, "qwen3_5"), partial(bug, "nemotron_h")

STATEFUL: tuple[Mutant, ...] = (
    *(mutant for port in ("qwen3_5", "nemotron_h") for mutant in _remembering(port)),
    qwen3_5("state_begins_anew", "ssm-state", STATES,
            (" if cache.state is None else cache.state\n        q = normalise", "\n        q = normalise")),
    qwen3_5("state_holds_padding", "ssm-state", STATES,
            ("        x = x.masked_fill(~real[..., None], 0.0)\n", ""), also=("attention-mask",),
            consumer="qkv = functional.silu(self.conv("),
    nemotron_h("state_begins_anew", "ssm-state", STATES,
               ("value.new_zeros(shape) if cache.state is None else cache.state", "value.new_zeros(shape)")),
    nemotron_h("state_holds_padding", "ssm-state", STATES,
               ("padding = ~real[..., None]", "padding = torch.zeros_like(real[..., None])"), also=("attention-mask",)),
)  # fmt: skip

DECODING: tuple[Mutant, ...] = (
    *(mutant for port in ("gemma3", "llama3", "qwen3") for mutant in _turning(port)),
    *(mutant for port in ("gemma3", "llama3", "qwen3", "gpt2") for mutant in _masking(port)),
    *SLIDING,
    *STATEFUL,
    *LEARNED_POSITIONS,
)
