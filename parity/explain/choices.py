"""The line of a wrong choice: a value that is right for another layer, or a field of the config never read."""

from dataclasses import dataclass
from difflib import get_close_matches

import torch

from parity.explain.diagnose import Fault
from parity.explain.locate import source_at
from parity.explain.match import is_layout
from parity.explain.play import backward
from parity.explain.sight import Sight
from parity.explain.syntax import field_at, fields_at, kind_at
from parity.explain.trace import Ref, Step
from parity.names import numbers
from parity.records import Source

_OTHERWISE = {"rope_scaling": "rope_parameters", "rope_parameters": "rope_scaling"}  # of older and newer configs
_RESEMBLES = 0.6  # likeness of two names of fields, one of which may be a slip for the other


@dataclass(frozen=True)
class Choices:
    """Where a port takes the wrong one of several."""

    sight: Sight

    def chosen(self, step: Step, fault: Fault) -> Source | None:
        """Where a right value was chosen for the wrong place: its name, what made it, or what it was given to."""
        tables = fault.first.cause == "rope-layer-type"
        if "another kind" not in fault.first.name and fault.first.cause != "window-pattern":
            return self._with_number(step) if tables else None
        tape = self.sight.room.tapes.port
        handed = [self.sight.behind(ref) for ref in self._handed_to(step, set(fault.explained), tables)]
        made = [ref for ref in handed if tape.steps[ref.step].frames]
        if not made or (kinds := self._listed()) is not None:
            return kinds if made else None
        frames = self.sight.code.frames(tape.steps[min(made).step])
        module = tape.steps[min(made).step].module
        own = self._kind_of(self.sight.room.tapes.reference.steps[fault.first.site].module) or self._kind_of(
            step.module
        )
        if tables and (own in module if own and module else not module):
            return self._numbered_otherwise(min(made))
        kinds_of_layers = set(self.sight.room.context.settings.get("layer_types") or ())
        labelled = kind_at(frames[0].file, frames[0].line, own, kinds_of_layers) if own and not tables else None
        if labelled is not None:
            return source_at(frames[0].file, labelled)
        common = {frame.instance for frame in frames}
        return next(
            (source_at(each.file, each.line) for each in self.sight.code.frames(step) if each.instance in common), None
        )

    def unread(self, fault: Fault) -> Source | None:
        """Where the port asks for a field that the config has not, though it never names the one that is wrong."""
        raw = self.sight.room.described.config
        texts = [mutation.text for mutation in fault.mutations]
        named = [field for field in raw if any(f"`{field}" in text for text in texts)]
        if not named and any("`rope_parameters" in text for text in texts):
            named = ["rope_theta" if "rope_theta`" in texts[0] else "rope_scaling"]
        for file in self.sight.room.tapes.files if named else ():
            asked = fields_at(file)
            if not asked or any(field in asked for field in named):
                return None
            strange = [field for field in asked if field not in raw or raw[field] is None]
            near = [match for field in named for match in get_close_matches(field, strange, 1, _RESEMBLES)]
            near += [_OTHERWISE[field] for field in named if _OTHERWISE.get(field) in strange]
            if near:
                return source_at(file, asked[near[0]])
        return None

    def _handed_to(self, step: Step, explained: set[Ref], tables: bool) -> list[Ref]:
        """Values of a step's inputs that are right elsewhere, back to where they were only moved."""
        tape, waiting, found = self.sight.room.tapes.port, list(step.inputs), []
        while waiting:
            ref = waiting.pop()
            made = tape.steps[ref.step]
            hides = tape.value(ref).dtype == torch.bool  # a mutation may change scores, not the mask that they take
            if (ref in explained or hides or tables) and self.sight.values.relation(ref) == "same":
                found.append(ref)
                waiting += made.inputs if is_layout(made.name) or made.name == "__invert__" else ()
        return found

    def _kind_of(self, module: str) -> str:
        """The kind of the layer that a module of the port is in, by the config."""
        kinds = self.sight.room.context.settings.get("layer_types") or ()
        number = next(iter(numbers(module)), None)
        return kinds[number] if number is not None and number < len(kinds) else ""

    def _listed(self) -> Source | None:
        """Where a port works out which layer is of which kind, if that is not what the config says."""
        kinds = list(self.sight.room.context.settings.get("layer_types") or ())
        config = getattr(self.sight.room.tapes.port_model, "config", None)
        for name, value in vars(config).items() if hasattr(config, "__dict__") else ():
            listed = list(value) if isinstance(value, tuple | list) else []
            if len(listed) == len(kinds) > 0 and set(map(str, listed)) & set(kinds) and listed != kinds:
                for file in self.sight.room.tapes.files:
                    if (line := field_at(file, name)) is not None:
                        return source_at(file, line)
        return None

    def _numbered_otherwise(self, ref: Ref) -> Source | None:
        """Where a number of the config's comes from that a value was made with."""
        tape = self.sight.room.tapes.port
        made = (self._with_number(tape.steps[each.step]) for each in backward(tape, [ref], lambda other, _: False))
        return next((source for source in made if source is not None), None)

    def _with_number(self, step: Step) -> Source | None:
        """Where a number of the config's rope comes from, if a step is given one."""
        named = self.sight.room.context.numbers.items()
        telling = {number for name, number in named if any(part in name for part in ("theta", "base", "factor"))} - {1}
        frames = self.sight.code.frames(step)
        for number in sorted(telling) if frames else ():
            if self.sight.is_given(step, number):
                return source_at(frames[0].file, self.sight.number_from(step, number, 1))
        return None
