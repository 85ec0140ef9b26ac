"""The secrets of the places on a relay map, as a file of an operator."""

from __future__ import annotations

from pathlib import Path

from peergram.drivers.relay_files import load_lines


def load_relay_secrets(path: Path) -> dict[str, bytes]:
    """Lines of a code and a secret. Raises UsageError, which never shows what might be a secret."""
    lines = load_lines(path, "the file of relay secrets", ("a secret",))
    return {code: secret.encode() for code, (secret,) in lines.items()}
