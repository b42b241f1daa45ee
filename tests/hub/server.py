"""A Hub on this machine: plain HTTP on loopback, with what the real client asks for when it loads a kernel or a
profile, and when it pushes one (a commit to a repo of the type dataset)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]
Fault = Callable[[BaseHTTPRequestHandler, str], bool]
"""Called with each request's handler and path; True where it has answered (or broken off) the request itself."""


@dataclass(slots=True)
class Repo:
    """A repo: files by commit, and commits by branch and tag."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit names."""
        named = self.branches.get(revision) or self.tags.get(revision) or revision
        return named if named in self.commits else None


class LocalHub:
    """A Hub in a thread of this process, on a free port, for the length of a ``with`` block.

    Attributes:
        repos: of kernels, by "organisation/name".
        datasets: of data, likewise.
        trusted: the organisations that are trusted publishers; others are known but not trusted.
        asked: "GET /path" of every request, in order.
        fault: what goes wrong, if anything.
    """

    def __init__(self, trusted: tuple[str, ...] = ("kernels-community",)) -> None:
        self.repos: dict[str, Repo] = {}
        self.datasets: dict[str, Repo] = {}
        self.trusted = set(trusted)
        self.asked: list[str] = []
        self.fault: Fault | None = None
        self.stopped = threading.Event()
        self.connections: list[socket.socket] = []
        hub = self

        class Handler(_Handler):
            local_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, cache: Path, *, offline: bool = False) -> dict[str, str]:
        """Variables for a process that shall use this Hub, with its cache in ``cache``."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_ETAG_TIMEOUT": "2",
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
        }

    def push(
        self, repo_id: str, files: Files, *, branches: tuple[str, ...] = ("main",), tags: tuple[str, ...] = ()
    ) -> str:
        """Commit files to a kernel repo (made if it is not there), let branches and tags point to it; the commit."""
        return self._commit(self.repos.setdefault(repo_id, Repo()), repo_id, files, branches, tags)

    def push_data(self, repo_id: str, files: Files, branch: str = "main") -> str:
        """The same for a repo of data."""
        return self._commit(self.datasets.setdefault(repo_id, Repo()), repo_id, files, (branch,), ())

    @staticmethod
    def _commit(repo: Repo, repo_id: str, files: Files, branches: tuple[str, ...], tags: tuple[str, ...]) -> str:
        whole = hashlib.sha1(repo_id.encode(), usedforsecurity=False)
        for path, content in sorted(files.items()):
            whole.update(path.encode() + b"\0" + content + b"\0")
        commit = whole.hexdigest()
        repo.commits[commit] = dict(files)
        repo.branches |= dict.fromkeys(branches, commit)
        repo.tags |= dict.fromkeys(tags, commit)
        return commit

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Go away, from open connections too: later requests are refused."""
        if not self.stopped.is_set():
            self.stopped.set()
            self._server.shutdown()
            self._server.server_close()
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    local_hub: LocalHub
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: without it each answer waits for the other side's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.local_hub.connections.append(self.connection)

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet: tests read ``asked``."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.local_hub.asked.append(f"{self.command} {path}")
        if self.local_hub.fault is not None and self.local_hub.fault(self, path):
            return
        match [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]:
            case ["api", "organizations", name, "overview"]:
                trusted = name in self.local_hub.trusted
                self.send_json({"name": name, "fullname": name, "trustedKernelPublisher": trusted})
            case ["api", "kernels", org, name, *rest]:
                self._answer_about(f"{org}/{name}", rest)
            case ["kernels", org, name, "resolve", revision, *parts]:
                self._answer_file(self.local_hub.repos.get(f"{org}/{name}"), revision, "/".join(parts))
            case ["datasets", org, name, "resolve", revision, *parts]:
                self._answer_file(self.local_hub.datasets.get(f"{org}/{name}"), revision, "/".join(parts))
            case ["api", "validate-yaml"]:  # of a README, before it is pushed
                self._body()
                self.send_json({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self._create(json.loads(self._body()))
            case ["api", "datasets", org, name, "preupload", _]:
                files = json.loads(self._body())["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                self.send_json({"files": modes})
            case ["api", "datasets", org, name, "commit", branch]:
                self._commit(f"{org}/{name}", branch, [json.loads(line) for line in self._body().splitlines()])
            case ["api", "datasets", org, name, *rest]:
                self._answer_about(f"{org}/{name}", rest, self.local_hub.datasets)
            case _:
                self.send_error_code(404, "RepoNotFound")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _create(self, asked: Mapping[str, str]) -> None:
        repo_id = f"{asked['organization']}/{asked['name']}"
        if asked["type"] != "dataset":
            self.send_error_code(400, "")
            return
        is_new = repo_id not in self.local_hub.datasets
        if is_new:
            self.local_hub.push_data(repo_id, {".gitattributes": b""})
        url = json.dumps({"url": f"{self.local_hub.endpoint}/datasets/{repo_id}"})
        self.send_bytes(url.encode(), {"Content-Type": "application/json"}, 200 if is_new else 409)

    def _commit(self, repo_id: str, branch: str, lines: list[Mapping[str, Any]]) -> None:
        repo = self.local_hub.datasets[repo_id]
        (header,) = (line["value"] for line in lines if line["key"] == "header")
        if header["parentCommit"] != repo.branches[branch]:
            self.send_error_code(412, "")
            return
        added = {line["value"]["path"]: b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        commit = self.local_hub.push_data(repo_id, {**repo.commits[repo.branches[branch]], **added}, branch)
        url = f"{self.local_hub.endpoint}/datasets/{repo_id}/commit/{commit}"
        self.send_json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _answer_about(self, repo_id: str, what: list[str], repos: Mapping[str, Repo] | None = None) -> None:
        repo = (self.local_hub.repos if repos is None else repos).get(repo_id)
        if repo is None:
            # As the Hub: who is not signed in is not told whether a repo is private or not there.
            self.send_error_code(401, "RepoNotFound")
            return
        match what:
            case ["refs"]:
                branches = [_ref("heads", *each) for each in repo.branches.items()]
                tags = [_ref("tags", *each) for each in repo.tags.items()]
                self.send_json({"branches": branches, "tags": tags, "converts": []})
            case ["revision", revision] if repo.commit_of(revision):
                self.send_json({"id": repo_id, "sha": repo.commit_of(revision), "private": False})
            case ["tree", revision, *folder] if repo.commit_of(revision):
                self._answer_tree(repo.commits[repo.commit_of(revision) or ""], "/".join(folder))
            case _:
                self.send_error_code(404, "RevisionNotFound")

    def _answer_tree(self, files: Files, folder: str) -> None:
        below = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
        if not below:
            self.send_error_code(404, "EntryNotFound")
            return
        depth = len(folder.split("/")) + 1 if folder else 1
        tree = [{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in below.items()]
        folders = {"/".join(path.split("/")[:depth]) for path in below if len(path.split("/")) > depth}
        if "recursive=true" not in self.path.lower():
            tree = [entry for entry in tree if len(str(entry["path"]).split("/")) == depth]
        tree += [{"type": "directory", "path": path, "size": 0, "oid": _oid(path.encode())} for path in sorted(folders)]
        self.send_json(tree)

    def _answer_file(self, repo: Repo | None, revision: str, path: str) -> None:
        commit = None if repo is None else repo.commit_of(revision)
        if repo is None or commit is None:
            self.send_error_code(404, "RepoNotFound" if repo is None else "RevisionNotFound")
        elif path not in repo.commits[commit]:
            self.send_error_code(404, "EntryNotFound")
        else:
            data = repo.commits[commit][path]
            self.send_bytes(data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": commit})

    def send_json(self, value: object) -> None:
        """Answer with JSON."""
        self.send_bytes(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_error_code(self, status: int, code: str) -> None:
        """Answer with an error as the Hub has it."""
        self.send_bytes(b"", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def send_bytes(self, data: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        """Answer with bytes."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _ref(kind: str, name: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
