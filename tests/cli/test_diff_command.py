"""`parity diff`: what two architectures share, and what tells them apart, in every format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(run: Run) -> Callable[..., dict[str, Any]]:
    """The JSON of a difference."""

    def call(left: str, right: str) -> dict[str, Any]:
        code, out, err = run("diff", left, right, "--format", "json")
        assert (code, err) == (0, "")
        found: dict[str, Any] = json.loads(out)
        return found

    return call


def test_two_families(told: Callable[..., dict[str, Any]]) -> None:
    """Facts, modules by what they do, causes and lines."""
    found = told("gpt2", "qwen3-0.6b")
    different = {each["name"]: (each["left"], each["right"]) for each in found["different"]}
    assert different["attention"] == ("MHA", "GQA")
    assert different["positions"] == ("a table that is learned", "rotated: base 1,000,000")
    assert "placement" not in different
    assert {"decoder", "placement", "head"} <= {each["name"] for each in found["shared"]}
    assert found["modules"]["left"] == ["table of positions: transformer.wpe"]
    assert [each.partition(":")[0] for each in found["modules"]["right"]] == [
        "norm of queries", "norm of keys", "gate of the feed-forward", "rotation of positions",
    ]  # fmt: skip
    causes = {each["code"]: each["why"] for each in found["causes"]}
    assert causes["activation"] == ["activation: gelu_new / silu"]
    assert causes["gqa-repeat"] == ["only qwen3-0.6b has what it is about"]
    assert not {"norm-offset", "residual-topology", "softcap"} & set(causes)
    fields = {each["name"]: (each["left"], each["right"]) for each in found["fields"]}
    assert fields["n_embd / hidden_size"] == ("768", "1024")
    assert (found["lines"]["left"], found["lines"]["right"]) == ("gpt2.py", "qwen3.py")
    removed = [line for line in found["lines"]["text"][2:] if line.startswith("-")]
    assert len(removed) == found["lines"]["removed"] > 50


def test_two_sizes_of_one_architecture(told: Callable[..., dict[str, Any]]) -> None:
    """Nothing but sizes: no causes, no modules, no lines."""
    found = told("qwen3-0.6b", "qwen3-4b")
    assert found["causes"] == []
    assert found["modules"] == {"left": [], "right": []}
    assert found["lines"] is None
    assert "qwen3 is the port of both: what differs is in the config alone" in found["notes"]
    assert {each["name"] for each in found["different"]} >= {"parameters", "layers", "width"}


def test_a_config_is_the_same_as_itself(told: Callable[..., dict[str, Any]], configs: Path) -> None:
    """Whatever it is named by."""
    found = told("gemma3", str(configs / "gemma-3-270m.json"))
    assert (found["different"], found["fields"], found["causes"]) == ([], [], [])


def test_every_format(run: Run, tmp_path: Path) -> None:
    """Facts that differ, causes and lines are in all of them."""
    page, text = tmp_path / "diff.html", tmp_path / "diff.md"
    code, out, err = run(
        "diff", "gemma3", "qwen3", "--format", "text", f"--format=html={page}", f"--format=markdown={text}"
    )
    assert (code, err) == (0, "")
    for written in (out, page.read_text(), text.read_text()):
        assert "MQA, sliding" in written
        assert "norm-offset" in written
        assert "norm before attention" not in written  # both have it
        assert "gemma3.py" in written
    assert "svg" in page.read_text()


def test_an_unknown_side(run: Run, tmp_path: Path, configs: Path) -> None:
    """What is unknown differs from everything, and speaks for no cause."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads((configs / "qwen3-0.6b.json").read_text()) | {"model_type": "brand_new"}))
    code, out, _ = run("diff", path, "qwen3", "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert {each["name"]: each["left"] for each in found["different"]}["norm"] is None
    assert not {"norm-offset", "residual-topology", "qknorm-missing-or-width"} & {e["code"] for e in found["causes"]}
    assert any("no port of" in note for note in found["notes"])


def test_nothing_of_the_name(run: Run) -> None:
    """One line, and nothing written."""
    code, out, err = run("diff", "gemma3", "gema4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Did you mean gemma4" in err
