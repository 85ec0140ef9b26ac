"""A relay map and tickets for its places, as files of a program's user. What does not hold is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from peergram.config import RELAY_CREDENTIAL_BYTES_MAX, RELAY_MAP_BYTES_MAX
from peergram.drivers.private_files import READABLE_BY_OTHERS, open_private, read_all
from peergram.errors import UsageError
from peergram.routes.relay_map import RelayMap, parse_relay_map, pop_id
from peergram.wire.relay_news import Ticket

_LINES_BYTES_MAX: Final = 131_072
"""Of a file of tickets, or of secrets: 64 lines of the greatest length fit."""


def load_relay_map(path: Path) -> RelayMap:
    """Raises UsageError that names the file and the field."""
    try:
        with path.open("rb") as file:
            text = file.read(RELAY_MAP_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"the relay map {str(path)!r} cannot be read: {error.strerror or error}") from None
    try:
        return parse_relay_map(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def load_relay_tickets(path: Path) -> dict[str, Ticket]:
    """Lines of a code, a user name and a password. Raises UsageError, which never shows what might be a password."""
    return {
        code: Ticket(code, username, password)
        for code, (username, password) in load_lines(path, "the file of relay tickets", ("a user name", "a password")).items()
    }


def load_lines(path: Path, what: str, words: tuple[str, ...]) -> dict[str, list[str]]:
    """By code of a place the other words of its line, in a file that only its owner may read; `#` begins a remark. Raises
    UsageError."""
    try:
        file = open_private(path, what, forbidden=READABLE_BY_OTHERS, follow_links=True)
    except FileNotFoundError:
        raise UsageError(f"{what} {str(path)!r} does not exist") from None
    try:
        content = read_all(file, path, what, _LINES_BYTES_MAX)
    finally:
        os.close(file)
    found: dict[str, list[str]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        place = f"{what} {str(path)!r}, line {number}"
        try:
            code, *rest = line.decode("utf-8").split() or ["#"]
        except UnicodeDecodeError:
            raise UsageError(f"{place}: it is not UTF-8") from None
        if code.startswith("#"):
            continue
        if len(rest) != len(words):
            raise UsageError(f"{place}: write a code, {' and '.join(words)}, with a space between")
        try:
            pop_id(code)
        except UsageError:
            raise UsageError(f"{place}: the first word is no code of a place") from None
        if code in found:
            raise UsageError(f"{place}: {code} is there twice")
        if any(len(word.encode()) > RELAY_CREDENTIAL_BYTES_MAX for word in rest):
            raise UsageError(f"{place}: a word has more than {RELAY_CREDENTIAL_BYTES_MAX} bytes")
        found[code] = rest
    return found
