"""`parity ports`."""

import json
from collections.abc import Callable
from pathlib import Path

from parity.records import STAGES

Run = Callable[..., tuple[int, str, str]]


def test_every_port_is_listed_with_its_stages(run: Run, root: Path) -> None:
    """Those in models/, no more and no fewer, and each passed everything."""
    code, out, err = run("ports")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.split("\n\n")[0].splitlines()[1:]}
    assert set(lines) == {path.stem for path in (root / "models").glob("*.py")} - {"__init__"}
    assert "Gemma3ForCausalLM" in lines["gemma3"]
    assert "gemma3_text" in lines["gemma3"]


def test_as_json(run: Run) -> None:
    """For machines, with the verdict of each stage."""
    code, out, _ = run("ports", "--format", "json")
    assert code == 0
    listed = json.loads(out)["ports"]
    assert all(set(port["stages"]) == set(STAGES) for port in listed)
    assert {verdict for port in listed for verdict in port["stages"].values()} == {"pass"}


def test_another_format(run: Run) -> None:
    """One line."""
    code, out, err = run("ports", "--format", "xml")
    assert (code, out) == (2, "")
    assert "no format 'xml'" in err
