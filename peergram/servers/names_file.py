"""Which key each name belongs to, from one run of the server to the next: a text file that people can read and mend.

One line per name: the name, its key, when it was last in use, and how long it is kept after that. Spaces and what cannot be
printed are written as in URLs. A line that cannot be read is named and left out, and the file as it was is kept beside the new
one. Two servers never share a file: each would undo what the other wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from urllib.parse import quote, unquote_to_bytes

from peergram import config as limits
from peergram.drivers.call_memory import state_folder
from peergram.drivers.private_files import lock_now
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.servers.private_files import make_private_folder, write_private
from peergram.servers.signaling_core import OwnedName
from peergram.signaling.websocket_protocol import check_name

_HEADER = """\
# peergram names 1
# Which key each name belongs to. While the server is stopped, a line may be deleted to free its name, or added.
# Name, key, last use (UTC), and how long the name is kept after it: a month, or an hour for one that was never in use for long.
"""
_FIRST_LINE = _HEADER.partition("\n")[0]
_MONTH, _HOUR = "month", "hour"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def default_names_file(folder: Path | None = None) -> Path | None:
    """In this folder, else in the user's for state; None if the system does not tell where that is."""
    if folder is None:
        of_user = state_folder()
        folder = of_user / "serve" if of_user is not None else None
    return folder / "names.txt" if folder is not None else None


class NamesFile:
    """The file, held until `close`. Times of `names` are microseconds since 1970."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if it cannot be read, belongs to a server that runs, or is something else than a file of names."""
        self.path = Path(os.path.realpath(path))
        self.names: list[OwnedName] = []
        self.complaints: list[str] = []
        """A sentence for each line that is left out."""
        self._saving = Lock()
        self._damaged: bytes | None = None
        self._lock = -1
        try:
            make_private_folder(self.path.parent)
            self._lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            self._hold()
            content = self._read()
        except OSError as error:
            self.close()
            text = f"the names cannot be kept in {str(self.path)!r}: {error.strerror or error}"
            raise UsageError(f"{text}; give another file with --names, or 'off'") from None
        except UsageError:
            self.close()
            raise
        if self.complaints:
            self._damaged = content

    def save(self, names: Iterable[OwnedName], offset_us: int = 0) -> None:
        """Write them all, from any thread; `offset_us` makes their times microseconds since 1970. Raises OSError."""
        content = names_text(names, offset_us).encode()
        with self._saving:
            if self._damaged is not None:
                write_private(self.path.with_name(self.path.name + ".bad"), self._damaged)
                self._damaged = None
            write_private(self.path, content)

    def close(self) -> None:
        """Another server may have it now."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _hold(self) -> None:
        if not lock_now(self._lock):
            text = f"the names in {str(self.path)!r} are those of another server that runs"
            raise UsageError(f"{text}; give this one a file of its own with --names, or 'off'") from None

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                content = file.read(limits.SERVER_NAMES_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return b""
        if len(content) <= limits.SERVER_NAMES_FILE_BYTES_MAX:
            self.names, self.complaints = parse_names(content, str(self.path))
        if content.strip() and not self.names and not content.removeprefix(b"\xef\xbb\xbf").startswith(_FIRST_LINE.encode()):
            raise UsageError(f"{str(self.path)!r} is no file of names: it does not begin with {_FIRST_LINE!r}")
        return content


def pause_between_saves_us(took_us: int | None) -> int:
    """How long to let news gather after a save that took so long; None stands for one that failed."""
    if took_us is None:
        return limits.SERVER_NAMES_SAVE_RETRY_US
    return max(limits.SERVER_NAMES_SAVE_US, took_us * limits.SERVER_NAMES_SAVE_SHARE)


def names_text(names: Iterable[OwnedName], offset_us: int = 0) -> str:
    """The file's whole text, in order of the names."""
    lines = [
        f"{_word_of(each.identity)}  {each.public_key.hex()}  {_date_of(each.used_at_us + offset_us)}  {_kept_of(each)}\n"
        for each in names
    ]
    return _HEADER + "".join(sorted(lines))


def parse_names(content: bytes, file: str) -> tuple[list[OwnedName], list[str]]:
    """The names, and sentences about lines that are left out."""
    names: dict[Identity, OwnedName] = {}
    bad: list[str] = []
    text = content.decode("utf-8-sig", "surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            name = _name_in(words)
            if name.identity in names:
                raise UsageError("the name is there already")
        except UsageError as error:
            bad.append(f"Line {number} of {file} is left out: {error}.")
        else:
            names[name.identity] = name
    shown = bad[: limits.SERVER_NAMES_COMPLAINTS_MAX]
    if len(bad) > len(shown):
        shown.append(f"{len(bad) - len(shown)} more of its lines are left out.")
    return list(names.values()), shown


def _name_in(words: list[str]) -> OwnedName:
    """Raises UsageError with what is wrong, for the middle of a sentence."""
    if len(words) not in (3, 4):
        raise UsageError("it is not a name, a key, a date, and 'month' or 'hour'")
    identity = Identity.parse_bytes(unquote_to_bytes(words[0].encode("utf-8", "surrogateescape")))
    check_name(identity)
    if identity.public_key_bytes is not None:
        raise UsageError("this name is a key, and belongs to nobody else")
    try:
        key = bytes.fromhex(words[1])
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError("its key is not 64 hexadecimal digits")
    try:
        used = datetime.fromisoformat(words[2])
    except ValueError:
        raise UsageError("its date is not one such as 2031-12-24 or 2031-12-24T18:00:00Z") from None
    used = used.replace(tzinfo=UTC) if used.tzinfo is None else used
    kept = words[3] if len(words) == 4 else _MONTH
    if kept not in (_MONTH, _HOUR):
        raise UsageError(f"its last word is neither {_MONTH!r} nor {_HOUR!r}")
    return OwnedName(identity, key, (used - _EPOCH) // _MICROSECOND, kept == _MONTH)


def _word_of(identity: Identity) -> str:
    def written(c: str) -> str:
        return c if c.isprintable() and not c.isspace() and c != "%" else quote(c.encode("utf-8", "surrogateescape"))

    return "".join(map(written, identity.text))


def _date_of(at_us: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=at_us):%Y-%m-%dT%H:%M:%SZ}"


def _kept_of(name: OwnedName) -> str:
    return _MONTH if name.is_proven else _HOUR
