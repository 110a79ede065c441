"""`--dtype`: weights and plain runs in another precision, the verdict still from float64."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import parity
from parity.compare import stages
from parity.pair import pair as pairs

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_right_port_passes_and_the_header_says_in_what(run: Run, dtype: str) -> None:
    """Bitwise, the plain runs too: the port casts where its reference does."""
    code, out, _ = run("check", "gemma3", "--small-config", "--dtype", dtype)
    assert code == 0
    assert f"random {dtype} weights" in out
    assert f"max, mean: absolute, two {dtype} runs" in out
    assert "[OK]   logits: max=0, mean=0, rel=0" in out


def test_the_figures_are_those_of_that_precision(run: Run, root: Path) -> None:
    """An eps that bfloat16 cannot show is found all the same; the JSON report has no field more."""
    port = root / "fixtures/bugs/final_norm_eps.py"
    plain, low = (
        json.loads(run("check", port, "--small-config", "--format", "json", "--dtype", dtype)[1])
        for dtype in ("float32", "bfloat16")
    )
    assert plain.keys() == low.keys()
    assert low["findings"][0]["cause"] == plain["findings"][0]["cause"] == "norm-eps"
    norm = next(each for each in low["boundaries"] if each["name"] == "model.norm")
    assert norm["verdict"] == "diff"
    assert norm["max_abs"] != next(each for each in plain["boundaries"] if each["name"] == "model.norm")["max_abs"]


def test_parameters_take_the_dtype_of_the_reference_and_tables_keep_theirs(tmp_path: Path) -> None:
    """As `from_pretrained` does it: rotary tables stay in float32."""
    pair = pairs.make("gemma3", None, None, True, 0, tmp_path, torch.bfloat16)
    sides = stages.load(pair)
    stages.forward(pair, sides)
    assert {parameter.dtype for parameter in pair.reference_model.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in pair.port_model.model.parameters()} == {torch.bfloat16}
    for model in (pair.reference_model, pair.port_model.model):
        tables = {name: buffer.dtype for name, buffer in model.named_buffers() if "inv_freq" in name}
        assert tables
        assert set(tables.values()) == {torch.float32}
    rounded = {name: value.bfloat16().double() for name, value in sides.port.model.named_parameters()}
    assert all(torch.equal(rounded[name], value) for name, value in sides.port.model.named_parameters())


def test_a_port_that_does_not_run_in_it(run: Run, tmp_path: Path, root: Path) -> None:
    """Its own error, and that float32 is not concerned."""
    port = tmp_path / "port.py"
    text = (root / "models/gemma3.py").read_text()
    right = "weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)"
    assert text.count(right) == 1
    port.write_text(text.replace(right, right.removesuffix(".to(q.dtype)")))
    assert run("check", port, "--small-config", "--stage", "forward")[0] == 0
    code, out, _ = run("check", port, "--small-config")
    assert code == 0
    assert "stage precision: the port does not run in bfloat16" in out
    code, out, err = run("check", port, "--small-config", "--dtype", "bfloat16")
    assert (code, out) == (2, "")
    assert "forward raised RuntimeError" in err
    assert "that is with bfloat16 weights, in float32 it runs" in err


def test_unknown_dtype(run: Run) -> None:
    """On the command line and from Python."""
    code, _, err = run("check", "gemma3", "--dtype", "int8")
    assert code == 2
    assert "'int8' is not one of" in err
    with pytest.raises(parity.ParityError, match="there is no dtype 'int8'"):
        parity.check("gemma3", small_config=True, dtype="int8")
