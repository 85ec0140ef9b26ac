"""Where this user keeps what is meant to last: keys, and the peers whose keys are known."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from peergram.errors import UsageError

HOME_VARIABLE = "PEERGRAM_HOME"


def config_folder() -> Path | None:
    """`$PEERGRAM_HOME`, or a folder in the system's one for settings; None if the system does not tell. Makes nothing.

    Raises UsageError if `PEERGRAM_HOME` is no absolute path: each working directory would have keys of its own.
    """
    told = os.environ.get(HOME_VARIABLE, "")
    if told:
        folder = Path(told)
        if not folder.is_absolute():
            raise UsageError(f"{HOME_VARIABLE} must be an absolute path, not {told!r}")
        return folder
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Application Support"
        else:
            xdg = os.environ.get("XDG_CONFIG_HOME", "")
            # As the XDG specification says, a path that is not absolute counts as none.
            base = Path(xdg) if xdg.startswith("/") else Path.home() / ".config"
    except RuntimeError:
        return None
    return base / "peergram"
