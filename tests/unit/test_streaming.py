"""The parts of a streamed comparison: weights lifted while they are used, blocks run alone, errors added up."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fixtures.checkpoints.small import write
from parity.compare.blocks import chain, containers
from parity.compare.boxes import beside, box
from parity.compare.capture import Endpoint, run
from parity.compare.plan import habits, plan
from parity.compare.small import Small, small_check
from parity.compare.streaming import BlockResult, BlockWork, Both, Lockstep
from parity.compare.tally import Tally, tally
from parity.names import template
from parity.pair import oracle, parts, running
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair.checkpoint import open_checkpoint
from parity.pair.lifting import Lifter, Streamed
from parity.pair.mapped import Mapped, hold, without_memory
from parity.pair.parts import Register, Stored
from parity.pair.promote import precision
from parity.pair.streamed import reference_on
from parity.pair.streamed_port import port_on
from parity.pair.weights import randomise

CPU = torch.device("cpu")


# -------------------------------------------------------------------------------------------- models without memory


class Tied(nn.Module):
    """An embedding that is also the head, a matrix made of random numbers, and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.inner = nn.Linear(8, 8)
        self.mixed = nn.Parameter(torch.randn(200, 200) * 0.1)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(4.0), persistent=False)


def test_parameters_take_no_memory_and_tables_are_computed() -> None:
    """Tied ones stay one object."""
    with without_memory() as made:
        model = Tied()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.get_buffer("table"), torch.arange(4.0))
    assert made[0] == (model.embed, "weight")


def test_some_parameters_can_be_kept() -> None:
    """Counted in the order in which they are made."""
    with without_memory({1, 2}):
        model = Tied()
    assert [name for name, each in model.named_parameters() if not each.is_meta] == ["inner.weight", "inner.bias"]


def test_tensors_are_held_without_a_copy() -> None:
    """Under every name of a tied parameter."""
    with without_memory():
        model = Tied()
    value = torch.randn(50, 8)
    hold(model, {"embed.weight": value})
    assert model.head.weight is model.embed.weight
    assert model.embed.weight.data_ptr() == value.data_ptr()


# ------------------------------------------------------------------------------------------------ weights in parts


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few elements, so that a small weight is used in many."""
    monkeypatch.setattr(parts, "LARGE", 32)


@pytest.fixture
def table() -> Tensor:
    """A weight as it is stored."""
    return torch.randn(37, 8, generator=torch.Generator().manual_seed(0)).bfloat16()


def used(weight: Tensor, call: Callable[[Tensor], Tensor]) -> tuple[Tensor, Register]:
    """What a call gives on a stored weight in a promoted run."""
    register = Register([Stored("weight", weight, torch.float64)])
    with parts.running(True, torch.float64, CPU, register):
        return call(weight), register


IDS = torch.tensor([[3, 1, 36]])
GIVEN = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda w: functional.linear(GIVEN, w),
    "linear with a bias": lambda w: functional.linear(GIVEN, w, torch.ones(37, dtype=torch.float64)),
    "matmul": lambda w: GIVEN @ w.T,
    "matmul of a cast": lambda w: torch.matmul(GIVEN, w.float().t()),
    "transposed twice": lambda w: GIVEN @ w.transpose(0, 1),
    "a module": lambda w: lifted_module(w)(GIVEN),
    "embedding": lambda w: functional.embedding(IDS, w),
    "indexing": lambda w: w[IDS],
    "indexing a cast": lambda w: w.to(torch.float32)[IDS],
    "rows": lambda w: w[3:5] * 2.0,
    "einsum": lambda w: torch.einsum("bth,vh->btv", GIVEN, w),
    "arithmetic": lambda w: 1.0 + w.float(),
    "concatenated": lambda w: torch.cat([w, torch.ones(1, 8, dtype=torch.float64)]),
}


def lifted_module(weight: Tensor) -> nn.Linear:
    """A head that holds the weight as it is stored."""
    head = nn.Linear(8, 37, bias=False)
    head.weight = nn.Parameter(weight, requires_grad=False)
    return head


@pytest.mark.parametrize("name", CALLS)
def test_a_stored_weight_gives_what_the_lifted_one_gives(name: str, table: Tensor, small_parts: None) -> None:
    """Whatever is done with it."""
    with precision(True):
        expected = CALLS[name](table.double())
    found, _ = used(table, CALLS[name])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_a_stored_weight_passes_for_a_lifted_one(table: Tensor) -> None:
    """Code that asks for its dtype is told that of the run."""
    register = Register([Stored("weight", table, torch.float64)])
    with parts.running(True, torch.float64, CPU, register):
        assert table.dtype == torch.float64
        assert table.T.shape == (8, 37)
    assert table.dtype == torch.bfloat16


def test_only_what_is_used_is_looked_at(table: Tensor, small_parts: None) -> None:
    """A NaN in a row that nobody looks up is not met; one that somebody does is."""
    table[5, 5] = float("nan")
    assert not used(table, CALLS["embedding"])[1].not_finite
    assert used(table, CALLS["linear"])[1].not_finite == {"weight"}


# ---------------------------------------------------------------------------------------------------------- lifting


def streamed(weight: Tensor) -> Streamed:
    """A model of one weight."""
    model = nn.Module()
    model.inner = nn.Module()
    model.inner.weight = nn.Parameter(weight, requires_grad=False)
    return Streamed(model, ("inner.weight",), tensors={"inner.weight": "stored.weight"})


def test_what_both_sides_hold_is_lifted_once_and_put_back(table: Tensor) -> None:
    """And its memory is used again for the next block."""
    ours, theirs = streamed(table), streamed(table)
    lifter = Lifter(torch.float64, CPU)
    with lifter.lifted([(ours, ours.names), (theirs, theirs.names)]):
        first = ours.held("inner.weight")
        assert first.dtype == torch.float64
        assert first.data_ptr() == theirs.held("inner.weight").data_ptr()
        torch.testing.assert_close(first.detach(), table.double(), rtol=0, atol=0)
        address = first.data_ptr()
    assert ours.held("inner.weight").data_ptr() == table.data_ptr()
    other = streamed(torch.randn(37, 8).bfloat16())
    with lifter.lifted([(other, other.names)]):
        assert other.held("inner.weight").data_ptr() == address
    assert lifter.not_finite == []


def test_weights_that_are_made_are_made_while_they_are_used(table: Tensor) -> None:
    """Of fused experts there is nothing before, and nothing after."""
    bare = streamed(table.to("meta"))
    made = Streamed(bare.model, bare.names, {"inner.weight": lambda: table})
    with Lifter(torch.float64, CPU).lifted([(made, made.names)]):
        assert torch.equal(made.held("inner.weight").detach(), table.double())
    assert made.held("inner.weight").is_meta


def test_weights_that_are_not_finite_are_named(table: Tensor) -> None:
    """By the checkpoint's name for them; a sum that overflows is no infinity."""
    lifter = Lifter(torch.float64, CPU)
    for value in (torch.full((400,), 60000.0).half(), table.index_fill(0, torch.tensor([2]), float("inf"))):
        model = streamed(value)
        with lifter.lifted([(model, model.names)]):
            pass
    assert lifter.not_finite == ["stored.weight"]


# ---------------------------------------------------------------------------------------------------------- tallies


def test_errors_of_parts_add_up_to_those_of_the_whole() -> None:
    """Whatever the parts."""
    reference = torch.randn(1, 9, 20, dtype=torch.float64)
    port = reference + 1e-3 * torch.randn(1, 9, 20, dtype=torch.float64)
    whole = tally(port, reference, logits=True)
    added = Tally()
    for part in (slice(0, 4), slice(4, 9)):
        added += tally(port[:, part], reference[:, part], logits=True)
    assert added.relative == pytest.approx(whole.relative)
    assert (added.largest, added.count) == (whole.largest, whole.count)
    assert added.mean == pytest.approx(whole.mean)


def test_a_constant_per_token_makes_no_difference_to_logits() -> None:
    """To anything else it does."""
    reference = torch.randn(1, 5, 20, dtype=torch.float64)
    port = reference + torch.arange(5.0)[None, :, None]
    assert tally(port, reference, logits=True).relative < 1e-12
    assert tally(port, reference).relative > 0.1


def test_equal_values_and_nan() -> None:
    """Zero only if nothing differs; NaN if there is one."""
    value = torch.randn(3, 4)
    assert tally(value, value).relative == 0.0
    broken = value.clone()
    broken[0, 0] = float("nan")
    assert not tally(broken, value).relative <= 1e9


# ------------------------------------------------------------------------------------------------- blocks and boxes


def test_a_box_holds_modules_under_their_names() -> None:
    """And nothing else."""
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    assert [name for name, _ in box(model, ["0.1"]).named_modules()] == ["", "0", "0.1"]
    assert beside(model, "0") == ["1"]
    assert beside(model, "0.0") == ["0.1", "1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Gemma 3."""
    root = Path(__file__).parents[2]
    config = json.loads((root / "fixtures" / "configs" / "gemma-3-270m.json").read_text())
    return write(tmp_path_factory.mktemp("checkpoint"), config, torch.bfloat16)


@pytest.fixture(scope="module")
def small(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Gemma 3 against its reference on its own small config."""
    return small_check("gemma3", checkpoint / "config.json", 0, tmp_path_factory.mktemp("small"))


def test_blocks_are_found_and_run_alone(small: Small) -> None:
    """On both sides, and they are left as they were."""
    models = small.sides.reference.model, small.sides.port.model
    assert containers(small.measured.pairs, models) == ("model.layers", "layers")
    found = plan(small.pair, small.sides, small.measured)
    assert found is not None
    assert [made.carried for made in found.chains] == [((0, 0),), ((0, 0),)]
    assert not any("forward" in vars(module) for model in models for module in model.modules())
    assert len(found.inside) == 2  # the first is of a kind of its own


class Sharing(nn.Module):
    """A block that leaves something for later ones in a dict, or takes what is left there."""

    def __init__(self, leaves: bool) -> None:
        super().__init__()
        self.leaves = leaves
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, left: dict[str, Tensor]) -> Tensor:
        """`[B, T, 4]` -> `[B, T, 4]`."""
        if self.leaves:
            left["x"] = 2.0 * x
        return self.inner(x) + left["x"]


def test_blocks_that_write_into_a_dict_are_run_alone() -> None:
    """In order, so that a later one finds what an earlier one left; handing on other values changes nothing of it."""
    layers = nn.ModuleList([Sharing(True), Sharing(True), Sharing(False), Sharing(False)])
    model = nn.Module()
    model.layers = layers

    def forward() -> Tensor:
        x, left = torch.ones(1, 2, 4), dict[str, Tensor]()
        for layer in layers:
            x = layer(x, left)
        return x

    with torch.no_grad():
        assert chain(model, "layers", forward) is not None
        into = Endpoint("layers.2", 0, "input")
        handed = run(model, forward, {into: lambda own: (own[0] + 1.0,)})
    difference = handed.calls["layers.2"][0].outputs[0] - run(model, forward).calls["layers.2"][0].outputs[0]
    assert torch.allclose(difference, layers[2].inner.weight.sum(-1).expand_as(difference), atol=1e-5)


class Impatient(nn.Module):
    """Blocks that need more than what the one before hands on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Each block's result is changed before the next gets it."""
        for layer in self.layers:
            x = layer(x) * 2.0
        return x


def test_blocks_that_cannot_be_run_alone_are_not() -> None:
    """What one hands on is not what the next takes."""
    model = Impatient()
    with torch.no_grad():
        assert chain(model, "layers", lambda: model(torch.ones(1, 2, 4))) is None


# -------------------------------------------------------------------------------------------------------- lockstep


@pytest.fixture
def lockstep(checkpoint: Path, small: Small, tmp_path: Path) -> Lockstep:
    """Both models on the checkpoint."""
    opened = open_checkpoint(str(checkpoint))
    reference = references.describe(opened.config)
    tensors = Mapped(opened.files)
    known = plan(small.pair, small.sides, small.measured)
    assert known is not None
    ours = reference_on(reference, tensors, opened.entries, True)
    port = ports.resolve("gemma3", promoted=True)
    theirs = port_on(port, opened.config, tensors, True, 0, habits(small.pair, small.sides), tmp_path)
    forwards = (
        lambda ids: references.logits(ours.model, ids),
        lambda ids: running.call(port, theirs.model, ids),
    )
    return Lockstep(Both(ours, theirs, forwards, known, Lifter(torch.float64, CPU), opened.config["vocab_size"]))


def results(lockstep: Lockstep, input_ids: Tensor) -> Iterator[BlockResult]:
    """All blocks in order."""
    start = lockstep.start(input_ids)
    states = start.reference_state, start.port_state
    for index, arguments in enumerate(start.arguments):
        found = lockstep.block(BlockWork(index, arguments, *states))
        states = found.reference_state, found.port_state
        yield found


def test_states_are_those_of_a_whole_run(lockstep: Lockstep, checkpoint: Path) -> None:
    """Run block by block, the reference gives what it gives at once."""
    input_ids = torch.randint(0, 300, (1, 17))
    last = list(results(lockstep, input_ids))[-1]
    whole = references.build(references.describe(open_checkpoint(str(checkpoint)).config), True)
    stored = {name: value.double() for name, value in Mapped(open_checkpoint(str(checkpoint)).files).items()}
    whole.load_state_dict(stored)
    kept: list[Tensor] = []
    whole.get_submodule("model.layers.3").register_forward_hook(lambda *given: kept.append(given[2]))
    with torch.no_grad(), precision(True):
        references.logits(whole, input_ids)
    (state,) = last.reference_state.values()
    torch.testing.assert_close(state, kept[0], rtol=1e-13, atol=1e-13)


def test_each_block_can_be_compared_by_itself(lockstep: Lockstep) -> None:
    """Given the reference's input alone, in any order, own errors are the same: the seam for several processes."""
    input_ids = torch.randint(0, 300, (1, 17))
    start = lockstep.start(input_ids)
    in_order = list(results(lockstep, input_ids))
    inputs = [start.reference_state, *(each.reference_state for each in in_order)]
    for index in (2, 0, 3):
        alone = lockstep.block(BlockWork(index, start.arguments[index], inputs[index]))
        into = f"model.layers.{index} (input)"  # given, not made
        expected = {place.name: place.own for place in in_order[index].places if place.name != into}
        assert {place.name: place.own for place in alone.places} == expected
        assert all(place.own is not None and place.own <= 1e-12 for place in alone.places)


def test_the_head_on_a_few_tokens_at_a_time_is_the_head_on_all(
    lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same places, and the same errors."""
    input_ids = torch.randint(0, 300, (1, 17))
    start, last = lockstep.start(input_ids), list(results(lockstep, input_ids))[-1]
    at_once = lockstep.end(input_ids, start, last)
    monkeypatch.setattr("parity.compare.streaming._MOST_LOGITS", 4 * 320)
    in_parts = lockstep.end(input_ids, start, last)
    assert [place.name for place in in_parts] == [place.name for place in at_once]
    assert max(place.total or 0.0 for place in in_parts) < 1e-13
    assert at_once[-1].name == "logits"


def test_a_port_that_computes_its_weights_gets_exact_ones(
    checkpoint: Path, root: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """A loader that adds one to norms in bfloat16 would lose digits; it gets, and fills, float64."""
    target = root / "fixtures/benign/folded_offset.py"
    made = small_check(target, checkpoint / "config.json", 0, tmp_path_factory.mktemp("small"))
    known = habits(made.pair, made.sides)
    assert all("norm" in name for name in known.derived)
    assert known.derived
    opened = open_checkpoint(str(checkpoint))
    tensors = Mapped(opened.files)
    found = port_on(ports.resolve(target, promoted=True), opened.config, tensors, True, 0, known, tmp_path)
    norm = next(name for name in found.names if template(name) in known.derived)
    assert found.held(norm).dtype == torch.float64
    assert list(tmp_path.iterdir()) == []  # the files are gone as soon as they are mapped


def test_the_program_of_a_small_check_is_the_reference_s(small: Small) -> None:
    """Both sides of it run on the same tokens as ever."""
    with torch.no_grad(), precision(True):
        logits = oracle.execute(small.sides.reference.model, small.pair.program)
    assert logits.shape[:2] == small.pair.input_ids.shape
    assert callable(randomise)
