"""The formats of each kind of report: by name, what makes a text of it. Their modules are imported when asked for."""

from collections.abc import Callable, Mapping

from parity.card_records import Card, Difference
from parity.gate_records import Gate
from parity.generation_records import Generation
from parity.new_records import Start
from parity.records import Audit, Report
from parity.workflow_records import Workflow


def _check_text(report: Report) -> str:
    from parity.report.text import render

    return "".join(f"{line.plain}\n" for line in render(report))


def _check_json(report: Report) -> str:
    from parity.report.json import render

    return render(report)


def _check_junit(report: Report) -> str:
    from parity.report.junit import render

    return render(report)


def _check_github(report: Report) -> str:
    from parity.report.github import render

    return render(report)


def _check_markdown(report: Report) -> str:
    from parity.report.markdown import render

    return render(report)


def _check_html(report: Report) -> str:
    from parity.report.html import render

    return render(report)


def _generation_text(generation: Generation) -> str:
    from parity.report.generation_text import render

    return "".join(f"{line.plain}\n" for line in render(generation))


def _generation_json(generation: Generation) -> str:
    from parity.report.generation_json import render

    return render(generation)


def _generation_markdown(generation: Generation) -> str:
    from parity.report.markdown_generation import render

    return render(generation)


def _generation_html(generation: Generation) -> str:
    from parity.report.html_generation import render

    return render(generation)


def _audit_text(audit: Audit) -> str:
    from parity.report.audit_text import render

    return "".join(f"{line.plain}\n" for line in render(audit))


def _audit_json(audit: Audit) -> str:
    from parity.report.audit_json import render

    return render(audit)


def _gate_text(gate: Gate) -> str:
    from parity.report.gate_text import render

    return "".join(f"{line.plain}\n" for line in render(gate))


def _gate_json(gate: Gate) -> str:
    from parity.report.gate_json import render

    return render(gate)


def _gate_junit(gate: Gate) -> str:
    from parity.report.gate_junit import render

    return render(gate)


def _gate_github(gate: Gate) -> str:
    from parity.report.gate_github import render

    return render(gate)


def _gate_markdown(gate: Gate) -> str:
    from parity.report.gate_markdown import render

    return render(gate)


def _gate_html(gate: Gate) -> str:
    from parity.report.gate_html import render

    return render(gate)


def _card_text(card: Card) -> str:
    from parity.report.card_text import render

    return "".join(f"{line.plain}\n" for line in render(card))


def _card_json(card: Card) -> str:
    from parity.report.card_json import render

    return render(card)


def _card_markdown(card: Card) -> str:
    from parity.report.card_markdown import render

    return render(card)


def _card_html(card: Card) -> str:
    from parity.report.card_html import render

    return render(card)


def _card_svg(card: Card) -> str:
    from parity.report.card_chart import render

    return render(card)


def _difference_text(found: Difference) -> str:
    from parity.report.diff_text import render

    return "".join(f"{line.plain}\n" for line in render(found))


def _difference_json(found: Difference) -> str:
    from parity.report.diff_json import render

    return render(found)


def _difference_markdown(found: Difference) -> str:
    from parity.report.diff_markdown import render

    return render(found)


def _difference_html(found: Difference) -> str:
    from parity.report.diff_html import render

    return render(found)


def _start_text(found: Start) -> str:
    from parity.report.new_text import render

    return "".join(f"{line.plain}\n" for line in render(found))


def _start_json(found: Start) -> str:
    from parity.report.new_json import render

    return render(found)


def _start_markdown(found: Start) -> str:
    from parity.report.new_markdown import render

    return render(found)


def _start_html(found: Start) -> str:
    from parity.report.new_html import render

    return render(found)


def _ladder_text(found: Workflow) -> str:
    from parity.report.ladder_text import render

    return "".join(f"{line.plain}\n" for line in render(found))


def _ladder_json(found: Workflow) -> str:
    from parity.report.ladder_json import render

    return render(found)


def _ladder_markdown(found: Workflow) -> str:
    from parity.report.ladder_markdown import render

    return render(found)


def _ladder_html(found: Workflow) -> str:
    from parity.report.ladder_html import render

    return render(found)


CHECK: Mapping[str, Callable[[Report], str]] = {
    "text": _check_text,
    "json": _check_json,
    "junit": _check_junit,
    "github": _check_github,
    "markdown": _check_markdown,
    "html": _check_html,
}
GENERATION: Mapping[str, Callable[[Generation], str]] = {
    "text": _generation_text,
    "json": _generation_json,
    "markdown": _generation_markdown,
    "html": _generation_html,
}
AUDIT: Mapping[str, Callable[[Audit], str]] = {"text": _audit_text, "json": _audit_json}
GATE: Mapping[str, Callable[[Gate], str]] = {
    "text": _gate_text,
    "json": _gate_json,
    "junit": _gate_junit,
    "github": _gate_github,
    "markdown": _gate_markdown,
    "html": _gate_html,
}
CARD: Mapping[str, Callable[[Card], str]] = {
    "text": _card_text,
    "json": _card_json,
    "markdown": _card_markdown,
    "html": _card_html,
    "svg": _card_svg,
}
DIFFERENCE: Mapping[str, Callable[[Difference], str]] = {
    "text": _difference_text,
    "json": _difference_json,
    "markdown": _difference_markdown,
    "html": _difference_html,
}
START: Mapping[str, Callable[[Start], str]] = {
    "text": _start_text,
    "json": _start_json,
    "markdown": _start_markdown,
    "html": _start_html,
}
LADDER: Mapping[str, Callable[[Workflow], str]] = {
    "text": _ladder_text,
    "json": _ladder_json,
    "markdown": _ladder_markdown,
    "html": _ladder_html,
}
