"""`parity report`: a saved report told again is the report; what was edited, cut off or never was one is refused."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import parity
from parity import Generation, Report
from parity.generation_records import Blame, Difference, Prompt, Row, Speed, TeacherForced, Token, TokenFinding
from parity.records import (
    Boundary,
    Coverage,
    ErrorMap,
    Explanation,
    FieldCoverage,
    Finding,
    MutationCoverage,
    Source,
    Stage,
    Unmatched,
    Versions,
)
from parity.report import generation_json, generation_text, text
from parity.report import json as report_json
from parity.report.formats import GATE
from parity.report.saved import read
from tests.gate.test_gate_formats import MIXED

Run = Callable[..., tuple[int, str, str]]
Checked = Callable[[str], Report]

KINDS = ["passing", "failing", "rounding", "sparse", "incomplete", "not finite"]
EXIT = {"pass": 0, "fail": 1, "incomplete": 2}


def full() -> Report:
    """A report of which no field has its default value."""
    ours = Source("port.py", 3, "x = 1", ((2, "def f():"), (3, "    x = 1")))
    finding = Finding(
        "forward", "unknown", "a title", "model.layers.0", "layers.0", ours, replace(ours, file="ref.py"),
        (Explanation("cause", "mutation", 1e-13, "behaves so"),), ("evidence", "also model.layers.1"),
    )  # fmt: skip
    plain = Boundary("forward", "a", "a", "b", "output", 0.5, 0.25, 0.5, 0.75, "noted", 1e-4)
    return Report(
        versions=Versions("1", "2", "3"),
        port="port.py",
        reference="Reference",
        weights="pretrained",
        seed=7,
        stages=(Stage("weights", "pass", "", 1.5), Stage("forward", "fail", "why", 0.125, requested=True)),
        boundaries=(
            plain,
            replace(plain, own=1e-5, total=2e-5),
            replace(plain, stage="precision", own=1.0, total=1.0, ratio=3.0, misplaced=True),
        ),
        findings=(finding,),
        unmatched=Unmatched(("r",), ("p",), ("t",)),
        coverage=Coverage(FieldCoverage(("seen",), ("blind",)), MutationCoverage(1, 2, ("missed",))),
        notes=("a note",),
        dtype="bfloat16",
        revision="abc",
        interrupted=True,
        maps=(ErrorMap("forward", "a", "head", ("0", "1"), ("0-3",), ((1.0,), (None,))),),
    )


def generated(**changes: Any) -> Generation:
    """A generation of which no field has its default value."""
    first = Difference(1, Token(5, "a"), Token(6, "b"), (2.0, 1.0), (1.0, 3.0), 1e-6)
    row = Row(
        (Token(4, "x"), Token(6, "b")), "xb", "length", (Token(4, "x"), Token(5, "a")), "xa", first,
        TeacherForced(2, (first,), 2.0, 1e-6, 1, 0.5), Blame("cache", "why", "next"),
    )  # fmt: skip
    made = Generation(
        Versions("1", "2", "3"), "port.py", "Reference", "checkpoint", "abc", "bfloat16", "cuda", True,
        (Prompt((Token(1, "<bos>"), Token(2, "w")), "w", "<bos>w"),), (row,), Speed(0.5, 3.0, 2.0),
        Speed(0.25, None, 4.0), (TokenFinding("another id", True),), ("a note",),
    )  # fmt: skip
    return replace(made, **changes)


def saved(report: Report, path: Path) -> Path:
    """A report as a file."""
    path.write_text(report_json.render(report))
    return path


def lines(report: Report, every: bool, width: int | None) -> list[str]:
    """The text of a report."""
    return [line.plain for line in text.render(report, every, width)]


def refused(result: tuple[int, str, str], *wanted: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with all that is wanted in it."""
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    assert "internal" not in err
    for each in wanted:
        assert each in err, err


@pytest.fixture
def schema(root: Path) -> dict[str, Any]:
    """Schema 1 of the JSON report."""
    parsed: dict[str, Any] = json.loads((root / "parity" / "report" / "schema-1.json").read_text())
    return parsed


@pytest.mark.parametrize("kind", KINDS)
def test_told_again_it_is_the_same(kind: str, checked: Checked, tmp_path: Path, schema: dict[str, Any]) -> None:
    """Text of a saved report is that of the report itself, every boundary or not, on a terminal or off."""
    report = checked(kind)
    path = saved(report, tmp_path / "report.json")
    jsonschema.validate(json.loads(path.read_text()), schema)
    again = read(path)
    assert isinstance(again, Report)
    for every in (False, True):
        for width in (None, 160):
            assert lines(again, every, width) == lines(report, every, width)
    rounded = replace(report, stages=tuple(replace(each, seconds=round(each.seconds, 3)) for each in report.stages))
    assert again == rounded or kind == "not finite"  # a NaN does not equal itself
    assert report_json.render(again) == path.read_text()


def test_no_field_is_lost(tmp_path: Path) -> None:
    """Whatever a report has comes back, defaults nowhere in the way."""
    report = full()
    empty = Report(report.versions, "", "", "random", 0, (), (), (), Unmatched())
    assert [each.name for each in fields(Report) if getattr(report, each.name) == getattr(empty, each.name)] == [
        "versions"
    ]
    assert read(saved(report, tmp_path / "report.json")) == report


def test_numbers_that_are_not_finite(checked: Checked, tmp_path: Path) -> None:
    """They are null in the JSON, differences all the same, and what they were when told again."""
    report = checked("not finite")
    document = json.loads(saved(report, tmp_path / "report.json").read_text())
    nothing = [each for each in document["boundaries"] if each["relative"] is None]
    assert {each["verdict"] for each in nothing} == {"diff"}
    assert set(document["details"]["not_finite"].values()) <= {"nan", "inf", "-inf"}
    again = read(tmp_path / "report.json")
    assert isinstance(again, Report)
    assert str(again.boundaries) == str(report.boundaries)
    infinite = replace(full().boundaries[0], own=math.inf, max_abs=math.nan)
    again = read(saved(replace(full(), boundaries=(infinite,)), tmp_path / "infinite.json"))
    assert isinstance(again, Report)
    assert again.boundaries[0].own == math.inf
    assert again.boundaries[0].max_abs != again.boundaries[0].max_abs


@pytest.mark.parametrize("kind", [*KINDS, "full"])
def test_without_details_verdicts_stay(
    kind: str, checked: Checked, run: Run, tmp_path: Path, schema: dict[str, Any]
) -> None:
    """The contract's own fields are enough to tell it: every verdict and figure comes back as it was."""
    report = full() if kind == "full" else checked(kind)
    path = tmp_path / "report.json"
    document = json.loads(report_json.render(report))
    del document["details"]
    jsonschema.validate(document, schema)
    path.write_text(json.dumps(document))
    again = read(path)
    assert isinstance(again, Report)
    assert again.verdict == report.verdict
    twice = json.loads(report_json.render(again))
    assert {name: value for name, value in twice.items() if name != "details"} == document
    jsonschema.validate(twice, schema)
    code, out, _ = run("report", path)
    assert code == report.exit_code
    assert "saved without `details`" in out
    marks = [line.split(": ")[0] for line in lines(report, True, None) if line.startswith("[")]
    assert [line.split(": ")[0] for line in out.splitlines() if line.startswith("[OK")] == [
        line.split(": ")[0] for line in lines(report, False, None) if line.startswith("[OK")
    ]
    assert [line.split(": ")[0] for line in lines(again, True, None) if line.startswith("[")] == marks


@pytest.mark.parametrize("kind", ["passing", "failing", "incomplete"])
def test_the_exit_code_is_the_verdict_s(kind: str, checked: Checked, run: Run, tmp_path: Path) -> None:
    """0, 1 and 2, whatever the format."""
    report = checked(kind)
    path = saved(report, tmp_path / "report.json")
    for form in ("text", "json", "junit", "github", "markdown"):
        code, out, err = run("report", path, "--format", form)
        assert (code, err) == (EXIT[report.verdict], "")
        assert out
    assert run("report", path, "--format", "json")[1] == path.read_text()


def change(document: dict[str, Any], pointer: str, value: Any) -> None:
    """Put a value into a document."""
    *way, last = [int(part) if part.isdecimal() else part for part in pointer.split("/")]
    holder: Any = document
    for part in way:
        holder = holder[part]
    holder[last] = value


@pytest.mark.parametrize("details", [True, False])
@pytest.mark.parametrize(
    ("pointer", "value", "said"),
    [
        ("verdict", "pass", "its verdict is pass, its stages say fail"),
        ("stages/1/verdict", "pass", "its verdict is fail, its stages say pass"),
        ("boundaries/0/verdict", "diff", "verdict of model.embed_tokens (input) is diff, its figures say"),
        ("boundaries/-1/inherited", False, None),
        ("boundaries/0/relative", 0.5, "model.embed_tokens (input)"),
    ],
)
def test_what_does_not_follow_is_refused(
    pointer: str, value: Any, said: str | None, details: bool, checked: Checked, run: Run, tmp_path: Path
) -> None:
    """A verdict, of the report, a stage or a boundary, that somebody changed."""
    document = json.loads(report_json.render(replace(checked("failing"), maps=())))
    if not details:
        del document["details"]
    path = tmp_path / "report.json"
    if said is None:
        inherited = next(at for at, each in enumerate(document["boundaries"]) if each["inherited"])
        change(document, f"boundaries/{inherited}/inherited", value)
        path.write_text(json.dumps(document))
        if details:  # without, nothing says that it was inherited
            refused(run("report", path), "edited", "inherited of ")
        return
    change(document, pointer, value)
    path.write_text(json.dumps(document))
    refused(run("report", path), f"{path} was edited or is damaged", said)


def test_a_stage_does_not_pass_with_a_finding(checked: Checked, run: Run, tmp_path: Path) -> None:
    """Both verdicts changed together are still held to what was found."""
    document = json.loads(report_json.render(checked("failing")))
    document["verdict"] = document["stages"][1]["verdict"] = "pass"
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    refused(run("report", path), "stage forward is said to pass, with a finding")
    document["findings"] = document["details"]["findings"] = []
    path.write_text(json.dumps(document))
    refused(run("report", path), "stage forward is said to pass, with a difference")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"details": {"boundaries": []}}, "boundaries, and details of 0"),
        ({"details": {"findings": [{}, {}, {}]}}, "findings, and details of 3"),
        ({"details": {"not_finite": {"/nowhere/3": "nan"}}}, "it has no /nowhere/3"),
        ({"details": {"not_finite": {"/seed": "nan"}}}, "/seed is 7 and nan at once"),
        ({"schema": 2}, "has schema 2 of Parity 1; Parity"),
        ({"schema": "1"}, "is JSON, but not a report"),
        ({"kind": "diary"}, "is of kind 'diary'"),
        ({"verdict": "maybe"}, "verdict: 'maybe' is not one of ['pass', 'fail', 'incomplete']"),
        ({"stages": 3}, "stages: 3 is not of type 'array'"),
        ({"more": 3}, "'more' was unexpected"),
    ],
)
def test_not_this_schema(changed: dict[str, Any], said: str, run: Run, tmp_path: Path) -> None:
    """A newer schema, another kind, fields of the wrong type: one line that says where."""
    document = json.loads(report_json.render(full()))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document | changed))
    refused(run("report", path), str(path), said)


def test_not_json(run: Run, tmp_path: Path) -> None:
    """A file cut off anywhere says so; so do an empty one, other text, numbers that JSON has not, and no file."""
    path = tmp_path / "report.json"
    whole = report_json.render(full())
    for end in range(1, len(whole.rstrip()), 97):
        path.write_text(whole[:end])
        refused(run("report", path), "ends in the middle" if end > 1 else str(path))
    for content, said in [
        ("", "is empty"),
        ("PASS  gemma3\n", "is not JSON: Expecting value in line 1"),
        (whole.replace('"seed": 7', '"seed": NaN'), "NaN is no number"),
        ("[]", "is JSON, but not a report"),
        ("[" * 100_000, "is not JSON" if sys.version_info < (3, 14) else ""),
        ("\x80\n", ""),
    ]:
        path.write_text(content, encoding="latin-1")
        refused(run("report", path), str(path), said)
    refused(run("report", tmp_path / "none.json"), "cannot read", "No such file")
    refused(run("report", tmp_path), "cannot read", "directory")


def test_an_audit_is_not_told_again(run: Run, tmp_path: Path) -> None:
    """It says what it is."""
    from parity.records import Audit
    from parity.report import audit_json

    path = tmp_path / "audit.json"
    path.write_text(audit_json.render(Audit(full().versions, "port", "Reference", 0, 1, 2, (), (), ())))
    refused(run("report", path), "is of kind 'audit'", "Checks, generations and gates")


@pytest.mark.parametrize("form", sorted(GATE))
def test_a_gate_told_again(form: str, run: Run, tmp_path: Path) -> None:
    """In every format as it was, to the letter, and with its exit code."""
    path = tmp_path / "gate.json"
    path.write_text(GATE["json"](MIXED))
    code, out, err = run("report", path, "--format", form)
    assert (code, err) == (1, "")
    assert out == GATE[form](MIXED)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda gate: gate["cases"][1].update(verdict="pass"), "the verdict of wrong.py (c.json) is pass, its report"),
        (lambda gate: gate.update(verdict="pass"), "its verdict is pass, its cases say fail"),
        (lambda gate: gate["self_test"][0].update(problem="none"), "a self-test of good.py is seen, and had a problem"),
        (lambda gate: gate["cases"][0]["report"].update(verdict="fail"), "verdict"),
        (lambda gate: gate["cases"][0].update(name="other.py"), "the case good.py is called other.py"),
        (lambda gate: gate["cases"][0]["report"].pop("findings"), "is not a report of schema 1: 'findings' is a"),
        (lambda gate: gate.update(colour="red"), "is not a report of schema 1: "),
    ],
)
def test_an_edited_gate(changed: Callable[[dict[str, Any]], object], said: str, run: Run, tmp_path: Path) -> None:
    """What does not follow from its cases is refused, and a report in it is held to its own schema."""
    gate = json.loads(GATE["json"](MIXED))
    changed(gate)
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(gate))
    refused(run("report", path), said)


def test_it_needs_no_torch(tmp_path: Path) -> None:
    """Every format of a check, a generation and a gate, where torch and transformers cannot be imported."""
    saved(full(), tmp_path / "check.json")
    (tmp_path / "generation.json").write_text(generation_json.render(generated()))
    (tmp_path / "gate.json").write_text(GATE["json"](MIXED))
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'numpy'): sys.modules[name] = None\n"
        "from parity import cli\n"
        "sys.argv = ['parity', 'report', *sys.argv[1:]]\n"
        "cli.main()\n"
    )
    for name, forms in (
        ("check", ("text", "json", "junit", "github", "markdown", "html")),
        ("generation", ("text", "json", "markdown", "html")),
        ("gate", ("text", "json", "junit", "github", "markdown", "html")),
    ):
        arguments = [f"--format={form}={tmp_path / form}.{name}" for form in forms]
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / f"{name}.json", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == ({"check": 2, "generation": 1, "gate": 1}[name], "", "")
        assert all((tmp_path / f"{form}.{name}").read_text() for form in forms)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"findings": ()},
        {"reference": "", "findings": (), "rows": (Row((Token(4, "x"),), "x", "end of text"),)},
        {"rows": (replace(generated().rows[0], first_difference=replace(
            generated().rows[0].first_difference, rounding=math.inf, port_logits=(math.nan, -math.inf))),)},
    ],
    ids=["all", "fault", "alone", "not finite"],
)  # fmt: skip
def test_a_generation_told_again(changes: dict[str, Any], run: Run, root: Path, tmp_path: Path) -> None:
    """Its text, and every piece of every token, come back."""
    made = generated(**changes)
    path = tmp_path / "generation.json"
    path.write_text(generation_json.render(made))
    jsonschema.validate(
        json.loads(path.read_text()), json.loads((root / "parity/report/generation-1.json").read_text())
    )
    again = read(path)
    assert str(again) == str(made)
    code, out, _ = run("report", path)
    assert code == made.exit_code
    assert out == "".join(f"{line.plain}\n" for line in generation_text.render(made))


def test_a_generation_without_details(tmp_path: Path) -> None:
    """All but the pieces of the tokens is known."""
    path = tmp_path / "generation.json"
    document = json.loads(generation_json.render(generated()))
    del document["details"]
    path.write_text(json.dumps(document))
    again = read(path)
    assert isinstance(again, Generation)
    assert [token.piece for token in again.rows[0].port] == ["", ""]
    bare = [replace(row, port=(), reference=()) for row in generated().rows]
    assert [replace(row, port=(), reference=()) for row in again.rows] == bare


@pytest.mark.parametrize(
    ("pointer", "value", "said"),
    [
        ("verdict", "pass", "its verdict is pass, its rows say fail"),
        ("rows/0/first_difference/verdict", "near_tie", "new token 2 is called a near_tie"),
        ("rows/0/teacher_forced/agreeing", 2, "2 choices are said to agree, the differences leave 1"),
        ("details/rows", [], "not as many rows"),
        ("prompts/0/pieces", [], "2 ids stand for 0 pieces"),
    ],
)
def test_an_edited_generation(pointer: str, value: Any, said: str, run: Run, tmp_path: Path) -> None:
    """What does not follow is refused."""
    document = json.loads(generation_json.render(generated(findings=())))
    change(document, pointer, value)
    path = tmp_path / "generation.json"
    path.write_text(json.dumps(document))
    refused(run("report", path), "edited", said)


def test_checks_of_a_checkpoint_come_back(small_checkpoint: Path, tmp_path: Path) -> None:
    """A run in low precision, whose noise is another one; one of the first block alone."""
    for options in ({"dtype": "bfloat16"}, {"max_blocks": 1}):
        report = parity.check("gemma3", pretrained=small_checkpoint, **options)
        again = read(saved(report, tmp_path / "report.json"))
        assert isinstance(again, Report)
        assert lines(again, True, None) == lines(report, True, None)
