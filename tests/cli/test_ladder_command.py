"""`parity ladder`: states of rungs, what to run next, exit codes, every format."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

Run = Callable[..., tuple[int, str, str]]


def states(out: str) -> dict[str, str]:
    """The state of each rung, of a ladder as JSON."""
    return {each["name"]: each["state"] for each in json.loads(out)["rungs"]}


def test_a_port_that_holds(run: Run, tmp_path: Path, root: Path) -> None:
    """All that can be run without a checkpoint is done; the rest has its command."""
    files = {form: tmp_path / f"ladder.{form}" for form in ("json", "markdown", "html")}
    arguments = [part for form, file in files.items() for part in ("--format", f"{form}={file}")]
    code, out, err = run("ladder", "llama3", "--format", "text", *arguments)
    assert (code, err) == (0, "")
    text = files["json"].read_text()
    jsonschema.validate(json.loads(text), json.loads((root / "parity" / "report" / "ladder-1.json").read_text()))
    found = states(text)
    assert list(found) == [
        "config", "card", "nearest port", "weights", "forward", "precision", "cache", "batch", "gradient",
        "pretrained", "text",
    ]  # fmt: skip
    assert {name for name, state in found.items() if state == "not_run"} == {"gradient", "pretrained", "text"}
    assert {state for name, state in found.items()} == {"done", "not_run"}
    told = json.loads(text)
    assert told["next"] == "parity check llama3 --small-config --gradient"
    assert told["rungs"][1]["why"] == "1.24 B parameters, 32 KiB of cache per token in bfloat16"
    for view in (out, files["markdown"].read_text(), files["html"].read_text()):
        assert "smollm3, at a distance of 3" in view or "qwen3, at a distance of 3" in view
        assert "8 done, 3 not run" in view


def test_a_port_that_diverges(run: Run, broken_port: Callable[..., Path]) -> None:
    """Exit code 1, the first finding's place and cause, and the stage to run again."""
    port = broken_port(("distance < self.config", "distance <= self.config"))
    code, out, _ = run("ladder", port, "--format", "json")
    found = states(out)
    assert code == 1
    assert (found["weights"], found["forward"]) == ("done", "failed")
    told = json.loads(out)
    why = next(each["why"] for each in told["rungs"] if each["name"] == "forward")
    assert "port.py (gemma3):" in why
    assert "window-off-by-one" in why
    assert told["next"] == f"parity check {port} --small-config --stage forward"


def test_a_port_that_cannot_decode(run: Run, root: Path) -> None:
    """What it has no means for is not possible, and no failure."""
    code, out, _ = run("ladder", root / "fixtures" / "rewrites" / "gemma3_flat.py", "--format", "json")
    assert code == 0
    assert states(out)["cache"] == "not_possible"


def test_a_port_that_does_not_run(run: Run, broken_port: Callable[..., Path]) -> None:
    """Exit code 2: nothing was compared. What stands before that is told all the same."""
    port = broken_port(("x = self.embed_tokens(input_ids)", "x = self.embed_tokens(input_ids, 3)"))
    code, out, _ = run("ladder", port, "--format", "json")
    found = states(out)
    assert code == 2
    assert (found["config"], found["card"]) == ("done", "done")
    assert {found[name] for name in ("weights", "forward", "cache")} == {"not_possible"}


def test_with_a_checkpoint(run: Run, small_checkpoint: Path) -> None:
    """Its weights are compared and text is generated."""
    code, out, err = run("ladder", "gemma3", "--pretrained", small_checkpoint, "--format", "json")
    assert (code, err) == (0, "")
    found = states(out)
    assert (found["pretrained"], found["text"], found["gradient"]) == ("done", "done", "not_run")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("gema3",), "Did you mean gemma3"),
        (("gemma3", "--config", "nowhere.json"), "there is no config nowhere.json"),
        (("gemma3", "--format", "svg"), "there is no format 'svg' of a ladder"),
    ],
)
def test_bad_input(run: Run, arguments: tuple[str, ...], wanted: str) -> None:
    """One line each."""
    code, out, err = run("ladder", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    assert wanted in err
