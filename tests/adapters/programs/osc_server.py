"""python-osc: answers one /ping with /pong, and ends after /bye."""

from __future__ import annotations

import sys
from typing import Any

from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_server import BlockingOSCUDPServer
from pythonosc.udp_client import SimpleUDPClient

ENDED = False


def on_ping(address: tuple[str, int], *arguments: Any) -> None:
    reply = SimpleUDPClient(address[0], int(arguments[-1]))
    reply.send_message("/pong", list(arguments[1:-1]))


def on_bye(*_: Any) -> None:
    global ENDED
    ENDED = True


dispatcher = Dispatcher()
dispatcher.map("/ping", on_ping, needs_reply_address=True)
dispatcher.map("/bye", on_bye)
with BlockingOSCUDPServer(("127.0.0.1", int(sys.argv[1])), dispatcher) as server:
    print("serving", flush=True)
    while not ENDED:
        server.handle_request()
