"""One connection that was called by identity: its conversation by signals, its ICE agent, and the way its packets take now.

It is to such a connection what socket and address are to one over plain UDP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peergram.address import Address
from peergram.config import SIGNAL_TELL_AGAIN_US
from peergram.identity import Identity
from peergram.routes.candidates import Base
from peergram.routes.ice_agent import IceAgent
from peergram.routes.ping_location import PingLocation
from peergram.signaling.rendezvous import Rendezvous
from peergram.timing import NEVER
from peergram.wire.signals import ReliableSignal

if TYPE_CHECKING:
    from peergram.endpoint.link import Link


class Call:
    """Made when we dial, or when a stranger's request passed the checks."""

    __slots__ = (
        "agent",
        "armed_at_us",
        "caller_key",
        "entries",
        "is_asked",
        "is_end_said",
        "is_nominated",
        "is_ready",
        "link",
        "local_password",
        "peer_identity",
        "peer_password",
        "rendezvous",
        "tell_again_at_us",
        "tell_again_wait_us",
        "told",
        "told_location",
        "was_checked",
        "way",
    )

    def __init__(self, link: Link, rendezvous: Rendezvous, peer_identity: Identity) -> None:
        self.link = link
        self.rendezvous = rendezvous
        self.peer_identity = peer_identity
        self.agent: IceAgent | None = None
        """None until our application wants this connection: before that, nobody learns an address of ours (M5)."""
        self.local_password = b""
        self.peer_password = b""
        self.entries: list[ReliableSignal] = []
        """What the peer told us before we had an agent."""
        self.caller_key: tuple[Identity, int] | None = None
        """(peer, his connection id), once known: how his signals without our id find it."""
        self.way: tuple[Base, Address] | None = None
        """Where packets go now."""
        self.is_nominated = False
        """Whether both sides have agreed on that way."""
        self.was_checked = False
        """Whether the peer has just checked that way."""
        self.tell_again_at_us = NEVER
        """When our password and candidates go once more, since there is no way yet,"""
        self.tell_again_wait_us = SIGNAL_TELL_AGAIN_US
        """and how long after the last time that is."""
        self.told: tuple[str, str] | None = None
        """The route and address that the application was last told."""
        self.told_location: PingLocation | None = None
        """The ping location of ours that the peer was last told."""
        self.is_end_said = False
        self.is_asked = False
        """Whether the peer was asked by signal if it is over for him, as somebody says."""
        self.is_ready = False
        self.armed_at_us = NEVER
