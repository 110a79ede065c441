"""Quantised caches: levels, rotations, signs and bytes against what is known of them, and any port's cache found."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from parity_models.gemma3 import Config, Model
from torch import Tensor, nn

from parity.cache_records import CACHE_DTYPES, CacheLoss, Caches, Limits, LossRow, Place, Role, Stored
from parity.caches.formats import Rotated, format_of, hold
from parity.caches.levels import distortion, levels
from parity.caches.measure import Text, Words, measure
from parity.caches.pack import pack, packed_size, unpack
from parity.caches.places import Layout, layout
from parity.caches.rotate import gaussian, rotation
from parity.caches.signs import estimate, signs
from parity.caches.stored import Decoder
from parity.compare.generation import Models
from parity.errors import ParityError
from parity.generation_records import Token
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair.port import Port
from parity.pair.small_config import shrink

ROOT = Path(__file__).parents[2]
WORDS = Words(Token, lambda ids: " ".join(map(str, ids)), frozenset())


def units(count: int, size: int, seed: int = 0) -> Tensor:
    """Unit vectors in random directions."""
    drawn = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(drawn, dim=-1)


@pytest.mark.parametrize("size", [8, 33])
def test_a_rotation_keeps_lengths_and_mixes_coordinates(size: int) -> None:
    """And is the same in every run, as what was stored with one is read with the other."""
    turned = rotation(size).double()
    torch.testing.assert_close(turned @ turned.T, torch.eye(size, dtype=torch.float64), atol=1e-6, rtol=0)
    assert turned.abs().max() < 0.95, "a coordinate is left alone"
    rotation.cache_clear()
    assert torch.equal(rotation(size).double(), turned)


@pytest.mark.parametrize(
    ("bits", "known", "error"),
    [
        (1, [0.7979], 0.3634),
        (2, [0.4528, 1.510], 0.1175),
        (3, [0.2451, 0.7560, 1.344, 2.152], 0.03454),
        (4, [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497),
    ],
)
def test_levels_are_those_of_the_literature(bits: int, known: list[float], error: float) -> None:
    """Max (1960), table I, for the normal distribution, which a coordinate has in large vectors."""
    found = levels(10**6, bits)
    assert torch.equal(found, -found.flip(0))
    assert found[found > 0].tolist() == pytest.approx(known, rel=1e-3)
    assert distortion(10**6, bits) == pytest.approx(error, rel=2e-3)


def test_levels_of_three_coordinates_are_of_even_density() -> None:
    """A coordinate of a point on a sphere is equally likely anywhere (Archimedes): levels lie at equal distances."""
    found = levels(3, 2) / math.sqrt(3)
    assert found.tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75], abs=1e-4)


@pytest.mark.parametrize("size", [16, 32, 128])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_distortion_is_within_the_bounds_of_the_paper(size: int, bits: int) -> None:
    """At most sqrt(3) pi / 2 / 4^b (theorem 1), and what the density says it is, lengths in float16 aside."""
    given = units(4000, size) * 3.0
    form = format_of("turbo8", "values") if bits == 8 else rotated(bits)
    squared = float((form.unpack(form.pack(given), size) - given).square().sum(-1).mean()) / 9.0
    assert squared <= math.sqrt(3) * math.pi / 2 / 4**bits
    assert squared == pytest.approx(distortion(size, bits), rel=0.03)


def rotated(bits: int, signed: bool = False) -> Rotated:
    """The format of so many bits."""
    return Rotated((bits,), signed)


def test_signs_give_inner_products_that_are_right_on_average() -> None:
    """Over directions: the mean of many draws is as near as the spread of their mean allows."""
    size, draws = 16, 4000
    rest, query = units(1, size) * 0.7, units(1, size, seed=1)
    found = []
    for seed in range(draws):
        directions = gaussian(size, seed).float()
        found.append(
            float((estimate(signs(rest, directions), rest.norm(dim=-1, keepdim=True), directions) * query).sum())
        )
    told = torch.tensor(found, dtype=torch.float64)
    right = float((rest * query).sum())
    off = float(told.mean()) - right
    assert abs(off) < 4 * float(told.std()) / math.sqrt(draws)
    assert abs(right) > 8 * float(told.std()) / math.sqrt(draws), "nothing would be near enough too"


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_keys_are_not_shortened_and_values_are(bits: int) -> None:
    """A vector's product with itself as stored; the squared error of others is within theorem 2."""
    size = 64
    given, queries = units(6000, size), units(6000, size, seed=1)
    plain, signed = (form.unpack(form.pack(given), size) for form in (rotated(bits), rotated(bits, signed=True)))
    shortened = 1 - distortion(size, bits)
    assert float((plain * given).sum(-1).mean()) == pytest.approx(shortened, abs=2e-3)
    assert float((signed * given).sum(-1).mean()) == pytest.approx(1.0, abs=(1 - shortened) / 5)
    squared = float(((signed - given) * queries).sum(-1).square().mean())
    assert squared <= math.sqrt(3) * math.pi**2 / size / 4**bits


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 7, 32])
def test_packing_loses_nothing(bits: int, count: int) -> None:
    """Every code comes back, out of as few whole bytes as hold them."""
    codes = torch.randint(0, 2**bits, (5, count), generator=torch.Generator().manual_seed(bits))
    codes[0], codes[1] = 0, 2**bits - 1
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (5, math.ceil(count * bits / 8)) == (5, packed_size(count, bits))
    assert torch.equal(unpack(packed, count, bits), codes)


def test_bits_lie_one_after_another() -> None:
    """The lowest first, across bytes."""
    assert pack(torch.tensor([[1, 2, 3, 0]]), 2).tolist() == [[0b00_11_10_01]]
    assert pack(torch.tensor([[5, 0, 7]]), 3).tolist() == [[0b11_000_101, 0b1]]


# Bytes of a vector of 32 coordinates: as keys, as values.
SIZES = {
    "float32": (128, 128), "bfloat16": (64, 64), "float16": (64, 64), "float8": (32, 32),
    "int8": (34, 34), "int4": (18, 18),
    "turbo8": (28 + 4 + 4, 32 + 2), "turbo4": (12 + 4 + 4, 16 + 2),
    "turbo3.5": (6 + 4 + 4 + 4, 8 + 6 + 2), "turbo2": (4 + 4 + 4, 8 + 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CACHE_DTYPES)
def test_bytes_are_what_is_packed(name: str) -> None:
    """Codes, signs, lengths and scales; what cannot be a number of the format does not become none of it."""
    given = units(6, 32) * torch.tensor([1.0, 30.0, 1e-3, 0.0, 1.0, 1.0])[:, None]
    given[4, 3] = math.nan
    given[5] *= 1e9
    for role, size in zip(cast("tuple[Role, Role]", ("keys", "values")), SIZES[name], strict=True):
        form = format_of(name, role)
        packed = form.pack(given)
        assert packed.shape == (6, size) == (6, form.size(32))
        assert packed.dtype == torch.uint8
        back = form.unpack(packed, 32)
        assert not back[3].any(), "nothing becomes something"
        assert bool(back[4].isnan().any()), "NaN is hidden"
        assert bool(back[5].isfinite().all())
        assert float((back[:3] - given[:3]).norm(dim=-1).div(given[:3].norm(dim=-1)).max()) < 1.1


def test_half_of_the_coordinates_have_a_bit_more() -> None:
    """Three and a half bits: four for one half, three for the other, once they are rotated."""
    size = 64
    given = units(4000, size)
    form = format_of("turbo3.5", "values")
    error = (form.unpack(form.pack(given), size) - given) @ rotation(size).T
    first, second = (float(part.square().sum(-1).mean()) for part in error.split(size // 2, dim=-1))
    assert first == pytest.approx(distortion(size, 4) / 2, rel=0.05)
    assert second == pytest.approx(distortion(size, 3) / 2, rel=0.05)


def held(model: nn.Module, name: str = "toy") -> Models:
    """A port as the comparison has it."""
    return Models(cast("Port", SimpleNamespace(name=name)), model.eval(), None, torch.device("cpu"))


@pytest.fixture(scope="module")
def sliding() -> Models:
    """The built-in port with windows of nine, random weights."""
    config = json.loads((ROOT / "fixtures" / "configs" / "gemma-3-270m.json").read_text())
    config |= {
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 97, "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }  # fmt: skip
    torch.manual_seed(0)
    model = Model(Config.from_hf(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return held(model)


PROMPT = tuple(range(3, 15))
AFTER = tuple(range(40, 60))


def naive(vectors: Tensor) -> Tensor:
    """Eight bits by the largest number, written out once more."""
    scale = (vectors.abs().amax(-1, keepdim=True) / 127).half().float()
    return (vectors / scale).round().clamp(-127, 127) * scale


@torch.no_grad()
def test_decoding_is_that_of_a_cache_rounded_by_hand(sliding: Models) -> None:
    """Each entry once, after the call that wrote it, those of a window too; the logits are the same to the bit."""
    model = sliding.port_model
    cache = model.new_cache(1)  # type: ignore[operator]
    decoder = Decoder(sliding, layout(sliding, PROMPT).slots, "int8")
    given: tuple[int, ...] = PROMPT
    rounded: dict[int, list[Tensor]] = {}
    for token in AFTER:
        wanted = model(torch.tensor([given]), cache=cache)[0, -1]
        assert torch.equal(decoder.next(given), wanted)
        for number, layer in enumerate(cache.layers):
            before = rounded.get(number)
            for at, name in enumerate(("keys", "values")):
                made = getattr(layer, name)
                new = min(len(given), made.shape[2])
                stored = torch.cat((made[:, :, :-new], naive(made[:, :, -new:])), dim=2)
                if before is not None:
                    kept = stored.shape[2] - new
                    old = before[at][:, :, before[at].shape[2] - kept :] if kept else before[at][:, :, :0]
                    assert torch.equal(stored[:, :, :kept], old), "an entry was changed after it was stored"
                setattr(layer, name, stored)
            rounded[number] = [layer.keys, layer.values]
        given = (token,)
    assert max(rounded[0][0].shape[2], rounded[2][0].shape[2]) == 8 < rounded[1][0].shape[2]


@torch.no_grad()
def test_what_is_stored_stays_what_it_is(sliding: Models) -> None:
    """An entry that were rotated and rounded again at each step would become another each time."""
    slots = layout(sliding, PROMPT).slots
    decoder = Decoder(sliding, slots, "turbo2")
    decoder.next(PROMPT)
    for token in AFTER[:4]:
        before = [slot.path.get(decoder._cache).clone() for slot in slots]  # type: ignore[union-attr]
        decoder.next((token,))
        for slot, old in zip(slots, before, strict=True):
            now = slot.path.get(decoder._cache)
            assert now is not None
            kept = now.shape[slot.time] - 1
            assert torch.equal(now.narrow(slot.time, 0, kept), old.narrow(slot.time, old.shape[slot.time] - kept, kept))


class Odd(nn.Module):
    """A port with a cache of its own making: one layer per entry of `styles`, names that say the wrong thing."""

    size, heads = 16, 2

    def __init__(self, *styles: str):
        super().__init__()
        torch.manual_seed(1)
        self.styles = styles
        self.table = nn.Embedding(97, 32)
        self.three = nn.ModuleList(nn.Linear(32, 96) for _ in styles)
        self.head = nn.Linear(32, 97)

    def new_cache(self, batch_size: int) -> dict[str, Any]:
        """Tuples, tensors of fixed size, a state, the inputs of a convolution, and a number for each token."""
        room = torch.full((batch_size, 64, 2, 2 * self.size), math.nan)
        return {
            "layers": [(None, None) for _ in self.styles],
            "rooms": [room.clone() for _ in self.styles],
            "state": torch.zeros(batch_size, 2, 5, 5),
            "recent": torch.zeros(batch_size, 4, 3),
            "weight": None,
            "length": 0,
            "config": self,
        }

    def forward(self, input_ids: Tensor, cache: dict[str, Any]) -> Tensor:
        """Causal attention over everything so far."""
        batch, count = input_ids.shape
        start, cache["length"] = cache["length"], cache["length"] + count
        x = self.table(input_ids)
        cache["state"] = cache["state"] * 0.9 + x.mean()
        cache["recent"] = torch.cat((cache["recent"], x[..., :4].transpose(1, 2)), dim=2)[..., -3:]
        more = torch.ones(batch, count, 1)
        cache["weight"] = more if cache["weight"] is None else torch.cat((cache["weight"], more), dim=1)
        later = torch.arange(cache["length"])[None] > torch.arange(start, cache["length"])[:, None]
        for at, (style, three) in enumerate(zip(self.styles, self.three, strict=True)):
            q, k, v = (part.unflatten(-1, (2, 16)) for part in three(x).chunk(3, dim=-1))
            k, v = self._kept(style, at, k, v, start, cache)
            scores = torch.einsum("bthd,bshd->bhts", q, k).masked_fill(later, -1e9)
            if style == "written out":
                weights = (scores - scores.amax(-1, keepdim=True)).exp()
                weights = weights / weights.sum(-1, keepdim=True)
            else:
                weights = scores.softmax(-1)
            x = x + torch.einsum("bhts,bshd->bthd", weights, v).flatten(2)
        return self.head(x)

    def _kept(
        self, style: str, at: int, k: Tensor, v: Tensor, start: int, cache: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        if style == "fixed":
            room = cache["rooms"][at]
            room[:, start : start + k.shape[1]] = torch.cat((k, v), dim=-1)
            return room[:, : start + k.shape[1], :, :16], room[:, : start + k.shape[1], :, 16:]
        value, key = cache["layers"][at]  # the other way round
        if key is not None:
            k, v = torch.cat((key, k), dim=1), torch.cat((value, v), dim=1)
        cache["layers"][at] = (v, k)
        return k, v


def found(model: nn.Module) -> Layout:
    """What the cache of a port consists of."""
    with torch.no_grad():
        return layout(held(model), PROMPT)


def test_keys_and_values_are_told_apart_by_what_becomes_of_them() -> None:
    """Not by their order or names; a softmax may be written out."""
    seen = found(Odd("tuples", "written out", "tuples"))
    roles = {str(slot.path): slot.place.role for slot in seen.slots}
    assert roles == {f"layers.{at}.{part}": role for at in range(3) for part, role in enumerate(("values", "keys"))}
    assert {(slot.place.size, slot.place.vectors, slot.place.bytes) for slot in seen.slots} == {(16, 2, 128)}


def test_what_holds_no_vectors_of_tokens_is_left_alone_and_named() -> None:
    """A state, the inputs of a convolution, a number for each token, room that nobody uses."""
    seen = found(Odd("tuples"))
    assert {each.path: each.why for each in seen.left} == {
        "rooms.0": "a state of fixed size",
        "state": "a state of fixed size",
        "recent": "a state of fixed size",
        "weight": "a number for each token, no vector",
    }


def test_a_tensor_of_fixed_size_is_stored_entry_by_entry() -> None:
    """What was never written stays what it was, what was written is rounded once."""
    model = Odd("fixed")
    (slot,) = found(model).slots
    assert (str(slot.path), slot.grows, slot.place.size, slot.place.vectors) == ("rooms.0", False, 32, 2)
    with torch.no_grad():
        decoder = Decoder(held(model), (slot,), "int8")
        decoder.next(PROMPT)
        room = slot.path.get(decoder._cache)
        assert room is not None
        first = room.clone()
        decoder.next((5,))
    (written,) = decoder.written.values()
    assert written.made.shape == (2, 32)
    assert torch.equal(written.stored, naive(written.made))
    assert torch.equal(room[:, : len(PROMPT)], first[:, : len(PROMPT)])
    assert bool(room[:, len(PROMPT) + 1 :].isnan().all())


def test_what_lies_in_two_places_is_stored_once() -> None:
    """A view of the same memory under another name is the same entries."""

    class Twice(Odd):
        def new_cache(self, batch_size: int) -> dict[str, Any]:
            made = super().new_cache(batch_size)
            return {"view": made["rooms"][0][..., :16], "alias": made["rooms"][0], **made}

    assert [str(slot.path) for slot in found(Twice("fixed")).slots] == ["alias"]


def test_vectors_too_short_to_rotate_are_refused() -> None:
    """They are named, and what takes them."""
    with pytest.raises(ParityError) as told:
        hold("turbo4", 4, "layers.0.keys")
    assert "vectors of layers.0.keys have 4 coordinates, and rotating takes 8" in str(told.value)
    assert "int4" in str(told.value)
    hold("turbo4", 8, "layers.0.keys")
    hold("int4", 4, "layers.0.keys")


def test_a_cache_without_tokens_in_it_is_refused() -> None:
    """Nothing can be stored otherwise."""

    class Counting(Odd):
        def forward(self, input_ids: Tensor, cache: dict[str, Any]) -> Tensor:
            return self.head(self.table(input_ids))

    with pytest.raises(ParityError, match="nothing in its cache grows with tokens"):
        found(Counting("tuples"))


def test_measuring_is_along_the_full_text(sliding: Models) -> None:
    """Without loss where nothing is rounded; the fewer bits, the further apart; windows keep what they keep."""
    caches = measure(sliding, [Text(PROMPT, AFTER)], ["float32", "int8", "turbo8", "turbo2"], WORDS, lambda _: None)
    plain, int8, turbo8, turbo2 = caches.losses
    assert (plain.mean_kl, plain.worst.error, plain.output, plain.agreeing) == (0.0, 0.0, 0.0, len(AFTER) - 1)
    assert plain.bytes_per_token == caches.bytes_per_token == 3 * 2 * 2 * 16 * 4
    assert plain.total == caches.total == 2 * 2 * 16 * 4 * (8 + len(PROMPT) + len(AFTER) - 1 + 8)
    assert 0 < int8.mean_kl < turbo2.mean_kl
    assert 0 < (turbo8.output or 0) < (turbo2.output or 0)
    assert [place.kept for place in caches.places] == [8, 8, None, None, 8, 8]
    drifts = [each.drift for each in turbo2.stored if each.place.role == "values"]
    assert drifts[0] == pytest.approx(turbo2.stored[1].error), "nothing is stored before the first layer"
    assert turbo2.stored[3].drift > 1.05 * turbo2.stored[3].error, "what was stored before is not in it"
    assert [block.layer for block in turbo2.blocks] == [0, 1, 2]


def loss(*kls: float, error: float = 0.1) -> CacheLoss:
    """One of these divergences, a prompt each."""
    place = Place("layers.0.keys", 0, "keys", 16, 1, None, 64)
    rows = tuple(LossRow(10, (), kl, kl, (1,), "a") for kl in kls)
    return CacheLoss("turbo4", (Stored(place, error, error, 12),), (), rows, 12)


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        (Limits(), "measured"),
        (Limits(mean_kl=0.2), "within"),
        (Limits(mean_kl=0.19), "beyond"),
        (Limits(error=0.1), "within"),
        (Limits(error=0.09), "beyond"),
        (Limits(mean_kl=0.2, error=0.09), "beyond"),
    ],
)
def test_a_lossy_verdict_is_of_limits_alone(limits: Limits, verdict: str) -> None:
    """Of the mean over all prompts, and of the worst tensor."""
    assert loss(0.1, 0.3).verdict(limits) == verdict


def test_what_is_no_number_keeps_within_no_limit() -> None:
    """However far that is."""
    assert loss(math.nan).verdict(Limits(mean_kl=1e9)) == "beyond"
    assert loss(0.1, error=math.nan).verdict(Limits(error=1e9)) == "beyond"
    off, right = loss(math.nan), loss(0.0)
    assert Caches((), (), (off, right), 0, Limits(mean_kl=1.0)).beyond == (off,)


@pytest.mark.parametrize(
    ("config", "name", "keys", "values", "left"),
    [
        ("deepseek-v3.2", "deepseek_v32", {"latents", "turned", "indexed"}, set(), set()),
        ("qwen3.5-0.8b", "qwen3_5", {"keys"}, {"values"}, {"inputs", "state"}),
    ],
)
def test_caches_of_other_kinds(config: str, name: str, keys: set[str], values: set[str], left: set[str]) -> None:
    """Of a latent keys and values are made: it counts as keys, as an indexer's do. Recurrent layers keep states."""
    described = references.describe(json.loads((ROOT / "fixtures" / "configs" / f"{config}.json").read_text()))
    small = references.text_part(shrink(references.text_part(described.config), described.settings).config)
    port = ports.resolve(name)
    torch.manual_seed(0)
    seen = found(port.make_model(port.make_config(small)))
    told = {
        role: {s.place.path.split(".")[-1] for s in seen.slots if s.place.role == role} for role in ("keys", "values")
    }
    assert told == {"keys": keys, "values": values}
    assert {each.path.split(".")[-1] for each in seen.left} == left
