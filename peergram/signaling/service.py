"""What a signaling service is to an endpoint, and what it is told about us.

A service carries opaque blobs between identities, as well as it can: it may lose them, repeat them, mix up their order and be
late by seconds, and rendezvous still succeeds (chapter 17.1 of the P2P protocol). What counts is that it says truly whom a blob
comes from, where it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from peergram.identity import Identity
from peergram.wire.relay_news import RelayNews, Tickets

Deliver = Callable[[Identity | None, bytes], None]
"""Takes (sender, signal). The sender is whom the service names; None if it cannot tell. Called from any thread."""


@dataclass(frozen=True, slots=True)
class LocalParty:
    """Who we are toward a service: our name, and the Ed25519 key that proves it where a service asks for proof."""

    identity: Identity
    public_key: bytes
    """32 bytes."""
    sign: Callable[[bytes], bytes]
    """The 64 bytes of a signature by that key."""
    certificate: bytes = b""
    """A serialized `SignedCertificate` for services that ask for one, if an authority has certified us."""
    take_certificate: Callable[[bytes], None] | None = None
    """Takes a certificate for our identity and key that a service has issued, again and again as they expire; from any thread."""
    take_relays: Callable[[RelayNews | Tickets], None] | None = None
    """Takes the relay map of a service, and tickets for its relays, again and again as they change or end; from any thread."""


class SignalingService(Protocol):
    """One way to reach others by name. It has its own thread or event loop."""

    def start(self, party: LocalParty, deliver: Deliver) -> None:
        """Begin to carry signals, once; does not wait for the network. Raises UsageError for an identity that it cannot carry."""

    def send(self, to: Identity, signal: bytes) -> None:
        """Carry `signal` there if it can be done. Never blocks, never fails, from any thread."""

    def close(self) -> None:
        """End, and deliver nothing more once this has returned, unless called from inside `deliver`. Harmless when repeated."""

    @property
    def status(self) -> str:
        """How it stands, in one plain sentence for people."""
