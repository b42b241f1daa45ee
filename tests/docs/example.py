"""The example of the profile format, measured anew and shown in its page: ``python -m tests.docs.example``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from twinkle_tune import tune_model
from twinkle_tune.profile.json_text import profile_text

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"```json\n.*?```", re.DOTALL)


def main() -> int:
    """Profile the tutorial's model with its first input; 1 where nothing won, for a busy machine shows nothing."""
    tutorial = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    toy = re.search(r"```python\n(# toy\.py\n.*?)```", tutorial, re.DOTALL)
    assert toy is not None
    names: dict[str, Any] = {"__name__": "toy"}
    exec(compile(toy[1], "toy.py", "exec"), names)
    # Its classes are found by name where a profile speaks of them.
    sys.modules["toy"] = type(sys)("toy")
    vars(sys.modules["toy"]).update(names)
    model, inputs = names["make"]()
    profile = tune_model(model, inputs[0], candidates=["torch"], name="toy:make")
    if not profile.winners:
        print(f"nothing won: {profile.verdict}")
        return 1
    text = profile_text(profile)
    (DOCS / "example-profile.json").write_text(text, encoding="utf-8")
    page = DOCS / "profile-format.md"
    start = text.index("\n", text.index('"contests": [')) + 1
    contests = text[start:].lstrip()
    shown = contests[: json.JSONDecoder().raw_decode(contests)[1]]
    indented = "\n".join(line.removeprefix("    ") for line in shown.splitlines())
    content = page.read_text(encoding="utf-8")
    page.write_text(_BLOCK.sub(lambda _: f"```json\n{indented}\n```", content, count=1), encoding="utf-8")
    print(profile.verdict)
    return 0


if __name__ == "__main__":
    sys.exit(main())
