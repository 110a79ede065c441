"""An author's file as it is written: what lines say, told without running them."""

import ast
from pathlib import Path

import pytest

from parity.explain.syntax import (
    around_at,
    field_at,
    fields_at,
    kind_at,
    listed_at,
    rebound_at,
    returned_early_at,
)

SOURCE = """
NAMES = {
    "gate": "mlp.up_proj",
}


def read(hf):
    scaling = hf.get("rope_parameters")
    return Config(theta=hf["rope_theta"], kinds=kinds(hf), old=scaling["rope_type"])


def kinds(hf):
    return tuple("full" if layer else "sliding" for layer in hf["layers"])


def speeds(c):
    found = c.base
    if not c.scaling:
        return found
    return found / c.factor


def masks(length):
    causal = distance(length) >= 0
    near = causal & (distance(length) < 7)
    return {"full": causal, "sliding": near}


def mask(kind, length):
    visible = distance(length) >= 0
    if kind == "sliding":
        visible = visible & (distance(length) < 7)
    return visible


def block(x, norms):
    x = norms[0](x)
    h = attend(x)
    return x + h


def load(model, tensors):
    for layer in range(3):
        if layer:
            model[layer].copy_(tensors[layer])
"""


def line(text: str) -> int:
    """The number of the one line that holds a text."""
    found = [number for number, own in enumerate(SOURCE.splitlines(), 1) if text in own]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The source as a file."""
    path = tmp_path / "port.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def test_what_is_asked_of_a_config(file: str) -> None:
    """Of what a function was given, not of what it took out of that."""
    asked = fields_at(file)
    assert asked["rope_parameters"] == line("rope_parameters")
    assert asked["rope_theta"] == line("rope_theta")
    assert "rope_type" not in asked


def test_a_field_is_followed_into_the_function_that_works_it_out(file: str) -> None:
    """To what that function returns."""
    assert field_at(file, "kinds") == line("return tuple")
    assert field_at(file, "theta") == line("Config(theta")


def test_an_entry_of_a_table(file: str) -> None:
    """A name in a dictionary, not one in an expression."""
    assert listed_at(file, "mlp.up_proj") == line("mlp.up_proj")
    assert listed_at(file, "rope_theta") is None


def test_a_function_that_returns_too_early(file: str) -> None:
    """The condition under which it hands on what it has; nothing for one that has no other end."""
    assert returned_early_at(file, line("found = c.base")) == line("if not c.scaling")
    assert returned_early_at(file, line("causal = distance")) is None


@pytest.mark.parametrize(
    ("made", "kind", "expected"),
    [
        ("causal = distance", "sliding", "return {"),
        ("visible = distance", "full", "if kind == "),
    ],
)
def test_a_value_meant_for_a_kind_of_layer(file: str, made: str, kind: str, expected: str) -> None:
    """Where it is filed under the kind, or the condition on the kind under which it is changed."""
    assert kind_at(file, line(made), kind, ("full", "sliding")) == line(expected)


def test_a_name_that_comes_to_stand_for_another_value(file: str) -> None:
    """A parameter that is given another value counts, a name of its own does not."""
    assert rebound_at(file, line("return x + h")) == [line("x = norms")]


def test_the_statement_around_a_line(file: str) -> None:
    """The nearest of a kind; none outside the function."""
    copied = line("copy_")
    assert around_at(file, copied, ast.If) == line("if layer:")
    assert around_at(file, copied, ast.For, outermost=True) == line("for layer in range")
    assert around_at(file, line("return visible"), ast.If) is None
