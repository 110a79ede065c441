"""The self-test: a fault of each stage is seen on ports that pass, and a gate that is blind is found out."""

from collections.abc import Callable
from pathlib import Path

import pytest

import parity
from parity.gate_records import Case, Wanted
from parity.records import STAGES
from parity.self_test import trial
from tests.gate.conftest import Write

Run = Callable[..., tuple[int, str, str]]

# A port that is right, and from which the check learns that nothing ever differs.
TAMPERS = """
    import sys
    from parity import records

    for module in list(sys.modules.values()):
        if module.__name__.startswith("parity.") and hasattr(module, "PROMOTED_NOISE"):
            module.PROMOTED_NOISE = 1e9
    records.Boundary.verdict = property(lambda boundary: "ok")
"""
# A port that answers from a file what it has answered before, whatever its code is by then.
REMEMBERS = """
    from pathlib import Path

    import torch

    FOLDER = Path(__file__).parent / "remembered"

    class Model(gpt2.Model):
        def forward(self, input_ids):
            FOLDER.mkdir(exist_ok=True)
            file = FOLDER / f"{self.norm.weight.dtype}-{input_ids.shape}"
            if not file.exists():
                torch.save(super().forward(input_ids), file)
            return torch.load(file)
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_of_each_stage_is_seen(stage: str) -> None:
    """On a port that passes; what is done to it is told in words."""
    found = trial(Case("gpt2"), stage, Wanted())
    assert (found.verdict, found.problem) == ("seen", "")
    assert found.fault


@pytest.mark.parametrize("stage", ["weights", "precision", "gradient"])
def test_a_port_without_modules_is_spoiled_too(root: Path, stage: str) -> None:
    """In its tensors: there is no module whose output could be changed."""
    found = trial(Case(str(root / "fixtures" / "rewrites" / "llama3_flat.py")), stage, Wanted())
    assert found.verdict == "seen"
    assert " of the model" not in found.fault


def test_a_capability_that_is_not_there_proves_nothing(root: Path) -> None:
    """A fault in decoding cannot be seen in a port that does not decode."""
    found = trial(Case(str(root / "fixtures" / "rewrites" / "llama3_flat.py")), "cache", Wanted())
    assert found.verdict == "untested"
    assert found.problem.startswith("with the fault, the stage does not run: the port cannot decode")


def test_a_gate_that_was_blinded_fails(project: Path, port: Write, run: Run) -> None:
    """The port passes; only the self-test notices that a wrong one would pass as well."""
    port("tampers.py", TAMPERS)
    code, out, _ = run("gate", "tampers.py", "--stage", "forward", "--self-test")
    assert code == 2
    assert "\ntampers.py  PASS " in out
    assert "self-test on tampers.py: 0 of 1 injected faults seen" in out
    assert "and the stage passes all the same: this gate is blind in forward" in out


def test_a_port_whose_code_is_not_what_answers_proves_nothing(project: Path, port: Write) -> None:
    """It passes whatever is done to it, and the self-test says that nothing that is done to it matters."""
    path = port("remembers.py", REMEMBERS)
    parity.check(path, small_config=True, stage=["weights", "forward"])
    assert parity.check(path, small_config=True, stage=["weights", "forward"]).verdict == "pass"
    found = trial(Case(str(path)), "forward", Wanted())
    assert (found.verdict, found.fault) == ("untested", "")
    assert found.problem == "no fault of stage forward is known that changes what the port computes"


def test_no_self_test_without_a_port_that_passes(project: Path, port: Write, run: Run) -> None:
    """What fails already cannot show that a fault is seen."""
    port("raises.py", "raise ValueError('no such thing')\n")
    code, out, _ = run("gate", "raises.py", "--self-test")
    assert code == 2
    assert "no self-test: no case passes" in out or "raises.py does not import" in out
