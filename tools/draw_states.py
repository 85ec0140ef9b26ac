#!/usr/bin/env python3
"""Draw the state tables of the code as docs/states.md; `--check` only says whether that file is current.

The tables are the truth: a transition that is not in them cannot happen. Run from a checkout: `python tools/draw_states.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from peergram.connection import states as connection_states  # noqa: E402
from peergram.routes import pairs as pair_states  # noqa: E402
from peergram.sessions import states as session_states  # noqa: E402

TARGET = _ROOT / "docs" / "states.md"


State = TypeVar("State", bound=Enum)
Because = TypeVar("Because", bound=Enum)


def draw(title: str, text: str, table: Mapping[tuple[State, Because], State]) -> str:
    """One table as a heading, a sentence and a Mermaid diagram."""
    lines = [f"## {title}", "", text, "", "```mermaid", "stateDiagram-v2"]
    lines += [f"    {before.name} --> {after.name}: {_words(cause)}" for (before, cause), after in table.items()]
    return "\n".join([*lines, "```", ""])


def _words(cause: Enum) -> str:
    return cause.name.lower().replace("_", " ")


def document() -> str:
    """The whole page."""
    return "\n".join(
        [
            "# States",
            "",
            "Drawn by `tools/draw_states.py` from the tables in the code.",
            "",
            draw(
                "Connection",
                "One encrypted connection (`peergram/connection/states.py`). Negative states of the reference stay inside.",
                connection_states.TRANSITIONS,
            ),
            draw(
                "Session",
                "What the application has with one identity (`peergram/sessions/states.py`).",
                session_states.TRANSITIONS,
            ),
            draw(
                "Candidate pair",
                "One way to a peer (`peergram/routes/pairs.py`).",
                pair_states.TRANSITIONS,
            ),
        ]
    )


def main() -> int:
    """Write or check the page."""
    if "--check" in sys.argv[1:]:
        current = TARGET.exists() and TARGET.read_text(encoding="utf-8") == document()
        print(f"{TARGET.name} is {'current' if current else 'out of date: run tools/draw_states.py'}")
        return 0 if current else 1
    TARGET.write_text(document(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(_ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
