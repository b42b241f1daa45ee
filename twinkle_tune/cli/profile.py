"""``twinkle-tune profile``: contests for every slot of a model, and the profile they make."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinkle_tune.cli.artifacts import code_kept_in
from twinkle_tune.cli.beside import place_of
from twinkle_tune.cli.device import device_name, use_device
from twinkle_tune.cli.options import (
    IN_PROCESS_HELP,
    MODEL_HELP,
    STORE_HELP,
    parse_autocast,
    parse_budget,
    parse_count,
    parse_names,
    parse_sizes,
    parse_slowdown,
    profile_path,
    report_path,
)
from twinkle_tune.cli.past import locked, open_store
from twinkle_tune.cli.register import register_files
from twinkle_tune.cli.running import check_executor, executor_of, listener, neighbour_of
from twinkle_tune.cli.say import say, show_json_text, tell
from twinkle_tune.cli.typed import command_line
from twinkle_tune.cli.write import check_writable, write_report
from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.profile.files import descriptor_of, is_stream

if TYPE_CHECKING:
    from twinkle_tune.mode import Mode
    from twinkle_tune.objective import Aim
    from twinkle_tune.profile.schema import Profile
    from twinkle_tune.tune.journal import Journal


def profile(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    mode: Annotated[str, typer.Option(help="inference, train, compile or train+compile.")] = "inference",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...  [default: cuda if present]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...  [default: by the device]")] = None,
    autocast: Annotated[
        str | None, typer.Option(metavar="bf16", help="Run the model under autocast: bf16 or fp16.  [default: off]")
    ] = None,
    batch: Annotated[str | None, typer.Option(metavar="1,8", help="Batch sizes.")] = None,
    seq_len: Annotated[str | None, typer.Option(metavar="128,2048", help="Tokens in a sequence.")] = None,
    layers: Annotated[str | None, typer.Option(metavar="N", help="Keep only the first N layers.")] = None,
    register: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Your kernels: .py or .toml.")] = None,
    candidates: Annotated[str | None, typer.Option(metavar="A,B", help="Let only these candidates compete.")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="5m", help="Stop after this time. Under 1m little gets done.")
    ] = None,
    objective: Annotated[str, typer.Option(help="time (the fastest wins), memory or balanced.")] = "time",
    slowdown: Annotated[
        str | None,
        typer.Option(metavar="1.1", help="With balanced: allow this many times the original's time.  [default: 1.1]"),
    ] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help=IN_PROCESS_HELP)] = False,
    executor: Annotated[
        str | None,
        typer.Option(metavar="ray", help="Hold contests on the devices of a Ray cluster: ray or ray://HOST:PORT."),
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Let the model's attention implementations compete, too.")
    ] = False,
    head: Annotated[
        bool | None,
        typer.Option(
            "--head/--no-head",
            help="In training: let the last layer and the loss compete as one.  [default: by memory]",
        ),
    ] = None,
    ways: Annotated[
        bool | None,
        typer.Option(
            "--ways/--no-ways", help="Let other ways of running the whole model compete, too.  [default: by time]"
        ),
    ] = None,
    calls: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="With ways: each step will run N times; compiling counts."),
    ] = None,
    no_optimizer: Annotated[
        bool, typer.Option("--no-optimizer", help="Leave the AdamW step out of training steps.")
    ] = False,
    accumulate: Annotated[
        int, typer.Option(min=1, metavar="N", help="In train modes: micro-batches before an optimizer step.")
    ] = 1,
    dynamic: Annotated[
        bool | None,
        typer.Option("--dynamic/--no-dynamic", help="In compile modes: torch.compile's dynamic=.  [default: torch's]"),
    ] = None,
    from_hub: Annotated[
        str | None,
        typer.Option("--from-hub", metavar="REPO", help="Try only what won on the nearest machine of a collection."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the profile goes.  [default: profiles/<device>/<model>-<mode>.json]")
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep what is compiled there, for another machine of this kind."),
    ] = None,
    report: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Also write a report: a file (.html, .md, .csv, .json), or a format alone."),
    ] = None,
    store_named: Annotated[str | None, typer.Option("--store", metavar="FILE|URL", help=STORE_HELP)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was interrupted.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything again; drop an unfinished run.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let a run that was stopped replace a fuller profile.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fail if another run uses the device.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Also print where the time of this run went.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile itself and nothing else.")] = False,
) -> None:
    """Find the fastest right kernel for each part of MODEL.

    Each candidate for each slot is checked against the original, and then timed. The winners go into the profile.
    """
    batches, seq_lens = parse_sizes("--batch", batch), parse_sizes("--seq-len", seq_len)
    depth, budget_s = parse_count("--layers", layers), parse_budget(budget)
    cast = parse_autocast(autocast)
    names, most = parse_names("--candidates", candidates), parse_slowdown(slowdown)

    from twinkle_tune.mode import parse_mode
    from twinkle_tune.objective import parse_aim

    if executor is not None:
        check_executor(executor, in_process=in_process)
    if resume and fresh:
        raise TuneError("--resume and --fresh: got both, expected one: go on with the unfinished run, or drop it")

    # Whatever can be refused is refused before the model is loaded, and long before the first contest.
    parsed, aim = parse_mode(mode), parse_aim(objective, most)
    if not as_json and _is_terminal():
        tell(_loading(model))

    from twinkle_tune.models import load_model
    from twinkle_tune.models.bars import without_bars
    from twinkle_tune.models.presets import PRESETS
    from twinkle_tune.tune.journal import Journal, journal_path

    place, kind = use_device(device)
    path = out or profile_path(device_name(kind), model, parsed, aim.objective, cast)
    reports = [report_path(target, path) for target in report or []]
    check_writable([path, *(file for file, _ in reports), *([] if artifacts is None else [artifacts / "code"])])
    # What is relative is so to the folder in which the command was started, wherever the user's code goes.
    at, reports_at = path.absolute(), [(file.absolute(), form) for file, form in reports]
    # Beside a pipe or a device there is no place for a journal, and nothing to wait for.
    records = None if is_stream(at) else journal_path(at)
    if records is not None:
        check_writable([records])
    elif resume:
        raise TuneError(f"--resume: got --out {path}, which is no file, expected the file of the unfinished run")
    journal = None
    try:
        with locked(place, None if records is None else at, wait=not no_wait):
            journal = None if records is None else Journal(records, resume=resume, fresh=fresh)
            store = open_store(store_named, fresh=fresh)
            register_files(register or [])
            # In a file or a pipe what cannot be loaded stays one line: of the others only a preset's name is sure.
            if not as_json and not _is_terminal() and model in PRESETS:
                tell(_loading(model))
            with without_bars():
                loaded = load_model(model, place, dtype, depth, batches, seq_lens, parsed)

            from twinkle_tune.tune.autocast import autocast_to
            from twinkle_tune.tune.tune import tune_model

            with (
                listener(quiet=as_json) as listen,
                executor_of(
                    in_process=in_process, named=executor, device=kind, races_twice=from_hub is None
                ) as place_of_contests,
                autocast_to(cast, kind),
                code_kept_in(artifacts) as keep_code,
            ):
                made = tune_model(
                    loaded.model,
                    loaded.inputs,
                    mode=parsed,
                    device=kind,
                    name=loaded.name,
                    candidates=names,
                    budget_s=budget_s,
                    on_event=listen,
                    executor=place_of_contests,
                    journal=journal,
                    store=store,
                    attention=attention,
                    head=head,
                    ways=_competes(ways, parsed, aim),
                    calls=calls,
                    objective=aim.objective,
                    slowdown=aim.slowdown,
                    optimizer=not no_optimizer,
                    dynamic=dynamic,
                    accumulate=accumulate,
                    neighbour=None if from_hub is None else neighbour_of(from_hub, loaded.model, parsed, kind),
                )
                keep_code(loaded, made)
            if made.run is not None and made.run.started_from:
                tell(made.run.started_from)
            made = replace(made, command=command_line())
            at, path = place_of(made, at, path, force=force)
            _save(made, at, journal)
    except KeyboardInterrupt as stop:
        _keep(getattr(stop, "profile", None), at, path, journal, force=force)
        raise
    for file, form in reports_at:
        write_report(made, file, form, path)
    _show(made, [path, *(file for file, _ in reports)], as_json=as_json, timeline=timeline)


def _competes(asked: bool | None, mode: Mode, aim: Aim) -> bool:
    """Whether ways of running the whole model compete: where nobody says, if one could be chosen."""
    return not (aim.is_memory or mode.compiles) if asked is None else asked


def _loading(model: str) -> str:
    return f"Loading {model} ..."


def _is_terminal() -> bool:
    return bool(getattr(sys.stderr, "isatty", lambda: False)())


def _save(made: Profile, path: Path, journal: Journal | None) -> None:
    """Save a profile whole, and remove the journal, which has nothing to say any more."""
    try:
        made.save(path)
    except ProfileError as error:
        if journal is None or not journal.finished:
            raise
        raise ProfileError(
            f"{error}; what was measured is in {journal.path}: make room and repeat with --resume"
        ) from error
    if journal is not None:
        journal.remove()


def _keep(profile: object, at: Path, path: Path, journal: Journal | None, *, force: bool) -> None:
    """Save what an interrupted run had finished, and say so; ``path`` is how the user calls the place ``at``."""
    from twinkle_tune.profile.schema import Profile

    done = 0 if journal is None else journal.finished
    on = f"; go on with --resume ({journal.tally} in {journal.path})" if journal and done else ""
    if not isinstance(profile, Profile):
        when, nothing = (
            ("", "no profile was written") if on else (" before a contest was finished", "nothing was written")
        )
        tell(f"twinkle-tune: interrupted{when}; {nothing}{on}")
        return
    target, kept = place_of(profile, at, path, force=force, interrupted=True)
    replace(profile, command=command_line()).save(target)
    count = len(profile.contests)
    tell(f"twinkle-tune: interrupted; {count} finished contest{'' if count == 1 else 's'} kept in {kept}{on}")


def _show(profile: Profile, written: list[Path], *, as_json: bool, timeline: bool) -> None:
    if as_json:
        from twinkle_tune.profile.json_text import profile_text

        show_json_text(profile_text(profile))
    # A profile that went to stdout is the whole of what stands there.
    apart = as_json or any(descriptor_of(path) == 1 for path in written)
    if not apart:
        from twinkle_tune.cli.show import final_table

        final_table(profile, str(written[0]), timeline=timeline)
    for path in written:
        (tell if apart else say)(f"wrote {path}")
