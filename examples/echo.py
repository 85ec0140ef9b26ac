"""Sends back whatever comes, or asks such a server: `echo.py 27015` in one terminal, `echo.py ip:127.0.0.1:27015` in another."""

from __future__ import annotations

import sys

import peergram
from peergram import SendFlags

CHANNEL = 1


def serve(port: int) -> None:
    """Accept everybody; one message less for every message read, so that nothing piles up."""
    with peergram.Messages("echo", listen=("0.0.0.0", port)) as net:
        net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
        print("listening at", net.local_addresses[0], flush=True)
        while True:
            net.wait()
            net.run_callbacks()
            for message in net.receive_messages_on_channel(CHANNEL, 64):
                net.send_message_to_user(message.identity, message.payload, SendFlags.RELIABLE, CHANNEL)


def ask(server: str) -> None:
    with peergram.Messages() as net:
        failures: list[peergram.SessionFailed] = []
        net.on_session_failed = failures.append
        net.send_message_to_user(server, b"Is anybody there?", SendFlags.RELIABLE, CHANNEL)
        while not failures:
            net.wait()
            net.run_callbacks()
            for message in net.receive_messages_on_channel(CHANNEL, 1):
                print("the server said:", message.payload.decode())
                return
        sys.exit(f"no session: {failures[0].debug}")


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(int(sys.argv[1]))
    else:
        ask(sys.argv[1])
