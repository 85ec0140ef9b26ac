"""Labs of network namespaces for tests: opened, or the test skipped with a sentence about what is missing.

The lab is the `netlab` module in the folder that PEERGRAM_NETLAB names, or in `../shared/netlab` beside the checkout.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAB_FOLDER = Path(os.environ.get("PEERGRAM_NETLAB") or ROOT.parent / "shared" / "netlab")
SOAK = os.environ.get("PEERGRAM_SOAK") == "1"


@contextmanager
def open_lab(words: str, letter: str, *, v6: bool = False) -> Iterator[Any]:
    """A running `netlab.Lab`; `letter` tells labs of one process apart that run at the same time."""
    if not (LAB_FOLDER / "netlab.py").is_file():
        pytest.skip("needs the netlab module: set PEERGRAM_NETLAB to the folder of netlab.py")
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs Linux and root, to make network namespaces")
    if missing := [tool for tool in ("ip", "tc", "nft") if not shutil.which(tool)]:
        pytest.skip(f"needs the tools {', '.join(missing)} (Debian: iproute2, nftables)")
    sys.path.insert(0, str(LAB_FOLDER))
    try:
        netlab = importlib.import_module("netlab")
    finally:
        sys.path.remove(str(LAB_FOLDER))
    try:
        lab = netlab.Lab.create(words, f"{letter}{os.getpid() % 10_000_000}", v6=v6)
    except (netlab.LabError, OSError) as error:
        pytest.skip(f"needs a machine that lets root make network namespaces: {error}")
    with lab:
        yield lab
