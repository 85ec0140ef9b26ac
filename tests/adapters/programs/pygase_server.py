"""pygase: a game whose time passes, and whose clients may ask for an echo."""

from __future__ import annotations

import sys
from typing import Any

from pygase import Backend, GameState


def time_step(game_state: Any, dt: float) -> dict[str, int]:
    return {"ticks": game_state.ticks + 1}


backend = Backend(GameState(ticks=0), time_step)


def on_ask(number: int, **_: Any) -> dict[str, int]:
    backend.server.dispatch_event("ANSWER", number + 1)
    return {}


backend.game_state_machine.register_event_handler("ASK", on_ask)
print("serving", flush=True)
backend.run("127.0.0.1", int(sys.argv[1]))
