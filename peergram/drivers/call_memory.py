"""Which calls of this program's earlier run its peers may still hold on to: a small file in the user's folder for state.

Each endpoint has a file of its own, made when there is something to write and deleted when it closes, and holds a lock on it for
as long as it lives. A file that nobody holds is of a run that ended without a word: its entries are taken over. So two programs
under one identity never touch each other's calls, and no clock or process id has to be believed.

A file grows by one line for each call that begins (`+ id peer`) or ends (`- id`), each written at once, and is written anew when
most of it is of no use any more. A line that cannot be read is skipped; a folder that cannot be used means that nothing is
remembered, which is logged once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from peergram.config import REMEMBERED_CALLS_MAX, REMEMBERED_FILE_BYTES_MAX, REMEMBERED_FILES_MAX
from peergram.drivers.file_lock import lock_file
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.io_requests import CallNote

_FIRST_LINE = b"peergram calls 1\n"
_SUFFIX = ".calls"

_log = logging.getLogger(__name__)


def state_folder() -> Path | None:
    """Where programs of this user keep what is of use to their next run; None if the system does not tell."""
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Application Support"
        else:
            told = os.environ.get("XDG_STATE_HOME", "")
            base = Path(told) if told.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return base / "peergram"


class CallMemory:
    """The file of one endpoint. Never raises: what cannot be written is not remembered."""

    def __init__(self, identity: Identity, folder: Path) -> None:
        self.remembered: list[tuple[Identity, int]] = []
        """Peers and connection ids of earlier runs."""
        self._folder = folder
        self._prefix = hashlib.sha256(identity.text_bytes).hexdigest()[:16] + "-"
        self._path: Path | None = None
        self._file = -1
        self._file_bytes = 0
        self._live: dict[int, Identity] = {}
        self._is_usable = True
        try:
            self._take_over()
        except OSError as error:
            self._give_up(error)

    def note(self, note: CallNote) -> None:
        """A call began, or is over."""
        if note.is_live:
            if len(self._live) >= REMEMBERED_CALLS_MAX:
                return
            self._live[note.connection_id] = note.peer
        elif self._live.pop(note.connection_id, None) is None:
            return
        if not self._is_usable:
            return
        try:
            if self._file < 0 or self._file_bytes > REMEMBERED_FILE_BYTES_MAX // 2:
                self._write_anew()
            else:
                self._append(_line_of(note))
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """The peers were told that all is over. Harmless when repeated."""
        self._is_usable = False
        self._discard(self._path, self._file)
        self._path, self._file = None, -1

    def abandon(self) -> None:
        """In a forked child: the file is the parent's."""
        self._is_usable = False
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
        self._path, self._file = None, -1

    def _give_up(self, error: OSError) -> None:
        _log.warning("calls are not remembered for a restart: %s", error)
        self.close()

    def _take_over(self) -> None:
        """What runs that are gone have left becomes part of ours."""
        if not self._folder.is_dir():
            return
        left: list[tuple[Path, int]] = []
        paths = sorted(self._folder.glob(f"{self._prefix}*{_SUFFIX}"))
        for path in paths[:REMEMBERED_FILES_MAX]:
            file = _open_if_left(path)
            if file is None:
                continue
            left.append((path, file))
            self._live.update(_read(file))
        for connection_id in list(self._live)[:-REMEMBERED_CALLS_MAX]:
            del self._live[connection_id]
        self.remembered = [(peer, connection_id) for connection_id, peer in self._live.items()]
        try:
            if self._live:
                self._write_anew()
        finally:
            for path, file in left:
                self._discard(path, file)

    def _write_anew(self) -> None:
        """A file with what is live now takes the place of the one before."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{self._prefix}{secrets.token_hex(8)}{_SUFFIX}"
        # Nobody may find it before it is locked; there, files that are open cannot be renamed.
        first = path if sys.platform == "win32" else path.with_suffix(".new")
        file = os.open(first, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            lock_file(file)
            lines = [_line_of(CallNote(peer, connection_id, is_live=True)) for connection_id, peer in self._live.items()]
            content = _FIRST_LINE + b"".join(lines)
            os.write(file, content)
            if first != path:
                first.rename(path)
        except OSError:
            self._discard(first, file)
            raise
        before = self._path, self._file
        self._path, self._file, self._file_bytes = path, file, len(content)
        self._discard(*before)

    def _append(self, line: bytes) -> None:
        os.write(self._file, line)
        self._file_bytes += len(line)

    @staticmethod
    def _discard(path: Path | None, file: int) -> None:
        """Delete it, and only then let go of it; on Windows that goes the other way round only."""
        if path is not None and sys.platform != "win32":
            with suppress(OSError):
                path.unlink()
        if file >= 0:
            with suppress(OSError):
                os.close(file)
        if path is not None and sys.platform == "win32":
            with suppress(OSError):
                path.unlink()


def _line_of(note: CallNote) -> bytes:
    peer = f" {quote(note.peer.text_bytes, safe=':')}" if note.is_live else ""
    return f"{'+' if note.is_live else '-'} {note.connection_id}{peer}\n".encode()


def _open_if_left(path: Path) -> int | None:
    """The file with a lock on it, if it is of a run that is gone."""
    try:
        file = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        lock_file(file)
        # Its owner may have deleted it just now.
        if os.fstat(file).st_nlink:
            return file
    except OSError:
        # Held by somebody.
        pass
    os.close(file)
    return None


def _read(file: int) -> dict[int, Identity]:
    """The calls that were live at the end, oldest first."""
    content = os.read(file, REMEMBERED_FILE_BYTES_MAX)
    if not content.startswith(_FIRST_LINE):
        if content:
            _log.warning("a file of calls to remember is none; it is ignored and deleted")
        return {}
    live: dict[int, Identity] = {}
    # What follows the last end of a line was not written to its end.
    for line in content.split(b"\n")[1:-1]:
        words = line.split(b" ")
        with suppress(ValueError, IndexError, UsageError):
            connection_id = int(words[1])
            if words[0] == b"+" and 0 < connection_id < 1 << 32:
                live[connection_id] = Identity.parse_bytes(unquote_to_bytes(words[2]))
            elif words[0] == b"-":
                live.pop(connection_id, None)
    return live
