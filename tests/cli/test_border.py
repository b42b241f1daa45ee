"""Where other people's code, data and files meet the command line: exit codes, one line, and nothing hijacked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.report import fabricate
from twinkle_tune.cli.app import app, run
from twinkle_tune.environment import current_environment

ROOT = Path(__file__).parents[2]
_HOSTILE = "a\x1b]0;owned\x07\x1b[2J\nb\r\x9b31m\u202ec"
_NET = """
import os, sys, torch, warnings
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
    def forward(self, x):
        return self.norm(x)
def net():
    return Net(), torch.ones(2, 8)
class Unreadable(Exception):
    def __str__(self):
        raise ValueError("no text")
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory of the test's own, on the path; modules and files of the user are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before, mask = set(sys.modules), os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)
    for name in set(sys.modules) - before:
        if name.startswith(("twinkle_tune_registered_", "users_")):
            del sys.modules[name]


def started(folder: Path, *arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, in that folder."""
    options: dict[str, object] = {"stdout": subprocess.PIPE, **more}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "twinkle_tune.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
        **options,
    )


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr: one line, an error of ours; nothing was said on stdout.

    That a model is being loaded is said before, and is no part of it.
    """
    out, said = capsys.readouterr()
    assert out == ""
    err = "".join(line for line in said.splitlines(keepends=True) if not line.startswith("Loading "))
    assert err.count("\n") == 1, err
    assert err.startswith("twinkle-tune: error: ")
    return err


_ENDINGS = {
    "sys.exit()": "SystemExit",
    "sys.exit(0)": "SystemExit: 0",
    "raise SystemExit('done')": "SystemExit: done",
    "raise Unreadable": "its text cannot be read",
    "raise type('Odd', (BaseException,), {})('two\\nlines')": "Odd: two",
    "raise GeneratorExit": "GeneratorExit",
    "raise ValueError('\\x1b[31mred')": "ValueError",
}


@pytest.mark.parametrize(("ending", "said"), _ENDINGS.items(), ids=list(_ENDINGS))
@pytest.mark.parametrize("where", ["imported", "called", "moved", "registered"])
def test_code_that_ends_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, said: str, where: str
) -> None:
    """A model's module, factory or module.to, or a file of kernels, that exits or raises anything: one line, exit 2."""
    body = {
        "imported": f"{_NET}\n{ending}\n",
        "called": f"{_NET}\ndef make():\n    {ending}\n",
        "moved": f"{_NET}\ndef make():\n    net = Net()\n    def to(*a, **k):\n        {ending}\n"
        "    net.to = to\n    return net, torch.ones(2, 8)\n",
        "registered": f"{_NET}\n{ending}\n",
    }[where]
    Path("users_code.py").write_text(body if where != "registered" else f"{_NET}\nmake = net\n")
    Path("users_kernels.py").write_text(body if where == "registered" else "")
    register = ["--register", "users_kernels.py"]
    assert run(["profile", "users_code:make", "--device", "cpu", "--out", "p.json", *register]) == 2
    assert said in error_of(capsys)
    assert not Path("p.json").exists()


def test_verify_does_not_hold_where_the_code_exits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``verify P script:make`` of a script that calls sys.exit when imported says so and ends with 2, never with 0."""
    environment = current_environment("cpu")
    made = replace(fabricate.normal(), environment=environment, device="cpu")
    made.save("p.json")
    Path("users_script.py").write_text("import sys\ndef make(): ...\nsys.exit(0)\n")
    assert run(["verify", "p.json", "users_script:make"]) == 2
    assert "SystemExit: 0" in error_of(capsys)


def test_json_is_json_whatever_is_printed(tmp_path: Path) -> None:
    """What a model's module, its factory, a file of kernels and their children print goes to stderr under --json."""
    noise = "print('NOISE'); os.write(1, b'RAW NOISE\\n'); os.system('echo CHILD NOISE')\n"
    Path("users_loud.py").write_text(f"{_NET}\n{noise}\ndef make():\n    {noise.strip()}\n    return net()\n")
    Path("kernels.py").write_text(f"import os\n{noise}")
    done = started(tmp_path, "list", "users_loud:make", "--device", "cpu", "--register", "kernels.py", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "users_loud:make"
    assert done.stderr.count("NOISE") == 9


def test_relative_paths_are_of_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A factory and a file of kernels that change the folder do not move profile, journal, reports or other files."""
    Path("else").mkdir()
    go = f"import os\nos.chdir({str(tmp_path / 'else')!r})\n"
    Path("users_mover.py").write_text(
        f"{_NET}\ndef make():\n    os.chdir({str(tmp_path / 'else')!r})\n    return net()\n"
    )
    Path("users_first.py").write_text(go)
    Path("users_second.py").write_text(go)
    arguments = ["users_mover:make", "--device", "cpu", "--candidates", "torch", "--out", "p.json", "--in-process"]
    files = ["--register", "users_first.py", "--register", "users_second.py", "--report", "md", "--report", "r/x.html"]
    assert run(["profile", *arguments, *files]) in (0, 2)
    capsys.readouterr()
    assert Path.cwd() == tmp_path
    assert list(Path("else").iterdir()) == []


def hostile(path: Path) -> Path:
    """A profile whose names hold escape sequences and line breaks."""
    made = fabricate.normal()
    contests = tuple(
        replace(
            contest,
            slot=replace(contest.slot, name=f"{contest.slot.name}{_HOSTILE}", target=f"m:{_HOSTILE}"),
            selection=replace(contest.selection, reason=_HOSTILE),
        )
        for contest in made.contests
    )
    model = replace(made.model, name=_HOSTILE, target=_HOSTILE)
    command = f"twinkle-tune profile x --register '{_HOSTILE}.py'"
    return replace(made, model=model, verdict=_HOSTILE, contests=contests, uncalled=(_HOSTILE,), command=command).save(
        path
    )


def _is_clean(text: str) -> bool:
    return not any(letter in text for letter in "\x1b\x07\x9b\r\u202e")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "p.json"],
        ["report", "p.json", "-f", "md"],
        ["report", "p.json", "-f", "html"],
        ["report", "p.json", "-f", "csv"],
        ["report", "p.json", "-f", "json"],
        ["diff", "p.json", "p.json", "--all"],
        ["diff", "p.json", "p.json", "--json"],
        ["diff", "p.json", "other.json"],
        ["export", "p.json", "--to", "hf-kernels", "--out", "x"],
        ["verify", "p.json"],
        ["verify", "p.json", "--register", "gone.py"],
        ["report", "broken.json"],
        ["report", "unknown.json"],
        ["report", f"gone{_HOSTILE}.json"],
        ["list", _HOSTILE],
        ["profile", f"{_HOSTILE}:x", "--device", "cpu"],
        ["list", "x", f"--{_HOSTILE}"],
        [_HOSTILE],
    ],
)
def test_the_terminal_is_safe(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """No escape sequence, and no line break of a name, reaches stdout or stderr, and an error is one line."""
    text = hostile(Path("p.json")).read_text(encoding="utf-8")
    replace(fabricate.normal(), device="cpu").save("other.json")
    first = json.dumps(json.loads(text)["contests"][0]["selection"]["winner"])
    Path("broken.json").write_text(text.replace(f'"winner": {first}', f'"winner": {json.dumps(_HOSTILE)}', 1))
    Path("unknown.json").write_text(text.replace('"complete"', f'{json.dumps(_HOSTILE)}: 1, "complete"', 1))
    code = run(arguments)
    out, err = capfd.readouterr()
    assert _is_clean(out)
    assert _is_clean(err)
    if code == 2:
        assert err.count("\n") == 1, err
    if "json" in arguments or "--json" in arguments:
        json.loads(out)


_DIGITS = "9" * 5000
_LONG = "n" * 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["profile", "llama-tiny", "--device", "cpu", "--layers", _DIGITS], "--layers: got '999"),
        (["profile", "llama-tiny", "--device", "cpu", "--batch", _DIGITS], "--batch: got '999"),
        (["profile", "llama-tiny", "--device", "cpu", "--batch", "9" * 30], "--batch: got '999"),
        (["profile", "llama-tiny", "--device", "cpu", "--batch", "2147483647", "--layers", "1"], "no memory"),
        (["profile", "llama-tiny", "--device", "cpu", "--seq-len", f"1,{_DIGITS}"], "--seq-len: got '1,99"),
        (["profile", "llama-tiny", "--device", "cpu", "--budget", _DIGITS], "--budget: got '999"),
        (["tune", "rms_norm", "--shape", f"2x{_DIGITS}"], "--shape: got '2x99"),
        (["profile", "llama-tiny", "--device", "cpu", "--out", _LONG], "expected at most 255"),
        (["profile", "llama-tiny", "--device", "cpu", "--out", "n" * 250], "expected at most 255"),
        (["profile", "llama-tiny", "--device", "cpu", "--report", f"{_LONG}.md"], "expected at most 255"),
        (["profile", "llama-tiny", "--device", "cpu", "--register", f"{_LONG}.py"], "is no file"),
        (["profile", _LONG, "--device", "cpu"], "preset"),
        (["profile", f"{_LONG}/{_LONG}", "--device", "cpu"], "cannot be loaded"),
        (["list", f"./{_LONG}"], "nnn"),
        (["report", _LONG], "nnn"),
        (["report", "p.json", "--out", _LONG], "expected at most 255"),
        (["report", "p.json", "-f", "svg", "--out", _LONG], "expected at most 255"),
        (["report", "p.json", "p.json", "-f", "html", "--out", _LONG], "expected at most 255"),
        (["diff", _LONG, _LONG], "nnn"),
        (["verify", _LONG], "nnn"),
        (["export", "p.json", "--to", "hf-kernels", "--out", _LONG], "expected at most 255"),
        (["store", "export", _LONG], "expected at most 255"),
        (["list", "llama-tiny", "--register", "deep.toml"], "nested too deeply"),
        (["list", "llama-tiny", "--register", "types.toml"], "[layers.A]: got repo_path = 1, expected a text"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of thousands of digits, names of 300 bytes, and files nested thousands deep: exit 2 and one line."""
    fabricate.normal().save("p.json")
    Path("deep.toml").write_text(f"x = {'[' * 5000}{']' * 5000}")
    Path("types.toml").write_text("[layers.A]\nrepo_path = 1\npackage_name = 'p'\n")
    assert run(arguments) == 2
    assert said in error_of(capsys)


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ("[layers.A]\nrepo_path = 'x'\npackage_name = 1", "package_name"),
        ("[layers.A]\nrepo_path = 'x'\nlayer_name = 1", "layer_name"),
        ("[layers.A]\nrepo_id = 1", "repo_id"),
        ("[layers.A]\nrepo_id = 'a/b'\nrevision = 1", "revision"),
        ("[layers.A]\nrepo_id = 'a/b'\nversion = 1.5", "version"),
        ('[layers.A]\nrepo_path = "a\\u0000b"', "repo_path"),
        ("[functions.f]\nrepo_id = 'a/b'\ntarget_module = 1", "target_module"),
        ("[layers.A]\nrepo_id = 'a/b'\ndevice = ['cpu']", "device"),
    ],
)
def test_each_field_of_a_toml_file_is_checked(entry: str, field: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value of another type is an error that names its field, and nothing of the file is registered."""
    from twinkle_tune.kernel.registry import default_registry

    Path("k.toml").write_text(f"[layers.GoodOne]\nrepo_path = 'x'\ndevice = 'cpu'\n{entry}\n")
    assert run(["list", "llama-tiny", "--register", "k.toml"]) == 2
    assert f"got {field} = " in error_of(capsys)
    assert default_registry.layer("GoodOne") == ()


def test_an_age_beyond_all_time_removes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """``store prune --older-than 999999d`` is older than any calendar, and removes nothing."""
    from twinkle_tune.profile.store import Store
    from twinkle_tune.profile.stores import store_place

    path = store_place()
    assert isinstance(path, Path)
    Store(path).close()
    assert run(["store", "prune", "--older-than", "999999d"]) == 0
    assert capsys.readouterr().out.startswith("removed 0 outcomes")


def test_a_full_stdout_is_an_error(tmp_path: Path) -> None:
    """Stdout on a full disk is exit 2 and one line, never the code that means slower, for lines and for tables."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    fabricate.normal().save("p.json")
    with Path("/dev/full").open("w") as full:
        for arguments in (["report", "p.json"], ["store", "list", "--json"]):
            done = started(tmp_path, *arguments, stdout=full)
            assert done.returncode == 2
            assert "No space left on device" in done.stderr
            assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("arguments", [["report", "p.json"], ["--help"]])
def test_a_closed_pipe_is_no_verdict(tmp_path: Path, arguments: list[str]) -> None:
    """Where the reader has gone the exit code is that of SIGPIPE, not 1, and nothing is said."""
    fabricate.normal().save("p.json")
    reading, writing = os.pipe()
    os.close(reading)
    done = started(tmp_path, *arguments, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_debug_is_no_verdict_either(tmp_path: Path) -> None:
    """With --debug the traceback is shown and the exit code is still 2."""
    done = started(tmp_path, "--debug", "list", "nope")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "ModelError" in done.stderr


_DEEDS = {
    "nothing": "pass",
    "exits": "sys.exit(0)",
    "raises": "raise type('E', (BaseException,), {})('x')",
    "interrupts": "raise KeyboardInterrupt",
    "prints": "print('NOISE')",
    "moves": "os.chdir('/')",
    "changes the environment": "os.environ['USERS_VARIABLE'] = 'x'",
    "changes signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "changes the mask": "os.umask(0o777)",
    "warns": "warnings.warn('a\\nb')",
    "closes stdout": "sys.stdout.close()",
    "takes stdout": "sys.stdout = None",
    "recurses": "f = lambda: f(); f()",
}
_FAILING = {"exits": 2, "raises": 2, "recurses": 2, "interrupts": 130}
_QUICK = ["--candidates", "original", "--in-process", "--fresh", "--no-ways"]
_COMMANDS = {
    "list": ["list", "users_any:make", "--device", "cpu"],
    "profile": ["profile", "users_any:make", "--device", "cpu", *_QUICK, "--out", "p.json"],
    "verify": ["verify", "won.json", "users_any:make", "--in-process"],
    "pull": ["pull", "users_any:make", "nobody/nothing", "--device", "cpu", "--out", "pulled.json"],
}
_PLACES = ("registered", "imported", "called")


def _ended(command: str, deeds: dict[str, str], as_json: bool) -> int:
    """The exit code of a command whose user's code does that, each at its place."""
    code = {place: f"    {_DEEDS[deeds.get(place, 'nothing')]}\n" for place in _PLACES}
    Path("users_any.py").write_text(f"{_NET}import signal\nif True:\n{code['imported']}def make():\n"
                                    f"{code['called']}    return net()\n")  # fmt: skip
    Path("users_kernels.py").write_text(f"import os, signal, sys, warnings\nif True:\n{code['registered']}")
    before, terminate, mask = (sys.stdout, sys.stderr), signal.getsignal(signal.SIGTERM), os.umask(0o022)
    try:
        return run([*_COMMANDS[command], "--register", "users_kernels.py", *(["--json"] if as_json else [])])
    finally:
        sys.stdout, sys.stderr = before
        signal.signal(signal.SIGTERM, terminate)
        os.umask(mask)
        os.environ.pop("USERS_VARIABLE", None)
        for name in [name for name in sys.modules if name.startswith(("twinkle_tune_registered_", "users_"))]:
            del sys.modules[name]


@given(
    command=st.sampled_from(sorted(_COMMANDS)),
    deeds=st.dictionaries(st.sampled_from(_PLACES), st.sampled_from(sorted(_DEEDS)), min_size=1),
    as_json=st.booleans(),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_code_does(
    capfd: pytest.CaptureFixture[str], command: str, deeds: dict[str, str], as_json: bool, tmp_path: Path
) -> None:
    """Whatever a file of kernels, a model's module and its factory do: the command ends as if they had done nothing,
    or with 2 and one line (of a KeyboardInterrupt with 130), and never with a verdict.
    """
    stdout = [what for what in deeds.values() if "stdout" in what]
    assume(as_json or not stdout)  # without --json it would be the test's own
    assume(command != "pull" or not as_json)  # it prints no JSON
    assume(len(stdout) < 2)  # who took stdout away has left none that could be closed
    here = current_environment("cpu")
    replace(fabricate.normal(), environment=here, device="cpu", command="twinkle-tune profile x:y").save("won.json")
    plain = _ended(command, {}, as_json)
    capfd.readouterr()
    ended = _ended(command, deeds, as_json)
    out, err = capfd.readouterr()
    assert Path.cwd() == tmp_path
    failed = next((_FAILING[deeds[place]] for place in _PLACES if deeds.get(place) in _FAILING), None)
    assert ended == (plain if failed is None else failed), err
    if ended == 2:
        assert err.count("twinkle-tune: error: ") == 1
    if as_json and failed is None and plain in (0, 1):
        json.loads(out)


def test_no_other_command_takes_code() -> None:
    """Whatever takes a model or a file of kernels is in the property test above; ``tune`` takes neither."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    taking = {name for name, each in commands.items() if {"model", "register"} & {p.name for p in each.params}}
    assert taking == set(_COMMANDS)
    assert "tune" in commands


@pytest.mark.parametrize("op", ["users_trap", "users_trap:make", "./users_trap.py", "users_trap.op", "rms_norm"])
def test_tune_runs_no_code_of_the_user(op: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An op is a name of our own table: a module of that name in the folder, or one like our own, is not imported."""
    for name in ("users_trap", "rms_norm", "op", "kernel", "space"):
        Path(f"{name}.py").write_text("open('sprung', 'w').close()\nraise SystemExit(0)\n")
    assert run(["tune", op, "--shape", "2x8", "--device", "cpu"]) == 2
    assert ("--device" if op == "rms_norm" else f"op: got {op!r}") in error_of(capsys)
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "p.json"],
        ["report", "p.json", "-f", "html"],
        ["report", "p.json", "-f", "csv"],
        ["diff", "p.json", "p.json"],
        ["export", "p.json", "--to", "hf-kernels", "--out", "x.py"],
        ["verify", "p.json"],
        ["store", "list"],
        ["env"],
    ],
)
def test_what_a_profile_names_is_not_run(arguments: list[str]) -> None:
    """No command runs the factory or the file of kernels that a profile names; who wants that names it himself."""
    for name in ("users_trap", "users_kernels"):
        Path(f"{name}.py").write_text("open('sprung', 'w').close()\nraise SystemExit(0)\n")
    here = current_environment("cpu")
    command = "twinkle-tune profile users_trap:make --register users_kernels.py --device cpu"
    made = replace(fabricate.normal(), environment=here, device="cpu", command=command)
    contests = tuple(replace(c, slot=replace(c.slot, target="users_trap:Net")) for c in made.contests)
    model = replace(made.model, name="users_trap:make", target="users_trap:Net")
    replace(made, contests=contests, model=model).save("p.json")
    assert run(arguments) in ((2,) if arguments[0] == "verify" else (0, 1))
    assert not Path("sprung").exists()
    assert "users_trap" not in sys.modules
