"""A worker process as its run sees it: started, spoken to, watched, and ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import IO, Any

from twinkle_tune.cause import Cause
from twinkle_tune.errors import TuneError
from twinkle_tune.measure.chance import unless_by_chance
from twinkle_tune.tune.compilers import end_compilers
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.mark import NOBODY, At, Mark
from twinkle_tune.tune.wire import LONGEST_LINE, send

_START = (
    "import json, sys; config = json.loads(sys.argv[1]); sys.path[:] = config['path']; "
    "from twinkle_tune.tune.worker import main; main(config)"
)
_POLL_S = 0.25
_KEPT_OUTPUT = 4096
_SHOWN_OUTPUT = 200
_LAST_WORDS_S = 5.0


class WorkerError(TuneError):
    """There is no worker process, or none in which the original itself can be run."""


class WorkerLost(Exception):
    """The worker process ended, hung or broke the connection.

    Attributes:
        at: who was at work.
        reason: what happened.
        cause: the same in a word.
        killed: whether it was by SIGKILL, which the system sends to whom it likes where memory is short.
    """

    def __init__(self, at: At, reason: str, cause: Cause, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.at, self.reason, self.cause, self.killed = at, reason, cause, killed


class WorkerProcess:
    """One worker process in a session of its own, so that Ctrl-C in a terminal reaches the run alone."""

    def __init__(self, limits: Limits, device: str, task: IO[bytes], mark: Mark, modules: Sequence[str] = ()) -> None:
        """Start it; :meth:`wait_ready` before the first task.

        Args:
            limits: what it holds its candidates to.
            device: on which its contests run.
            task: the open file in which it will find its tasks.
            mark: where it will write down who is at work.
            modules: names of modules that it imports before it is ready.

        Raises:
            TuneError: it cannot be started.
        """
        self.device, self.thread = device, threading.get_ident()
        self._mark = mark
        self._output = b""
        self._lines = b""
        mark.set(NOBODY, "load", time.monotonic() + limits.setup_s, limits.setup_s)
        ours, theirs = socket.socketpair()
        config = {
            "socket": theirs.fileno(),
            "task": task.fileno(),
            "mark": mark.fileno(),
            "parent": os.getpid(),
            "path": sys.path,
            "limits": asdict(limits),
            "device": device,
            "modules": list(modules),
        }
        with theirs:
            try:
                self._process = unless_by_chance(
                    lambda: subprocess.Popen(
                        [sys.executable, "-u", "-c", _START, json.dumps(config)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        pass_fds=(theirs.fileno(), task.fileno(), mark.fileno()),
                        start_new_session=True,
                    )
                )
            except OSError as error:
                ours.close()
                raise WorkerError(f"a worker process cannot be started ({error}); profile with --in-process") from error
        assert self._process.stdout is not None
        self._connection, self._pipe = ours, self._process.stdout
        os.set_blocking(self._pipe.fileno(), False)
        ours.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ, self._read_lines)
        self._selector.register(self._pipe, selectors.EVENT_READ, self._read_output)
        self._is_ready = False

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it could take a task."""
        return not self._has_ended()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raises WorkerLost where nobody is there to take it."""
        self._connection.setblocking(True)
        try:
            send(self._connection, **message)
        except OSError:
            raise self._lost() from None
        finally:
            self._connection.setblocking(False)

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            WorkerLost: the process ended, took longer than it may, or sent what is no message.
        """
        expired: At | None = None
        while b"\n" not in self._lines:
            for key, _ in self._selector.select(_POLL_S):
                read: Callable[[], bool] = key.data
                if not read():
                    self._selector.unregister(key.fileobj)
            if b"\n" in self._lines:
                break
            if self._has_ended() or self._connection not in self._selector.get_map():
                raise self._lost()
            if len(self._lines) > LONGEST_LINE:
                raise WorkerLost(self._mark.get(), "flooded the connection to the run", "meddled")
            expired = self._expired(expired)
        line, _, self._lines = self._lines.partition(b"\n")
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise TypeError("no object")
        except (ValueError, TypeError, RecursionError):
            raise WorkerLost(self._mark.get(), "wrote into the connection to the run", "meddled") from None
        return message

    def forget_output(self) -> None:
        """What was printed up to now says nothing of who is at work next."""
        self._drain()
        self._output = b""

    def stop(self) -> None:
        """End it, with every process that it started and that stayed in its group; compilers first, who clean up."""
        if not self._has_ended():
            end_compilers(self._process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Before it is waited for: until then its id is nobody else's.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        self._connection.close()
        self._pipe.close()

    def wait_ready(self) -> None:
        """Wait until it can be given tasks; it is ended where that fails.

        Raises:
            WorkerError: it did not start.
        """
        if self._is_ready:
            return
        try:
            self._hear_ready()
        except BaseException:
            self.stop()
            raise
        self._is_ready = True

    def _hear_ready(self) -> None:
        try:
            message = self.receive()
        except WorkerLost as lost:
            raise WorkerError(
                f"the worker process did not start: it {lost.reason}; profile with --in-process, or raise the limits"
            ) from lost
        if message.get("is") != "ready":
            raise WorkerError(f"the worker process sent {message!r:.80}, expected that it is ready; profile again")

    def _expired(self, before: At | None) -> At | None:
        """Whoever is beyond its limit; on the second sight of the very same that is told."""
        at = self._mark.get()
        if time.monotonic() <= at.until_s:
            return None
        if at == before:
            doing = {
                "load": "finish loading",
                "first call": "finish its first call",
                "parity": "finish the calls that it is judged by",
                "timing": "finish its timed calls",
            }
            late = f"did not {doing.get(at.stage, 'finish')} within {at.limit_s:.3g} s{self._words()}"
            raise WorkerLost(at, late, "timeout")
        return at

    def _lost(self) -> WorkerLost:
        """How it ended."""
        deadline_s = time.monotonic() + _LAST_WORDS_S
        while not self._has_ended() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if not self._has_ended():
            return WorkerLost(self._mark.get(), f"closed the connection to the run{self._words()}", "meddled")
        self._drain()
        # Waited for without being reaped: its group is still to be ended.
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert found is not None
        if found.si_code == os.CLD_EXITED:
            left = f"ended the process with exit code {found.si_status}{self._words()}"
            return WorkerLost(self._mark.get(), left, "crashed")
        name, killed = signal.Signals(found.si_status).name, found.si_status == signal.SIGKILL
        hint = " (perhaps by the system, for want of memory)" if killed else ""
        ended = f"ended the process with signal {name}{hint}{self._words()}"
        return WorkerLost(self._mark.get(), ended, "crashed", killed=killed)

    def _words(self) -> str:
        """The last line that was printed, cut. Of a race nobody knows who has printed it."""
        if self._mark.get().stage == "timing":
            return ""
        lines = self._output.decode(errors="replace").strip().splitlines()
        if not lines:
            return ""
        last = "".join(c if c.isprintable() else " " for c in lines[-1]).strip()
        return f"; last output: {last if len(last) <= _SHOWN_OUTPUT else f'{last[:_SHOWN_OUTPUT]}...'}"

    def _has_ended(self) -> bool:
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _drain(self) -> None:
        while self._read_output():
            pass

    def _read_output(self) -> bool:
        """Take what was printed, so that nobody blocks on a full pipe, and keep its end. False at the end."""
        try:
            data = self._pipe.read(1 << 16)
        except ValueError:
            return False
        if data:
            self._output = (self._output + data)[-_KEPT_OUTPUT:]
        return bool(data)

    def _read_lines(self) -> bool:
        try:
            data = self._connection.recv(1 << 20)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._lines += data
        return bool(data)
