"""Sends a line to each host:port it is given, and prints the answers."""

from __future__ import annotations

import socket
import sys

for number, server in enumerate(sys.argv[1:]):
    host, _, port = server.partition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(b"hello %d" % number, (host, int(port)))
        print(*sock.recvfrom(2048), flush=True)
