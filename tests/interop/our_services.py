"""Our line server and our STUN responder on one address, for programs of the reference.

python -m tests.interop.our_services 203.0.113.2
"""

from __future__ import annotations

import socket
import sys

from peergram.drivers.system import monotonic_us
from peergram.servers.line_server import LineServer
from peergram.servers.stun_responder import StunResponder

LINE_PORT = 10_000
STUN_PORT = 3_478
_DATAGRAM_BYTES_MAX = 2_048


def main(host: str) -> None:
    """Until killed."""
    LineServer((host, LINE_PORT))
    responder = StunResponder()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stun:
        stun.bind((host, STUN_PORT))
        print("listening", flush=True)
        while True:
            datagram, source = stun.recvfrom(_DATAGRAM_BYTES_MAX)
            if (answer := responder.handle_datagram(source, datagram, monotonic_us())) is not None:
                stun.sendto(answer, source)


if __name__ == "__main__":
    main(sys.argv[1])
