"""tftpy: downloads a file, and uploads it again under another name."""

from __future__ import annotations

import sys

import tftpy

host, port, name, path = sys.argv[1:]
client = tftpy.TftpClient(host, int(port), {"blksize": 1400})
client.download(name, path, timeout=5)
client.upload("again-" + name, path, timeout=5)
print("done")
