"""docs/zoo.md and reports/zoo.json of the results."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from twinkle_tune.catalog.add_norm import ADD_NORM

ROOT = Path(__file__).parents[2]
PAGE, DATA = ROOT / "docs" / "zoo.md", ROOT / "reports" / "zoo.json"
_VERDICTS = ("held", "fault", "too long", "own forward fails", "cannot be built")
_KEPT = (
    *("name", "model_class", "aliases", "verdict", "message", "faults", "level", "modes", "slots", "right"),
    *("refused", "bound", "generated", "seconds"),
)
_MOST_TEXT = 160
_HEAD = """\
# The zoo of model types

`make zoo` builds every model type of the installed transformers that can be built tiny from its configuration on a CPU,
and does to each what a user does: it is profiled, every rival that passed the numerical check is bound, and it is
restored.
Each type has a process of its own, with limits on time and memory. **Held** means:

- the run ended, and left weights, buffers, plain attributes, flags and random states as they were;
- with the rivals bound, outputs (and in a quarter of the types, drawn by name, a training step's loss and gradients)
  differ from the original's by no more than [roundings](how-we-check.md) do; greedy tokens are the same, or tied;
- the model and each of its layers have the signatures that they had;
- restored, the model computes what it did, bit for bit.

Who is faster is not asked here: the clock is a single call. Rivals are those that need neither a compiler nor a GPU.
Models with pictures or sound beside text are run on text alone where they take it.
"""


def write_page(results: Mapping[str, Mapping[str, Any]], without: Mapping[str, str], types: Sequence[str]) -> list[str]:
    """Write both; returns their paths.

    Args:
        results: the last record of each type.
        without: types that no class of transformers stands for, with why.
        types: all others.
    """
    records = [_short(results[name]) for name in types if name in results]
    head = {
        "machine": _machine(),
        "date": max((record["when"] for record in results.values()), default="")[:10],
        "transformers": version("transformers"),
        "torch": version("torch"),
        "types": len(types),
        "parts": len(without),
    }
    lines = ",\n".join(json.dumps(record) for record in records)
    DATA.write_text(f'{json.dumps(head)[:-1]}, "results": [\n{lines}\n]}}\n', encoding="utf-8")
    PAGE.write_text(page({**head, "results": records}), encoding="utf-8")
    return [str(path.relative_to(ROOT)) for path in (PAGE, DATA)]


def page(data: Mapping[str, Any]) -> str:
    """The page as Markdown, of what the data says."""
    results: list[Mapping[str, Any]] = data["results"]
    counts = Counter(record["verdict"] for record in results)
    built = counts["held"] + counts["fault"]
    trained = sum("train" in record.get("modes", ()) for record in results)
    missing = data["types"] - len(results)
    summary = [
        f"transformers {data['transformers']}, torch {data['torch']}, {data['machine']}, {data['date']}.",
        "",
        "| | model types |",
        "|---|---|",
        f"| built and run | {built} ({trained} of them in training as well) |",
        *(f"| {verdict} | {counts[verdict]} |" for verdict in _VERDICTS),
        f"| not tried yet | {missing} |",
        "",
        f"{data['parts']} further names are parts of other models, for which transformers has no class to build. "
        f"{sum(record.get('bound', 0) for record in results)} places had a rival bound; "
        f"{sum(len(record.get('right', ())) for record in results)} rivals passed the check, "
        f"{sum(len(record.get('refused', {})) for record in results)} were refused. {_pieces(results)}",
    ]
    tables = [
        "## Built and run",
        "",
        "Slots have their number of calls that differ; rivals those that passed the check.",
        "",
        "| type | class | slots | rivals bound | places | refused | verdict |",
        "|---|---|---|---|---|---|---|",
        *(_row(record) for record in results if record["verdict"] in ("held", "fault")),
        "",
        "## Not run",
        "",
        "With the library's own message, for the smallest configuration that was tried.",
        "",
        "| type | verdict | message |",
        "|---|---|---|",
        *(f"| {r['name']} | {r['verdict']} | {_cell(r.get('message', ''))} |" for r in results if "message" in r),
    ]
    return "\n".join([_HEAD, *summary, "", *tables]) + "\n"


def _row(record: Mapping[str, Any]) -> str:
    slots = ", ".join(f"{name} {count}" for name, count in sorted(_by_short(record.get("slots", {})).items()))
    rivals = ", ".join(sorted({_name(right).partition(": ")[2] for right in record.get("right", ())}))
    refused = "; ".join(f"{_name(name)}: {why}" for name, why in sorted(record.get("refused", {}).items())[:3])
    verdict = record["verdict"] if record["verdict"] == "held" else f"fault: {record['faults'][0]}"
    cells = (record["name"], record["model_class"], slots, rivals, str(record.get("bound", 0)), refused, verdict)
    return f"| {' | '.join(map(_cell, cells))} |"


def _by_short(slots: Mapping[str, int]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for name, count in slots.items():
        counted[_name(name)] += count
    return dict(counted)


def _name(slot: str) -> str:
    """A function's slot by its own name."""
    head, colon, rest = slot.partition(": ")
    return f"{head.rpartition('.')[2]}{colon}{rest}"


def _cell(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("*", "\\*")
    return plain if len(plain) <= _MOST_TEXT else f"{plain[:_MOST_TEXT]} …"


def _pieces(results: Sequence[Mapping[str, Any]]) -> str:
    """In how many types a sum and its norm were places; that they could not be where all were tried before."""
    found = sum(ADD_NORM in record.get("slots", {}) for record in results)
    if found:
        return f"Types with [sums and their norms](catalog.md#sums-and-norms-of-a-block) among their places: {found}."
    return (
        "[Pieces of a block's graph](catalog.md#sums-and-norms-of-a-block) are places since 2026-11-30: these types "
        "were tried before, and have none."
    )


def _short(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: record[name] for name in _KEPT if name in record}
    if "refused" in kept:
        kept["refused"] = {_name(name): why[:_MOST_TEXT] for name, why in kept["refused"].items()}
    if "right" in kept:
        kept["right"] = _unique(map(_name, kept["right"]))
    if "slots" in kept:
        kept["slots"] = _by_short(kept["slots"])
    return kept


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _machine() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.machine()
