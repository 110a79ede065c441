"""`parity generate`: greedy text from a port, and beside it the reference's; beside the line that compares forwards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from parity import __version__
from parity.cache_records import Caches, Limits, known
from parity.caches import measure as caches
from parity.compare import generation as measuring
from parity.compare import near_ties
from parity.compare.generation import Batch, Clock, Models, Rules, Run
from parity.compare.lower import Stored, lower_like
from parity.generation_records import Blame, Difference, Generation, Row, Side, Speed, Watcher
from parity.names import fold
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair import running
from parity.pair.device import told_when_full
from parity.pair.port import DoesNotFit, LoadedPort
from parity.pair.promote import precision
from parity.pair.setting import Request, Setting, prepare
from parity.pair.streamed import own_tensors, spare_tensors
from parity.pair.weights import Tensors
from parity.records import Versions

MOST = 64  # new tokens unless told otherwise
_LESS = "Give fewer or shorter prompts, or use --dtype bfloat16."
_UNCACHED = 8  # new tokens timed with a full forward each, in the middle of the text


@dataclass(frozen=True)
class _Made:
    """Both generations of a batch of prompts. rows: which prompts; along: the port along the reference's tokens."""

    rows: tuple[int, ...]
    batch: Batch
    free: Run
    along: Run
    uncached: Run | None


def generate(
    port: object = None,
    *,
    compare_hf: bool = False,
    pretrained: str | Path | None = None,
    revision: str | None = None,
    prompt: Sequence[str] = (),
    tokens: str | Path | None = None,
    chat: bool = False,
    max_new_tokens: int = MOST,
    dtype: str = "float32",
    device: str = "cpu",
    cache: bool = True,
    cache_dtypes: Sequence[str] = (),
    max_kl: float | None = None,
    max_cache_error: float | None = None,
    trust_remote_code: bool = False,
    watcher: Watcher | None = None,
) -> Generation:
    """Continue prompts greedily with a port, and compare with the reference token by token.

    Args:
        port: as for `parity.check`; None for the built-in one that the checkpoint is of.
        compare_hf: run the reference too.
        pretrained: a directory or Hub id with the weights; by default the checkpoint that comes with Parity.
        revision: branch, tag or commit on the Hub.
        prompt: one text or several, which make a batch; a default one if neither prompts nor tokens are given.
        tokens: a file of token ids in place of text.
        chat: put each prompt as a user's turn in the chat template.
        max_new_tokens: the most to generate per prompt.
        dtype: that both models run in; float32, bfloat16 or float16.
        device: that both run on.
        cache: decode with a cache on both sides, the port's if it has one; else a full forward per token.
        cache_dtypes: ways to store the port's cache, of `parity.cache_records.CACHE_DTYPES`, each compared with the
            full one.
        max_kl: the largest mean divergence that such a cache may lead to, in nats.
        max_cache_error: the largest relative error that it may have in any stored tensor.
        trust_remote_code: the checkpoint's own code may be run.
        watcher: is told of each token as it comes.

    Raises:
        ParityError: bad input; says what to do next.
    """
    limits = Limits(max_kl, max_cache_error)
    known(cache_dtypes, cache, limits)
    watcher = watcher or Watcher()
    watcher.progress("comparing tokens")
    request = Request(
        port=port,
        pretrained=None if pretrained is None else str(pretrained),
        revision=revision,
        prompts=(prompt,) if isinstance(prompt, str) else tuple(prompt),
        tokens=None if tokens is None else Path(tokens),
        chat=chat,
        most=max_new_tokens,
        dtype=dtype,
        device=device,
        cache=cache,
        trust_remote_code=trust_remote_code,
    )
    setting = prepare(request)
    with torch.no_grad(), precision(False), told_when_full("while generating", setting.device, _LESS):
        return _generate(setting, compare_hf, tuple(dict.fromkeys(cache_dtypes)), limits, watcher)


def _generate(setting: Setting, compare: bool, dtypes: Sequence[str], limits: Limits, watcher: Watcher) -> Generation:
    models = _models(setting, compare, watcher)
    rules, notes = _rules(setting, models)
    prompts = setting.encoded.prompts
    together = (
        len({len(prompt.ids) for prompt in prompts}) == 1 or running.capabilities(models.port_model).attention_mask
    )
    if not together:
        notes.append("the port takes no attention_mask: each prompt is run alone, on both sides")
    groups = [tuple(range(len(prompts)))] if together else [(each,) for each in range(len(prompts))]
    watcher.begin(prompts, ("port", "reference") if compare else ("port",))
    made = [_run(setting, models, rules, group, watcher) for group in groups]
    rows = _rows(setting, models, rules, made, watcher, notes) if compare else _port_rows(setting, rules, made)
    stored = _caches(setting, models, rules, rows, dtypes, limits, watcher) if dtypes else None
    return Generation(
        versions=Versions(__version__, torch.__version__, references.VERSION),
        port=setting.port.name,
        reference=setting.reference.title if compare else "",
        checkpoint=setting.checkpoint.source,
        revision=setting.checkpoint.revision,
        dtype=str(setting.dtype).removeprefix("torch."),
        device=str(setting.device),
        cached=rules.port_cached,
        prompts=prompts,
        rows=tuple(rows),
        port_speed=_speed(made, rules.port_cached, lambda run: run.port_clock),
        reference_speed=_speed(made, rules.reference_cached, lambda run: run.reference_clock) if compare else Speed(),
        findings=setting.encoded.findings,
        notes=(*setting.notes, *notes),
        caches=stored,
    )


def _caches(
    setting: Setting,
    models: Models,
    rules: Rules,
    rows: Sequence[Row],
    dtypes: Sequence[str],
    limits: Limits,
    watcher: Watcher,
) -> Caches:
    """What other ways to store the port's cache come to, along its own text."""
    words = setting.encoded.words
    texts = [
        caches.Text(prompt.ids, tuple(token.id for token in row.port))
        for prompt, row in zip(setting.encoded.prompts, rows, strict=True)
    ]
    said = caches.Words(words.token, words.text, rules.ends)
    return caches.measure(models, texts, dtypes, said, watcher.progress, limits)


def _models(setting: Setting, compare: bool, watcher: Watcher) -> Models:
    """Both with the checkpoint in them, in the dtype and on the device of the run."""
    directory, dtype = setting.checkpoint.directory, setting.dtype
    part, called = _apart(setting)
    reference = None
    if compare or dtype != torch.float32:  # what a low precision is stored in, the reference says
        watcher.progress("loading the reference")
        reference = references.pretrained(setting.reference, directory, dtype, part)
    watcher.progress("loading the port")
    tensors = Stored(directory, setting.names, dtype, reference, called)
    loaded = _loaded_port(setting, tensors)
    port_model, untouched = loaded.model, measuring.untouched(loaded)
    del loaded  # with it, what the parameters were before
    if reference is not None:
        lower_like(port_model, reference, tensors, dtype, called)
    kept = reference.to(setting.device) if compare and reference is not None else None
    models = Models(setting.port, port_model.to(setting.device), kept, setting.device, untouched)
    first = torch.tensor([setting.encoded.prompts[0].ids[:1]], device=setting.device)
    measuring.last(models, first)  # whatever is done once is done before the clock runs
    if kept is not None:
        references.logits(kept, first)
    return models


def _apart(setting: Setting) -> tuple[Mapping[str, Tensor] | None, Callable[[str], str]]:
    """The checkpoint's tensors by the reference's names for them, if it has other ones, and the way back."""
    stand_in = setting.reference.stand_in
    if not setting.partial and stand_in is None:
        return None, str
    stored = Tensors(setting.checkpoint.directory, False, names=setting.names)
    if stand_in is None:
        return stored, str
    return own_tensors(setting.reference, stored, setting.checkpoint.entries), stand_in.name_on_disk


def _loaded_port(setting: Setting, tensors: Tensors) -> LoadedPort:
    """The port with the checkpoint in it; tensors that the reference has no use for need no place in it."""
    port, config, entries = setting.port, setting.reference.config, setting.checkpoint.entries
    try:
        return ports.build(port, config, tensors, False, 0)
    except DoesNotFit:
        spare = spare_tensors(setting.reference, {name: entries[stored] for name, stored in setting.names.items()})
        if not spare:
            raise
        return ports.build(port, config, tensors, False, 0, spare=spare)


def _rules(setting: Setting, models: Models) -> tuple[Rules, list[str]]:
    able = running.capabilities(models.port_model)
    notes = []
    if setting.cache and not able.cache:
        notes.append("the port has no cache: its text is of one full forward per token")
    cached = setting.cache and able.cache
    rules = Rules(setting.most, setting.stops.ends, setting.stops.pad, cached, setting.cache)
    lengths = {len(prompt.ids) for prompt in setting.encoded.prompts}
    if cached and able.attention_mask and len(lengths) > 1:
        longest = max(setting.encoded.prompts, key=lambda prompt: len(prompt.ids))
        rules = replace(rules, mask=measuring.mask_style(models, longest.ids, setting.stops.pad))
    return rules, notes


def _run(setting: Setting, models: Models, rules: Rules, rows: tuple[int, ...], watcher: Watcher) -> _Made:
    batch = Batch.of([setting.encoded.prompts[row].ids for row in rows], rules.pad, models.device)
    told = _Telling(setting, rows, watcher)
    if models.reference_model is None:
        free = measuring.alone(models, batch, rules, told)
        return _Made(rows, batch, free, free, None)
    free = measuring.together(models, batch, rules, told)
    along = free
    if free.port != free.reference:
        watcher.progress("following the reference's tokens")
        along = measuring.together(models, batch, rules, _silent, along=True)
    uncached = None
    if setting.cache:
        watcher.progress("timing without a cache")
        short = replace(rules, most=min(_UNCACHED, rules.most), port_cached=False, reference_cached=False)
        half = min(len(ids) for ids in free.reference) // 2  # a full forward takes longer the more there is before it
        begun = zip((setting.encoded.prompts[row].ids for row in rows), free.reference, strict=True)
        middle = Batch.of([(*prompt, *ids[:half]) for prompt, ids in begun], rules.pad, models.device)
        uncached = measuring.together(models, middle, short, _silent)
    return _Made(rows, batch, free, along, uncached)


def _silent(row: int, side: Side, token: int) -> None:
    """Nobody is told."""


class _Telling:
    """Makes text of the tokens as they come."""

    def __init__(self, setting: Setting, rows: Sequence[int], watcher: Watcher):
        self._words, self._rows, self._watcher = setting.encoded.words, rows, watcher
        self._ids: dict[tuple[int, Side], list[int]] = {}

    def __call__(self, row: int, side: Side, token: int) -> None:
        ids = self._ids.setdefault((row, side), [])
        ids.append(token)
        words = self._words.text(ids) if self._words.tokenizer is not None else " ".join(map(str, ids))
        self._watcher.tokens(self._rows[row], side, words)


def _port_rows(setting: Setting, rules: Rules, made: Sequence[_Made]) -> list[Row]:
    found = {row: ids for each in made for row, ids in zip(each.rows, each.free.port, strict=True)}
    return [_row(setting, rules, found[row]) for row in range(len(found))]


def _row(setting: Setting, rules: Rules, port: Sequence[int]) -> Row:
    words = setting.encoded.words
    stopped = "end of text" if port[-1] in rules.ends else "length"
    return Row(tuple(map(words.token, port)), words.text(port), stopped)


def _rows(
    setting: Setting,
    models: Models,
    rules: Rules,
    made: Sequence[_Made],
    watcher: Watcher,
    notes: list[str],
) -> list[Row]:
    """The rows of both sides, compared; what the reference gets wrong by itself is noted."""
    assert models.reference_model is not None
    watcher.progress("measuring rounding in float64")
    exact = near_ties.promoted(setting.reference, models.reference_model)
    words = setting.encoded.words
    found: dict[int, Row] = {}
    for each in made:
        for at, number in enumerate(each.rows):
            prompt, reference = setting.encoded.prompts[number], each.free.reference[at]
            noise = near_ties.rounding(models.reference_model, exact, prompt.ids, reference)
            free = [meeting for meeting in each.free.meetings[at] if meeting.chosen[0] != meeting.chosen[1]]
            forced = near_ties.teacher_forced(each.along.meetings[at], noise, words.token)
            first = near_ties.difference(free[0], noise, words.token) if free else None
            row = replace(
                _row(setting, rules, each.free.port[at]),
                reference=tuple(map(words.token, reference)),
                reference_text=words.text(reference),
                first_difference=first,
                teacher_forced=forced,
            )
            faults = [flip for flip in (first, *forced.faults) if flip is not None and flip.verdict == "fault"]
            if faults:
                fault = min(faults, key=lambda flip: flip.index)
                stage = near_ties.guilty(models, rules, each.batch, at, each.free.reference, fault)
                row = replace(row, blame=_blame(setting, models, fault, *stage))
            found[number] = row
            notes += _contradictions(setting, number, reference, noise.contradicted)
    return [found[row] for row in range(len(found))]


def _contradictions(
    setting: Setting, number: int, reference: Sequence[int], contradicted: Sequence[int]
) -> Sequence[str]:
    """The reference can be the wrong one."""
    if not contradicted:
        return ()
    token = setting.encoded.words.token(reference[contradicted[0]])
    where = f"new token {contradicted[0] + 1} of prompt {number + 1}, {token.id} {token.piece!r}"
    return (f"the reference contradicts itself: its own full forward does not choose {where}, which generate gave",)


def _blame(setting: Setting, models: Models, fault: Difference, stage: str, chosen: int) -> Blame:
    """In words, with the command that says more."""
    token = setting.encoded.words.token(chosen)
    named, place = f"{token.id} {token.piece!r}".strip(), f"new token {fault.index + 1}"
    why = {
        "weights": f"loading left {', '.join(fold(models.untouched))} as it was",
        "forward": f"one full forward on the same tokens, alone and without a cache, is wrong too: it gives {named}",
        "batch": f"alone the port gives {named} at {place} as the reference does, in the padded batch it does not",
        "cache": f"without its cache the port gives {named} at {place} as the reference does: "
        "its own cached and uncached text differ from there on",
    }[stage]
    return Blame(stage, why, _next_step(setting, stage))


def _next_step(setting: Setting, stage: str) -> str:
    """The command that says more: on the checkpoint itself, or on its small config where that is what can be run."""
    revision = f" --revision {setting.checkpoint.revision}" if setting.checkpoint.revision else ""
    check, source = f"parity check {setting.port.name}", setting.checkpoint.source
    if stage in ("weights", "forward"):
        low = (
            f", and with --dtype {str(setting.dtype).removeprefix('torch.')}" if setting.dtype != torch.float32 else ""
        )
        return f"{check} --pretrained {source}{revision}{low}"
    return f"{check} --reference {source} --small-config --stage {stage}"


def _speed(made: Sequence[_Made], cached: bool, clock: Callable[[Run], Clock]) -> Speed:
    """Of one side, all prompts together; without a cache from the short run, if there was one."""
    free = [clock(each.free) for each in made]
    short = [clock(each.uncached) for each in made if each.uncached is not None]
    return Speed(
        sum(each.seconds[0] for each in free),
        _rate(free, 1) if cached else None,
        _rate(short, 0) if short else None if cached else _rate(free, 1),
    )


def _rate(clocks: Sequence[Clock], first: int) -> float | None:
    """New tokens a second from the step `first` on; None if there were none."""
    seconds = sum(sum(each.seconds[first:]) for each in clocks)
    return sum(sum(each.rows[first:]) for each in clocks) / seconds if seconds else None
