"""Files that are written: whole or not at all, and what is no regular file stays what it is."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.report import fabricate
from twinkle_tune.cli.app import run
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import TuneError
from twinkle_tune.ops.tuned import TunedConfig, keep_tuned
from twinkle_tune.profile.files import obstacle, write_file, write_files

ROOT = Path(__file__).parents[2]
_CONFIG = TunedConfig(
    dims={"T": 2, "D": 8}, dtype="float32", variant="", mode="train", config={"block": 8}, ratio=1.0, low=1.0,
    high=1.0, rounds=3,
)  # fmt: skip


def _save(path: Path) -> None:
    fabricate.normal().save(path)


def _report(form: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        source = path.parent / "source.json"
        if not source.exists():
            fabricate.normal().save(source)
        _ran("report", str(source), "-f", form, "--out", str(path))

    return write


def _store(path: Path) -> None:
    _ran("store", "export", str(path))


def _tuned(path: Path) -> None:
    keep_tuned(path, "rms_norm", current_environment("cpu"), _CONFIG)


def _ran(*arguments: str) -> None:
    if run(arguments) != 0:
        raise TuneError("the command failed")


WRITERS: dict[str, Callable[[Path], None]] = {
    "profile": _save,
    "json": _report("json"),
    "md": _report("md"),
    "html": _report("html"),
    "csv": _report("csv"),
    "trace": _report("trace"),
    "store": _store,
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@pytest.fixture
def no_left_overs(tmp_path: Path) -> Iterator[None]:
    """After the test no temporary file is there."""
    yield
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


@writers
@pytest.mark.usefixtures("no_left_overs")
def test_a_fifo_is_written_through(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Whoever reads a FIFO gets the content, and it is a FIFO afterwards."""
    plain, pipe, seen = tmp_path / "plain", tmp_path / "pipe", list[bytes]()
    write(plain)
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: seen.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(20)
    assert seen == [plain.read_bytes()]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@writers
@pytest.mark.usefixtures("no_left_overs")
def test_a_device_node_stays_one(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """A node of a character device (null's numbers) takes what is written and stays a node."""
    node = tmp_path / "null"
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        node.write_bytes(b"x")
    except PermissionError:
        pytest.skip("no device node can be made, or used, here")
    write(node)
    assert stat.S_ISCHR(node.stat().st_mode)


@writers
@pytest.mark.usefixtures("no_left_overs")
def test_a_link_is_followed_and_the_mode_is_kept(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Of a symbolic link the file behind it is replaced, with its mode and owner; a dangling one makes that file."""
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    link.symlink_to(Path("there", "target"))
    write(link)
    first = target.read_bytes()
    target.write_bytes(b"older")
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 12345, 54321)
    owner = target.stat().st_uid, target.stat().st_gid
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == first
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert (target.stat().st_uid, target.stat().st_gid) == owner


@writers
@pytest.mark.usefixtures("no_left_overs")
def test_what_cannot_be_written_is_refused_and_stays(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """A socket, a folder below a file and a name of 300 bytes are errors of ours, and leave nothing behind."""
    (tmp_path / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket is short
        try:
            sock.bind("socket")
        finally:
            os.chdir(here)
        for path in (tmp_path / "socket", tmp_path / "file" / "below", tmp_path / ("n" * 300)):
            with pytest.raises(TuneError):
                write(path)
        assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("through_file", [False, True])
def test_stdout_is_written_to(tmp_path: Path, name: str, through_file: bool) -> None:
    """A path to the process's own stdout, a pipe or a file, is that stdout: after what was printed before it."""
    link = tmp_path / "link"
    link.symlink_to("/proc/self/fd/1")
    code = (
        "import sys; from pathlib import Path; from twinkle_tune.profile.files import write_file; print('first'); "
        "write_file(Path(sys.argv[1]), b'content'); print('last')"
    )
    path = str(link) if name == "link" else name
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            stdout=out if through_file else subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert ((tmp_path / "out").read_bytes() if through_file else done.stdout) == b"first\ncontentlast\n"
    assert link.is_symlink()


def test_the_store_can_be_exported_into_a_pipe(tmp_path: Path) -> None:
    """``store export /dev/stdout`` gives lines of JSON and nothing else: what it says of them goes to stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "twinkle_tune.cli", "store", "export", "/dev/stdout"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("wrote /dev/stdout: 0 outcomes")


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full, each of several files is what it was, and nothing is left beside them."""
    older = [tmp_path / "a", tmp_path / "b"]
    for path in older:
        path.write_bytes(b"older")
    real = os.write

    def full(file: int, content: bytes) -> int:
        if bytes(content) == b"st":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content)

    monkeypatch.setattr("twinkle_tune.profile.files.os.write", full)
    with pytest.raises(OSError, match="No space left"):
        write_files({older[0]: [b"first"], older[1]: [b"la", b"st"]})
    assert [path.read_bytes() for path in older] == [b"older", b"older"]
    assert sorted(tmp_path.iterdir()) == older


@pytest.mark.parametrize("error", [TuneError("no"), KeyboardInterrupt()], ids=["error", "signal"])
@pytest.mark.parametrize("is_there", [True, False])
def test_pieces_that_end_half_way_leave_the_older_file(tmp_path: Path, error: BaseException, is_there: bool) -> None:
    """Where making a piece raises, or a signal comes, the older file is what it was, and nothing is left beside it."""
    path = tmp_path / "page"
    if is_there:
        path.write_bytes(b"older")

    def pieces() -> Iterator[bytes]:
        yield b"first"
        raise error

    with pytest.raises(type(error)):
        write_files({path: pieces()})
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("page", b"older")] * is_there


def test_a_report_onto_a_full_disk_leaves_the_older_one(tmp_path: Path) -> None:
    """A disk of 64 KiB that is full: the report that was there is there still, and the error says so."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        source, older = fabricate.normal().save(tmp_path / "p.json"), disk / "r.html"
        older.write_text("older")
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        assert run(["report", str(source), "-f", "html", "--out", str(older)]) == 2
        assert older.read_text() == "older"
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "r.html"]
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_file_in_a_folder_that_takes_none_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no such file can be made beside it, or it is a mount point, a file that may be written is written."""
    path = tmp_path / "mounted"
    path.write_bytes(b"much longer than what comes")
    real = os.replace

    def busy(source: Path, target: Path) -> None:
        if target == path:
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr("twinkle_tune.profile.files.os.replace", busy)
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]

    def refused(file: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("twinkle_tune.profile.files.os.fchmod", refused)
    write_files({path: iter([b"in ", b"pieces"])})
    assert path.read_bytes() == b"in pieces"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("length", [1, 200, 254, 255])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, length: int) -> None:
    """What the file system takes as a name, the writer takes: its temporary file's name does not grow with it."""
    path = tmp_path / ("n" * length)
    assert obstacle(path) == ""
    write_file(path, b"content")
    assert path.read_bytes() == b"content"


def test_tuned_configs_go_the_same_way(tmp_path: Path) -> None:
    """A winner of a search keeps the link and the mode of its file, too."""
    target, link = tmp_path / "t.json", tmp_path / "link.json"
    link.symlink_to(target)
    _tuned(link)
    target.chmod(0o600)
    _tuned(link)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert json.loads(target.read_text())["op"] == "rms_norm"


@pytest.mark.parametrize("room", ["cli", "report", "export", "profile", "ops/tuned.py"])
def test_there_is_one_writer(room: str) -> None:
    """What a user asks to be written goes through one writer: no other code of these rooms opens a file to write."""
    opens = re.compile(r"\.write_(text|bytes)\(|os\.(replace|rename)\(|open\([^)\n]*[\"'][rb+]*[wax+]")
    there = ROOT / "twinkle_tune" / room
    for path in [there] if there.is_file() else sorted(there.rglob("*.py")):
        if path.relative_to(ROOT / "twinkle_tune").as_posix() != "profile/files.py":
            assert opens.findall(path.read_text(encoding="utf-8")) == [], path


_KINDS = st.sampled_from(["none", "file", "link", "dangling", "fifo", "folder", "read-only", "long", "below"])


@given(kind=_KINDS, mode=st.integers(0o200, 0o777).map(lambda m: m | 0o600), content=st.binary(max_size=3000))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_there(tmp_path_factory: pytest.TempPathFactory, kind: str, mode: int, content: bytes) -> None:
    """Whatever stands at a path: it has the whole content afterwards and is of its kind, or it is as it was."""
    folder = tmp_path_factory.mktemp("any")
    path, target = folder / ("n" * 300 if kind == "long" else "path"), folder / "target"
    seen: list[bytes] = []
    reader = None
    if kind in ("file", "read-only"):
        path.write_bytes(b"older")
        path.chmod(mode if kind == "file" else 0o444)
    elif kind in ("link", "dangling"):
        path.symlink_to(target)
        if kind == "link":
            target.write_bytes(b"older")
            target.chmod(mode)
    elif kind == "fifo":
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: seen.append(path.read_bytes()))
        reader.start()
    elif kind == "folder":
        path.mkdir()
    elif kind == "below":
        (folder / "file").write_bytes(b"older")
        path = folder / "file" / "below"
    told = obstacle(path)
    try:
        write_file(path, content)
        written = True
    except OSError:
        written = False
    if reader is not None:
        reader.join(20)
    assert written == (not told)
    assert written or kind in ("folder", "long", "below", "read-only")
    assert list(folder.glob(".*")) == []
    assert os.path.islink(path) == (kind in ("link", "dangling"))
    if kind == "fifo":
        assert seen == [content]
        assert stat.S_ISFIFO(path.stat().st_mode)
    elif written:
        assert path.read_bytes() == content
        if kind in ("file", "link"):
            assert stat.S_IMODE(path.stat().st_mode) == mode
