"""JUnit XML: a suite for each stage, a case for each block or module in it; what was not compared is never a pass.

A block that differs only because of what came in fails too, with the type `inherited`.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from parity.names import block
from parity.records import Boundary, Finding, Report, Stage
from parity.report import plain, words

_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # nor a carriage return, which is lost


def render(report: Report) -> str:
    """The report as JUnit XML."""
    return document(suites(report, report.port))


def document(found: Iterable[TestSuite]) -> str:
    """Suites, of one report or of several, as one document."""
    whole = JUnitXml("parity")
    every = list(found)
    for suite in every:
        whole.add_testsuite(suite)
    whole.tests = sum(suite.tests for suite in every)
    whole.failures = sum(suite.failures for suite in every)
    whole.errors = sum(suite.errors for suite in every)
    whole.time = round(sum(suite.time for suite in every), 3)
    target = io.BytesIO()
    whole.write(target, pretty=True)
    return target.getvalue().decode()


def suites(report: Report, prefix: str) -> list[TestSuite]:
    """A suite for each stage of a report.

    Args:
        report: what to tell.
        prefix: what was checked, which tells these suites from those of another report: the port, say.
    """
    made = [_suite(report, stage, prefix) for stage in report.stages]
    return [*made, error(prefix, "interrupted before the end")] if report.interrupted else made


def error(prefix: str, problem: str) -> TestSuite:
    """The suite of something that could not be checked at all: one error that says why."""
    case = _case("check", f"{prefix}.check", Error(_held(_line(problem)), "not-compared"))
    return _made(f"{prefix}.check", [case], 0.0, {})


def _suite(report: Report, stage: Stage, prefix: str) -> TestSuite:
    name = f"{prefix}.{stage.name}"
    return _made(name, _cases(report, stage, name), stage.seconds, _properties(report))


def _properties(report: Report) -> dict[str, str]:
    versions = report.versions
    made_with = {"parity": versions.parity, "torch": versions.torch, "transformers": versions.transformers}
    run = {"weights": report.weights, "dtype": report.dtype, "seed": str(report.seed)}
    notes = {"notes": "; ".join(report.notes)} if report.notes else {}
    return {"port": report.port, "reference": report.reference, **made_with, **run, **notes}


def _made(name: str, cases: Iterable[TestCase], seconds: float, properties: Mapping[str, str]) -> TestSuite:
    suite = TestSuite(_held(name))
    for key, value in properties.items():
        suite.add_property(key, _held(value))
    suite.add_testcases(list(cases))
    suite.time = round(seconds, 3)
    return suite


def _cases(report: Report, stage: Stage, name: str) -> list[TestCase]:
    if stage.verdict == "not_run":
        result = Error if stage.requested else Skipped
        return [_case(stage.name, name, result(_held(_line(stage.reason or "not run")), "not-compared"))]
    places = words.of_stage(report, stage.name)
    findings = [finding for finding in report.findings if finding.stage == stage.name]
    told = _Told(findings)
    groups: dict[str, list[Boundary]] = {}
    for place in places:
        groups.setdefault(words.group(place), []).append(place)
    cases = [case for group, members in groups.items() for case in _of_group(group, members, told, name)]
    others = [finding for finding in findings if finding not in told.used]
    elsewhere: dict[str, list[Finding]] = {}
    for finding in others if groups else ():
        elsewhere.setdefault(_named(finding), []).append(finding)
    cases += [_case(place, name, _failure(found, [])) for place, found in elsewhere.items()]
    if stage.name == "forward":
        cases += [_case(line.partition(": ")[0], name, _left_out(line)) for line in words.unmatched(report)]
    wrong = stage.verdict == "fail" and not any(case.is_failure for case in cases)
    if wrong or not groups:
        cases.insert(0, _case(stage.name, name, *([_failure(others, [])] if stage.verdict == "fail" else [])))
    return cases


class _Told:
    """The findings of a stage, by the groups that they are in, and which were told."""

    def __init__(self, findings: Sequence[Finding]):
        self.used: list[Finding] = []
        self._groups = [
            (finding, {block(module) for module in (finding.reference_module, *words.also(finding))})
            for finding in findings
        ]

    def of(self, group: str) -> list[Finding]:
        """Those of a group."""
        found = [finding for finding, groups in self._groups if group in groups]
        self.used += found
        return found


def _of_group(group: str, members: Sequence[Boundary], told: _Told, name: str) -> list[TestCase]:
    """A case for what was compared, one for what was not."""
    compared = [each for each in members if each.verdict != "not_compared"]
    missing = [each for each in members if each.verdict == "not_compared"]
    found, findings = [], told.of(group)
    if compared or findings:
        wrong = [each for each in compared if words.own(each)]
        inherited = [each for each in compared if each.inherited]
        results = []
        if findings or wrong:
            results = [_failure(findings, [*wrong, *inherited])]
        elif inherited:
            results = [_inherited(inherited)]
        found.append(_case(group, name, *results))
    if missing:
        lines = [f"{each.name}: {words.uncompared(each)}" for each in missing]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        result = Skipped(_held(lines[0] + more), "not-compared")
        result.text = _held("\n".join(lines))
        found.append(_case(f"{group} (not compared)" if found else group, name, result))
    return found


def _failure(findings: Sequence[Finding], places: Sequence[Boundary]) -> Failure:
    """What is wrong: the findings, and the figures behind them."""
    inherited = sum(each.inherited for each in places)
    lines = [_figures(each) for each in places if not each.inherited]
    lines += [f"{inherited} more inherited: right by themselves, wrong because of what came in"] if inherited else []
    titles = [finding.title for finding in findings] or lines or ["the stage failed"]
    cause = findings[0].cause if findings else "unknown"
    result = Failure(_held(_line("; ".join(titles) if findings else titles[0])), _held(cause))
    parts = ["\n".join([finding.title, *plain.finding(finding)]) for finding in findings]
    result.text = _held("\n\n".join([*parts, *(["\n".join(lines)] if lines else [])]))
    return result


def _inherited(places: Sequence[Boundary]) -> Failure:
    result = Failure("inherited: right by itself, the difference only came in from upstream", "inherited")
    result.text = _held("\n".join(map(_figures, places)))
    return result


def _left_out(line: str) -> Skipped:
    return Skipped(_held(line), "not-compared")


def _figures(boundary: Boundary) -> str:
    return f"{boundary.name}: {words.figures(boundary)}"


def _named(finding: Finding) -> str:
    return finding.reference_module or finding.port_module or finding.title


def _case(name: str, suite: str, *results: Failure | Skipped | Error) -> TestCase:
    case = TestCase(_held(name), _held(suite))
    case.result = list(results)
    return case


def _line(text: str) -> str:
    return " ".join(text.split())


def _held(text: str) -> str:
    """Text that XML can hold: what it cannot is written out."""
    return _NOT_XML.sub(lambda found: repr(found[0])[1:-1], text)
