"""A gate as one HTML file: a table of the cases, and behind each its whole report, in a frame of its own."""

from parity.gate_records import Gate, Result
from parity.report import gate_words, html, words
from parity.report.html_page import page

_MARKS = {"pass": "\N{CHECK MARK}", "fail": "\N{MULTIPLICATION X}", "incomplete": "\N{EN DASH}"}


def render(gate: Gate) -> str:
    """The gate as the text of an HTML file."""
    return page(
        "gate.html",
        framed="script.js",
        title=f"{words.VERDICTS[gate.verdict]}: Parity gate",
        gate=gate,
        verdict=words.VERDICTS[gate.verdict],
        summary=gate_words.headline(gate),
        circumstances=gate_words.circumstances(gate),
        self_test=gate_words.self_test(gate),
        trials=[(each, gate_words.TRIALS[each.verdict]) for each in gate.trials],
        problems=list(gate_words.problems(gate)),
        cases=[_case(number, result) for number, result in enumerate(gate.results, 1)],
        version=_version(gate),
    )


def _case(number: int, result: Result) -> dict[str, object]:
    compared, exact = gate_words.places(result)
    return {
        "number": number,
        "name": result.case.name,
        "verdict": result.verdict,
        "word": words.VERDICTS[result.verdict],
        "mark": _MARKS[result.verdict],
        "stages": gate_words.stages(result),
        "compared": compared,
        "exact": exact,
        "seconds": f"{result.seconds:.1f}",
        "says": list(gate_words.says(result)) if result.verdict != "pass" else [],
        "page": None if result.report is None else html.render(result.report),
    }


def _version(gate: Gate) -> str:
    return next((each.report.versions.parity for each in gate.results if each.report is not None), "")
