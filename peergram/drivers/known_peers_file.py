"""The file of peers whose keys are known: one line each, for programs to add to and for people to read and edit.

    str:bob SHA256:jEo1cAtcYzOBZ5LBRtV2DVa4VbyNHVDHJSUqA6kxZF0  2026-11-26  first contact

An identity (spaces and the like as %20), the fingerprint of its key, and anything; `#` begins a comment. A line that cannot be
read costs only itself. Programs append one line at a time, edits write the file anew, both under a lock beside it, so that
several programs share one file. Whoever can write here decides who is who, and so a file that others may write is refused.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from peergram.config import (
    KNOWN_PEERS_FILE_BYTES_MAX,
    KNOWN_PEERS_LINE_BYTES_MAX,
    KNOWN_PEERS_LOCK_US,
    KNOWN_PEERS_MAX,
    KNOWN_PEERS_PROBLEMS_MAX,
)
from peergram.crypto.keys import is_fingerprint
from peergram.drivers.private_files import (
    WRITABLE_BY_OTHERS,
    cannot,
    check_folder,
    lock_now,
    make_private_folder,
    open_private,
    read_all,
    write_over,
)
from peergram.errors import UsageError
from peergram.identity import Identity

FILE_NAME = "known_peers"
"""In the user's folder."""

_WHAT = "the file of known peers"
_FIRST_LINE = b"# Peers whose keys are known: identity, fingerprint, when and how. Lines may be edited, and deleted.\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_LOCK_LOOK_S = 0.005
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_LOCK = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)

_log = logging.getLogger(__name__)

_Look = tuple[int, int, int, int, int]
"""What changes when a file does: its number, size, time, rights and owner."""


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """One line."""

    identity: Identity
    fingerprint: str
    note: str = ""
    """When and how it came here, or whatever else stands behind the fingerprint."""


class KnownPeersFile:
    """Reads the file at once; raises UsageError if it cannot be believed. One that does not exist is empty."""

    def __init__(self, path: Path, *, today: Callable[[], date] = date.today) -> None:
        self.path = path
        self.peers: list[KnownPeer] = []
        self.problems: list[str] = []
        """Lines that were skipped, and why; one sentence each."""
        self._today = today
        self._unwritten: list[KnownPeer] = []
        self._look: _Look | None = None
        self._ends_within_line = False
        self._has_news = False
        self._warned: set[str] = set()
        self._read()
        self._has_news = False

    @property
    def entries(self) -> list[tuple[Identity, str]]:
        """Identities with the fingerprints of their keys, in the order of the file; an identity may have several."""
        return [(peer.identity, peer.fingerprint) for peer in (*self.peers, *self._unwritten)]

    def add(self, identity: Identity, fingerprint: str, how: str = "first contact") -> bool:
        """Remember a peer who was not known; False if meanwhile another program remembered another key for him.

        Does not raise for what is wrong with the file: then the peer is known for as long as this program runs, and the log says
        why.
        """
        new = self._new(identity, fingerprint, how)
        try:
            with self._locked():
                self._read_if_changed()
                known = [peer.fingerprint for peer in self.peers if peer.identity == identity]
                if known:
                    if fingerprint not in known:
                        _log.warning("%s is known by another key already; this one is not remembered", identity.printable)
                    return fingerprint in known
                self._append(new)
        except UsageError as error:
            self._warn(f"peers are not remembered for the next run: {error}")
            if (identity, fingerprint) not in self.entries:
                self._unwritten.append(new)
        return True

    def reload_if_changed(self) -> bool:
        """Whether there are other entries than before. A file that cannot be believed any more leaves them as they were."""
        try:
            self._read_if_changed()
        except UsageError as error:
            # Not looked at again before it changes.
            self._look = self._look_now()
            self._warn(f"{error}; the peers known until now remain")
        has_news, self._has_news = self._has_news, False
        return has_news

    def forget(self, identity: Identity) -> int:
        """Delete every line of that peer; how many there were. Raises UsageError if the file cannot be read or written."""
        gone = 0
        if self._look_now() is not None:
            with self._locked():
                gone = self._write_without(identity, None)
        self._unwritten = [peer for peer in self._unwritten if peer.identity != identity]
        return gone

    def accept(self, identity: Identity, fingerprint: str, how: str = "accepted by hand") -> None:
        """Let this be the peer's one key, whatever was known before. Raises UsageError if that cannot be written."""
        new = self._new(identity, fingerprint, how)
        with self._locked():
            self._write_without(identity, new)

    def _new(self, identity: Identity, fingerprint: str, how: str) -> KnownPeer:
        if not identity.is_valid:
            raise UsageError("nobody is no peer who could be known")
        if not is_fingerprint(fingerprint):
            raise UsageError(f"{fingerprint[:60]!r} is no fingerprint of a key: SHA256: and 43 more characters")
        return KnownPeer(identity, fingerprint, f"{self._today().isoformat()}  {how}")

    def _read(self) -> None:
        content, look = self._content()
        before = self.entries
        self._look = look
        self._ends_within_line = bool(content) and not content.endswith(b"\n")
        peers: dict[tuple[Identity, str], KnownPeer] = {}
        problems: list[str] = []
        for number, line in enumerate(content.removeprefix(_BYTE_ORDER_MARK).split(b"\n"), 1):
            try:
                peer = _peer_of(line)
                if peer is not None:
                    if len(peers) >= KNOWN_PEERS_MAX:
                        raise UsageError(f"this and what follows is not read: {KNOWN_PEERS_MAX} peers are the most")
                    peers.setdefault((peer.identity, peer.fingerprint), peer)
            except UsageError as error:
                problems.append(f"{str(self.path)!r}, line {number}: {error}")
                if len(peers) >= KNOWN_PEERS_MAX or len(problems) >= KNOWN_PEERS_PROBLEMS_MAX:
                    break
        if len(problems) >= KNOWN_PEERS_PROBLEMS_MAX:
            problems.append(f"{str(self.path)!r}: what follows is not read, since so many lines cannot be")
        self.peers, self.problems = list(peers.values()), problems
        known = {peer.identity for peer in self.peers}
        self._unwritten = [peer for peer in self._unwritten if peer.identity not in known]
        self._has_news |= self.entries != before
        for problem in problems:
            self._warn(problem)

    def _read_if_changed(self) -> None:
        if self._look_now() != self._look:
            self._read()

    def _content(self) -> tuple[bytes, _Look | None]:
        try:
            file = open_private(self.path, _WHAT, forbidden=WRITABLE_BY_OTHERS)
        except FileNotFoundError:
            return b"", None
        try:
            look = _look_of(os.fstat(file))
            check_folder(self.path.parent)
            return read_all(file, self.path, _WHAT, KNOWN_PEERS_FILE_BYTES_MAX), look
        except OSError as error:
            raise cannot(self.path, _WHAT, "be read", error) from None
        finally:
            os.close(file)

    def _look_now(self) -> _Look | None:
        try:
            return _look_of(os.stat(self.path, follow_symlinks=False))
        except OSError:
            return None

    def _append(self, new: KnownPeer) -> None:
        line = _line_of(new)
        size = self._look[1] if self._look is not None else 0
        start = b"\n" if self._ends_within_line else b"" if size else _FIRST_LINE
        if len(self.peers) >= KNOWN_PEERS_MAX or size + len(start + line) > KNOWN_PEERS_FILE_BYTES_MAX:
            raise UsageError(f"{_WHAT} {str(self.path)!r} is full: delete lines of peers who are long gone")
        try:
            file = os.open(self.path, _APPEND, 0o600)
            try:
                _write_whole(file, start + line)
                self._look = _look_of(os.fstat(file))
            finally:
                os.close(file)
        except OSError as error:
            raise cannot(self.path, _WHAT, "be written", error) from None
        self._ends_within_line = False
        self.peers.append(new)

    def _write_without(self, identity: Identity, new: KnownPeer | None) -> int:
        """The file without the lines of one peer, and with this one where the first of them was. How many there were."""
        content, look = self._content()
        kept: list[bytes] = []
        gone = 0
        for line in _LINE.findall(content) or ([_FIRST_LINE] if new is not None else []):
            if not _is_of(identity, line):
                kept.append(line)
                continue
            if not gone and new is not None:
                kept.append(_line_of(new))
            gone += 1
        if new is not None and not gone:
            if kept and not kept[-1].endswith(b"\n"):
                kept.append(b"\n")
            kept.append(_line_of(new))
        if gone or new is not None:
            changed = b"".join(kept)
            if new is not None and len(changed) > max(len(content), KNOWN_PEERS_FILE_BYTES_MAX):
                raise UsageError(f"{_WHAT} {str(self.path)!r} is full: delete lines of peers who are long gone")
            try:
                write_over(self.path, changed, look[3] & 0o777 if look is not None else 0o600)
            except OSError as error:
                raise cannot(self.path, _WHAT, "be written", error) from None
        self._read()
        return gone

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all who write the file; not with one who reads it. Raises UsageError if that does not come about."""
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            make_private_folder(self.path.parent)
            file = os.open(lock, _LOCK, 0o600)
        except OSError as error:
            raise cannot(self.path, _WHAT, "be written", error) from None
        try:
            until_s = time.monotonic() + KNOWN_PEERS_LOCK_US / 1_000_000
            while not lock_now(file):
                if time.monotonic() >= until_s:
                    raise UsageError(f"{_WHAT} {str(self.path)!r} cannot be written: another program has been at it for too long")
                time.sleep(_LOCK_LOOK_S)
            yield
        finally:
            os.close(file)

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warned and len(self._warned) < 2 * KNOWN_PEERS_PROBLEMS_MAX:
            self._warned.add(sentence)
            _log.warning("%s", sentence)


def _look_of(status: os.stat_result) -> _Look:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid


def _line_of(peer: KnownPeer) -> bytes:
    return f"{quote(peer.identity.text_bytes, safe=':')} {peer.fingerprint}  {peer.note}\n".encode()


def _peer_of(line: bytes) -> KnownPeer | None:
    """None for a comment or an empty line. Raises UsageError with what is wrong."""
    words = line.split(maxsplit=2)
    if not words or words[0].startswith(b"#"):
        return None
    if len(line) > KNOWN_PEERS_LINE_BYTES_MAX:
        raise UsageError(f"it is longer than {KNOWN_PEERS_LINE_BYTES_MAX} bytes")
    identity = Identity.parse_bytes(unquote_to_bytes(words[0]))
    if len(words) < 2:
        raise UsageError("the fingerprint is missing")
    fingerprint = words[1].decode("ascii", "replace")
    if not is_fingerprint(fingerprint):
        raise UsageError(f"{fingerprint[:60]!r} is no fingerprint of a key: SHA256: and 43 more characters")
    return KnownPeer(identity, fingerprint, words[2].decode("utf-8", "replace").strip() if len(words) > 2 else "")


def _is_of(identity: Identity, line: bytes) -> bool:
    """Also of a line whose fingerprint cannot be read: whoever forgets a peer wants to be rid of it."""
    words = line.removeprefix(_BYTE_ORDER_MARK).split(maxsplit=1)
    if words and not words[0].startswith(b"#"):
        with suppress(UsageError):
            return Identity.parse_bytes(unquote_to_bytes(words[0])) == identity
    return False


def _write_whole(file: int, data: bytes) -> None:
    """All of it or, as far as that is possible, nothing."""
    size = os.fstat(file).st_size
    try:
        written = 0
        while written < len(data):
            written += os.write(file, data[written:])
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, size)
        raise
