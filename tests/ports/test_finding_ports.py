"""A port is found by name, file, namespace, dotted module, entry point or as an object; MODULES only helps."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import parity
from parity.errors import ParityError
from parity.pair import port as ports

Port = Callable[..., Path]


def test_namespace_in_a_file(tmp_path: Path) -> None:
    """port.py:Name holds the names of the contract."""
    path = tmp_path / "many.py"
    path.write_text(
        "from parity_models import gemma3\n\n\n"
        "class Mine:\n    Config = gemma3.Config\n    Model = gemma3.Model\n"
        "    WEIGHTS = gemma3.WEIGHTS\n    MODEL_TYPES = gemma3.MODEL_TYPES\n"
    )
    assert parity.check(f"{path}:Mine", small_config=True).verdict == "pass"


def test_dotted_module_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As python -m would find it."""
    package = tmp_path / "some_package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a_port.py").write_text("from parity_models.gemma3 import MODEL_TYPES, WEIGHTS, Config, Model\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert parity.check("some_package_of_mine.a_port", small_config=True).verdict == "pass"


def test_entry_point_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed packages add names through the group parity.models."""
    entry = EntryPoint("their_gemma", "parity_models.gemma3", ports.ENTRY_POINTS)
    monkeypatch.setattr(ports, "entry_points", lambda group: [entry] if group == ports.ENTRY_POINTS else [])
    assert "their_gemma" in ports.built_in_names()
    assert parity.check("their_gemma", small_config=True).verdict == "pass"


@pytest.mark.parametrize("name", ["os.path.nothing", "no_such_package.port", "not a name", "json"])
def test_names_that_are_no_port(name: str) -> None:
    """Neither an import error nor a traceback."""
    with pytest.raises(ParityError):
        parity.check(name, small_config=True)


def test_a_port_that_ends_the_process(broken_port: Port) -> None:
    """sys.exit(0) inside a port is a failure of the port, not a pass."""
    with pytest.raises(ParityError, match="SystemExit"):
        parity.check(
            broken_port(("        x = self.embed_tokens(input_ids)\n", "        raise SystemExit(0)\n")),
            small_config=True,
        )


def test_modules_are_a_hint(broken_port: Port, tmp_path: Path) -> None:
    """A right hint changes nothing; one that names what is not there is refused."""
    port = broken_port()
    port.write_text(port.read_text() + '\nMODULES = {"model.layers.{}.self_attn": "layers.{}.attention"}\n')
    assert parity.check(port, small_config=True).verdict == "pass"
    for hint, wanted in (
        ('{"model.layers.{}.self_attention": "layers.{}.attention"}', "the reference has not"),
        ('{"model.layers.{}.self_attn": "layers.{}.attn"}', "the port has not"),
    ):
        other = broken_port(name="other.py")
        other.write_text(other.read_text() + f"\nMODULES = {hint}\n")
        with pytest.raises(ParityError, match=wanted):
            parity.check(other, small_config=True)


def test_dropped_softcap_is_found_behind_the_last_module(broken_port: Port, configs: Path, tmp_path: Path) -> None:
    """The returned logits are compared, not only the last module."""
    config = tmp_path / "config.json"
    text = (configs / "gemma-3-270m.json").read_text()
    config.write_text(text.replace('"final_logit_softcapping": null', '"final_logit_softcapping": 30.0'))
    port = broken_port(
        ("        return logits if cap is None else torch.tanh(logits / cap) * cap", "        return logits")
    )
    report = parity.check(port, config=config, small_config=True)
    assert [finding.reference_module for finding in report.findings] == ["lm_head"]
    assert "logits" in report.findings[0].title
    assert [boundary.name for boundary in report.boundaries if boundary.verdict == "diff"] == ["logits"]
