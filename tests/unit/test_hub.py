"""A repository on the Hub: the real client, and a server on this machine that speaks the Hub's API."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/model"
FETCH = """
import json, sys
from parity.errors import ParityError
from parity.pair import hub
try:
    directory, commit, reached = hub.fetch(sys.argv[1], json.loads(sys.argv[2]), False)
    files = sorted(path.name for path in directory.iterdir())
    print(json.dumps({"files": files, "commit": commit, "reached": reached}))
except ParityError as error:
    print(json.dumps({"problem": error.problem, "next": error.next_step}))
"""


@dataclass
class Hub:
    """What the server offers, how it misbehaves, and what it was asked for.

    large: files that are redirected to another path, as the Hub does for LFS. gated: it answers 401. cut: files that
    break off halfway.
    """

    files: dict[str, bytes]
    large: set[str] = field(default_factory=set)
    gated: bool = False
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    endpoint: str = ""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """Answers as the Hub would."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            if body:
                hub.asked.append(path)
            if path.startswith("/cdn/"):
                self.send_file(path.removeprefix("/cdn/"), body)
            elif hub.gated:
                self.fail(401, "GatedRepo", "Access to model somebody/model is restricted")
            elif not path.startswith((f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/")):
                self.fail(404, "RepoNotFound", "Repository not found")
            elif path.startswith("/api/"):
                self.describe(path)
            else:
                revision, _, name = path.removeprefix(f"/{REPOSITORY}/resolve/").partition("/")
                if revision not in (COMMIT, "main", "v1"):
                    self.fail(404, "RevisionNotFound", "Invalid rev id")
                elif name not in hub.files:
                    self.fail(404, "EntryNotFound", "Entry not found")
                elif name in hub.large:
                    self.send(302, {"Location": f"{hub.endpoint}/cdn/{name}", **self.linked(name)}, b"")
                else:
                    self.send_file(name, body)

        def describe(self, path: str) -> None:
            tail = path.removeprefix(f"/api/models/{REPOSITORY}")
            revision = tail.rpartition("/")[2] or "main"
            if revision not in (COMMIT, "main", "v1"):
                self.fail(404, "RevisionNotFound", "Invalid rev id")
                return
            siblings = [{"rfilename": name, "size": len(content)} for name, content in hub.files.items()]
            described: object = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}
            if tail.startswith("/tree/"):
                described = [
                    {"type": "file", "path": name, "size": len(content), "oid": tag(content)}
                    for name, content in hub.files.items()
                ]
            self.send(200, {"Content-Type": "application/json"}, json.dumps(described).encode())

        def linked(self, name: str) -> dict[str, str]:
            content = hub.files[name]
            size, etag = str(len(content)), f'"{tag(content)}"'
            return {"X-Repo-Commit": COMMIT, "X-Linked-Size": size, "X-Linked-Etag": etag, "ETag": etag}

        def send_file(self, name: str, body: bool) -> None:
            content = hub.files[name]
            sent = content[: len(content) // 2] if name in hub.cut else content
            self.send(200, {**self.linked(name), "Content-Length": str(len(content))}, sent if body else b"")

        def fail(self, status: int, code: str, message: str) -> None:
            self.send(status, {"X-Error-Code": code, "X-Error-Message": message}, b"")

        def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

    return Handler


def tag(content: bytes) -> str:
    """A file's ETag."""
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A server with one repository, which also holds what must never be fetched."""
    stored = save({"model.norm.weight": torch.ones(4096)})
    made = Hub(
        {
            "config.json": b'{"model_type": "llama"}',
            "tokenizer.json": b"{}",
            "model.safetensors": stored,
            "consolidated.safetensors": stored,
            "pytorch_model.bin": b"cos\nsystem\n",
            "modeling_mine.py": b"raise SystemExit",
            "README.md": b"# Mine",
        },
        {"model.safetensors"},
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    made.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """Of a process whose Hub is the server."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    return kept | {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1",
        "HF_HUB_ETAG_TIMEOUT": "3", "HF_HUB_DOWNLOAD_TIMEOUT": "3",
    }  # fmt: skip


def fetch(
    hub: Hub, home: Path, repository: str = REPOSITORY, revision: str | None = None, script: str = FETCH
) -> dict[str, object]:
    """What fetching gives, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, repository, json.dumps(revision)],
        env=environment(hub, home), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_only_what_is_needed_is_fetched_and_the_commit_is_pinned(hub: Hub, tmp_path: Path) -> None:
    """No pickles, no code, no second copy of the weights; large files come from where they are redirected to."""
    found = fetch(hub, tmp_path)
    assert found == {"files": ["config.json", "model.safetensors", "tokenizer.json"], "commit": COMMIT, "reached": True}
    assert "/cdn/model.safetensors" in hub.asked
    assert not [path for path in hub.asked if path.endswith((".bin", ".py", "consolidated.safetensors"))]


def test_shards_are_those_of_the_index(hub: Hub, tmp_path: Path) -> None:
    """Whatever they are called."""
    stored = hub.files.pop("model.safetensors")
    hub.files |= {"part-a.safetensors": stored, "part-b.safetensors": stored}
    placed = {"a": "part-a.safetensors", "b": "part-b.safetensors"}
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": placed}).encode()
    found = fetch(hub, tmp_path)["files"]
    assert isinstance(found, list)
    assert {"part-a.safetensors", "part-b.safetensors"} < set(found)
    assert "consolidated.safetensors" not in found


def test_a_revision_by_name(hub: Hub, tmp_path: Path) -> None:
    """It is pinned to its commit."""
    assert fetch(hub, tmp_path, revision="v1")["commit"] == COMMIT


def test_without_the_network_the_cache_serves(hub: Hub, tmp_path: Path) -> None:
    """What was fetched once is there, and it is known that the Hub was not asked."""
    fetch(hub, tmp_path)
    hub.endpoint = "http://127.0.0.1:9"
    found = fetch(hub, tmp_path)
    assert (found["commit"], found["reached"]) == (COMMIT, False)
    assert "model.safetensors" in str(found["files"])


def told(found: dict[str, object], problem: str, next_step: str) -> None:
    """One line with both."""
    assert problem in str(found["problem"]), found
    assert next_step in str(found["next"]), found
    assert "\n" not in f"{found['problem']}{found['next']}"


def test_a_gated_repository(hub: Hub, tmp_path: Path) -> None:
    """Where to ask for access is told."""
    hub.gated = True
    told(fetch(hub, tmp_path), "somebody/model is gated", "https://huggingface.co/somebody/model")


def test_no_such_repository(hub: Hub, tmp_path: Path) -> None:
    """Or a private one: the Hub does not tell."""
    told(fetch(hub, tmp_path, "nobody/nothing"), "no repository nobody/nothing that you may see", "Check the id")


def test_no_such_revision(hub: Hub, tmp_path: Path) -> None:
    """The repository is there."""
    told(fetch(hub, tmp_path, revision="v2"), "somebody/model has no revision 'v2'", "commits")


def test_not_an_id(hub: Hub, tmp_path: Path) -> None:
    """Names with blanks never reach the Hub."""
    told(fetch(hub, tmp_path, "my model"), "'my model' is no directory and no id on the Hub", "organisation/name")


def test_no_config(hub: Hub, tmp_path: Path) -> None:
    """A repository of something else."""
    del hub.files["config.json"]
    told(fetch(hub, tmp_path), "has no config.json at revision 0123456789ab", "transformers' format")


def test_a_file_that_is_listed_and_gone(hub: Hub, tmp_path: Path) -> None:
    """404 for a file of a repository that is there."""
    hub.files = Vanishing({**hub.files, "tokenizer_gone.json": b""})
    told(fetch(hub, tmp_path), "a file that somebody/model lists is not there", "another revision")


class Vanishing(dict[str, bytes]):
    """Lists a file that it then does not have."""

    def __contains__(self, name: object) -> bool:
        return name != "tokenizer_gone.json" and super().__contains__(name)


def test_a_download_that_breaks_off(hub: Hub, tmp_path: Path) -> None:
    """Shorter than announced: nothing half-kept is taken for the file."""
    hub.cut.add("model.safetensors")
    told(fetch(hub, tmp_path), "the download of somebody/model broke off", "Run it again")
    assert not list(tmp_path.rglob("*.incomplete"))


def test_no_server(hub: Hub, tmp_path: Path) -> None:
    """Nothing in the cache either."""
    hub.endpoint = "http://127.0.0.1:9"
    told(fetch(hub, tmp_path), "the Hub cannot be reached", "Check the network")


FULL = FETCH.replace(
    "import json, sys\n",
    """
import errno, json, sys
from huggingface_hub import file_download
real = file_download.http_get
def full(url, temp_file, **more):
    if 'safetensors' in url:
        temp_file.write(b'half')
        open(temp_file.name + '.kept.incomplete', 'w').close()
        raise OSError(errno.ENOSPC, 'No space left on device')
    return real(url, temp_file, **more)
file_download.http_get = full
""",
)
SMALL = FETCH.replace(
    "import json, sys\n",
    """
import json, shutil, sys
from types import SimpleNamespace
shutil.disk_usage = lambda _: SimpleNamespace(total=1000, used=0, free=1000)
""",
)


def test_a_disk_that_becomes_full(hub: Hub, tmp_path: Path) -> None:
    """What was begun is removed."""
    told(fetch(hub, tmp_path, script=FULL), "the disk is full", "HF_HOME")
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_disk_that_is_too_small(hub: Hub, tmp_path: Path) -> None:
    """Found out before the download."""
    told(fetch(hub, tmp_path, script=SMALL), "needs 0.0 GB of disk", "HF_HOME")
    assert "/cdn/model.safetensors" not in hub.asked


def test_on_the_command_line(hub: Hub, tmp_path: Path) -> None:
    """The line and its exit code, with the weights left where they are: they are another architecture's."""
    done = subprocess.run(
        [sys.executable, "-m", "parity", "check", "gemma3", "--pretrained", REPOSITORY],
        env=environment(hub, tmp_path), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("parity: gemma3 implements gemma3_text, gemma3")
    assert done.stderr.count("\n") == 1
    assert "/cdn/model.safetensors" not in hub.asked


def test_pickles_are_named_and_not_fetched(hub: Hub, tmp_path: Path) -> None:
    """A repository without safetensors."""
    del hub.files["model.safetensors"], hub.files["consolidated.safetensors"]
    hub.large.clear()
    done = subprocess.run(
        [sys.executable, "-m", "parity", "check", "llama3", "--pretrained", REPOSITORY],
        env=environment(hub, tmp_path), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pytorch_model.bin, a pickle" in done.stderr
    assert not [path for path in hub.asked if path.endswith(".bin")]
