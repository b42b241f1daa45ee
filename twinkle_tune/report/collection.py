"""A collection of profiles as a page: which model gains what on which device. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

from twinkle_tune.errors import one_line
from twinkle_tune.profile.collection import Collection, Listed

_HEAD = """---
license: apache-2.0
tags: [twinkle-tune, kernels, profiles]
---

# Profiles of {repo_id}

Which kernels are right and faster than the original, by model and machine, as `twinkle-tune` measured it. On a machine
that is the same, without measuring again:

```python
kernelize_model(model, profile="hub:{repo_id}")
```

On another, its winners are tried first: `twinkle-tune profile MODEL --from-hub {repo_id}`.
"""
_COLUMNS = (
    "| model | mode | time of a step with the winners, of the original's | calls with a winner | torch | measured |"
)


def page(repo_id: str, collection: Collection) -> str:
    """The page, in Markdown: a table a device, by the list of a collection."""
    lines = [_HEAD.format(repo_id=repo_id)]
    by_device = sorted(collection.profiles, key=lambda each: (each.environment.device_name, each.name, str(each.mode)))
    for device, found in groupby(by_device, key=lambda each: each.environment.device_name):
        lines += [f"## {_plain(device)}", "", _COLUMNS, "|---|---|---|---|---|---|", *_rows(found), ""]
    return "\n".join(lines) if collection.profiles else "\n".join([*lines, "It has no profiles yet.", ""])


def _rows(found: Iterable[Listed]) -> Iterable[str]:
    for each in found:
        gains = ", ".join(f"{_plain(step)}: {ratio:.3f}" for step, ratio in sorted(each.gains.items())) or "not timed"
        aim = "" if str(each.objective) == "time" else f" ({each.objective})"
        cells = (_plain(each.name), f"{each.mode}{aim}", gains, each.winners, _plain(each.environment.torch))
        yield "| " + " | ".join(map(str, cells)) + f" | [{_plain(each.created[:10])}]({each.path}) |"


def _plain(text: str) -> str:
    """A text of somebody's as text: on one line, and nothing of it is Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]()<>#!|~&])", r"\\\1", one_line(text, 120))
