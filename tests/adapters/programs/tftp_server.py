"""tftpy: serves a folder."""

from __future__ import annotations

import sys

import tftpy

print("serving", flush=True)
tftpy.TftpServer(sys.argv[2]).listen("127.0.0.1", int(sys.argv[1]), timeout=2)
