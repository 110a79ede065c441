"""Findings with their line and their cause: what the trace and the catalogue of mutations say of each wrong value."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from parity.compare.capture import LOGITS, Endpoint
from parity.compare.sides import parents
from parity.compare.stages import Forward, Sides
from parity.explain.cut import Cut, wrongly_cut
from parity.explain.diagnose import Diagnosis, Fault, diagnose, explanations
from parity.explain.findings import NOT_LOADED, Located
from parity.explain.lines import Lines
from parity.explain.load_findings import shares_a_tensor
from parity.explain.loader import Loader
from parity.explain.locate import Code, Values, source_at
from parity.explain.match import Index, moves
from parity.explain.mutations import Context, Mutation
from parity.explain.provenance import built_at
from parity.explain.record import tapes
from parity.explain.roles import Role
from parity.explain.room import Room
from parity.explain.sight import Sight
from parity.explain.syntax import assigned_at
from parity.explain.taps import Tap, taps
from parity.explain.trace import Step, Tape, TooLarge
from parity.names import template
from parity.pair.pair import Pair
from parity.records import Finding, Source

_MOST_PLACES = 8  # of the first, in the order data flows; what comes after follows from these more often than not
_BELONGS_ELSEWHERE = (Role.mask, Role.window)
# What goes wrong in these is a cause of its own, whatever it is in detail.
_BY_PLACE = {Role.recurrent: "ssm-delta-math", Role.gated_norm: "ssm-gated-norm"}
_NAMED = "no known slip gives this value; the cause is named after the place"
_TOO_LARGE = "lines and causes were not looked for: the run is too large to be traced; add --small-config"


@dataclass(frozen=True)
class Explained:
    """Findings with their lines and causes, and the values inside modules."""

    findings: tuple[Finding, ...]
    taps: tuple[Tap, ...] = ()


def explain(pair: Pair, sides: Sides, measured: Forward, located: Sequence[Located]) -> Explained:
    """Findings, each with the port's line, the reference's, and what explains it; and the taps."""
    if not any(each.endpoints or each.names or each.called or each.built for each in located):
        return Explained(tuple(each.finding for each in located))
    try:
        recorded = tapes(pair, sides, measured)
    except TooLarge:
        plain = (replace(each.finding, evidence=(*each.finding.evidence, _TOO_LARGE)) for each in located)
        return Explained(tuple(plain))
    settings, kept = pair.reference.settings, pair.kept
    context = kept.once("context", lambda: Context.of(recorded.reference, sides.reference.model, settings))
    room = Room.of(pair.reference, sides, measured, recorded, context, kept)
    index = kept.once("index", lambda: Index.of(recorded.reference))
    values, code = Values(recorded.port, index, {}, {}), Code(recorded.own_code)
    loader = Loader(pair, recorded, sides.loading)
    desk = _Desk(room, values, code, Lines(Sight(room, values, code)), loader)
    told = [each for place, one in enumerate(located) for each in _safely(desk, one, place < _MOST_PLACES)]
    in_order = sorted(_settled(told), key=lambda finding: finding.stage != "weights")  # some turn out to be of loading
    return Explained(_without_repetition(_proven(in_order)), taps(desk.room, desk.values))


def _safely(desk: "_Desk", located: Located, explained: bool) -> "list[_Told]":
    """What was located, with its line and cause. A difference is one even if Parity fails to explain it."""
    try:
        return desk.told(located, explained)
    except Exception as error:
        failed = (
            f"its line and cause are not known: looking for them raised {type(error).__name__}, a fault of Parity's"
        )
        return [_Told(replace(located.finding, evidence=(*located.finding.evidence, failed)))]


@dataclass(frozen=True)
class _Told:
    """A finding with its line; exchanged: the modules whose tensors it says are in each other's place."""

    finding: Finding
    exchanged: tuple[str, ...] = ()


def _settled(told: Sequence[_Told]) -> list[Finding]:
    """Findings but for those of a module that another finding has in another's place already."""
    crossed = {(template(own), each.finding.reference_module) for each in told for own in each.exchanged}
    kept = []
    for each in told:
        finding = each.finding
        others = {first for kind, first in crossed if kind == template(finding.reference_module)}
        if each.exchanged or not others or finding.stage != "forward" or finding.reference_module in others:
            kept.append(finding)
    return kept


def _proven(findings: Sequence[Finding]) -> list[Finding]:
    """What a loader left out, and what another finding of the same module shows that it loaded instead, as one."""
    kept = list(findings)
    for missing in findings:
        proofs = [each for each in kept if each.cause == "weights-misplaced" and each.explanations]
        shown = next((each for each in proofs if _same_place(each, missing)), None)
        if missing.cause in NOT_LOADED and shown is not None:
            cause = "tied-head" if missing.cause == "tied-head" else shown.cause
            line = shown.port_source if shown.stage == "weights" else missing.port_source
            kept[kept.index(missing)] = replace(shown, stage="weights", cause=cause, port_source=line)
            kept.remove(shown)
        elif missing.cause in NOT_LOADED:
            kept = [each for each in kept if each.cause != "unknown" or not _same_place(each, missing)]
    return kept


def _same_place(first: Finding, second: Finding) -> bool:
    return first is not second and first.reference_module == second.reference_module


def _without_repetition(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """One cause on one line is one finding, wherever it shows."""
    kept: dict[object, Finding] = {}
    for finding in findings:
        line = finding.port_source
        known = finding.cause != "unknown" and line is not None
        key = (finding.cause, line.file, line.line) if known and line is not None else id(finding)
        if key in kept:
            first = kept[key]
            also = f"also {finding.reference_module}"
            evidence = first.evidence if also in first.evidence else (*first.evidence, also)
            kept[key] = replace(first, evidence=evidence)
        else:
            kept[key] = finding
    return tuple(kept.values())


def _briefly(finding: Finding) -> Finding:
    """A finding at a place that another one has already described."""
    return replace(finding, evidence=finding.evidence[:1])


def _cause(cause: str, crossed: bool, fused: bool) -> str:
    """What wiring stands for, if it was the loader who did it, or who takes a fused projection apart wrongly."""
    if crossed:
        return cause if cause == "gate-up-order" else "weights-misplaced"
    return "split-layout" if fused and cause == "weights-misplaced" else cause


def _times(tape: Tape, module: str) -> int:
    """How often a module is called."""
    return sum(name == module for name, _ in tape.called)


@dataclass(frozen=True)
class _Desk:
    """One check's findings being explained."""

    room: Room
    values: Values
    code: Code
    lines: Lines
    loader: Loader

    def shares(self, finding: Finding) -> bool:
        """Whether a module shares its matrix with another, here or there."""
        own = getattr(self.lines.sight.modules.get(finding.port_module), "weight", None)
        parameters = self.room.tapes.port_model.named_parameters(remove_duplicate=False)
        times = sum(each is own for _, each in parameters)
        return times > 1 or shares_a_tensor(self.room.sides.reference, finding.reference_module)

    def tied(self, finding: Finding) -> Source | None:
        """Where the port gives its head a matrix; where it never does, where it calls the head."""
        last = finding.port_module.rpartition(".")[2]
        for file in self.room.tapes.files:
            line = assigned_at(file, last, "weight") if last else None
            if line is not None:
                return source_at(file, line)
        if (filled := self.loader.filled(f"{finding.port_module}.weight")) is not None:
            return filled
        frames = self.code.of(self.room.tapes.port.called.get((finding.port_module, 0), ())) if last else []
        return source_at(frames[0].file, frames[0].line) if frames else None

    def without_bias(self, finding: Finding) -> Source | None:
        """Where a module was made without the bias that the checkpoint has for it."""
        module = self.lines.sight.modules.get(finding.port_module)
        if finding.cause != "bias-dropped" or getattr(module, "bias", 0) is not None:
            return None
        named = finding.port_module.rstrip("0123456789").rstrip(".")
        lines = [(file, built_at(file, named)) for file in self.room.tapes.files]
        return next((source_at(file, line) for file, line in lines if line is not None), None)

    def told(self, located: Located, explained: bool) -> list[_Told]:
        """What was located, with its line; explained: with its cause too."""
        finding = located.finding
        if located.built:
            lines = ((file, built_at(file, located.built)) for file in self.room.tapes.files)
            made = next((source_at(file, line) for file, line in lines if line is not None), None)
            return [_Told(replace(finding, port_source=made))]
        if located.called:
            frames = self.code.of(self.room.tapes.port.called.get((located.called, 0), ()))
            source = source_at(frames[0].file, frames[0].line) if frames else None
            return [_Told(replace(finding, port_source=source))]
        if located.names:
            tied = finding.cause == "tied-head" and self.shares(finding)
            source = self.tied(finding) if tied else self.without_bias(finding)
            return [_Told(replace(finding, port_source=source or self.loader.line(located.names)))]
        return self.findings(finding, located.endpoints[0]) if located.endpoints and explained else [_Told(finding)]

    def findings(self, finding: Finding, endpoint: Endpoint) -> list[_Told]:
        """The finding, once for each fault that its wrong value shows."""
        found = diagnose(self.room, endpoint, self.values)
        if not found.faults:
            return [_Told(self._unexplained(finding, endpoint, found))]
        told = [self._explained(finding, endpoint, found, fault) for fault in found.faults]
        told[1:] = [replace(each, finding=_briefly(each.finding)) for each in told[1:]]
        if not found.solved:
            rest = "this accounts for values that the port computes on the way, but something else is wrong as well"
            last = told[-1].finding
            told[-1] = replace(told[-1], finding=replace(last, evidence=(*last.evidence, rest)))
        return told

    def _unexplained(self, finding: Finding, endpoint: Endpoint, found: Diagnosis) -> Finding:
        if (cut := wrongly_cut(self.room, endpoint)) is not None:
            return self._cut(finding, cut)
        step = self.lines.suspect(found)
        source = self.lines.source(step, None) if step else self.lines.sight.calling(endpoint)
        reference = self.lines.reference_suspect(endpoint)
        cause = _BY_PLACE.get(self.room.context.role_of(finding.reference_module), finding.cause)
        said = (_NAMED,) if cause != finding.cause else ()
        evidence = (*finding.evidence, *said)
        return replace(finding, cause=cause, port_source=source, reference_source=reference, evidence=evidence)

    def _cut(self, finding: Finding, cut: Cut) -> Finding:
        """A finding whose reason is heads of another size; its line is that where the size comes from."""
        return replace(
            finding,
            cause="head-dim-config",
            port_source=self.lines.sight.named_number(cut.step, cut.size) or finding.port_source,
            reference_source=Code(()).source(cut.site),
            evidence=(*finding.evidence, cut.text),
        )

    def _explained(self, finding: Finding, endpoint: Endpoint, found: Diagnosis, fault: Fault) -> _Told:
        mutation = fault.first
        site = self.room.tapes.reference.steps[mutation.site]
        residual = min(found.faults[-1].residual, fault.residual)
        module = self._module(finding, endpoint, mutation)
        if mutation.cause == "embed-scale":
            module = self._embedding(site) or module
        partners = {pair.reference: pair.port for pair in self.room.measured.pairs if not pair.partial}
        port_module = finding.port_module
        if module != finding.reference_module:
            port_module = next((partners[name] for name in (module, *parents(module)) if name in partners), port_module)
        wired = self._wired(fault)
        crossed = wired or self._misloaded(found, fault)
        fused = mutation.pair is not None and self.loader.fused(*(f"{name}.weight" for name in mutation.pair))
        told = replace(
            finding,
            stage="weights" if crossed else finding.stage,
            cause=_cause(mutation.cause, wired is not None, fused),
            reference_module=module,
            port_module=port_module,
            port_source=crossed or self.lines.of(endpoint, found, fault),
            reference_source=Code(()).source(site),
            explanations=explanations(fault, residual) if found.solved else (),
            evidence=(*finding.evidence, *(() if found.solved else (mutation.text,))),
        )
        return _Told(told, mutation.pair or () if wired else ())

    def _embedding(self, site: Step) -> str:
        """The embedding that a step is in, or whose output it is given; else the first one."""
        context = self.room.context
        makers = [site, *(context.maker(ref) for ref in site.inputs)]
        found = [each.module for each in makers if context.place(each).role == Role.embedding]
        return (found or [context.of_role(Role.embedding)])[0]

    def _wired(self, fault: Fault) -> Source | None:
        """The line of the loader, where it is what has modules or layers in each other's place."""
        for mutation in fault.mutations:
            if mutation.pair is not None and (line := self._crosswise(mutation.pair)) is not None:
                return line
        return self.loader.reordered() if fault.first.cause == "layer-wiring" else None

    def _misloaded(self, found: Diagnosis, fault: Fault) -> Source | None:
        """The line of the loader, where what it made of a tensor is wrong, and not the code that uses it."""
        ways = {
            "norm-offset": self.loader.computed,
            "weight-transposed": self.loader.turned,
            "weights-misplaced": self.loader.written,
        }
        way = ways.get(fault.first.cause)
        step = self.lines.culprit(found, fault) if way is not None else None
        written = [self.room.tapes.parameters[name] for name in self._taken(step)] if step is not None else []
        return next((line for ref in written if way is not None and (line := way(ref)) is not None), None)

    def _crosswise(self, modules: tuple[str, str]) -> Source | None:
        """The line that loads two modules' tensors crosswise, if both are called as often as in the reference."""
        tape, reference = self.room.tapes.port, self.room.tapes.reference
        ours = [self._port_of(name) for name in modules]
        if any(own and _times(tape, own) != _times(reference, name) for own, name in zip(ours, modules, strict=True)):
            return None
        first, second = (f"{name}.weight" for name in self._in_order(modules))
        if not self.loader.crosswise(first, second):
            return None
        holding = [name for name, tensors in self.loader.loading.held.items() if {first, second} & set(tensors)]
        entries = self.loader.pair.port.weights is not None
        return (None if entries else self.loader.listed(first) or self.loader.asked(first, (second,))) or (
            self.loader.line(holding)
        )

    def _in_order(self, modules: tuple[str, str]) -> list[str]:
        """Modules in the order in which the reference has them."""
        order = list(self.room.sides.reference.modules)
        return sorted(modules, key=order.index)

    def _taken(self, step: Step) -> list[str]:
        """The parameters that a step is given."""
        tape = self.room.tapes.port
        makers = set()
        for ref in step.inputs:
            chain = list(moves(tape, ref))
            makers.add(next((each for each in chain if tape.steps[each.step].name == "copy_"), chain[-1]))
        return [name for name, ref in self.room.tapes.parameters.items() if ref in makers]

    def _port_of(self, module: str) -> str:
        return next((pair.port for pair in self.room.measured.pairs if pair.reference == module), "")

    def _module(self, finding: Finding, endpoint: Endpoint, mutation: Mutation) -> str:
        """The reference's module that a mutation is made in; a stretch over many modules is narrowed down to it.

        Where what a module gives is left out, that is the one that is not called, not the first of its parts.
        """
        own, found = self._user(mutation.site), finding.reference_module
        if mutation.omits and own and found.startswith(f"{own}."):
            return f"{own}.{found.removeprefix(f'{own}.').partition('.')[0]}"
        if endpoint != LOGITS and (mutation.moves or not self._spans(found, mutation.site)):
            return found
        return own or found

    def _spans(self, module: str, site: int) -> bool:
        own = self._user(site)
        return bool(own) and own.startswith(f"{module}.") and own.rpartition(".")[0] == module

    def _user(self, site: int) -> str:
        """The module in which a step runs, or the first that uses what it makes where it is made for others."""
        context = self.room.context
        waiting, seen = [site], set()
        while waiting:
            number = min(waiting)
            waiting.remove(number)
            step = context.tape.steps[number]
            if "." in step.module and context.place(step).role not in _BELONGS_ELSEWHERE:
                return step.module
            for ref in step.refs:
                fresh = [user for user in context.users.get(ref, ()) if user not in seen]
                seen |= set(fresh)
                waiting += fresh
        return ""
