"""A released checkpoint: a local directory in the Hub's layout, or a Hub id, opened without reading any weights."""

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.errors import ParityError
from parity.pair import hub, safetensors_header
from parity.pair.safetensors_header import Entry

_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "tekken.json", "vocab.txt", "*.tiktoken")
_LAYOUT = "Give a directory with config.json and *.safetensors, as they are on the Hub, or a Hub id."


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, before any of its weights are read.

    source: as the user gave it. revision: the commit on the Hub, None for a local directory. config: config.json as it
    is. files: tensor name -> the safetensors file it is in; entries: its shape and dtype, read from the headers.
    notes: what was found in it and left aside.
    """

    source: str
    directory: Path
    revision: str | None
    config: Mapping[str, Any]
    files: Mapping[str, Path]
    entries: Mapping[str, Entry]
    has_tokenizer: bool
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(entry.nbytes for entry in self.entries.values())


def open_checkpoint(
    source: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    accept: hub.Accept | None = None,
    stood_for: Container[object] = (),
) -> Checkpoint:
    """Open a checkpoint: fully offline if `source` is a directory, else from the Hub or its cache.

    Args:
        source: a directory, or a Hub id.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: Python code that comes with the checkpoint may be run, if its architecture needs it.
        accept: is given the parsed config.json before weights are downloaded, and raises if it is the wrong one.
        stood_for: model types whose code is not needed where transformers lacks it, because something stands in.

    Raises:
        ParityError: whatever is wrong with it; says what to do next.
    """
    commit, reached = None, True
    if Path(source).is_dir():
        if revision is not None:
            raise ParityError(f"{source} is a directory, which has no revisions", "Leave out --revision.")
        directory = Path(source)
    elif Path(source).is_file():
        raise ParityError(f"{source} is a file", _LAYOUT)
    elif Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ParityError(f"there is no directory {source}", _LAYOUT)
    else:
        early = None if trust_remote_code else accept  # its code is not there yet
        directory, commit, reached = hub.fetch(source, revision, trust_remote_code, early)
    config = read_config(directory)
    notes = _code_notes(directory, config, trust_remote_code, stood_for)
    _refuse_quantised(directory, config)
    if accept is not None:
        accept(config)
    try:
        files, entries = _tensors(directory)
    except ParityError as error:
        if commit is None:
            raise
        raise _from_hub(error, source, commit, reached) from error
    tokenizer = any(any(directory.glob(pattern)) for pattern in _TOKENIZERS)
    tokenizer = tokenizer or all((directory / name).is_file() for name in ("vocab.json", "merges.txt"))
    return Checkpoint(source, directory, commit, config, files, entries, tokenizer, notes)


def read_config(directory: Path) -> Mapping[str, Any]:
    """The parsed config.json of a directory.

    Raises:
        ParityError: there is none, or it is not a JSON object.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ParityError(f"{directory} has no config.json", _LAYOUT)
    return _json_object(path, "Restore it as it is on the Hub.")


def _json_object(path: Path, next_step: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParityError(f"{path} is not JSON: {error}", next_step) from error
    if not isinstance(parsed, dict):
        raise ParityError(f"{path} holds a {type(parsed).__name__}, not an object", next_step)
    return parsed


def _code_notes(
    directory: Path, config: Mapping[str, Any], trusted: bool, stood_for: Container[object]
) -> tuple[str, ...]:
    """What is said of Python code in a checkpoint; an architecture that cannot be had without it needs trust."""
    mapped = config.get("auto_map")
    files = sorted(path.name for path in directory.glob("*.py"))
    if not mapped and not files:
        return ()
    what = ", ".join(files) if files else "auto_map in config.json"
    from parity.pair import reference as references

    if references.implements(config):
        return (f"the checkpoint brings Python code ({what}), which was not run: transformers has the architecture",)
    if not trusted and references.text_part(config).get("model_type") in stood_for:
        return (f"the checkpoint brings Python code ({what}), which was not run",)
    if not trusted:
        raise ParityError(
            f"{directory} brings its own Python code ({what}), which is not run, and transformers "
            f"{references.VERSION} has no causal language model of model_type {config.get('model_type')!r} without it",
            "Read that code, then allow it with --trust-remote-code.",
        )
    references.adopt(directory, config)
    return (f"Python code of the checkpoint was run: {what}",)


def _refuse_quantised(directory: Path, config: Mapping[str, Any]) -> None:
    told = config.get("quantization_config")
    if isinstance(told, Mapping):
        method = told.get("quant_method", "some method")
        raise ParityError(
            f"the weights in {directory} are quantised ({method})", "Give a checkpoint in bfloat16, float16 or float32."
        )


def _tensors(directory: Path) -> tuple[dict[str, Path], dict[str, Entry]]:
    """Where each tensor is, and what the headers say of it."""
    single, index = directory / hub.SINGLE, directory / hub.INDEX
    if single.is_file():
        entries = safetensors_header.read(single)
        return dict.fromkeys(entries, single), entries
    if not index.is_file():
        raise _without_weights(directory)
    return _sharded(directory, index)


def _sharded(directory: Path, index: Path) -> tuple[dict[str, Path], dict[str, Entry]]:
    again = "Download or copy it again."
    placed = _json_object(index, again).get("weight_map")
    if not isinstance(placed, Mapping) or not all(isinstance(name, str) for name in placed.values()):
        raise ParityError(f"{index} has no weight_map from tensor to file", again)
    shards = sorted(set(placed.values()))
    outside = [name for name in shards if Path(name).name != name]
    if outside:
        raise ParityError(f"{index} names {outside[0]!r}, which is not a file beside it", again)
    absent = [name for name in shards if not (directory / name).is_file()]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ParityError(
            f"{directory} lacks {absent[0]}{more}, which {index.name} names",
            "Download or copy what is missing.",
        )
    files: dict[str, Path] = {}
    entries: dict[str, Entry] = {}
    headers = {shard: safetensors_header.read(directory / shard) for shard in shards}
    for shard, header in headers.items():
        for name, entry in header.items():
            if placed.get(name, shard) == shard:
                files[name], entries[name] = directory / shard, entry
    for name, shard in placed.items():
        if name not in headers[shard]:
            raise ParityError(f"{index} says that tensor {name!r} is in {shard}, and it is not", again)
    return files, entries


def _without_weights(directory: Path) -> ParityError:
    """The error for a directory that holds no weights which can be read."""
    pickled = [path.name for pattern in _PICKLED for path in sorted(directory.glob(pattern))]
    if pickled:
        return _pickled(str(directory), pickled[0])
    if (directory / "adapter_config.json").is_file():
        return ParityError(
            f"{directory} holds an adapter, not a whole model", "Merge it into its base model, and give the result."
        )
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    if others:
        return ParityError(
            f"{directory} has {others[0]}, but neither {hub.SINGLE} nor {hub.INDEX}",
            "Add the index, or give a checkpoint in transformers' layout.",
        )
    return ParityError(f"{directory} holds no weights: no *.safetensors beside config.json", _LAYOUT)


def _pickled(where: str, name: str) -> ParityError:
    return ParityError(
        f"{where} has its weights in {name}, a pickle, which can run code as it is read and is never loaded",
        "Convert it once, where you trust it: AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW).",
    )


def _from_hub(error: ParityError, source: str, commit: str, reached: bool) -> ParityError:
    """An error about a snapshot of the Hub, with what the repository has instead."""
    if "holds no weights" not in error.problem and "lacks" not in error.problem:
        return error
    if not reached:
        return ParityError(
            f"the Hub cannot be reached, and the cache holds {source} only in part",
            "Check the network, then run again.",
        )
    names = hub.names_at(source, commit)
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if pickled:
        return _pickled(source, pickled[0])
    return ParityError(f"{source} has no weights in safetensors at revision {commit[:12]}", "Give another revision.")
