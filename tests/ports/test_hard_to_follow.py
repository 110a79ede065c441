"""Ports that are hard to follow: right ones pass, wrong ones are located, and what was out of sight is said.

Each is the Llama port with some of its text replaced, once right and once with a bug in what was replaced.
"""

import py_compile
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import parity
from parity.records import Finding, Report

Edit = tuple[str, str]

NORM = """        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight
"""
ROTATE = """    cos, sin = cos[:, None], sin[:, None]
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
"""
HALVES = """    half = x.shape[-1] // 2
    cos, sin = cos[:, None, :, :half], sin[:, None, :, :half]
"""
REPEAT = """        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)
"""
SCORES = """        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
"""
SOFTMAX = "        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)\n"
CONTEXT = "        context = (weights @ v).transpose(1, 2)\n"
MLP = "        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))\n"
MLP_CLASS = "class MLP(nn.Module):"
RESIDUAL = "        return x + self.mlp(self.pre_mlp_norm(x))"
FORWARD = "    def forward(self, input_ids"
TIED = "        if config.tie_word_embeddings:\n            self.lm_head.weight"
NUMPY = ("import torch\n", "import numpy\nimport torch\n")
WRONG_ACTIVATION = ("self.activation = nn.SiLU()", "self.activation = nn.GELU()")
ACTIVATION = ("mlp.act_fn", "nn.GELU()")
ATTENTION = "self_attn"


@dataclass(frozen=True)
class Case:
    """A way of writing it, a bug there, the reference's module, part of the line named, part of what is admitted."""

    edits: tuple[Edit, ...]
    bug: Edit
    module: str
    line: str
    admitted: str = ""


CASES = {
    "norm in place": Case(
        (
            (
                NORM,
                """        x32 = x32.clone()
        x32.mul_(torch.rsqrt(x32.pow(2).mean(-1, keepdim=True).add_(self.eps)))
        return x32.to(x.dtype).mul_(self.weight)
""",
            ),
        ),
        ("x32.pow(2).mean", "x32.abs().mean"),
        "input_layernorm",
        "x32.abs().mean",
    ),
    "rope written into slices": Case(
        (
            (
                ROTATE,
                f"""{HALVES}    out = torch.empty_like(x)
    out[..., :half] = x[..., :half] * cos - x[..., half:] * sin
    out[..., half:] = x[..., half:] * cos + x[..., :half] * sin
    return out
""",
            ),
        ),
        ("* cos + x[..., :half] * sin", "* cos - x[..., :half] * sin"),
        ATTENTION,
        "out[..., ",
    ),
    "rope through views": Case(
        (
            (
                ROTATE,
                f"""{HALVES}    out = x.clone()
    first, second = out[..., :half], out[..., half:]
    kept = first.clone()
    first *= cos
    first -= second * sin
    second *= cos
    second += kept * sin
    return out
""",
            ),
        ),
        ("second += kept * sin", "second += first * sin"),
        ATTENTION,
        "",
    ),
    "residual in place": Case(
        (
            ("        x = x + self.attention(", "        x += self.attention("),
            (RESIDUAL, "        x += self.mlp(self.pre_mlp_norm(x))\n        return x"),
        ),
        ("x += self.mlp(", "x += 0.5 * self.mlp("),
        "layers.0",
        "x += 0.5",
    ),
    "keys and values copied into a buffer": Case(
        (
            (
                REPEAT,
                """        keys = torch.zeros(k.shape[0], self.groups * k.shape[1], *k.shape[2:], dtype=k.dtype)
        values = torch.zeros_like(keys)
        for group in range(self.groups):
            keys[:, group :: self.groups].copy_(k)
            values[:, group :: self.groups].copy_(v)
        k, v = keys, values
""",
            ),
        ),
        (".copy_(v)", ".copy_(v.flip(1))"),
        ATTENTION,
        ".copy_(v.flip(1))",
    ),
    "an out argument": Case(
        (
            (
                MLP,
                """        gated = torch.empty(*x.shape[:2], self.up_proj.out_features, dtype=x.dtype)
        torch.mul(self.activation(self.gate_proj(x)), self.up_proj(x), out=gated)
        return self.down_proj(gated)
""",
            ),
        ),
        ("torch.mul(self.activation", "torch.add(self.activation"),
        "mlp",
        "torch.add(self.activation",
    ),
    "an autograd function": Case(
        (
            (MLP, "        return self.down_proj(Swish.apply(self.gate_proj(x)) * self.up_proj(x))\n"),
            (
                MLP_CLASS,
                f"""class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)


{MLP_CLASS}""",
            ),
        ),
        ("torch.sigmoid(x)", "torch.sigmoid(1.7 * x)"),
        "mlp.act_fn",
        "torch.sigmoid(1.7 * x)",
    ),
    "a compiled function": Case(
        (("def rotate(", '@torch.compile(backend="aot_eager")\ndef rotate('),),
        ("torch.cat((-second, first)", "torch.cat((second, first)"),
        ATTENTION,
        "torch.cat((second, first)",
    ),
    "a compiled module": Case(
        (
            ("self.mlp = MLP(config)", 'self.mlp = torch.compile(MLP(config), backend="eager")'),
            *(
                (f'"layers.{{}}.mlp.{name}_proj.{kind}"', f'"layers.{{}}.mlp._orig_mod.{name}_proj.{kind}"')
                for name in ("gate", "up", "down")
                for kind in ("weight", "bias")
            ),
        ),
        WRONG_ACTIVATION,
        *ACTIVATION,
    ),
    "compiled in its constructor": Case(
        ((TIED, f'        self.compile(backend="eager")\n{TIED}'),), WRONG_ACTIVATION, *ACTIVATION
    ),
    "inference mode": Case(((FORWARD, f"    @torch.inference_mode()\n{FORWARD}"),), WRONG_ACTIVATION, *ACTIVATION),
    "inference mode, in place": Case(
        (
            (FORWARD, f"    @torch.inference_mode()\n{FORWARD}"),
            ("        scores = scores.masked_fill(", "        scores.masked_fill_("),
        ),
        ("scores.masked_fill_(~visible", "scores.masked_fill_(~visible.flip(-1)"),
        ATTENTION,
        "",
    ),
    "softmax in numpy": Case(
        (
            NUMPY,
            (
                SOFTMAX,
                """        raw = scores.detach().numpy()
        raw = numpy.exp(raw - raw.max(-1, keepdims=True))
        weights = torch.from_numpy(raw / raw.sum(-1, keepdims=True))
""",
            ),
        ),
        ("raw / raw.sum(-1", "raw / raw.sum(-2"),
        ATTENTION,
        "raw / raw.sum(-2",
        "values leave torch for numpy at ",
    ),
    "the mask in numpy": Case(
        (
            NUMPY,
            (
                SCORES,
                "        scores = scores + torch.from_numpy(numpy.where(visible.numpy(), 0.0, -1e30))\n",
            ),
        ),
        ("numpy.where(visible.numpy(),", "numpy.where(numpy.roll(visible.numpy(), 1, -1),"),
        ATTENTION,
        "numpy.roll",
        "values leave torch for numpy at ",
    ),
    "lists of numbers": Case(
        (
            (
                MLP,
                """        up = torch.stack([torch.tensor(row) for row in self.up_proj(x).flatten(0, 1).tolist()])
        return self.down_proj(self.activation(self.gate_proj(x)) * up.view(*x.shape[:2], -1))
""",
            ),
        ),
        ("torch.tensor(row)", "torch.tensor(row).abs()"),
        "mlp",
        "torch.tensor(row).abs()",
        "values leave torch for a list at ",
    ),
    "vmap": Case(
        ((CONTEXT, "        context = torch.vmap(lambda w, u: w @ u)(weights, v).transpose(1, 2)\n"),),
        ("w @ u)(weights", "w @ u.flip(0))(weights"),
        ATTENTION,
        "w @ u.flip(0)",
        "values are transformed by torch.func at ",
    ),
    "a tensor's data replaced": Case(
        (
            (
                MLP,
                """        gated = self.activation(self.gate_proj(x))
        gated.data = gated.data * self.up_proj(x)
        return self.down_proj(gated)
""",
            ),
        ),
        ("gated.data * self.up_proj(x)", "gated.data + self.up_proj(x)"),
        "mlp",
        "gated.data + self.up_proj(x)",
    ),
    "a subclass of Tensor": Case(
        (
            (MLP_CLASS, f"class Marked(Tensor):\n    pass\n\n\n{MLP_CLASS}"),
            (
                MLP,
                """        gated = self.activation(self.gate_proj(x)).as_subclass(Marked)
        return self.down_proj((gated * self.up_proj(x)).as_subclass(Tensor))
""",
            ),
        ),
        ("(gated * self.up_proj(x))", "(gated + self.up_proj(x))"),
        "mlp",
        "gated + self.up_proj(x)",
    ),
}


@pytest.fixture
def edited(root: Path) -> Callable[..., str]:
    """The Llama port with some of its text replaced, each text occurring once."""
    original = (root / "models" / "llama3.py").read_text(encoding="utf-8")

    def apply(*edits: Edit) -> str:
        text = original
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return text

    return apply


@pytest.fixture
def checked(configs: Path) -> Callable[[object], Report]:
    """A check on the config that goes with the port."""
    return lambda port: parity.check(port, config=configs / "llama-3.2-1b.json", small_config=True)


def written(folder: Path, text: str) -> Path:
    """A port in a file."""
    path = folder / "port.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CASES)
def test_a_right_one_passes(
    name: str, tmp_path: Path, edited: Callable[..., str], checked: Callable[[object], Report]
) -> None:
    """However it is written."""
    report = checked(written(tmp_path, edited(*CASES[name].edits)))
    assert (report.verdict, report.findings) == ("pass", ())


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_one_is_located(
    name: str, tmp_path: Path, edited: Callable[..., str], checked: Callable[[object], Report]
) -> None:
    """The module and the line; where values were out of sight, the evidence says so."""
    case = CASES[name]
    report = checked(written(tmp_path, edited(*case.edits, case.bug)))
    assert report.verdict == "fail"
    first = report.findings[0]
    assert first.reference_module.endswith(case.module)
    assert first.port_source is not None
    assert case.line in first.port_source.text
    assert any(case.admitted in line for line in first.evidence)


NO_LINE = "no line is named: the port's source cannot be read"


def sayings(findings: tuple[Finding, ...]) -> list[str]:
    """Where it is said that a source cannot be read."""
    return [line for finding in findings for line in finding.evidence if line.startswith(NO_LINE)]


def test_code_that_is_in_no_file(
    edited: Callable[..., str], checked: Callable[[object], Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generated, or typed in: two findings without a line, said once."""
    text = edited(WRONG_ACTIVATION, ('    "model.norm.weight": "norm.weight",\n', ""))
    module = ModuleType("generated")
    monkeypatch.setitem(sys.modules, "generated", module)
    exec(compile(text, "<string>", "exec"), vars(module))
    report = checked(module)
    assert {finding.cause for finding in report.findings} == {"activation", "weights-silently-missing"}
    assert all(finding.port_source is None for finding in report.findings)
    assert sayings(report.findings) == [f"{NO_LINE} (<string>)"]


def test_compiled_code_alone(
    tmp_path: Path,
    edited: Callable[..., str],
    checked: Callable[[object], Report],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A .pyc whose .py is gone."""
    path = written(tmp_path, edited(WRONG_ACTIVATION)).rename(tmp_path / "bytecode_alone.py")
    py_compile.compile(str(path), cfile=str(path.with_suffix(".pyc")))
    path.unlink()
    monkeypatch.syspath_prepend(tmp_path)
    report = checked("bytecode_alone")
    assert [finding.cause for finding in report.findings] == ["activation"]
    assert report.findings[0].port_source is None
    assert report.findings[0].reference_source is not None
    assert len(sayings(report.findings)) == 1
