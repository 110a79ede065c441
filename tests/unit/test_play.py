"""A run recorded operation by operation, and played again with changes."""

from pathlib import Path

import torch
from torch import Tensor, nn

from parity.explain.play import Pins, Playing, backward, play, uses
from parity.explain.trace import Ref, Session, Step, Tape


class Small(nn.Module):
    """A few operations, one of them in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """`[T, 3]` -> `[T, 2]`."""
        hidden = x @ self.weight.T
        scaled = hidden * 2.0
        scaled += 1.0
        return scaled.tanh() + hidden


def recorded() -> tuple[Small, Tensor, Tape]:
    """The model, its input, and its run."""
    model, session = Small(), Session()
    session.name(model)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), session.mode:
        result = model(x)
    return model, x, session.tape(result)


def step(tape: Tape, name: str) -> Step:
    """The one step of a name."""
    (found,) = [step for step in tape.steps if step.name == name]
    return found


def by_three(playing: Playing, step: Step) -> tuple[Tensor, ...]:
    """The factor 3 for 2."""
    arguments, _ = playing.given(step)
    return (arguments[0] * 3.0,)


@torch.no_grad()
def test_a_change_is_played_to_the_end() -> None:
    """As if the model had been written so, the write in place included."""
    model, x, tape = recorded()
    playing = play(tape, {step(tape, "mul").number: by_three}, uses(tape))
    hidden = x @ model.weight.T
    assert tape.logits is not None
    assert torch.allclose(playing.own(tape.logits), (hidden * 3.0 + 1.0).tanh() + hidden)


@torch.no_grad()
def test_only_what_depends_on_a_change_is_computed() -> None:
    """What comes before it, or beside it, is as recorded."""
    _, _, tape = recorded()
    playing = play(tape, {step(tape, "mul").number: by_three}, uses(tape))
    assert Ref(step(tape, "matmul").number) not in playing.changed
    assert playing.own(Ref(step(tape, "matmul").number)) is step(tape, "matmul").values[0]


@torch.no_grad()
def test_a_pinned_value_is_handed_on_as_recorded() -> None:
    """Whatever is changed before it, what comes after it stays."""
    _, _, tape = recorded()
    pin = Ref(step(tape, "tanh").number)
    playing = play(tape, {step(tape, "mul").number: by_three}, uses(tape), Pins(frozenset({pin})))
    assert tape.logits not in playing.changed


@torch.no_grad()
def test_what_a_value_was_made_from() -> None:
    """Backwards from the result, to the input and the weight."""
    _, _, tape = recorded()
    assert tape.logits is not None
    names = {tape.steps[ref.step].name for ref in backward(tape, [tape.logits], lambda ref, step: False)}
    assert {"leaf", "matmul", "mul", "tanh"} <= names


def test_the_line_of_a_step() -> None:
    """Innermost first: where in this file it was written."""
    _, _, tape = recorded()
    frame = step(tape, "tanh").frames[0]
    assert frame.file == __file__
    assert "tanh" in Path(__file__).read_text(encoding="utf-8").splitlines()[frame.line - 1]


def test_a_cast_that_changes_nothing_is_no_step() -> None:
    """The value stays the one that was made before."""
    session = Session()
    x = torch.ones(3, 4)
    with session.mode:
        result = x.float() + 1
    tape = session.tape(result)
    assert [step.name for step in tape.steps if step.function is not None] == ["add"]
