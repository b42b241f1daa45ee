"""``python -m tests.zoo``: every model type of transformers, tiny, on the CPU; see ``--help``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import time
import warnings
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path("out/zoo.jsonl")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for; results are added to a file of JSON lines, the last line of a type counts."""
    asked = _parsed(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    from tests.zoo.alone import tried_alone
    from tests.zoo.names import all_kinds
    from tests.zoo.page import write_page

    # One thread: a process that is forked must have no others, and nothing here is about speed.
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if asked.page:
        kinds, without = all_kinds()
        print(f"wrote {', '.join(write_page(read(asked.results), without, [kind.name for kind in kinds]))}")
        return
    kinds, _ = all_kinds()
    by_name = {name: kind for kind in kinds for name in (kind.name, *kind.aliases)}
    if asked.list:
        print("\n".join(kind.name for kind in kinds))
        return
    names = _chosen(asked, [kind.name for kind in kinds], by_name)
    print(f"{len(names)} of {len(kinds)} model types; results go to {asked.results}", flush=True)
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    ends_s = time.monotonic() + 60 * asked.minutes if asked.minutes else float("inf")
    for index, name in enumerate(names, start=1):
        if time.monotonic() > ends_s:
            print(f"stopped after {asked.minutes:g} minutes; the same command goes on with the rest")
            break
        record = tried_alone(by_name[name]) | {"when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        with asked.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        why = record.get("message") or "; ".join(record.get("faults", ())[:1])
        print(
            f"[{index}/{len(names)}] {name}: {record['verdict']} ({record.get('seconds', 0)} s) {why[:160]}".rstrip(),
            flush=True,
        )


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The last record of each type in a file of results; nothing where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def sampled(names: Iterable[str], count: int, seed: str) -> list[str]:
    """So many of the names, the same ones for the same seed (a date, as text)."""
    among = sorted(names)
    return random.Random(seed).sample(among, min(count, len(among)))


def _chosen(asked: argparse.Namespace, names: list[str], by_name: dict[str, Any]) -> list[str]:
    if asked.only:
        unknown = [name for name in asked.only if name not in by_name]
        if unknown:
            raise SystemExit(f"--only: got {', '.join(unknown)}, expected model types; see --list")
        return list(asked.only)
    done = read(asked.results)
    names = [name for name in names if asked.since is None or done.get(name, {}).get("when", "") < asked.since]
    if asked.since is None:
        names = [name for name in names if name not in done]
    if asked.faults:
        names = [name for name, record in done.items() if record["verdict"] == "fault"]
    if asked.sample:
        return sampled(names, asked.sample, asked.seed)
    # In another order than the library's, so that a run that is stopped early has seen some of everything.
    return sampled(names, len(names), asked.seed)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), metavar="TYPE,...", help="these types, done or not"
    )
    parser.add_argument("--since", metavar="TIME", help="again what was last done before this (2026-11-28T20:00:00Z)")
    parser.add_argument("--faults", action="store_true", help="again the types whose last verdict is a fault")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of the types that are due")
    parser.add_argument("--seed", default=datetime.now(UTC).strftime("%Y-%m-%d"), metavar="DATE", help="of the order")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no type after so many")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the types and end")
    parser.add_argument(
        "--page", action="store_true", help="write docs/zoo.md and reports/zoo.json of the results and end"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
