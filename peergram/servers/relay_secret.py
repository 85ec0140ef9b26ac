"""The secret from which a relay's passwords are made: its own, kept for the next start, or one that is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from peergram.drivers.private_files import READABLE_BY_OTHERS, open_private, read_all
from peergram.drivers.system import secure_entropy
from peergram.errors import UsageError
from peergram.servers.private_files import make_private_folder, write_private

_SECRET_FILE: Final = "turn-secret"
_SECRET_BYTES: Final = 32
_TEXT_BYTES_MIN: Final = 16
_TEXT_BYTES_MAX: Final = 512
_WHAT: Final = "the relay's secret"


def own_relay_secret(folder: Path) -> bytes:
    """The one kept in `folder`, made if there is none. Raises UsageError if it cannot be read or written."""
    path = folder / _SECRET_FILE
    try:
        return given_relay_secret(path)
    except FileNotFoundError:
        secret = secure_entropy(_SECRET_BYTES).hex().encode()
    try:
        make_private_folder(folder)
        write_private(path, secret + b"\n")
    except OSError as error:
        raise UsageError(f"{_WHAT} cannot be kept in {str(folder)!r}: {error.strerror or error}") from None
    return secret


def given_relay_secret(path: Path) -> bytes:
    """The first line of a file that nobody else may read, as coturn's `static-auth-secret` has it. Raises UsageError, or
    FileNotFoundError if there is none."""
    file = open_private(path, _WHAT, forbidden=READABLE_BY_OTHERS, follow_links=True)
    try:
        content = read_all(file, path, _WHAT, _TEXT_BYTES_MAX)
    finally:
        os.close(file)
    secret = content.strip()
    if b"\n" in secret or len(secret) < _TEXT_BYTES_MIN:
        raise UsageError(f"{str(path)!r} holds no secret: write one line of {_TEXT_BYTES_MIN} characters at least")
    return secret
