"""What `parity new` is made of: the nearest port, what it is handed, statements of a file, marks in it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from parity.errors import ParityError
from parity.new import nearest, trial
from parity.new.code import Code
from parity.new.handed import carried
from parity.new.start import _goal, refuse_name
from parity.new.weights import places
from parity.new.write import Edit, comment, replaced

Candidates = Mapping[str, nearest.Candidate]


@pytest.fixture(scope="module")
def ports() -> Candidates:
    """Some ports with their cards."""
    return {name: nearest.candidate(name) for name in ("llama3", "qwen3", "gemma3", "gpt2", "qwen3_moe")}


@pytest.fixture
def side(configs: Path) -> Callable[..., nearest.Side]:
    """The card of a released config on its small config."""
    return lambda name: nearest.side(name, json.loads((configs / f"{name}.json").read_text()))


def test_the_nearest_is_that_with_the_least_to_write(ports: Candidates, side: Callable[..., nearest.Side]) -> None:
    """A dense architecture without q/k norm is a Llama before it is a mixture of experts; distances are told."""
    ranked = nearest.ranked(side("smollm3-3b"), list(ports.values()))
    assert [each.name for each in ranked[:2]] == ["llama3", "qwen3"]
    assert (ranked[0].distance, ranked[0].missing, ranked[0].spare) == (3, (), ())
    assert "without rope" in ranked[0].facts
    assert ranked[-1].distance is not None
    assert ranked[-1].distance > 10
    assert nearest.ranked(side("glm-4.5-air"), list(ports.values()))[0].name == "qwen3_moe"


def test_a_size_is_no_distance(ports: Candidates, side: Callable[..., nearest.Side]) -> None:
    """Two sizes of one architecture are the same."""
    for name in ("qwen3-0.6b", "qwen3-4b"):
        assert nearest.ranked(side(name), [ports["qwen3"]])[0].distance == 0


def test_what_a_port_refuses_is_handed_over_otherwise(ports: Candidates, side: Callable[..., nearest.Side]) -> None:
    """The field that it refuses, that alone, with what it said; the rest is as it stands."""
    new, old = side("llama-3.2-1b"), ports["qwen3"]
    handed, outcome = trial.fitted(old.port, old.side.small, new.reference.config, new.small)
    assert [(each.name, each.expression) for each in handed] == [("rope_scaling", None)]
    assert "rope_type 'llama3' is not implemented" in handed[0].why
    assert outcome.model is not None
    config = carried(new.small, handed)
    assert "rope_scaling" not in config
    assert {**config, "rope_scaling": new.small["rope_scaling"]} == dict(new.small)


def test_a_field_by_another_name_is_no_difference(ports: Candidates, side: Callable[..., nearest.Side]) -> None:
    """It is handed over under the name that the port knows."""
    new, old = side("gpt2"), ports["llama3"]
    handed, _ = trial.fitted(old.port, old.side.small, new.reference.config, new.small)
    by_name = {each.name: each for each in handed}
    assert by_name["hidden_size"].expression == 'hf["n_embd"]'
    assert by_name["hidden_size"].default
    assert by_name["intermediate_size"].expression == '4 * hf["n_embd"]'
    assert carried(new.small, handed)["hidden_size"] == new.small["n_embd"]


def test_tensors_that_do_not_fit_have_no_place(ports: Candidates, configs: Path, tmp_path: Path) -> None:
    """q/k norms have none in a Llama, everything else does."""
    goal = _goal("mine", str(configs / "qwen3-0.6b.json"), tmp_path, lambda _: None)
    old = ports["llama3"]
    _, outcome = trial.fitted(old.port, old.side.small, goal.side.reference.config, goal.side.small)
    assert outcome.model is not None
    found = places(old.port, outcome.model, goal.shapes, goal.side, old.side)
    assert set(found.without) == {f"model.layers.{{}}.self_attn.{name}_norm.weight" for name in "qk"}
    assert (found.loaded, found.tensors) == (len(goal.shapes) - 6, len(goal.shapes))
    assert found.parts["model.layers.{}.self_attn"] == "layers.{}.attention"


def test_a_tensor_of_another_shape_is_taken_out_of_the_map(ports: Candidates, configs: Path, tmp_path: Path) -> None:
    """A norm over all heads does not fit one over a head, whatever it is called."""
    goal = _goal("mine", str(configs / "olmo-3-32b.json"), tmp_path, lambda _: None)
    old = ports["qwen3"]
    _, outcome = trial.fitted(old.port, old.side.small, goal.side.reference.config, goal.side.small)
    assert outcome.model is not None
    found = places(old.port, outcome.model, goal.shapes, goal.side, old.side)
    assert set(found.removed) >= {f"model.layers.{{}}.self_attn.{name}_norm.weight" for name in "qk"}
    assert all("has shape" in why for why in found.removed.values())


TEXT = '''"""A file."""

NAMES = {
    "a": 1,
}


class Layer:
    def forward(self, x):
        """Doc."""
        y = rotate(
            x, 2
        )
        if y:
            return y
        return x + y
'''


def test_statements_by_line_and_by_words() -> None:
    """A statement of several lines is one place; the header of an `if` ends where its body begins."""
    code = Code(TEXT)
    assert code.at(12) == code.of("Layer.forward", "rot|cos")
    assert [(spot.line, spot.last) for spot in code.spots if spot.where == "Layer.forward"][2:4] == [(11, 13), (14, 14)]
    assert code.of("Layer.forward", "nothing", r"\+").line == 16  # type: ignore[union-attr]
    assert code.named("NAMES").line == 3  # type: ignore[union-attr]
    assert code.of("Layer.other") is None


def test_a_mark_stands_above_its_line_and_leaves_the_rest() -> None:
    """With the indent of the line; long ones go on below."""
    told = comment(3, "much is otherwise, " * 9, ["Other, file.py:7"], "        ")
    assert len(told) > 1
    assert all(line.startswith("        # ") and len(line) <= 120 for line in told)
    assert told[0].startswith("        # DIFFERS 3: much")
    marked = replaced(TEXT, [Edit(16, 15, told)]).splitlines()
    assert marked[:15] + marked[15 + len(told) :] == TEXT.splitlines()
    assert marked[15 + len(told)] == "        return x + y"


@pytest.mark.parametrize(
    ("name", "better"), [("my-port", "my_port"), ("3b", "my_port"), ("class", "my_port"), ("x.py", "x")]
)
def test_a_name_that_is_none(name: str, better: str) -> None:
    """Said, with one that is."""
    with pytest.raises(ParityError, match=f"Take one such as {better}"):
        refuse_name(name)


def test_what_was_asked_for_is_remembered() -> None:
    """Inner names after dots."""
    log: dict[str, None] = {}
    asked: Any = trial.Asked({"a": {"b": 1}, "c": 2}, log)
    assert asked["a"].get("b") == 1
    assert asked.get("d") is None
    assert list(log) == ["a", "a.b", "d"]
