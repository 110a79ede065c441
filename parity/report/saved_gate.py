"""The JSON of a gate back into records."""

from collections.abc import Callable, Mapping
from typing import Any

from parity.gate_records import Case, Gate, Lost, Result, Trial
from parity.records import Report
from parity.report.saved_check import Doubtful

Document = Mapping[str, Any]


def gate(document: Document, report: Callable[[dict[str, Any]], Report]) -> Gate:
    """A gate that is valid by `gate-1.json`.

    Args:
        document: the parsed JSON.
        report: reads the report of a case back, and holds it to its own schema.

    Raises:
        Doubtful: a verdict does not follow from what it comes from.
    """
    results = tuple(_result(each, report) for each in document["cases"])
    cases = {result.case.name: result.case for result in results}
    found = Gate(
        results=results,
        trials=tuple(_trial(each, cases) for each in document["self_test"]),
        lost=_lost(document["lost"]),
        skipped=tuple(map(Case, document["skipped"])),
        since=document["changed_since"] or "",
        notes=tuple(document["notes"]),
        problem=document["problem"],
        seconds=document["seconds"],
        memory=document["memory"],
        jobs=document["jobs"],
        interrupted=document["interrupted"],
        options=tuple(document.get("options", ())),
    )
    for name, said, follows in (
        ("verdict", document["verdict"], found.verdict),
        ("exit code", document["exit_code"], found.exit_code),
    ):
        if said != follows:
            raise Doubtful(f"its {name} is {said}, its cases say {follows}")
    return found


def _result(saved: Document, report: Callable[[dict[str, Any]], Report]) -> Result:
    found = Result(
        case=Case(saved["port"], saved["config"], saved["dtype"]),
        report=None if saved["report"] is None else report(saved["report"]),
        problem=saved["problem"],
        seconds=saved["seconds"],
        memory=saved["memory"],
        lost=_lost(saved["lost"]),
    )
    if found.case.name != saved["name"]:
        raise Doubtful(f"the case {found.case.name} is called {saved['name']}")
    if found.verdict != saved["verdict"]:
        raise Doubtful(f"the verdict of {saved['name']} is {saved['verdict']}, its report says {found.verdict}")
    return found


def _trial(saved: Document, cases: Mapping[str, Case]) -> Trial:
    case = cases.get(saved["case"], Case(saved["case"]))
    seen = saved["verdict"] == "seen"
    found = Trial(case, saved["stage"], saved["fault"], seen, saved["problem"], saved["seconds"])
    if found.verdict != saved["verdict"]:
        raise Doubtful(f"a self-test of {saved['case']} is {saved['verdict']}, and had a problem: {saved['problem']}")
    return found


def _lost(saved: list[Document]) -> tuple[Lost, ...]:
    return tuple(Lost(**each) for each in saved)
