"""python-osc: /ping with numbers and text, and what comes back on a server of our own."""

from __future__ import annotations

import sys
from typing import Any

from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_server import BlockingOSCUDPServer
from pythonosc.udp_client import SimpleUDPClient

dispatcher = Dispatcher()


def on_pong(_: str, *arguments: Any) -> None:
    print("pong", *arguments, flush=True)


dispatcher.map("/pong", on_pong)
with BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher) as answers:
    client = SimpleUDPClient(sys.argv[1], int(sys.argv[2]))
    client.send_message("/ping", [1, 2.5, "three", answers.server_address[1]])
    answers.timeout = 10
    answers.handle_request()
    client.send_message("/bye", [])
