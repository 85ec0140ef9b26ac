"""The states of a connection, as a table: a missing entry is an error.

Protocol part 1, chapter 13. `CLOSED_BY_PEER` and `PROBLEM_DETECTED_LOCALLY` keep their name while they answer stragglers;
`DEAD` follows from all three ends when that time is over. Connections by signals pass through `FINDING_ROUTE` (part 3, chapter 6)
and come back to it while an own peer is silent.
"""

from __future__ import annotations

from enum import Enum, auto

from peergram.events import ConnectionState


class Cause(Enum):
    """What moves a connection from state to state."""

    HANDSHAKE_DONE = auto()
    RENDEZVOUS_DONE = auto()
    """The hellos are exchanged by signals; a way for datagrams is still to be found."""
    ROUTE_FOUND = auto()
    """Something authentic came."""
    ROUTE_LOST = auto()
    """The peer fell silent, and may be found elsewhere."""
    PEER_CLOSED = auto()
    PROBLEM = auto()
    APPLICATION_CLOSED = auto()
    APPLICATION_CLOSED_LINGERING = auto()
    LINGER_DONE = auto()
    ANSWERED_LONG_ENOUGH = auto()


_S = ConnectionState
TRANSITIONS: dict[tuple[ConnectionState, Cause], ConnectionState] = {
    (_S.CONNECTING, Cause.HANDSHAKE_DONE): _S.CONNECTED,
    (_S.CONNECTING, Cause.PEER_CLOSED): _S.CLOSED_BY_PEER,
    (_S.CONNECTING, Cause.PROBLEM): _S.PROBLEM_DETECTED_LOCALLY,
    (_S.CONNECTING, Cause.APPLICATION_CLOSED): _S.FIN_WAIT,
    (_S.CONNECTING, Cause.RENDEZVOUS_DONE): _S.FINDING_ROUTE,
    (_S.FINDING_ROUTE, Cause.ROUTE_FOUND): _S.CONNECTED,
    (_S.FINDING_ROUTE, Cause.PEER_CLOSED): _S.CLOSED_BY_PEER,
    (_S.FINDING_ROUTE, Cause.PROBLEM): _S.PROBLEM_DETECTED_LOCALLY,
    (_S.FINDING_ROUTE, Cause.APPLICATION_CLOSED): _S.FIN_WAIT,
    (_S.CONNECTED, Cause.ROUTE_LOST): _S.FINDING_ROUTE,
    (_S.CONNECTED, Cause.PEER_CLOSED): _S.CLOSED_BY_PEER,
    (_S.CONNECTED, Cause.PROBLEM): _S.PROBLEM_DETECTED_LOCALLY,
    (_S.CONNECTED, Cause.APPLICATION_CLOSED): _S.FIN_WAIT,
    (_S.CONNECTED, Cause.APPLICATION_CLOSED_LINGERING): _S.LINGER,
    (_S.LINGER, Cause.LINGER_DONE): _S.FIN_WAIT,
    (_S.LINGER, Cause.PEER_CLOSED): _S.FIN_WAIT,
    (_S.LINGER, Cause.PROBLEM): _S.FIN_WAIT,
    (_S.LINGER, Cause.APPLICATION_CLOSED): _S.FIN_WAIT,
    (_S.CLOSED_BY_PEER, Cause.ANSWERED_LONG_ENOUGH): _S.DEAD,
    (_S.PROBLEM_DETECTED_LOCALLY, Cause.ANSWERED_LONG_ENOUGH): _S.DEAD,
    (_S.FIN_WAIT, Cause.ANSWERED_LONG_ENOUGH): _S.DEAD,
}
