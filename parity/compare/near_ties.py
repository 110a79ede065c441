"""Where port and reference chose differently: whether rounding explains it, and where to look if it does not."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parity.compare.generation import Batch, Meeting, Models, Rules, apart, last
from parity.generation_records import BEYOND, NEAR_TIE, Difference, TeacherForced, Token
from parity.pair import reference as references
from parity.pair.promote import precision
from parity.pair.reference import Reference

Named = Callable[[int], Token]


@dataclass(frozen=True)
class Rounding:
    """What rounding does to the reference along its own text.

    errors: per new token, the largest error of its logits. contradicted: new tokens that it chose with its cache and
    that its own full forward does not choose, by more than rounding explains.
    """

    errors: tuple[float, ...]
    contradicted: tuple[int, ...]


def promoted(reference: Reference, plain: nn.Module) -> nn.Module:
    """The reference in promoted float64 with the weights that the plain model holds, rounded as they are there."""
    model = references.build(reference, True)
    model.load_state_dict(plain.state_dict())
    device = next(plain.parameters()).device
    return model.to(device if device.type == "cuda" else "cpu")  # others may have no float64


@torch.no_grad()
def rounding(plain: nn.Module, exact: nn.Module, prompt: Sequence[int], tokens: Sequence[int]) -> Rounding:
    """Measure it: the same weights and tokens, one full forward in the run's dtype and one in promoted float64.

    Both are of the reference alone. Its cache has no part in it, so that a cache that is wrong does not pass for
    rounding; nor has the port.

    Args:
        plain: the reference in the dtype of the run.
        exact: its promoted twin.
        prompt, tokens: ids of the prompt, and of the reference's new tokens.
    """
    ids = torch.tensor([[*prompt, *tokens[:-1]]])
    places = slice(len(prompt) - 1, None)
    with precision(False):
        found = references.logits(plain, ids.to(_device(plain)))[0, places].cpu()
    with precision(True):
        true = references.logits(exact, ids.to(_device(exact)))[0, places].cpu()
    errors = tuple(apart(ours.double(), theirs) for ours, theirs in zip(found, true, strict=True))
    contradicted = []
    for at, (token, error) in enumerate(zip(tokens, errors, strict=True)):
        logits = found[at].double()
        if float(logits.max() - logits[token]) > NEAR_TIE * error:
            contradicted.append(at)
    return Rounding(errors, tuple(contradicted))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def difference(meeting: Meeting, noise: Rounding, named: Named) -> Difference:
    """A meeting with two choices, as it is reported."""
    theirs, ours = meeting.chosen
    return Difference(
        meeting.index,
        named(theirs),
        named(ours),
        meeting.reference_logits,
        meeting.port_logits,
        noise.errors[meeting.index],
    )


def teacher_forced(meetings: Sequence[Meeting], noise: Rounding, named: Named) -> TeacherForced:
    """What was measured along the reference's tokens, as it is reported."""
    differing = [each for each in meetings if each.chosen[0] != each.chosen[1]]
    return TeacherForced(
        tokens=len(meetings),
        differences=tuple(difference(each, noise, named) for each in differing),
        largest=_largest([each.largest for each in meetings]),
        rounding=_largest(noise.errors),
        beyond=next((each.index for each in meetings if not each.largest <= BEYOND * noise.errors[each.index]), None),
        mean_kl=sum(each.divergence for each in meetings) / len(meetings),
    )


def _largest(figures: Sequence[float]) -> float:
    """The largest, or NaN if there is one."""
    return next((each for each in figures if math.isnan(each)), max(figures))


@torch.no_grad()
def guilty(
    models: Models, rules: Rules, batch: Batch, row: int, texts: Sequence[Sequence[int]], fault: Difference
) -> tuple[str, int]:
    """Which stage of a check the fault belongs to, and what the port chooses without what that stage is about.

    The port runs on the same tokens again: alone, in one full forward without a cache; then in the padded batch; what
    neither shows comes with the cache. A full forward that is wrong may be so because parameters were never filled.

    Args:
        models, rules, batch: of the run.
        row: of the batch, where the fault is.
        texts: new tokens of the reference, by row.
        fault: the first one in the row.

    Returns:
        `weights`, `forward`, `batch` or `cache`, and the port's choice alone, in one full forward without a cache.
    """
    before = [batch.ids, _continued(texts, fault.index, rules.pad).to(batch.ids.device)]
    ids = torch.cat(before, dim=1)
    real = None if batch.real is None else torch.cat((batch.real, torch.ones_like(before[1], dtype=torch.bool)), dim=1)
    own = ids[row : row + 1] if real is None else ids[row : row + 1, real[row]]
    plainly = last(models, own)[0]
    chosen = int(plainly.argmax())
    if not _right(plainly, fault):
        return "weights" if models.untouched else "forward", chosen
    if real is not None:
        padded = last(models, ids, real.long())[row]
        if not _right(padded, fault):
            return "batch", chosen
    return "cache" if rules.port_cached else "forward", chosen


def _continued(texts: Sequence[Sequence[int]], length: int, pad: int) -> Tensor:
    """The first new tokens of each row, `[B, length]`; padding where one had ended."""
    return torch.tensor([[*text[:length], *[pad] * (length - len(text))] for text in texts], dtype=torch.long).reshape(
        len(texts), length
    )


def _right(logits: Tensor, fault: Difference) -> bool:
    """Whether logits `[V]` choose as the reference did, but for rounding."""
    wanted = fault.reference.id
    return wanted < len(logits) and float(logits.max() - logits[wanted]) <= NEAR_TIE * fault.rounding
