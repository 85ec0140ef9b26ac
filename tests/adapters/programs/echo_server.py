"""Answers as many datagrams as its second argument says."""

from __future__ import annotations

import socket
import sys

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    print("serving at port", sock.getsockname()[1], flush=True)
    for _ in range(int(sys.argv[2])):
        data, address = sock.recvfrom(2048)
        print(data.decode(), "from", address, flush=True)
        sock.sendto(data.upper(), address)
