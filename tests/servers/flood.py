"""An attacker in a process of his own: `python -m tests.servers.flood PORT VICTIM IDENTITIES MESSAGES_PER_SECOND SECONDS`.

He sends so many signals each second, all identities together, and logs in again as soon as he is let whenever he is cut. At the
end he says how many he has sent.
"""

from __future__ import annotations

import sys
import time

from peergram.identity import Identity
from peergram.signaling.websocket_protocol import CarriedSignal, encode_client_message

from .raw_client import RawClient, masked

_PER_WRITE = 50


def main(port: int, victim: str, identities: int, per_second: int, seconds: int) -> None:
    frame = masked(encode_client_message(CarriedSignal(Identity.of(victim), bytes(300))))
    clients: dict[int, RawClient] = {}
    sent = turn = 0
    print("ready", flush=True)
    begin_s = time.monotonic()
    while (now_s := time.monotonic()) - begin_s < seconds:
        if sent >= (now_s - begin_s) * per_second:
            time.sleep(0.001)
            continue
        turn += 1
        number = turn % identities
        try:
            if number not in clients:
                clients[number] = RawClient(("127.0.0.1", port), f"attacker{number}")
                # A connection that takes no more must not keep him from his others.
                clients[number].socket.settimeout(0.01)
            clients[number].socket.sendall(frame * _PER_WRITE)
            sent += _PER_WRITE
        except (OSError, AssertionError):
            # Cut, or not let in for now.
            if number in clients:
                clients.pop(number).close()
    print(sent, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
