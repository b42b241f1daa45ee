"""What a run says while it goes on, one line for each finished contest: on the command line and in Python.

A line fits 80 columns, whatever names there are in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from twinkle_tune.errors import one_line
from twinkle_tune.measure.smallest import memory_ratio
from twinkle_tune.outcome import Rejection, Untimed
from twinkle_tune.peers import peers
from twinkle_tune.profile.schema import Contest, StepResult
from twinkle_tune.profile.setup import CompiledStep
from twinkle_tune.tune.events import (
    Captured,
    ContestAdded,
    ContestFinished,
    ContestLost,
    Event,
    Listener,
    OriginalFailed,
    SizesTried,
    StepChecked,
    StepFinished,
    WaysTimed,
)
from twinkle_tune.tune.gain import time_words
from twinkle_tune.words import short_name

WIDTH = 80
_NAME_LIMIT = 40


def contest_name(contest: Contest) -> str:
    """Slot, first shape and largest share of a step: "RMSNorm [1,128,256] 7.5% of prefill 1x128"."""
    return _names(contest, "{:.1%}")[0]


def _names(contest: Contest, share_text: str) -> tuple[str, ...]:
    """The name with the step's label, with the kind of step alone, and with neither, the longest first."""
    shapes = contest.workload.tensors[:1]
    shape = f" [{','.join(str(size) for size in shapes[0].shape)}]" if shapes else ""
    slot = f"{one_line(short_name(contest.slot.name), _NAME_LIMIT)}{shape}"
    most = max(contest.seen, key=lambda seen: seen.share, default=None)
    if most is None:
        return (slot,)
    label = one_line(most.step, _NAME_LIMIT)
    share = f"{slot} {share_text.format(most.share)}"
    return f"{share} of {label}", f"{share} of {label.partition(' ')[0]}", share


def contest_result(contest: Contest) -> str:
    """What became of a contest: "torch.rms_norm 0.89", "original (2 refused)", "not tried (no time left)"."""
    chosen = contest.selection
    # Of a winner by memory: one by time has its time.
    memory = "" if chosen.memory_ratio is None or chosen.ratio < 1 else f", memory {chosen.memory_ratio:.2f}"
    outcomes = [trial.outcome for trial in contest.trials]
    refused, untimed = (sum(isinstance(each, kind) for each in outcomes) for kind in (Rejection, Untimed))
    out = ", ".join(f"{count} {what}" for count, what in ((refused, "refused"), (untimed, "not timed")) if count)
    match contest.status:
        case "won":
            return f"{one_line(chosen.winner, _NAME_LIMIT)} {chosen.ratio:.2f}{memory}{f' ({out})' if out else ''}"
        case "not tried" | "cut short":
            return f"{contest.status} (no time left)"
        case "nothing to gain":
            return "original (nothing to gain)"
        case "no clear winner":
            hidden = "" if chosen.visible_gain is None else f" hides up to {chosen.visible_gain:.0%}"
            return f"original (noise{hidden or ': no clear winner'})"
        case "too little":
            most = "" if chosen.most_saved is None else f": {chosen.most_saved:.1%} of a step"
            return f"original (too little{most})"
        case "all refused" | "inconclusive":
            return f"original ({contest.status})"
    return f"original ({out})" if out else "original"


def contest_line(contest: Contest, done: int, total: int) -> str:
    """A finished contest in one line: "[3/12] RMSNorm [1,128,256] ~8% of prefill 1x128: torch.rms_norm 0.89"."""
    # Rounded: until all contests are over a share is of a few runs of the model, and the report has another.
    lines = [f"[{done}/{total}] {name}: {contest_result(contest)}" for name in _names(contest, "~{:.0%}")]
    return one_line(next((line for line in lines if len(line) <= WIDTH), lines[-1]), WIDTH)


def step_line(step: StepResult) -> str:
    """A finished step of the whole model in one line."""
    label = one_line(step.label, _NAME_LIMIT)
    if not step.original_us:
        return f"whole model, {label}: unchanged, the original runs"
    memory = memory_ratio(step.tuned_peak_bytes, step.original_peak_bytes)
    peak = "" if memory is None or f"{memory:.2f}" == "1.00" else f", memory {memory:.2f}"
    if step.low <= 1 <= step.high:
        return f"whole model, {label}: no clear difference ({step.low:.2f} to {step.high:.2f}){peak}"
    return f"whole model, {label}: {time_words(step.ratio, step.low, step.high)}{peak}"


def ways_line(label: str, ways: Sequence[CompiledStep]) -> str:
    """The ways of running a step, the fastest first: "prefill 1x128: compile 0.70, compile blocks 0.81, 2 more"."""
    ranked = sorted(ways, key=lambda way: (bool(way.problem), way.ratio))
    told = [f"{way.way} {'refused' if way.problem else f'{way.ratio:.2f}'}" for way in ranked]
    lines = [
        f"{one_line(label, _NAME_LIMIT)}: {', '.join([*told[:count], *more])}"
        for count in range(len(told), 0, -1)
        for more in [[f"{len(told) - count} more"] if count < len(told) else []]
    ]
    return next((line for line in lines if len(line) <= WIDTH), one_line(lines[-1], WIDTH))


class Lines:
    """A listener that says a line for whatever is finished: the one for the command line and for Python."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """``say`` is given each line."""
        self._say = say
        self._done = self._total = 0

    def __call__(self, event: Event) -> None:
        """Take note of an event of the run."""
        match event:
            case Captured():
                self._total = len(event.candidates)
                for note in event.notes:
                    self._say(note)
            case ContestAdded():
                self._total += 1
            case ContestFinished():
                self._done += 1
                self._say(contest_line(event.contest, self._done, self._total))
            case ContestLost():
                on = "its contest goes elsewhere" if event.goes_on else "its contest is given up"
                self._say(one_line(f"lost {event.device} ({one_line(event.reason, 36)}): {on}", 2 * WIDTH))
            case OriginalFailed():
                did = one_line(event.reason, 36)
                self._say(f"the original {did}; up to {event.processes} processes to see why")
            case WaysTimed():
                self._say(ways_line(event.label, event.compiled))
            case SizesTried():
                label, way = one_line(event.label, _NAME_LIMIT), one_line(event.way, _NAME_LIMIT)
                where = f"at {event.shown} of {event.tried} other sizes, too" if event.tried else "at no other size"
                self._say(f"{label}: {way} {where}{'' if event.tried else ', for want of time'}")
            case StepChecked() if event.disagreement:
                self._say(f"whole model, {one_line(event.label, _NAME_LIMIT)}: {one_line(event.disagreement)}")
            case StepFinished():
                self._say(step_line(event.result))
            case _:
                pass


def printed(stream: TextIO | None = None) -> Lines:
    """A listener that prints its lines, in a notebook to stdout, else to stderr, as they come."""

    def say(line: str) -> None:
        print(line, file=stream or (sys.stdout if is_notebook() else sys.stderr), flush=True)

    return Lines(say)


def is_watched() -> bool:
    """Whether somebody sees what is printed: in a terminal or a notebook."""
    return is_notebook() or bool(getattr(sys.stderr, "isatty", lambda: False)())


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def heard(spans: Listener, on_event: Listener | None, progress: bool | None) -> Listener:
    """Who is told of the run: who notes where its time goes; the caller's listener, printed lines, both, or nobody."""
    those = peers()
    is_first = those is None or those.rank == 0
    shows = on_event is None and is_watched() and is_first if progress is None else progress
    listeners: list[Listener] = [spans] if on_event is None else [spans, on_event]
    if shows:
        listeners.append(printed())

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
