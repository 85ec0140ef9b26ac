"""Who is let in, once his certificate and his signature are in order: the four policies, in any combination.

* `key`, always on: an identity that is a key, and signed with it.
* `ca`: an authority of ours vouches for the certificate of a name.
* `pinned`: a name keeps the key it was first met with. Whoever accepts a stranger, or dials one, remembers his key.
* `open`: anyone, unauthenticated.

One policy that lets a peer in is enough. Two things keep him out whatever else holds: a revoked key, and, where keys are
remembered, a name that is known with another key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from peergram.crypto.keys import fingerprint
from peergram.crypto.known_peers import KnownPeers
from peergram.crypto.trust import Scope, TrustStore
from peergram.errors import UsageError
from peergram.identity import Identity, IdentityKind

Policy = Literal["key", "pinned", "ca", "open"]
ProvenBy = Literal["key", "certificate", "pinned", "first_contact", "nothing"]
PinOutgoing = Literal["remember", "ask"]

POLICIES: Final[tuple[str, ...]] = get_args(Policy)
KNOWN_OTHERWISE: Final = "You are known here with another key; ask for the new one to be accepted."
"""What somebody hears who uses a name that is known with another key: with which one is our application's business only."""


@dataclass(frozen=True, slots=True)
class LetIn:
    """He may come in, and what makes his identity more than a claim."""

    proven_by: ProvenBy


@dataclass(frozen=True, slots=True)
class KeptOut:
    """He may not, with a sentence that says why."""

    text: str
    is_other_key: bool = False
    """Whether somebody uses a name that is known with another key: people should hear of it."""

    @property
    def told(self) -> str:
        """What he hears, if it is not `text`."""
        return KNOWN_OTHERWISE if self.is_other_key else ""


class Trust:
    """What one endpoint believes. `authorities` is for `ca`, `known` for `pinned`."""

    __slots__ = ("_knows_authorities_only", "authorities", "is_open", "known", "pin_outgoing")

    def __init__(
        self,
        policies: Policy | Iterable[Policy] = "open",
        *,
        authorities: TrustStore | None = None,
        known: KnownPeers | None = None,
        pin_outgoing: PinOutgoing = "remember",
    ) -> None:
        """Raises UsageError for a policy that does not exist, or one that lacks what it needs."""
        named = check_policies(policies)
        if "ca" in named and authorities is None:
            raise UsageError('trust="ca" needs authorities: give the file of at least one root')
        if pin_outgoing not in get_args(PinOutgoing):
            raise UsageError(f"pin_outgoing must be 'remember' or 'ask', not {pin_outgoing!r}")
        self.is_open = "open" in named
        self.authorities = authorities or TrustStore()
        """Whom they vouch for shows as proven by a certificate under every policy."""
        self.known = (KnownPeers() if known is None else known) if "pinned" in named else None
        """None unless keys are remembered."""
        self.pin_outgoing = pin_outgoing
        self._knows_authorities_only = "ca" in named and not named & {"open", "pinned"}

    def demands_authority(self, identity: Identity) -> bool:
        """Whether only a certificate of an authority lets this identity in, so that any defect of it counts."""
        return self._knows_authorities_only and identity.public_key_bytes is None

    def judge(self, identity: Identity, public_key: bytes, scope: Scope | None) -> LetIn | KeptOut:
        """Whether this identity with this key comes in; `scope` is that of the authority that vouches for him, if one does."""
        if self.authorities.is_revoked(public_key):
            return KeptOut("Cert has untrusted public key.  Revoked")
        own_key = identity.public_key_bytes
        if own_key == public_key:
            return LetIn("key")
        has_name = own_key is None and identity.kind != IdentityKind.IP_ADDRESS
        pins = self.known.fingerprints_of(identity) if self.known is not None and has_name else ()
        shown = fingerprint(public_key)
        if pins and shown not in pins:
            return KeptOut(_changed(identity, shown, pins), is_other_key=True)
        # Who is a key is vouched for by that key alone, and no certificate makes an address somebody's.
        if scope is not None and has_name:
            return LetIn("certificate")
        if pins:
            return LetIn("pinned")
        if self.is_open:
            return LetIn("nothing")
        if self.known is not None and has_name:
            return LetIn("first_contact")
        who = identity.printable
        if own_key is not None:
            return KeptOut(f"{who} is a key, and the certificate has another one: {shown}")
        if self.known is not None:
            return KeptOut(f'{who} is no name that could keep a key; trust="open" lets such peers in, unauthenticated')
        return KeptOut(f"Only identities that are their own key may connect: gen: and 64 hex digits, not {who}")


def check_policies(policies: Policy | Iterable[Policy]) -> frozenset[str]:
    """The policies named; raises UsageError for anything else."""
    named = frozenset((policies,) if isinstance(policies, str) else policies)
    unknown = sorted(map(repr, named - set(POLICIES)))
    if unknown or not named:
        said = ", ".join(unknown) or "none"
        raise UsageError(f"trust: use one or several of {', '.join(POLICIES)}, not {said}")
    return named


def _changed(identity: Identity, shown: str, pins: tuple[str, ...]) -> str:
    who = identity.printable
    return (
        f"{who} is known with another key: {shown} now, but {' or '.join(pins)} before. Somebody else uses this name, or "
        f"its owner has a new key; if you trust the new one: peergram known accept {who} {shown}"
    )
