"""Broken copies of the Gemma 3 port are caught and localised; equivalent copies are left in peace."""

from fnmatch import fnmatchcase
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import parity
from parity.records import Finding

FIXTURES = Path(__file__).parents[2] / "fixtures"
BUGS = sorted(path for path in (FIXTURES / "bugs").glob("[a-z]*.py"))
BENIGN = sorted(path for path in (FIXTURES / "benign").glob("[a-z]*.py"))


def load(path: Path) -> ModuleType:
    """A fixture's own names, such as what it declares guilty."""
    spec = spec_from_file_location(f"fixture_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def names(finding: Finding, guilty: tuple[str, ...]) -> bool:
    """Whether a finding points at one of the guilty places."""
    return any(fnmatchcase(finding.reference_module, pattern) for pattern in guilty)


def test_the_fixtures_are_all_there() -> None:
    """Twelve single bugs, three double ones, eight equivalent rewrites."""
    assert len([path for path in BUGS if not path.stem.startswith("two_")]) == 12
    assert len([path for path in BUGS if path.stem.startswith("two_")]) == 3
    assert len(BENIGN) == 8


@pytest.mark.parametrize(
    "path", [path for path in BUGS if not path.stem.startswith("two_")], ids=lambda path: path.stem
)
def test_one_bug_is_one_finding_in_the_guilty_place(path: Path) -> None:
    """The first finding names the module or segment that is wrong by itself."""
    report = parity.check(path, small_config=True)
    assert report.verdict == "fail"
    assert report.exit_code == 1
    assert names(report.findings[0], load(path).GUILTY), report.findings[0]


@pytest.mark.parametrize("path", [path for path in BUGS if path.stem.startswith("two_")], ids=lambda path: path.stem)
def test_two_bugs_are_told_apart(path: Path) -> None:
    """Each of two bugs has a finding of its own, and nothing else is blamed."""
    report = parity.check(path, small_config=True)
    assert report.verdict == "fail"
    first, second = load(path).GUILTY
    assert any(names(finding, first) for finding in report.findings)
    assert any(names(finding, second) for finding in report.findings)
    assert all(names(finding, first) or names(finding, second) for finding in report.findings)


@pytest.mark.parametrize("path", BENIGN, ids=lambda path: path.stem)
def test_equivalent_rewrites_pass(path: Path) -> None:
    """No boundary differs, no tensor is missed."""
    report = parity.check(path, small_config=True)
    assert report.findings == ()
    assert report.verdict == "pass"
    assert report.unmatched.tensors == ()
    assert not [boundary for boundary in report.boundaries if boundary.verdict == "diff"]
    logits = next(boundary for boundary in report.boundaries if boundary.name == "logits")
    assert logits.relative is not None
    assert logits.relative < 1e-12


@pytest.mark.parametrize(
    ("name", "cause", "line"),
    [
        ("silu", "activation", "self.activation"),
        ("tiled_kv_heads", "gqa-repeat", "k = k.repeat("),
        ("wrong_attention_scale", "softmax-scale", "self.scale = config.head_dim**-0.5"),
        ("window_off_by_one", "window-off-by-one", "distance <= self.config.sliding_window"),
        ("final_norm_eps", "norm-eps", "self.norm = RMSNorm(config.hidden_size, 1e-5)"),
        ("norm_without_offset", "norm-offset", "(normed * self.weight.float())"),
        ("qk_norm_missing", "qknorm-missing-or-width", "rotate(q, cos, sin), rotate(k, cos, sin)"),
    ],
)
def test_the_line_and_the_cause_are_named(name: str, cause: str, line: str) -> None:
    """The first finding says which line of the port is wrong, beside the reference's, and why."""
    finding = parity.check(FIXTURES / "bugs" / f"{name}.py", small_config=True).findings[0]
    assert finding.cause == cause
    assert finding.port_source is not None
    assert line in finding.port_source.text
    assert finding.reference_source is not None
    assert finding.reference_source.file.startswith("transformers/")
    assert finding.explanations[0].residual <= 1e-10
