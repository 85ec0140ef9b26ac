"""Connections that a next run of this program must know of: a peer of the reference holds on to one whose other end died, and
drops every request meanwhile, unless it is closed by the id it had (chapter 9 of the P2P protocol).

Our own peers see by themselves that a peer started over; connections with them are not kept here.
"""

from __future__ import annotations

from collections.abc import Iterable

from peergram.config import REMEMBERED_CALLS_MAX, REMEMBERED_PER_PEER_MAX
from peergram.identity import Identity
from peergram.io_requests import CallNote


class Memory:
    """What an earlier run left, and what the next one is to be told. Drain `poll` after every command."""

    def __init__(self, remembered: Iterable[tuple[Identity, int]]) -> None:
        self._old: dict[Identity, list[int]] = {}
        self._live: dict[int, Identity] = {}
        self._notes: dict[int, CallNote] = {}
        """What was not polled yet, by connection id."""
        self._polled: set[int] = set()
        """Ids that the next run would be told now."""
        for peer, connection_id in remembered:
            ids = self._old.setdefault(peer, [])
            ids.append(connection_id)
            self._polled.add(connection_id)
        for peer, ids in self._old.items():
            for connection_id in ids[:-REMEMBERED_PER_PEER_MAX]:
                ids.remove(connection_id)
                self._forget(connection_id, peer)

    def old_ids(self, peer: Identity) -> list[int]:
        """Connections of an earlier run that this peer may still hold on to."""
        return list(self._old.get(peer, ()))

    def forget_old(self, peer: Identity, connection_id: int | None = None) -> bool:
        """That one is over, or all with this peer are; whether there was any."""
        ids = self._old.get(peer, [])
        gone = [each for each in ids if connection_id in (None, each)]
        for each in gone:
            ids.remove(each)
            self._forget(each, peer)
        if not ids:
            self._old.pop(peer, None)
        return bool(gone)

    def keep(self, peer: Identity, connection_id: int) -> None:
        """This connection lives, with a peer who may be of the reference."""
        if len(self._live) < REMEMBERED_CALLS_MAX:
            self._live[connection_id] = peer
            self._notes[connection_id] = CallNote(peer, connection_id, is_live=True)

    def forget(self, connection_id: int) -> None:
        """It is over, or the peer is one of our own."""
        peer = self._live.pop(connection_id, None)
        if peer is not None:
            self._forget(connection_id, peer)

    def _forget(self, connection_id: int, peer: Identity) -> None:
        self._notes.pop(connection_id, None)
        if connection_id in self._polled:
            self._notes[connection_id] = CallNote(peer, connection_id, is_live=False)

    def poll(self) -> CallNote | None:
        """The next thing that the next run should know."""
        if not self._notes:
            return None
        note = self._notes.pop(next(iter(self._notes)))
        if note.is_live:
            self._polled.add(note.connection_id)
        else:
            self._polled.discard(note.connection_id)
        return note
