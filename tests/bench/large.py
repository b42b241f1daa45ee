"""Reading and showing a large profile, beside the commit before this was looked at: time and memory as ratios.

Both read one file, which the earlier commit wrote, in processes of their own, in turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.bench.earlier import BEFORE, ROOT, tree_of
from tests.bench.figure import Figure

CONTESTS = 10_000
SHOWN = 2_000
"""So many are shown: the earlier commit takes ten minutes for all of them, and more for each the more there are."""
_GOAL = 0.2
_ROUNDS = 3
"""Processor time differs by a tenth from run to run; the earlier commit takes most of a minute for one."""

_WRITE = """
import json, random, sys
from tests.report import fabricate
from twinkle_tune.profile.io import profile_text

chance = random.Random(0)
data = json.loads(profile_text(fabricate.normal()))
kinds = [json.dumps(contest) for contest in data["contests"]]
data["contests"] = [json.loads(kinds[number % 2]) for number in range(int(sys.argv[2]))]
for number, contest in enumerate(data["contests"]):
    contest["workload"]["args"][0]["shape"][0] = number + 1
    for outcome in (trial["outcome"] for trial in contest["trials"] if trial["outcome"]["kind"] == "measurement"):
        outcome["times_us"] = [time_us * chance.uniform(0.95, 1.05) for time_us in outcome["times_us"]]
        outcome["first_call_us"] *= chance.uniform(0.5, 2)
        for figure in outcome["parity"]:
            figure["error"] *= chance.random()
open(sys.argv[1], "w").write(json.dumps(data))
"""
_READ_AND_SHOW = """
import json, re, sys, time
from dataclasses import replace
from pathlib import Path
from twinkle_tune.cli.write import write_report
from twinkle_tune.profile.io import load_profile
from twinkle_tune.report.terminal import terminal_text

def mib(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

def write_page(profile):
    write_report(profile, Path(small).with_name("page.html"), "html", Path(small))

def took(call):
    began = time.process_time()
    return call(), time.process_time() - began

small, large, shown = sys.argv[1:]
for show in (terminal_text, write_page):
    show(load_profile(small))  # what is imported on the first use
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = mib("VmRSS")
profile, read_s = took(lambda: load_profile(large))
read_mib = mib("VmHWM") - before
part = replace(profile, contests=profile.contests[:int(shown)])
terminal_s, html_s = (took(lambda: show(part))[1] for show in (terminal_text, write_page))
peak_mib = mib("VmHWM") - before
print(json.dumps({"read_s": read_s, "read_mib": read_mib, "terminal_s": terminal_s, "html_s": html_s,
                  "peak_mib": peak_mib}))
"""


def read_time() -> Figure:
    """Processor time of reading the profile."""
    return _figure("read_s", f"reading a profile of {CONTESTS:,} contests, processor time")


def read_memory() -> Figure:
    """Peak memory of reading, beyond what was there after all imports."""
    return _figure("read_mib", f"reading a profile of {CONTESTS:,} contests, peak memory beyond the imports")


def terminal_time() -> Figure:
    """Processor time of the whole report for the terminal."""
    return _figure("terminal_s", f"the whole terminal report of {SHOWN:,} contests, processor time")


def html_time() -> Figure:
    """Processor time of the page, written to a file."""
    return _figure("html_s", f"the HTML report of {SHOWN:,} contests, processor time")


def whole_memory() -> Figure:
    """Peak memory of reading and showing."""
    return _figure("peak_mib", "reading and showing all of that, peak memory beyond the imports")


LARGE = (read_time, read_memory, terminal_time, html_time, whole_memory)


def _figure(key: str, name: str) -> Figure:
    unit = f"of commit {BEFORE}'s"
    pairs = _pairs()
    if not pairs:
        return Figure(name=name, unit=unit, samples=(), goal=_GOAL, skipped="skipped: shallow clone")
    return Figure(name=name, unit=unit, samples=tuple(now[key] / then[key] for then, now in pairs), goal=_GOAL)


@cache
def _pairs() -> tuple[tuple[dict[str, float], dict[str, float]], ...]:
    """Of each round what the earlier commit took, and what this tree takes; none where that commit is not here."""
    with tree_of(BEFORE) as then, tempfile.TemporaryDirectory() as folder:
        if then is None:
            return ()
        small, large = Path(folder, "small.json"), Path(folder, "large.json")
        for path, count in ((small, 2), (large, CONTESTS)):
            _ran(then, _WRITE, str(path), str(count))
        measured = [
            [json.loads(_ran(tree, _READ_AND_SHOW, str(small), str(large), str(SHOWN))) for tree in (then, ROOT)]
            for _ in range(_ROUNDS)
        ]
    return tuple((one, other) for one, other in measured)


def _ran(tree: Path, code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
