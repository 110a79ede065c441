"""The model as a column: which rows there are, in which state and colour, and what is known of each."""

from dataclasses import replace

import pytest

from parity.records import PROMOTED_NOISE, STAGES, Boundary, ErrorMap, Finding, Report, Stage, Unmatched, Versions
from parity.report import html
from parity.report.html_details import details
from parity.report.html_model import Group, colour_of, column, others, state_of

WRONG = Boundary("forward", "model.layers.1.mlp", "model.layers.1.mlp", "layers.1.mlp", "output", own=0.1, total=0.2)


def boundary(name: str, own: float | None = 0.0, total: float | None = 0.0, stage: str = "forward") -> Boundary:
    """One of a module that is called as its name begins."""
    module = name.partition(" ")[0].partition(":")[0]
    kind = "tap" if ":" in name else "input" if name.endswith("(input)") else "output"
    return Boundary(stage, name, module, f"port.{module}", kind, own=own, total=total)  # type: ignore[arg-type]


def report(*boundaries: Boundary, findings: tuple[Finding, ...] = (), maps: tuple[ErrorMap, ...] = ()) -> Report:
    """A report of these."""
    stages = tuple(Stage(name, "pass") for name in STAGES)
    return Report(
        Versions("0", "0", "0"), "port", "Reference", "random", 0, stages, boundaries, findings, Unmatched(), maps=maps
    )


MODEL = report(
    boundary("model.embed (input)"),
    boundary("model.embed"),
    boundary("model.layers.0 (input)"),
    boundary("model.layers.0.attn (input)"),
    boundary("model.layers.0.attn.q (input)"),
    boundary("model.layers.0.attn.q", 0.5, 0.5),
    boundary("model.layers.0.attn:scores", 0.0, 0.5),
    boundary("model.layers.0.attn", 0.0, 0.5),
    boundary("model.layers.0", 1e-15, 0.5),
    boundary("model.layers.1", None, None),
    boundary("model.norm", 2e-16, 2e-16),
    boundary("logits", float("nan"), float("nan")),
)


def named(groups: tuple[Group, ...]) -> list[tuple[str, list[str]]]:
    """Groups and their rows, by what a reader sees."""
    return [(group.name, [f"{row.outer}{row.inner} {row.kind}".strip() for row in group.rows]) for group in groups]


def test_blocks_and_modules_in_the_order_data_flows() -> None:
    """A module's input and output are one row where nothing lies between them."""
    assert named(column(MODEL)) == [
        ("", ["model.embed"]),
        ("model.layers.0", ["block in", "attn in", "attn.q", "attn:scores", "attn out", "block out"]),
        ("model.layers.1", ["block out"]),
        ("", ["model.norm out", "logits out"]),
    ]


def test_states_tell_own_errors_from_inherited_ones() -> None:
    """A row has the worst state of its boundaries, a block that of its rows; a NaN differs."""
    groups = column(MODEL)
    assert [group.state for group in groups] == ["exact", "diff", "not_compared", "diff"]
    assert [row.state for row in groups[1].rows] == ["exact", "exact", "diff", "inherited", "inherited", "inherited"]
    assert [(row.own, row.total) for row in groups[1].rows[2:4]] == [("5.0e-01", "5.0e-01"), ("0", "5.0e-01")]
    lost = column(report(boundary("a (input)", 0.5, 0.5), boundary("a", float("nan"), float("nan"))))[0].rows
    assert [(row.own, row.colour) for row in lost] == [("nan", "hot5")]
    assert [(group.differing, group.open) for group in groups] == [(0, False), (1, True), (0, False), (1, False)]
    assert [(each.colour, each.rows) for each in groups[1].stripes] == [("exact", 2), ("hot5", 1), ("inherited", 3)]


@pytest.mark.parametrize(
    ("own", "total", "noise", "expected"),
    [
        (0.0, 0.0, PROMOTED_NOISE, "exact"),
        (2e-16, 2e-16, PROMOTED_NOISE, "cold0"),
        (9e-10, 9e-10, PROMOTED_NOISE, "cold3"),
        (2e-9, 2e-9, PROMOTED_NOISE, "hot0"),
        (0.5, 0.5, PROMOTED_NOISE, "hot5"),
        (7.0, 7.0, PROMOTED_NOISE, "hot5"),
        (float("inf"), 1.0, PROMOTED_NOISE, "hot5"),
        (float("nan"), 1.0, PROMOTED_NOISE, "hot5"),
        (1e-12, 0.5, PROMOTED_NOISE, "inherited"),
        (None, None, PROMOTED_NOISE, "not_compared"),
        (5e-5, 5e-5, 1e-4, "cold3"),
        (2e-4, 2e-4, 1e-4, "hot0"),
    ],
)
def test_colours_follow_own_error(own: float | None, total: float | None, noise: float, expected: str) -> None:
    """On a log scale with a break at the noise; inherited and missing ones have none."""
    assert colour_of(replace(WRONG, own=own, total=total, noise=noise)) == expected


def test_low_precision_is_coloured_by_the_multiple() -> None:
    """Of the reference's error, whatever the difference is."""
    low = replace(WRONG, stage="precision", own=4e-3, total=4e-3)
    assert [colour_of(replace(low, ratio=ratio)) for ratio in (1.1, 3.0, 40.0, 5e3)] == [
        "cold3",
        "hot0",
        "hot3",
        "hot5",
    ]
    assert colour_of(replace(low, ratio=0.9, misplaced=True)) == "hot0"
    assert state_of(replace(low, ratio=3.0)) == "diff"


def test_other_stages_stand_below_and_with_the_module() -> None:
    """All ways of decoding; of a stage with a row for each boundary what differs, which the model's row says too."""
    low = replace(boundary("model.embed", 0.1, 0.1, "precision"), name="bfloat16: model.embed", ratio=9.0)
    way = Boundary("cache", "cache: in chunks", "Reference", "Model", "output", own=1e-15, total=1e-15)
    found = report(*MODEL.boundaries, low, replace(low, name="bfloat16: model.norm", ratio=1.0), way)
    model = column(found)
    assert model[0].rows[0].elsewhere == ("precision",)
    below = others(found, sum(len(group.rows) for group in model))
    assert named(below) == [("precision", ["bfloat16: model.embed"]), ("cache", ["in chunks"])]
    numbers = [row.number for group in (*model, *below) for row in group.rows]
    assert numbers == list(range(len(numbers)))


def test_a_stage_alone_is_the_column() -> None:
    """Without the full forward, with what is said in front of each name."""
    low = [replace(boundary(f"model.{each}", stage="precision"), ratio=0.0) for each in ("embed", "layers.0.attn.q")]
    found = report(*(replace(each, name=f"bfloat16: {each.name}") for each in low))
    assert named(column(found)) == [
        ("", ["bfloat16: model.embed out"]),
        ("model.layers.0", ["bfloat16: attn.q out"]),
    ]
    assert others(found, 2) == ()


def finding(module: str, *also: str, stage: str = "forward") -> Finding:
    """One about a module of the reference, and others."""
    return Finding(stage, "unknown", f"about {module}", module, "", evidence=tuple(f"also {name}" for name in also))


def test_each_wrong_module_knows_its_finding() -> None:
    """The nearest one around it, or around one that it is also in; else one of its block; none of what is right."""
    wrong = [
        boundary(name, 0.5, 0.5) for name in ("model.layers.0.attn.q", "model.layers.2.mlp.up", "model.layers.3.mlp")
    ]
    wrong += [boundary("model.layers.0.norm", 0.0, 0.5), replace(boundary("lm_head", 0.1, 0.1), stage="gradient")]
    wrong += [boundary("model.norm", 0.5, 0.5)]
    found = report(
        *wrong,
        findings=(finding("model.layers.0"), finding("model.layers.0.attn", "model.layers.2.mlp"),
                  finding("model.layers.3.attn"), finding("model.norm", stage="gradient")),
    )  # fmt: skip
    kept = details(found, column(found))["boundaries"]
    assert [each.get("finding") for each in kept] == [1, 1, 2, None, 3, None]


def test_each_module_has_its_figures_and_map() -> None:
    """Of all stages, and what was not compared says why."""
    low = replace(boundary("model.norm", 0.1, 0.1, "precision"), name="bfloat16: model.norm", ratio=9.0)
    lost = replace(boundary("head", None, None), note="of other shapes")
    drawn = ErrorMap("precision", "bfloat16: model.norm", "feature", ("0",), ("0",), ((0.12345,),))
    found = report(boundary("model.norm", 0.5, float("nan")), low, lost, maps=(drawn,))
    kept = details(found, column(found))
    assert kept["modules"]["model.norm"] == [0, 1]
    assert kept["boundaries"][0]["figures"] == ["-", "-", "5.0e-01", "nan", ""]
    assert kept["boundaries"][1]["figures"][-1] == "9.00"
    assert kept["boundaries"][1]["map"] == 0
    assert "map" not in kept["boundaries"][0]
    assert kept["boundaries"][2]["note"] == "of other shapes"
    assert kept["maps"][0]["values"] == [[0.123]]


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_page_needs_nothing_else(pretrained: bool) -> None:
    """No address, no file, no import of either; every verdict has a page, an empty one too."""
    changed = replace(
        MODEL, weights="pretrained" if pretrained else "random", revision="a" * 40, interrupted=pretrained
    )
    for each in (changed, replace(changed, boundaries=()), replace(changed, stages=(), boundaries=())):
        text = html.render(each)
        assert f">{each.verdict.upper()}<" in text.replace("&nbsp;", ">")
        for outward in ("http:", "https:", "src=", "@import", "url(", "//cdn"):
            assert outward not in text.replace("http://www.w3.org/2000/svg", "")
