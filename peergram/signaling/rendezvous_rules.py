"""Two rules of rendezvous that need nothing but their arguments: who becomes the server when both call, and what a side that was
restarted tells the peers of its former run (chapter 9 of the P2P protocol)."""

from __future__ import annotations

from typing import Final, Literal

from peergram.errors import EndReason
from peergram.wire.signals import Signal, SignalClosed

RESTARTED_TEXT: Final = "The process was restarted"


def symmetric_outcome(own_id: int, peer_id: int, own_cert: bytes, peer_cert: bytes) -> Literal["client", "server"]:
    """What our own connection becomes when the peer's connect request meets it (`CompareSymmetricConnections`).

    The ids are those of the two requests, the certificates the serialized ones as sent and received. The peer, with the arguments
    swapped, comes to the opposite result, unless ids and certificates are both the same; then both remain clients, and wait in
    vain, as those of the reference do.
    """
    if own_id != peer_id:
        order = -1 if own_id < peer_id else 1
    else:
        shared = min(len(own_cert), len(peer_cert))
        own, peer = own_cert[:shared], peer_cert[:shared]
        order = (own > peer) - (own < peer)
    if (own_id ^ peer_id) & 1:
        order = -order
    return "server" if order > 0 else "client"


def close_of_old_run(old_connection_id: int, own_identity: bytes, peer_identity: bytes) -> Signal:
    """What ends, at the peer, a connection of ours that died with a former run of this process.

    The peer finds it by our identity and our old id, since the signal names no id of the peer. It should go a little ahead of the
    new connect request: a surviving peer of the reference drops that while the old connection lives.
    """
    return Signal(
        from_connection_id=old_connection_id,
        from_identity=own_identity,
        to_identity=peer_identity,
        connection_closed=SignalClosed(EndReason.APP_GENERIC, RESTARTED_TEXT),
    )
