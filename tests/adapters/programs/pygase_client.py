"""pygase: sees the time of a game pass, and gets an answer from it."""

from __future__ import annotations

import sys
import threading

from pygase import Client

answered = threading.Event()


def on_answer(number: int) -> None:
    print("the answer is", number, flush=True)
    answered.set()


client = Client()
client.register_event_handler("ANSWER", on_answer)
client.connect_in_thread(hostname=sys.argv[1], port=int(sys.argv[2]))
client.wait_until(lambda state: getattr(state, "ticks", 0) > 5, timeout=10)
client.dispatch_event("ASK", 41, retries=3)
if not answered.wait(10):
    sys.exit("no answer")
client.disconnect(shutdown_server=True)
