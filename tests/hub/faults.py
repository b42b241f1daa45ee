"""What can go wrong between a client and the Hub."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from tests.hub.server import Fault, LocalHub


def reset(handler: Any, path: str) -> bool:
    """Break the connection off with a reset, without an answer."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    return True


def slow(handler: Any, path: str) -> bool:
    """Take the request and never answer it."""
    handler.close_connection = True
    handler.local_hub.stopped.wait(30)
    return True


def status(number: int, code: str) -> Fault:
    """Answer with an error status."""

    def answer(handler: Any, path: str) -> bool:
        handler.send_error_code(number, code)
        return True

    return answer


def half(handler: Any, path: str) -> bool:
    """Send half of what is promised, then close the connection; only for files."""
    if handler.command == "HEAD" or "/resolve/" not in path:
        return False
    kind, _, named = path.removeprefix("/").partition("/")
    repo_id, _, rest = named.partition("/resolve/")
    revision, _, file = rest.partition("/")
    repo = {"kernels": handler.local_hub.repos, "datasets": handler.local_hub.datasets}[kind][repo_id]
    data = repo.commits[repo.commit_of(revision)][file]
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    return True


def at(part: str, fault: Callable[[Any, str], bool]) -> Fault:
    """The fault for requests whose path contains ``part``, and none for others."""
    return lambda handler, path: part in path and fault(handler, path)


def refused(hub: LocalHub) -> None:
    """From now on nobody listens."""
    hub.stop()
