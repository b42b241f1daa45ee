"""``twinkle-tune run``: the script's own exit code, traceback, arguments and processes, whatever it does."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.script.scripted import Done, keep_winners, recorded, run_here
from twinkle_tune.cli.app import run as run_command
from twinkle_tune.cli.run import with_us
from twinkle_tune.errors import TuneError
from twinkle_tune.script import session

ROOT = Path(__file__).parents[2]
PLAIN_CALL = nn.Module.__call__
HEAD = """
import sys
assert "twinkle_tune.auto" not in sys.modules
import torch
from torch import nn
model = nn.Linear(4, 2)
model(torch.ones(3, 4))
"""


def script(folder: Path, text: str, head: str = HEAD) -> Path:
    """A script in a folder."""
    path = folder / "train.py"
    path.write_text(head + text)
    return path


def apart(path: Path, *words: str, python: tuple[str, ...] = ("-m", "twinkle_tune.run")) -> Done:
    """A script in a process of its own."""
    done = subprocess.run(
        [sys.executable, *python, str(path), *words],
        capture_output=True, text=True, timeout=300, cwd=path.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.mark.parametrize(
    ("text", "code", "shown", "how"),
    [
        ("raise ValueError('no data')", 1, 'train.py", line 8, in <module>\n    raise ', "ValueError"),
        ("sys.exit(7)", 7, "", "exit code 7"),
        ("sys.exit('bad')", 1, "bad\n", "exit code 1"),
        ("sys.exit()", 0, "", "exit code 0"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt\n", "KeyboardInterrupt"),
    ],
)
def test_a_script_ends_as_it_ends(text: str, code: int, shown: str, how: str, tmp_path: Path) -> None:
    """Exit code and traceback are the script's, without frames of ours; what was recorded until then is kept."""
    done = run_here("--then", "profile" if code else "apply", script(tmp_path, text))
    assert done.code == code
    assert shown in done.err
    assert "twinkle_tune/" not in done.err
    found = recorded()
    assert found["ended"] == how
    assert [(m["target"], m["total"]) for m in found["models"]] == [("torch.nn.modules.linear:Linear", 1)]
    assert ("nothing is tuned" in done.err) is (code != 0)
    assert nn.Module.__call__ is PLAIN_CALL


def test_arguments_and_main_are_the_scripts(tmp_path: Path) -> None:
    """It finds its own arguments, folder, file and name; its classes can be pickled; a module is run as one."""
    (tmp_path / "beside.py").write_text("VALUE = 5\n")
    text = (
        "import pickle, beside\nclass Own: pass\nassert type(pickle.loads(pickle.dumps(Own()))) is Own\n"
        "assert __name__ == '__main__' and sys.modules['__main__'].Own is Own\n"
        "print(sys.argv[1:], __file__ == sys.argv[0], sys.path[0], beside.VALUE)\n"
    )
    path = script(tmp_path, text)
    done = run_here(path, "--then", "-m", "x", "--", "y")
    assert done.out == f"['--then', '-m', 'x', '--', 'y'] True {tmp_path} 5\n", done.err


def test_a_module_is_run_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-m package.module`` has its package, and its own arguments."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "own.py").write_text("VALUE = 7\n")
    text = "import sys\nfrom .own import VALUE\nprint(VALUE, __package__, __spec__.name, sys.argv[1:])\n"
    (tmp_path / "pack" / "train.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    done = run_here("-m", "pack.train", "--budget", "1")
    assert done.out == "7 pack pack.train ['--budget', '1']\n", done.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nowhere.py"], 2, "can't open file '.*nowhere.py': .Errno 2. No such file"),
        (["-m", "no_such_package.train"], 1, "No module named no_such_package"),
    ],
)
def test_what_is_not_there(words: list[str], code: int, told: str) -> None:
    """As Python says it."""
    done = run_here(*words)
    assert done.code == code
    assert re.search(told, done.err)


def test_what_we_do_never_changes_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuning that raises, a store and a recording that cannot be written are lines on stderr."""
    monkeypatch.setattr(session, "tuned", lambda *args, **options: 1 / 0)
    done = run_here("--then", "profile", "--record", tmp_path, script(tmp_path, "print('fine')"))
    assert (done.code, done.out) == (0, "fine\n")
    assert any("Linear is not tuned: ZeroDivisionError" in line for line in done.told)
    assert any("the recording is not kept" in line for line in done.told)
    monkeypatch.setattr("twinkle_tune.script.applying.place_of", lambda *args: 1 / 0)
    done = run_here(script(tmp_path, "print('fine')"))
    assert (done.code, done.out) == (0, "fine\n")
    assert any("ZeroDivisionError" in line for line in done.told)


def test_a_model_built_twice_and_two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of one form are tuned once, the newest of them; others each by itself, with a share of the time."""
    text = (
        "for seed in range(3):\n    model = nn.Linear(4, 2)\n    model(torch.ones(3, 4))\n"
        "other = nn.Sequential(nn.Linear(4, 4))\nother(torch.ones(3, 4))\nlast = model\n"
    )
    asked: list[Any] = []

    def noted(model: nn.Module, seen: Any, optimizer: Any, **options: Any) -> Any:
        asked.append((model, seen.name, options["budget_s"]))
        raise RuntimeError("planted")

    monkeypatch.setattr(session, "tuned", noted)
    done = run_here("--then", "profile", "--budget", "10s", script(tmp_path, text))
    assert done.code == 0
    assert [(name, seconds) for _, name, seconds in asked] == [("Sequential", 5.0), ("Linear", 5.0)]
    many = "kept = [nn.Linear(4, width) for width in range(3, 11)]\nfor each in kept: each(torch.ones(3, 4))\n"
    asked.clear()
    done = run_here("--then", "profile", script(tmp_path, many))
    assert [model.out_features for model, *_ in asked] == [10, 9, 8, 7]
    assert "5 more were called less" in done.told[-1]


def test_ctrl_c_while_it_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends the tuning; the script had its exit code already."""

    def stopped(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "tuned", stopped)
    done = run_here("--then", "profile", script(tmp_path, "sys.exit(0)"))
    assert done.code == 0
    assert "interrupted: Linear is not tuned" in done.told[-1]


def test_tuned_after_it_and_applied_next_time(tmp_path: Path) -> None:
    """What a first run keeps the second one finds; a damaged profile is a line, and the originals run."""
    text = HEAD.replace("nn.Linear(4, 2)", "nn.Sequential(nn.Linear(4, 2)).eval()") + "\nprint('fine')"
    path = script(tmp_path, text, head="")
    first = run_here("--then", "profile", "--budget", "3s", path)
    assert (first.code, first.out) == (0, "fine\n")
    assert any("kept for the next run" in line for line in first.told), first.err
    second = run_here(path)
    assert "its profile (inference)" in second.told[0]
    (kept,) = (tmp_path / "cache" / "models").glob("*.json")
    kept.write_text("{")
    third = run_here(path)
    assert (third.code, third.out) == (0, "fine\n")
    assert "no profile is kept" in third.told[0]
    assert "tuned anew" in third.told[1]


def test_forks_workers_and_spawned_processes(tmp_path: Path) -> None:
    """A process of its own, with forked and spawned workers, a fork that ends by itself, and os._exit."""
    text = """
import multiprocessing as mp, os
from torch.utils.data import DataLoader

def double(x):
    return 2 * x

if __name__ == "__main__":
    for how in ("fork", "spawn"):
        loader = DataLoader(torch.arange(6.0), batch_size=2, num_workers=1, multiprocessing_context=how)
        print(how, sum(float(x.sum()) for x in loader), flush=True)
    child = os.fork()
    if child == 0:
        model(torch.ones(3, 4))
        sys.exit(0)
    os.waitpid(child, 0)
    with mp.get_context("fork").Pool(1) as pool:
        print(pool.map(double, [1, 2]), flush=True)
    os._exit(5)
"""
    done = apart(script(tmp_path, text))
    assert done.out == "fork 15.0\nspawn 15.0\n[2, 4]\n", done.err
    assert done.code == 5
    assert done.told == []
    found = recorded()
    assert (found["ended"], found["models"][0]["total"]) == ("", 1)


def test_of_several_ranks_one_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others apply what is kept, and say, write and tune nothing."""
    path = script(tmp_path, "")
    keep_winners(path)
    monkeypatch.setenv("RANK", "1")
    done = run_here("--then", "profile", path)
    assert (done.code, done.err) == (0, "")
    assert not (tmp_path / "cache" / "recordings").exists()
    monkeypatch.setenv("RANK", "0")
    assert len(run_here(path).told) == 1


def test_arguments_are_no_part_of_a_recording(tmp_path: Path) -> None:
    """They may be secret; runs with others have files of their own all the same."""
    path = script(tmp_path, "")
    for secret in ("hunter2", "hunter3"):
        run_here(path, "--token", secret)
    files = list((tmp_path / "cache" / "recordings").glob("train-*.json"))
    assert len(files) == 2
    assert not any("hunter" in file.read_text() for file in files)


def test_torch_is_the_scripts_to_import(tmp_path: Path) -> None:
    """What it sets before it imports torch counts, and a script without torch is run all the same, in silence."""
    done = apart(script(tmp_path, "import sys\nprint('torch' in sys.modules)\n", head=""))
    assert (done.code, done.out, done.err) == (0, "False\n", "")


def test_one_line_in_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``import twinkle_tune.auto`` applies what is kept, or races in the steps, and says so when the script ends."""
    monkeypatch.setenv("TWINKLE_TUNE_THEN", "online")
    path = script(tmp_path, "print('fine')", head="import twinkle_tune.auto\nimport sys, torch\nfrom torch import nn\n"
                  "model = nn.Linear(4, 2)\nmodel(torch.ones(3, 4))\n")  # fmt: skip
    done = apart(path, python=())
    assert (done.code, done.out) == (0, "fine\n"), done.err
    race, line = done.told
    assert race == "Linear, online: the originals run: 0 steps were too few, of 4 at least"
    assert line.startswith("Linear (train): 1 call in 1 form; no profile is kept")
    monkeypatch.delenv("TWINKLE_TUNE_THEN")
    path.write_text(path.read_text().replace("import twinkle_tune.auto", "from twinkle_tune import tune_model"))
    inside = apart(path)
    assert (inside.code, inside.told) == (0, [line]), inside.err
    path.write_text(path.read_text().replace("from twinkle_tune import tune_model", "import twinkle_tune.auto"))
    both = apart(path)
    assert (both.code, both.told) == (0, [line])


def test_what_the_one_line_does_not_know(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Another word in its variable is told, and the script runs as it is."""
    monkeypatch.setenv("TWINKLE_TUNE_THEN", "soon")
    assert runpy.run_path(str(ROOT / "twinkle_tune" / "auto.py"))["session"] is None
    told = "twinkle-tune: TWINKLE_TUNE_THEN: got 'soon', expected apply, profile, online; nothing is done\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        (["python", "a.py", "-m"], ["python", "-m", "twinkle_tune.run", "a.py", "-m"]),
        (
            ["python3.11", "-u", "-X", "dev", "-m", "x"],
            ["python3.11", "-u", "-X", "dev", "-m", "twinkle_tune.run", "-m", "x"],
        ),
        (["a.py"], [sys.executable, "-m", "twinkle_tune.run", "a.py"]),
    ],
)
def test_the_command_that_it_becomes(words: list[str], becomes: list[str]) -> None:
    """Python and its own flags stay as they were written."""
    assert with_us(words, []) == becomes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["torchrun", "a.py"], "got torchrun, .* torchrun … -m twinkle_tune.run train.py"),
        (["bash", "a.sh"], "got 'bash', expected python and a script"),
        (["python", "-c", "1"], "got -c, expected a script that is a file or a module"),
        (["python", "-u"], "names no script"),
    ],
)
def test_commands_that_are_refused(words: list[str], told: str) -> None:
    """With what to write instead."""
    with pytest.raises(TuneError, match=told):
        with_us(words, [])


def test_options_are_checked_before_the_script_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option is one line and exit code 2."""
    for words, told in (
        (["--then", "sing", "a.py"], "--then: got 'sing', expected apply or profile"),
        (["--online", "--then", "profile", "a.py"], "--online and --then profile: got both"),
        (["--budget", "soon", "a.py"], "--budget: got 'soon'"),
        (["--calls", "0", "a.py"], "--calls: got '0'"),
    ):
        assert run_command(["run", *words]) == 2
        assert told in capsys.readouterr().err


def test_the_recording_says_what_was_called(tmp_path: Path) -> None:
    """Where it was asked to be: plain JSON with each form of each model's calls."""
    keep_winners(script(tmp_path, ""))
    path = tmp_path / "seen.json"
    assert run_here("--record", path, script(tmp_path, "")).code == 0
    (model,) = json.loads(path.read_text())["models"]
    (calls,) = model["calls"]
    assert calls["workload"]["args"][0]["shape"] == [3, 4]
    assert calls["kept"] is None
