"""JUnit XML of a check: who reads it sees each fault once where it is, and nothing uncompared as a pass."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

import pytest

from parity import Report
from parity.records import Boundary, Finding, Stage, Unmatched, Versions
from parity.report import junit

Checked = Callable[[str], Report]

# What the schema that Jenkins holds such files to allows: attributes that have to be there, and others, by element.
ATTRIBUTES = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"skipped", "time", "timestamp", "hostname", "id", "package"},
    ),
    "testcase": ({"name"}, {"classname", "time", "group"}),
    "failure": (set(), {"type", "message"}),
    "error": (set(), {"type", "message"}),
    "skipped": (set(), {"type", "message"}),
    "properties": (set(), set()),
    "property": ({"name", "value"}, set()),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "testcase": {"skipped", "error", "failure"},
    "properties": {"property"},
}
SMALL = Report(
    Versions("1", "2", "3"), "port.py", "Reference", "random", 0,
    (Stage("weights", "pass"), Stage("forward", "pass")), (), (), Unmatched(),
)  # fmt: skip


def parsed(text: str) -> ET.Element:
    """The document, once it has been held to the schema and its counts to its cases."""
    root = ET.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        needed, allowed = ATTRIBUTES[element.tag]
        assert needed <= element.attrib.keys() <= needed | allowed, element.attrib
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    for suite in root:
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"), ("tests", ".")):
            found = suite.findall(f"testcase/{tag}") if tag != "." else suite.findall("testcase")
            assert int(suite.attrib[count]) == len(found)
        assert float(suite.attrib["time"]) >= 0
    for count in ("tests", "failures", "errors"):
        assert int(root.attrib[count]) == sum(int(suite.attrib[count]) for suite in root)
    return root


def outcomes(root: ET.Element, stage: str) -> dict[str, ET.Element | None]:
    """What became of each case of a stage; None for a pass."""
    suite = next(suite for suite in root if suite.attrib["name"].endswith(f".{stage}"))
    cases = suite.findall("testcase")
    assert len({case.attrib["name"] for case in cases}) == len(cases)
    return {case.attrib["name"]: next(iter(case), None) for case in cases}


@pytest.mark.parametrize("kind", ["passing", "failing", "rounding", "sparse", "incomplete", "not finite"])
def test_it_is_valid_and_says_what_the_report_says(kind: str, checked: Checked) -> None:
    """A suite for each stage; one that failed has a failure, one that passed has none, one not run has no pass."""
    report = checked(kind)
    root = parsed(junit.render(report))
    assert [suite.attrib["name"] for suite in root] == [f"{report.port}.{stage.name}" for stage in report.stages]
    for stage in report.stages:
        tags = [None if case is None else case.tag for case in outcomes(root, stage.name).values()]
        assert ("failure" in tags) == (stage.verdict == "fail")
        if stage.verdict == "not_run":
            assert tags == ["error" if stage.requested else "skipped"]
    assert (int(root.attrib["failures"]) > 0) == (report.verdict == "fail")


def test_blocks_are_cases(checked: Checked) -> None:
    """Embedding, blocks, norm, head and logits in the order data flows; stages without boundaries have one case."""
    root = parsed(junit.render(checked("passing")))
    blocks = [f"model.layers.{index}" for index in range(6)]
    assert list(outcomes(root, "forward")) == [
        "model.embed_tokens", "model.rotary_emb", *blocks, "model.norm", "lm_head", "logits"
    ]  # fmt: skip
    assert list(outcomes(root, "weights")) == ["weights"]
    assert next(iter(outcomes(root, "cache"))) == "cache: prefill 4, then one token at a time"
    assert outcomes(root, "gradient")["gradient"].attrib["message"] == "on request: --gradient"


def test_a_failure_holds_the_finding_and_what_inherits_says_so(checked: Checked) -> None:
    """Title, cause, both lines, evidence, at each block that is wrong by itself; the others name what came in."""
    report = checked("failing")
    finding = report.findings[0]
    found = outcomes(parsed(junit.render(report)), "forward")
    assert found["model.embed_tokens"] is None
    wrong = [name for name, result in found.items() if result is not None and result.attrib["type"] != "inherited"]
    assert wrong == ["model.layers.0", "model.layers.1", "model.layers.3", "model.layers.4"]
    first = found["model.layers.0"]
    assert first.tag == "failure"
    assert (first.attrib["message"], first.attrib["type"]) == (finding.title, "window-off-by-one")
    for part in ("behaves as if `sliding_window` were 8", "<= self.config.sliding_window)", *finding.evidence[:2]):
        assert part in first.text
    assert f"{finding.port_source.file}:{finding.port_source.line}\n" in first.text
    assert f"{finding.reference_source.file}:{finding.reference_source.line}\n" in first.text
    assert "model.layers.0.self_attn.o_proj (input): max=" in first.text
    for name in ("model.layers.2", "model.layers.5", "logits"):
        assert found[name].tag == "failure"
        assert found[name].attrib["message"].startswith("inherited: ")


def test_what_was_not_compared_is_no_pass(checked: Checked) -> None:
    """A boundary that could not be compared has a case of its own beside its module's; so has what is unmatched."""
    report = checked("sparse")
    found = outcomes(parsed(junit.render(report)), "forward")
    missing = found["model.embed_tokens (not compared)"]
    assert missing.tag == "skipped"
    assert "model.embed_tokens: not compared, the port's module ends at another point" in missing.text
    assert found["model.embed_tokens"] is None  # its input was
    unmatched = found["reference modules with no counterpart in the port"]
    assert "no counterpart in the port: model.layers.{0-5}" in unmatched.attrib["message"]
    several = replace(SMALL, unmatched=Unmatched(("r",), ("p",), ("t",)))
    assert [case.tag for case in outcomes(parsed(junit.render(several)), "forward").values() if case is not None] == [
        "skipped"
    ] * 3
    alone = Boundary("forward", "model.x", "model.x", "", "output", note="why")
    found = outcomes(parsed(junit.render(replace(SMALL, boundaries=(alone,)))), "forward")
    assert found["model.x"].attrib["message"] == "model.x: not compared, why"


def test_asked_for_and_not_run_is_an_error(checked: Checked) -> None:
    """And what nobody asked for is skipped; a check that was interrupted has an error however far it came."""
    root = parsed(junit.render(checked("incomplete")))
    assert outcomes(root, "cache")["cache"].tag == "error"
    assert "there is no `new_cache`" in outcomes(root, "cache")["cache"].attrib["message"]
    assert outcomes(root, "batch")["batch"].tag == "skipped"
    root = parsed(junit.render(replace(SMALL, interrupted=True)))
    assert outcomes(root, "check")["check"].tag == "error"


def test_no_finding_is_lost() -> None:
    """One of a module without a boundary, and one of a stage without any, have cases."""
    elsewhere = Finding("forward", "unknown", "the container is wrong", "model", "m")
    loaded = Finding("weights", "tied-head", "the head was left as it was", "lm_head", "head")
    place = Boundary("forward", "model.norm", "model.norm", "norm", "output", own=0.0, total=0.0)
    failed = (Stage("weights", "fail"), Stage("forward", "fail"))
    root = parsed(junit.render(replace(SMALL, stages=failed, boundaries=(place,), findings=(loaded, elsewhere))))
    assert outcomes(root, "weights")["weights"].attrib["message"] == "the head was left as it was"
    found = outcomes(root, "forward")
    assert found["model"].attrib["message"] == "the container is wrong"
    assert found["model.norm"] is None
    root = parsed(junit.render(replace(SMALL, stages=failed, boundaries=(place,))))
    assert outcomes(root, "forward")["forward"].tag == "failure"


def test_any_text_is_held() -> None:
    """Control characters, half of a surrogate pair and markup, in every place where text of others goes."""
    nasty = '\x00\x1b[31m\ud800 <a href="&"> ]]>\r\n\tend'
    finding = Finding("forward", nasty, nasty, "model.norm", nasty, evidence=(nasty,))
    place = Boundary("forward", "model.norm", "model.norm", "norm", "output", own=1.0, total=1.0)
    report = replace(
        SMALL, port=nasty, stages=(Stage("weights", "not_run", nasty), Stage("forward", "fail")),
        boundaries=(place,), findings=(finding,),
    )  # fmt: skip
    found = outcomes(parsed(junit.render(report)), "forward")["model.norm"]
    assert '\\x00\\x1b[31m\\ud800 <a href="&"> ]]>\\r\n\tend' in found.text


def test_several_reports_in_one_document(checked: Checked) -> None:
    """Each under its own prefix, one that could not be checked at all among them."""
    suites = [*junit.suites(checked("passing"), "gemma3 float32"), junit.error("my_port bfloat16", "it does not\nload")]
    root = parsed(junit.document(suites))
    names = [suite.attrib["name"] for suite in root]
    assert names[0] == "gemma3 float32.weights"
    assert names[-1] == "my_port bfloat16.check"
    assert {case.attrib["classname"] for suite in root for case in suite.findall("testcase")} == set(names)
    failed = outcomes(root, "check")["check"]
    assert (failed.tag, failed.attrib["message"]) == ("error", "it does not load")
    assert root.attrib["errors"] == "1"
