"""The Hub: the files of a checkpoint that are needed, pinned to a commit, and every way that this can fail."""

import contextlib
import errno
import fnmatch
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from parity.errors import ParityError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_BESIDE = (  # what belongs to a checkpoint and is small
    "config.json", "generation_config.json", INDEX, "tokenizer*", "chat_template*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken", "spiece.model", "tekken.json",
)  # fmt: skip
_NEVER = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack", "*.py")
_OFFLINE = ("ConnectError", "TimeoutException", "OfflineModeIsEnabled", "ProxyError")
_MISSING = ("LocalEntryNotFoundError", "EntryNotFoundError")
Accept = Callable[[Mapping[str, Any]], object]


def fetch(repository: str, revision: str | None, code: bool, accept: Accept | None = None) -> tuple[Path, str, bool]:
    """Download what a comparison needs of a repository, as far as it is not in the cache.

    Args:
        repository: its id on the Hub.
        revision: branch, tag or commit; the default branch if None.
        code: also fetch Python files.
        accept: is given the parsed config.json before the weights are fetched, and may raise.

    Returns:
        The directory, the commit's hash, and whether the Hub was reached.

    Raises:
        ParityError: no such repository, revision or file, no access, no network, no room on the disk, or a download
            that broke off.
    """
    with _told(repository, revision):
        from huggingface_hub import HfApi, snapshot_download

        try:
            listed = HfApi().model_info(repository, revision=revision)
        except Exception as error:
            if not _is(error, *_OFFLINE) and not _unavailable(error):
                raise
            return _cached(repository, revision, error)
        names = [file.rfilename for file in listed.siblings or ()]
        commit = str(listed.sha)
        if "config.json" not in names:
            raise ParityError(
                f"{repository} has no config.json at revision {commit[:12]}",
                "Give a repository in transformers' format.",
            )
        patterns = (*_BESIDE, "*.py") if code else _BESIDE
        never = [pattern for pattern in _NEVER if not (code and pattern == "*.py")]
        small = [name for name in names if _matches(name, patterns) and not _matches(name, never)]
        directory = Path(snapshot_download(repository, revision=revision, allow_patterns=_literal(small)))
        commit = directory.name  # by name, so that the cache knows what the revision stands for without a network
        if accept is not None:
            accept(_object(directory / "config.json"))
        wanted = [name for name in _weights(directory, names) if not (directory / name).is_file()]
        if wanted:
            _room_for(repository, commit, wanted)
            snapshot_download(repository, revision=commit, allow_patterns=_literal(wanted))
    return directory, commit, True


def names_at(repository: str, commit: str) -> list[str]:
    """All files of a repository at a commit; none if the Hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return [file.rfilename for file in HfApi().model_info(repository, revision=commit).siblings or ()]
    except Exception:  # it only makes an error message better
        return []


def _cached(repository: str, revision: str | None, why: Exception) -> tuple[Path, str, bool]:
    """The snapshot in the cache, where the Hub cannot be reached."""
    from huggingface_hub import snapshot_download

    try:
        directory = Path(
            snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=["config.json"])
        )
    except Exception as error:
        raise why from error
    return directory, directory.name, False


def _weights(directory: Path, names: Iterable[str]) -> list[str]:
    """The files that hold the weights: one, or those that the index names."""
    if SINGLE in names or not (directory / INDEX).is_file():
        return [name for name in names if name == SINGLE]
    shards = _object(directory / INDEX).get("weight_map")
    named = set(shards.values()) if isinstance(shards, Mapping) else set()
    return [name for name in names if name in named]


def _object(path: Path) -> Mapping[str, Any]:
    """A JSON object, or an empty one: what is wrong with a file is told when it is opened."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _room_for(repository: str, commit: str, wanted: list[str]) -> None:
    """Find out before the download that the disk is too small for it, where the Hub tells the sizes."""
    from huggingface_hub import HfApi, constants

    listed = HfApi().model_info(repository, revision=commit, files_metadata=True).siblings or ()
    size = sum(file.size or 0 for file in listed if file.rfilename in wanted)
    folder = next(
        path for path in (Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents) if path.is_dir()
    )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ParityError(
            f"{repository} needs {_gigabytes(size)} of disk, {folder} has {_gigabytes(free)} free",
            "Free some space, or set HF_HOME to a larger disk.",
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _literal(names: Iterable[str]) -> list[str]:
    """Names as patterns that match nothing else."""
    return ["".join(f"[{letter}]" if letter in "*?[" else letter for letter in name) for name in names]


@contextlib.contextmanager
def _told(repository: str, revision: str | None) -> Iterator[None]:
    """Whatever huggingface_hub raises, in one line with a next step; half-kept files of a full disk are removed."""
    before = _incomplete(repository)
    try:
        yield
    except ParityError:
        raise
    except Exception as error:
        if _full(error):
            for path in _incomplete(repository) - before:
                with contextlib.suppress(OSError):
                    path.unlink()
        raise _as_told(error, repository, revision) from error


def _incomplete(repository: str) -> set[Path]:
    """Files of a repository in the cache that are not whole."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "blobs"
    return set(folder.glob("*.incomplete")) if folder.is_dir() else set()


def _as_told(error: Exception, repository: str, revision: str | None) -> ParityError:
    """The line for an error, the special kinds before the general ones: these are classes of each other."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    page, said = f"https://huggingface.co/{repository}", _first_line(error)
    refused = f" (status {status})" if status in (401, 403) else ""
    unreachable = _is(error, *_OFFLINE, *_MISSING)
    lines = (
        (
            _full(error),
            f"the disk is full: {repository} could not be downloaded, and nothing of the broken download is kept",
            "Free some space, or set HF_HOME to a larger disk.",
        ),
        (
            _is(error, "HFValidationError"),
            f"{repository!r} is no directory and no id on the Hub",
            "Give a directory with config.json and *.safetensors, or an id such as organisation/name.",
        ),
        (
            _is(error, "GatedRepoError"),
            f"{repository} is gated: its owner has not granted you access",
            f"Ask for it at {page}, then log in with: hf auth login.",
        ),
        (
            _is(error, "RevisionNotFoundError"),
            f"{repository} has no revision {revision!r}",
            f"Give a branch, tag or commit listed at {page}/commits.",
        ),
        (
            _is(error, "EntryNotFoundError") and status == 404,
            f"a file that {repository} lists is not there: {said}",
            "Give another revision.",
        ),
        (
            _is(error, "RepositoryNotFoundError") or status in (401, 403, 404),
            f"the Hub has no repository {repository} that you may see{refused}",
            "Check the id; if it is private, log in with: hf auth login.",
        ),
        (
            unreachable,
            f"{repository} is no directory, and the Hub cannot be reached: {said}",
            "Check the network, or give a local directory.",
        ),
        (
            True,
            f"the download of {repository} broke off: {said}",
            "Run it again: files that came whole are kept.",
        ),
    )
    return next(ParityError(problem, next_step) for applies, problem, next_step in lines if applies)


def _is(error: BaseException, *names: str) -> bool:
    """Whether an error is of a class of one of these names; huggingface_hub's releases use different HTTP clients."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _unavailable(error: Exception) -> bool:
    return getattr(getattr(error, "response", None), "status_code", 0) in (500, 502, 503, 504)


def _full(error: BaseException | None) -> bool:
    """Whether the disk was full, be it under other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
