"""The HTML report in a real browser: what a reader sees, reaches and is never asked to fetch."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import parity
from parity.generation_records import Generation
from parity.records import (
    STAGES,
    Boundary,
    ErrorMap,
    Explanation,
    Finding,
    Report,
    Source,
    Stage,
    Unmatched,
    Versions,
)
from parity.report import html, html_generation
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 400, "height": 800}
MODULES = ("", "self_attn", "self_attn.q_proj", "self_attn.o_proj", "mlp", "mlp.gate_proj", "mlp.down_proj", "norm")
HOSTILE = '</script><img src=x onerror="window.struck = true"><script>window.struck = true</script>'

# Every visible text whose contrast with what is behind it is less than WCAG AA asks for.
FAINT = """() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => {
      const part = each / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const clear = (colour) => /rgba\\(.*, 0\\)|transparent/.test(colour);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!clear(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")].filter((each) => {
    const own = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || each.closest("script, [hidden]") || !each.checkVisibility()) return false;
    const [a, b] = [light(getComputedStyle(each).color), light(behind(each))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  }).map((each) => `${each.className}: ${each.textContent}`);
}"""


@dataclass
class Opened:
    """A page in the browser, and what went wrong while it was open."""

    page: Page
    wrong: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real one."""
    named = os.environ.get("PARITY_CHROMIUM")
    binary = named or next((found for name in NAMES if (found := shutil.which(name))), None)
    if binary is None:
        pytest.skip("there is no Chromium: install one, or name its binary in PARITY_CHROMIUM")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=binary, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[object]:
    """Open the text of a page; nothing may be fetched, and nothing may go wrong, in any test."""
    opened: list[Opened] = []

    def call(text: str, scheme: str = "light", size: dict[str, int] | None = None, script: bool = True) -> Page:
        path = tmp_path / f"page{len(opened)}.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport=size or WIDE, color_scheme=scheme, java_script_enabled=script)
        found = Opened(context.new_page())
        opened.append(found)
        page = found.page
        page.on("request", lambda request: request.url != path.as_uri() and found.wrong.append(request.url))
        page.on("console", lambda message: found.wrong.append(message.text))
        page.on("pageerror", lambda error: found.wrong.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield call
    for each in opened:
        each.page.context.close()
        assert [wrong for wrong in each.wrong if not wrong.startswith("data:,")] == []


@pytest.fixture(scope="module")
def failing() -> Report:
    """A check of a port whose sliding window is one too long."""
    return parity.check(ROOT / "fixtures/bugs/window_off_by_one.py", small_config=True, stage=["forward", "cache"])


@pytest.fixture(scope="module")
def generated() -> Generation:
    """Text of a port that goes another way after some tokens."""
    port = ROOT / "fixtures/bugs/wrong_local_rope_base.py"
    return parity.generate(port, compare_hf=True, prompt=["Once upon a time"], max_new_tokens=8)


def passing() -> Report:
    """What a check of a right port says."""
    right = replace(synthetic(2), findings=(), maps=(), stages=tuple(Stage(name, "pass") for name in STAGES))
    return replace(right, boundaries=tuple(replace(each, own=2e-16, total=2e-16) for each in right.boundaries))


def synthetic(layers: int) -> Report:
    """A report with one fault half-way through a model of some layers, three tokens and one feature wrong."""
    guilty = f"model.layers.{layers // 2}.mlp.down_proj"
    boundaries = []
    for layer in range(layers):
        for inner in MODULES:
            name = f"model.layers.{layer}" + (f".{inner}" if inner else "")
            for kind, end in (("input", f"{name} (input)"), ("output", name)):
                wrong = name == guilty and kind == "output"
                after = layer > layers // 2 or wrong
                error, total = (0.3 if wrong else 1e-15), (0.3 if after else 1e-15)
                boundaries += [
                    Boundary("forward", end, name, name[6:], kind, 1e-3, 1e-4, error, total),  # type: ignore[arg-type]
                    Boundary("precision", f"bfloat16: {end}", name, name[6:], kind, 0.1, 0.1, 0.01, 0.01, ratio=1.0),  # type: ignore[arg-type]
                    Boundary("gradient", f"gradient of {end}", name, name[6:], kind, 0.1, 0.1, 1e-14, 1e-14),  # type: ignore[arg-type]
                ]
    values = tuple(tuple(0.9 if (i, j) == (5, 7) else (i + j) / 1000 for j in range(48)) for i in range(32))
    found = Finding(
        "forward", "wrong-activation", "down_proj goes wrong", guilty, guilty[6:],
        Source("port.py", 70, "x = f(x)", tuple((number, f"    x = f(x)  # {number}") for number in range(50, 90))),
        None, (Explanation("wrong-activation", "silu", 0.0, "behaves as if `act` were silu"),), ("tokens 5 differ",),
    )  # fmt: skip
    labels = tuple(map(str, range(48)))
    return Report(
        Versions("0.1.0", "2", "5"), "port", "Reference", "random", 0,
        tuple(Stage(name, "fail" if name == "forward" else "pass") for name in STAGES),
        tuple(sorted(boundaries, key=lambda each: STAGES.index(each.stage))), (found,), Unmatched(),
        maps=(ErrorMap("forward", guilty, "feature", labels[:32], labels, values),),
    )  # fmt: skip


def overflowing(page: Page) -> int:
    """By how many pixels the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_is_legible_everywhere(
    visit: Run, failing: Report, generated: Generation, scheme: str, size: dict[str, int]
) -> None:
    """Contrast of all text, in light and dark; the page never scrolls sideways; the ground follows the scheme."""
    pages = (html.render(failing), html.render(passing()), html_generation.render(generated))
    for text in pages:
        page = visit(text, scheme, size)
        assert page.evaluate(FAINT) == []
        assert overflowing(page) <= 0
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", ground)[0]) > 128) == (scheme == "light")


def test_the_finding_is_told_and_shown(visit: Run, failing: Report) -> None:
    """Verdict, cause in words, both lines marked; the panel begins with what the finding speaks of."""
    page = visit(html.render(failing))
    assert page.locator(".verdict").inner_text().split() == ["✕", "FAIL"]
    finding = page.locator(".finding").first
    assert "sliding_window were 8 (config: 7)" in finding.inner_text()
    assert "distance <= self.config.sliding_window" in finding.locator(".ours .meant").first.inner_text()
    assert "q_idx - sliding_window" in finding.locator(".theirs .meant").first.inner_text()
    assert page.locator("#panel h3").inner_text() == "model.layers.0.self_attn"


def test_a_click_shows_figures_map_and_both_sources(visit: Run, failing: Report) -> None:
    """Of the module that was clicked, the cell with the largest error where the record has it."""
    page = visit(html.render(failing))
    page.locator("button.row", has_text="o_proj").first.click()
    panel = page.locator("#panel")
    assert panel.locator("h3").inner_text() == "model.layers.0.self_attn.o_proj"
    place = next(each for each in failing.boundaries if each.name == "model.layers.0.self_attn.o_proj (input)")
    assert f"{place.own:.1e}" in panel.locator("tr.diff").inner_text()
    found = next(each for each in failing.maps if each.name == place.name)
    cells = [(value, (i, j)) for i, row in enumerate(found.values) for j, value in enumerate(row)]
    assert panel.locator("svg rect.cell").count() == len(cells)
    i, j = max(cells, key=lambda each: each[0] or 0.0)[1]
    assert panel.locator("svg rect.worst").get_attribute("data-at") == f"{i} {j}"
    told = f"tokens {found.row_labels[i]}, head {found.column_labels[j]}: {found.values[i][j]:.1e}"
    assert told in panel.locator("output").inner_text()
    assert panel.locator("svg rect.agrees").count() == sum(value == 0.0 for value, _ in cells) > 0
    assert "behaves as if sliding_window were 8" in panel.locator(".cause").inner_text()
    assert panel.locator(".ours .meant .number").inner_text().split()[-1] == str(failing.findings[0].port_source.line)
    assert "def _visible" in panel.locator(".ours pre").inner_text()  # the whole function
    assert panel.locator(".theirs .meant").count() == 1


def test_everything_is_reached_by_keyboard(visit: Run) -> None:
    """One stop for the column; arrows move and fold; Enter shows; arrows in a map read its cells."""
    page = visit(html.render(synthetic(4)))
    page.locator("#fold").focus()
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert "down_proj" in focused.inner_text()
    assert page.locator('#column [tabindex="0"]').count() == 1
    page.keyboard.press("ArrowUp")
    assert "gate_proj" in focused.inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#panel h3").inner_text() == "model.layers.2.mlp.gate_proj"
    page.keyboard.press("ArrowLeft")
    assert "model.layers.2" in focused.inner_text()
    page.keyboard.press("ArrowLeft")
    assert not page.locator("details.block").nth(2).evaluate("each => each.open")
    page.keyboard.press("ArrowDown")
    assert "model.layers.3" in focused.inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert page.locator("#panel h3").inner_text() == "model.layers.3"
    page.keyboard.press("Home")
    assert "model.layers.0" in focused.inner_text()

    page.get_by_role("link", name="Show it in the model").press("Enter")
    picture = page.locator("svg.map")
    picture.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel output").inner_text() == "tokens 4, feature 8: 1.2e-02"


def test_focus_is_seen(visit: Run) -> None:
    """Whatever has it is outlined."""
    page = visit(html.render(synthetic(2)))
    for _ in range(12):
        page.keyboard.press("Tab")
        outline = page.locator(":focus").evaluate("each => getComputedStyle(each).outline")
        assert "solid 2px" in outline


def test_sixty_layers(visit: Run) -> None:
    """All of them are there, folded but for the one that differs; details come when asked for."""
    report = synthetic(62)
    assert len(report.boundaries) > 2900
    page = visit(html.render(report))
    blocks = page.locator("details.block")
    assert blocks.count() == 62
    assert page.locator("details.block[open]").count() == 1
    assert page.locator("#panel h3").inner_text() == "model.layers.31.mlp.down_proj"
    assert page.locator("rect.cell").count() == 32 * 48
    assert page.locator("rect.worst").get_attribute("data-at") == "5 7"
    page.locator("#unfold").click()
    assert page.locator("details.block[open]").count() == 62
    page.locator("button.row").last.click()
    assert page.locator("#panel h3").inner_text() == "model.layers.61.norm"
    assert page.locator("rect.cell").count() == 0
    page.locator("#differing").click()
    assert page.locator("button.row:visible").count() == 1


def test_errors_that_came_in_are_told_apart(visit: Run) -> None:
    """By a mark and a word, not by colour alone; so are those that could not be compared."""
    report = synthetic(2)
    lost = Boundary("forward", "head", "head", "head", "output", note="of other shapes")
    page = visit(html.render(replace(report, boundaries=(*report.boundaries, lost))))
    marks = {
        state: page.locator(f"li.{state} .mark").first.evaluate("each => each.textContent")
        for state in ("ok", "diff", "not_compared")
    }
    assert len(set(marks.values())) == 3
    assert "differs" in page.locator("li.diff").first.evaluate("each => each.textContent")
    page.locator("li.not_compared button").click()
    assert "Not compared. of other shapes." in page.locator("#panel").inner_text()


def test_narrow_details_lie_over_the_page(visit: Run, failing: Report) -> None:
    """Nothing covers the page before something is asked for; Escape, or the button, takes it away again."""
    page = visit(html.render(failing), "light", NARROW)
    panel = page.locator("#panel")
    assert not panel.is_visible()
    page.locator("button.row", has_text="o_proj").first.click()
    assert panel.is_visible()
    assert overflowing(page) <= 0
    page.keyboard.press("Escape")
    assert not panel.is_visible()
    page.locator("button.row", has_text="o_proj").first.click()
    page.get_by_role("button", name="Close the details").click()
    assert not panel.is_visible()


def test_without_scripts(visit: Run, failing: Report) -> None:
    """Verdict, finding and figures are there; no control that would do nothing."""
    page = visit(html.render(failing), script=False)
    text = page.locator("main").inner_text()
    assert "FAIL" in text
    assert "window-off-by-one" in text
    assert page.locator("li.diff:visible", has_text="2.8e-01").count() > 0
    assert page.locator(".needs-script:visible").count() == 0


def test_print_is_dark_on_light(visit: Run, failing: Report) -> None:
    """Whatever the screen is, without controls."""
    page = visit(html.render(failing), "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(FAINT) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".controls:visible").count() == 0


def test_names_and_code_are_never_run(visit: Run) -> None:
    """Whatever a module, a finding, a line or a token is called."""
    report = synthetic(2)
    source = Source(HOSTILE, 1, HOSTILE, ((1, HOSTILE),))
    finding = replace(
        report.findings[0], title=HOSTILE, cause=HOSTILE, port_source=source, reference_source=source,
        explanations=(Explanation("c", "m", 0.0, f"`{HOSTILE}`"),), evidence=(HOSTILE,),
    )  # fmt: skip
    wrong = replace(report.boundaries[0], name=HOSTILE, reference_module=HOSTILE, port_module=HOSTILE, own=1.0)
    page = visit(html.render(replace(report, port=HOSTILE, boundaries=(wrong,), findings=(finding,), notes=(HOSTILE,))))
    page.locator("button.row").first.click()
    assert HOSTILE in page.locator("#panel h3").inner_text()
    assert page.evaluate("window.struck") is None
    assert page.locator("main img").count() == 0


def test_a_generation_marks_where_texts_part(visit: Run, generated: Generation) -> None:
    """The first token that differs on both sides, its candidates with their margins, and what came of the rest."""
    row = generated.rows[0]
    assert row.first_difference is not None
    assert row.teacher_forced is not None
    page = visit(html_generation.render(generated))
    place = row.first_difference.index
    for side, tokens in zip(page.locator(".text").all(), (row.port, row.reference), strict=True):
        assert side.locator(".token").count() == len(tokens)
        assert side.locator(".token.first").count() == 1
        assert side.locator(".token").nth(place).get_attribute("class").split()[1] == "first"
        assert side.locator(".token").nth(place).get_attribute("title") == f"token {tokens[place].id}"
    text = page.locator("main").inner_text()
    assert f"New token {place + 1}, the first that differs: fault" in text
    assert f"{row.first_difference.port_margin:.2g}" in page.locator("table").first.inner_text()
    assert page.locator(".choices i").count() == row.teacher_forced.tokens
    assert page.locator(".choices i.fault").count() == len(row.teacher_forced.faults)
    assert "new tokens per second" in text


def test_the_command_writes_the_page(run: Run, visit: Run, tmp_path: Path) -> None:
    """`--format html=FILE`, the whole report in it."""
    path = tmp_path / "report.html"
    code, _, _ = run("check", "gemma3", "--small-config", "--stage", "forward", "--format", f"html={path}")
    assert code == 0
    page = visit(path.read_text(encoding="utf-8"))
    assert page.title().startswith("PASS: gemma3")
    assert page.locator("details.block").count() == 6
