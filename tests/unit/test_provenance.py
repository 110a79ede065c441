"""From the line that uses a wrong number back to the line that gives it its value."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from parity.explain.provenance import Use, built_at, origin
from parity.explain.syntax import assigned_at, returned_at

SOURCE = """
class Norm:
    def __init__(self, size, eps):
        self.eps = eps

    def forward(self, x):
        return x / (x.square().mean(-1) + self.eps).sqrt()


class Attention:
    def __init__(self, config, index):
        self.scale = config.head_dim**-0.5
        self.scale /= index + 1

    def forward(self, q, k):
        scores = q @ k
        return scores * self.scale


class Model:
    def __init__(self, config):
        size, eps = config.size, 1e-5
        self.norm = Norm(config.size, config.eps)
        self.last = Norm(size, eps)
        self.head = Linear(size, size)
        self.head.weight = self.embed.weight

    def forward(self, x):
        logits = self.head(x)
        if self.training:
            return None
        return logits


def config(hf):
    return Config(size=hf["size"], eps=hf.get("eps", 1e-6))
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The source as a file."""
    path = tmp_path / "port.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def number(text: str) -> int:
    """The number of the one line that holds a text."""
    (found,) = [number for number, line in enumerate(SOURCE.splitlines(), 1) if text in line]
    return found


def use(file: str, text: str, expression: str, module: str, **attributes: float) -> Use:
    """An expression on the line that holds a text, with what `self` has."""
    at = number(text)
    start = SOURCE.splitlines()[at - 1].index(expression)
    return Use(file, at, (at, at, start, start + len(expression)), {"self": SimpleNamespace(**attributes)}, module)


def test_through_an_argument_to_the_call(file: str) -> None:
    """The module is known, so that the right one of two calls is found."""
    used = use(file, "x / (x.square()", "x.square().mean(-1) + self.eps", "model.norm", eps=1e-6)
    assert origin(used, 1e-6) == number("hf.get(")
    used = use(file, "x / (x.square()", "x.square().mean(-1) + self.eps", "model.last", eps=1e-5)
    assert origin(used, 1e-5) == number("size, eps = ")


def test_to_what_changed_it_last(file: str) -> None:
    """An attribute divided after it was set."""
    used = use(file, "scores * self.scale", "scores * self.scale", "model.attention", scale=0.25)
    assert origin(used, 0.25) == number("self.scale /=")


def test_a_number_that_is_not_there_stays_where_it_is_used(file: str) -> None:
    """Rather no step than a wrong one."""
    used = use(file, "scores * self.scale", "scores * self.scale", "model.attention", scale=0.25)
    assert origin(used, 3.0) == number("scores * self.scale")


def test_where_a_module_is_made(file: str) -> None:
    """The one assignment; where a name stands for its number, that name's."""
    assert built_at(file, "model.head") == number("self.head = ")
    assert built_at(file, "model.last", [1e-5]) == number("size, eps = ")
    assert built_at(file, "model.unheard_of") is None


def test_where_a_value_is_returned(file: str) -> None:
    """The return that names it, not the other one."""
    assert returned_at(file, number("logits = self.head(x)")) == number("return logits")
    assert returned_at(file, number("scores = q @ k")) == number("scores * self.scale")


def test_where_a_parameter_is_assigned(file: str) -> None:
    """From outside its module, as a tied head's is."""
    assert assigned_at(file, "head", "weight") == number("self.head.weight = ")
    assert assigned_at(file, "norm", "weight") is None
