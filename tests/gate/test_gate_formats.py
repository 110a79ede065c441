"""A gate in every format, from records: what each reader needs is there, and nothing is a pass that is none."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from parity.gate_records import Case, Gate, Lost, Result, Trial
from parity.report import gate_github
from parity.report.formats import GATE
from parity.report.gate_text import render
from tests.gate.conftest import finding, place, report

GOOD = Result(Case("good.py"), report(place("logits")), seconds=1.25, memory=300 * 2**20)
WRONG = Result(Case("wrong.py", "c.json"), report(place("model.norm", 1.0), findings=(finding(file="wrong.py"),)))
LESS = Result(Case("less.py"), report(place("logits")), lost=(Lost("exact", "forward: x was exact in 3 places"),))
HUNG = Result(Case("hung.py", dtype="bfloat16"), problem="it was not over after 5 s. Mend <it> & see.")
SEEN = Trial(Case("good.py"), "forward", "the output of a.b is 0.1 % too large", seen=True)
BLIND = Trial(Case("good.py"), "cache", "nothing is kept", seen=False)
UNTRIED = Trial(Case("good.py"), "batch", "", problem="no fault is known")
MIXED = Gate(
    (GOOD, WRONG, LESS, HUNG),
    trials=(SEEN,),
    notes=("a note",),
    options=("--small-config", "--seed 3"),
    seconds=3.0,
    memory=2**30,
    jobs=2,
)


@pytest.mark.parametrize(
    ("gate", "verdict", "code"),
    [
        (Gate((GOOD,)), "pass", 0),
        (Gate((GOOD,), trials=(SEEN,)), "pass", 0),
        (Gate((GOOD, WRONG, HUNG)), "fail", 1),
        (Gate((GOOD, LESS)), "fail", 1),
        (Gate((GOOD,), lost=(Lost("case", "x"),)), "fail", 1),
        (Gate((GOOD, HUNG)), "incomplete", 2),
        (Gate((GOOD,), trials=(SEEN, BLIND)), "incomplete", 2),
        (Gate((GOOD,), trials=(SEEN, UNTRIED)), "incomplete", 2),
        (Gate((GOOD,), problem="no self-test"), "incomplete", 2),
        (Gate((GOOD,), interrupted=True), "incomplete", 2),
        (Gate(()), "incomplete", 2),
        (Gate((), skipped=(GOOD.case,), since="main"), "pass", 0),
    ],
)
def test_the_worst_counts(gate: Gate, verdict: str, code: int) -> None:
    """A divergence before what could not be compared, that before a pass; nothing checked is no pass."""
    assert (gate.verdict, gate.exit_code) == (verdict, code)


def test_text_says_what_is_wrong_with_each_case() -> None:
    """One row a case, and under it what does not pass, with its line."""
    text = GATE["text"](MIXED)
    assert text.startswith("FAIL  4 cases: 1 passes, 2 fail, 1 could not be compared\n")
    assert re.search(r"^good\.py +PASS +weights forward +1 +1 +1\.2 +300$", text, re.M)
    assert re.search(r"^wrong\.py \(c\.json\) +FAIL +weights FORWARD ", text, re.M)
    assert "\nwrong.py (c.json)\n  the norm is wrong (wrong.py:2)\n" in text
    assert "parity check wrong.py --config c.json --small-config --seed 3\n" in text
    assert "\nless.py\n  forward: x was exact in 3 places\n" in text
    assert "\nhung.py (bfloat16)\n  it was not over after 5 s. Mend <it> & see.\n" in text
    assert text.endswith("\nNotes\n  a note\n")


def test_text_cuts_nothing_off() -> None:
    """However long a name is."""
    long = Result(Case("folder/" * 60 + "port.py"), report(place("logits")))
    assert any(long.case.name in line.plain for line in render(Gate((long,))))


def test_a_blind_gate_says_where() -> None:
    """The fault, the stage, and that it is the gate which is wrong."""
    text = GATE["text"](Gate((GOOD,), trials=(SEEN, BLIND, UNTRIED)))
    assert text.startswith("INCOMPLETE  1 case: 1 passes; 2 of 3 injected faults not seen\n")
    assert "stage cache: nothing is kept, and the stage passes all the same: this gate is blind in cache" in text
    assert "stage batch: the self-test proves nothing: no fault is known" in text


def test_json_follows_its_schema() -> None:
    """Every case with its whole report, which follows the schema of reports."""
    schemas = files("parity.report")
    document = json.loads(GATE["json"](MIXED))
    jsonschema.validate(document, json.loads((schemas / "gate-1.json").read_text()))
    reports = [case["report"] for case in document["cases"]]
    for each in reports[:3]:
        jsonschema.validate(each, json.loads((schemas / "schema-1.json").read_text()))
    assert reports[3] is None
    assert document["exit_code"] == 1
    assert document["cases"][3]["problem"].startswith("it was not over")


def test_junit_has_a_failure_or_an_error_for_all_that_does_not_pass() -> None:
    """The totals count them, and every case of the gate has suites of its own."""
    root = ElementTree.fromstring(GATE["junit"](MIXED))
    suites = {suite.get("name"): suite for suite in root}
    assert {"good.py.forward", "wrong.py (c.json).forward", "less.py.baseline", "self-test"} <= set(suites)
    assert suites["wrong.py (c.json).forward"].get("failures") == "1"
    assert suites["less.py.baseline"].get("failures") == "1"
    hung = next(error for error in root.iter("error") if "5 s" in (error.get("message") or ""))
    assert hung.get("message") == HUNG.problem
    assert (root.get("failures"), root.get("errors")) == ("2", "1")


def test_junit_of_a_blind_gate_is_no_pass() -> None:
    """A control character in what a port says does no harm."""
    bad = Trial(Case("good.py"), "cache", "nothing\x00kept")
    root = ElementTree.fromstring(GATE["junit"](Gate((GOOD,), trials=(bad,), problem="why")))
    assert root.get("errors") == "2"


def test_github_shows_the_first_of_each_case_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten errors are shown: no case may take them all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    (tmp_path / "wrong.py").write_text("\nx = 1\n")
    (tmp_path / "hung.py").touch()
    many = tuple(finding(f"fault {number}", "wrong.py") for number in range(12))
    wrong = Result(Case("wrong.py"), report(place("logits", 1.0), findings=many))
    lines = GATE["github"](Gate((wrong, HUNG, GOOD))).splitlines()
    errors = [line for line in lines if line.startswith("::error ")]
    assert len(errors) == 10
    assert errors[0].startswith("::error file=wrong.py,line=2,title=wrong.py%3A fault 0::")
    assert errors[1].startswith("::error file=hung.py,title=hung.py (bfloat16)%3A Parity could not compare::it was not")
    assert lines[-1].startswith("::notice title=Parity%3A FAIL::3 cases: 1 passes, 1 fails, 1 could not be compared")


def test_the_job_summary_keeps_to_its_room() -> None:
    """The table of cases comes first, and what does not fit is left out whole."""
    whole = gate_github.summary(MIXED, 10**6)
    assert "| `wrong.py (c.json)` | FAIL |" in whole
    assert len(gate_github.summary(MIXED, 1500).encode()) <= 1500
    assert whole.index("| `good.py` |") < whole.index("the norm is wrong (")


def test_markdown_tells_findings_losses_and_problems() -> None:
    """Under a heading each; what has a meaning in Markdown is taken literally."""
    text = GATE["markdown"](MIXED)
    assert text.startswith("# FAIL: 4 cases")
    assert "## less.py: less cover than the baseline" in text
    assert "Mend &lt;it&gt; &amp; see." in text
    assert "| `good.py` | forward | the output of a.b is 0.1 % too large | seen |" in text


class Page(HTMLParser):
    """The frames of a page, its text, and what it would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.frames: list[str] = []
        self.text = ""
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember frames and addresses."""
        found = dict(attrs)
        if tag == "iframe":
            self.frames.append(found["srcdoc"] or "")
        self.fetched += [
            each for name in ("src", "href") if (each := found.get(name)) and not each.startswith(("#", "data:"))
        ]

    def handle_data(self, data: str) -> None:
        """Remember words."""
        self.text += data


def test_html_holds_every_report_in_one_file() -> None:
    """Each case's page is the one that a check gives, and nothing comes from elsewhere."""
    from parity.report import html

    page = Page(GATE["html"](MIXED))
    assert page.frames == [html.render(each.report) for each in (GOOD, WRONG, LESS) if each.report]
    assert page.fetched == []
    assert "Mend <it> & see." in page.text
    assert "forward: x was exact in 3 places" in page.text


def test_html_lets_the_reports_scripts_run() -> None:
    """A frame is under the policy of the page around it, which has to allow the script of reports."""
    from parity.report import html

    policies = [re.findall(r'script-src ([^"]+)"', text)[0] for text in (GATE["html"](MIXED), html.render(GOOD.report))]  # type: ignore[arg-type]
    assert policies[0] == policies[1]


def test_nothing_changed_is_a_line() -> None:
    """With no table under it."""
    text = GATE["text"](Gate((), skipped=(GOOD.case,), since="main"))
    assert text == "PASS  nothing to check: nothing that the case is made of changed since main\n"
