"""What a reference's modules do, told by their names, so that those of two architectures can be held side by side."""

import re
from collections.abc import Iterator, Mapping, Sequence

from parity.card.facts import placed
from parity.card.structure import Norm

_IGNORED = re.compile(r"drop(out)?$|^(model|transformer)$|\.layers$|\.h$|act(_fn)?$")

# What the end of a name stands for; one module may do the work of several.
_ROLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(^|\.)(wte|embed_tokens|embeddings)$", ("embedding",)),
    (r"(^|\.)wpe$", ("table of positions",)),
    (r"rotary_emb$", ("rotation of positions",)),
    (r"(^|\.)(ln_f|norm_f|final_layernorm)$|^model\.norm$", ("norm before the head",)),
    (r"lm_head$", ("head",)),
    (r"(layers|h)\.\{\}$", ("block",)),
    (r"\.(self_attn|attn|attention)$", ("attention",)),
    (r"(attn|attention|mixer)\.(c_attn|qkv_proj|query_key_value)$", ("queries", "keys", "values")),
    (r"(attn|attention|mixer)\.(q_proj|query)$", ("queries",)),
    (r"(attn|attention|mixer)\.(k_proj|key)$", ("keys",)),
    (r"(attn|attention|mixer)\.(v_proj|value)$", ("values",)),
    (r"(attn|attention|mixer)\.(o_proj|c_proj|dense|out_proj)$", ("output of attention",)),
    (r"\.(q_norm|q_layernorm|query_layernorm)$", ("norm of queries",)),
    (r"\.(k_norm|k_layernorm|key_layernorm)$", ("norm of keys",)),
    (r"\.(mlp|feed_forward)$", ("feed-forward",)),
    (r"mlp\.(gate_up_proj)$", ("gate of the feed-forward", "way up of the feed-forward")),
    (r"mlp\.gate_proj$", ("gate of the feed-forward",)),
    (r"mlp\.(up_proj|c_fc)$", ("way up of the feed-forward",)),
    (r"mlp\.(down_proj|c_proj)$", ("way down of the feed-forward",)),
)


def roles(modules: Mapping[str, int], norms: Sequence[Norm]) -> dict[str, str]:
    """What each kind of module does, or its own name where that is not known -> the module's name."""
    places = {norm.name: placed(norm) for norm in norms if norm.place}
    found: dict[str, str] = {}
    for name in modules:
        for role in _of(name, places):
            found.setdefault(role, name)
    return found


def _of(name: str, places: Mapping[str, str]) -> Iterator[str]:
    if _IGNORED.search(name):
        return
    if name in places:
        yield f"norm {places[name]}"
        return
    yield from next((own for pattern, own in _ROLES if re.search(pattern, name) and "indexer" not in name), (name,))
