"""Findings and boundaries of the stage `precision`."""

from collections.abc import Sequence
from dataclasses import replace

from parity.compare.boundaries import name_of
from parity.compare.capture import LOGITS
from parity.compare.precision import Accuracy, Lowered
from parity.compare.stages import Sides
from parity.explain.rounding import Rounded
from parity.names import template
from parity.records import WORSE, Boundary, Finding

_STAGE = "precision"


def is_worse(rounded: Rounded) -> bool:
    """Whether a boundary is a fault: far worse than the reference, or worse by a rounding that can be named."""
    return not rounded.whole and (rounded.named or not rounded.accuracy.ratio <= WORSE)


def findings(low: Lowered, rounded: Sequence[Rounded]) -> tuple[Finding, ...]:
    """What to mend, in the order data flows; the same on the same line, or in all layers, is told once."""
    dtype = str(low.pair.dtype).removeprefix("torch.")
    kept: dict[object, Finding] = {}
    for each in filter(is_worse, rounded):
        endpoint, line = each.accuracy.endpoint, each.port_source
        module = endpoint.module or type(low.pair.reference_model).__name__
        key = (each.cause, line and (line.file, line.line)) if line else template(endpoint.module)
        if key in kept:
            also = f"also {module}"
            if also not in kept[key].evidence and module != kept[key].reference_module:
                kept[key] = replace(kept[key], evidence=(*kept[key].evidence, also))
            continue
        kept[key] = Finding(
            stage=_STAGE,
            cause=each.cause,
            title=f"in {dtype} the port loses digits that the reference keeps",
            reference_module=module,
            port_module=each.accuracy.port,
            port_source=line,
            reference_source=each.reference_source,
            explanations=(each.explanation,) if each.explanation else (),
            evidence=(_evidence(each.accuracy, dtype),),
        )
    return tuple(kept.values())


def _evidence(accuracy: Accuracy, dtype: str) -> str:
    if accuracy.ratio <= 1:
        return f"all values are {accuracy.bias:+.2%} off the reference's, more than {dtype} rounds them by on average"
    return f"error against float64, on the reference's own {dtype} inputs: {accuracy.ratio:.2f} times the reference's"


def notes(low: Lowered, rounded: Sequence[Rounded]) -> tuple[str, ...]:
    """What is less accurate than the reference, and no fault."""
    whole = [each for each in rounded if each.whole]
    dtype = str(low.pair.dtype).removeprefix("torch.")
    rows = low.pair.input_ids.numel()
    ties = f"{low.tied} of {rows} tokens left out in {dtype} from the layer on in which a choice for them is a near tie"
    told = (ties,) if low.tied else ()
    if not whole:
        return told
    most = max(each.accuracy.ratio for each in whole)
    first = whole[0].accuracy.endpoint.module
    others = f" and {len(whole) - 1} more" if len(whole) > 1 else ""
    return (
        f"{first}{others}: the whole norm is computed in {dtype}, its error up to {most:.1f} times the reference's",
    )


def boundaries(sides: Sides, low: Lowered, rounded: Sequence[Rounded]) -> tuple[Boundary, ...]:
    """Every boundary that was compared in low precision, in the order in which the reference passes it."""
    by_end = {each.accuracy.endpoint: each for each in rounded}
    dtype = str(low.pair.dtype).removeprefix("torch.")
    found = []
    for accuracy in low.found:
        end, known = accuracy.endpoint, by_end.get(accuracy.endpoint)
        last = end == LOGITS
        found.append(
            Boundary(
                stage=_STAGE,
                name=f"{dtype}: {'logits' if last else name_of(sides.reference, end)}",
                reference_module=type(sides.reference.model).__name__ if last else end.module,
                port_module="Model" if last else accuracy.port,
                kind=end.kind,
                max_abs=accuracy.max_abs,
                mean_abs=accuracy.mean_abs,
                own=accuracy.apart,
                total=accuracy.apart,
                note="computed in low precision throughout" if known and known.whole else "",
                ratio=min(accuracy.ratio, WORSE) if known and known.whole else accuracy.ratio,
                misplaced=known is not None and known.named,
            )
        )
    return tuple(found)
