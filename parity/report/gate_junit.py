"""A gate as JUnit XML: the suites of every case's report, one for what it lost, one for the self-test."""

from collections.abc import Iterable, Iterator

from junitparser import Error, Failure, TestCase, TestSuite

from parity.gate_records import Gate, Result
from parity.report import gate_words, junit


def render(gate: Gate) -> str:
    """The gate as one JUnit XML document."""
    found = [suite for result in gate.results for suite in _suites(result)]
    if gate.lost:
        found.append(_suite("baseline", ((each.text, Failure(_plain(each.text), each.kind)) for each in gate.lost)))
    if gate.trials:
        found.append(_suite("self-test", _trials(gate)))
    if gate.problem:
        found.append(junit.error("gate", gate.problem))
    return junit.document(found)


def _suites(result: Result) -> Iterator[TestSuite]:
    name = result.case.name
    if result.report is None:
        yield junit.error(name, result.problem)
        return
    yield from junit.suites(result.report, name)
    if result.lost:
        yield _suite(f"{name}.baseline", ((each.text, Failure(_plain(each.text), each.kind)) for each in result.lost))


def _trials(gate: Gate) -> Iterator[tuple[str, Error | None]]:
    for trial in gate.trials:
        wrong = trial.verdict != "seen"
        name = f"{trial.case.name}, {trial.stage}: {trial.fault}"
        yield name, Error(_plain(gate_words.unseen(trial)), trial.verdict) if wrong else None


def _suite(name: str, told: Iterable[tuple[str, Failure | Error | None]]) -> TestSuite:
    suite = TestSuite(_plain(name))
    for text, result in told:
        case = TestCase(_plain(text), _plain(name))
        case.result = [] if result is None else [result]
        suite.add_testcase(case)
    return suite


def _plain(text: str) -> str:
    """On one line, what XML cannot hold written out."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in " ".join(text.split()))
