"""Who a program is and whom it believes, from the user's files: its key, its certificate, authorities, and the peers it knows.

`open_standing` is the one place where what a program asked for and what the user's folder holds come together.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peergram.crypto.keys import SigningKey
from peergram.crypto.known_peers import KnownPeers
from peergram.crypto.policy import PinOutgoing, Policy, Trust, check_policies
from peergram.crypto.trust import TrustStore
from peergram.drivers.authority_files import Source, load_authorities, load_certificate
from peergram.drivers.config_folder import HOME_VARIABLE, config_folder
from peergram.drivers.key_files import HeldKey, hold_key_of, key_from_environment, load_key
from peergram.drivers.known_peers_file import KnownPeersFile
from peergram.drivers.system import secure_entropy
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.wire.certificates import SignedCertificate

KeySource = bytes | str | os.PathLike[str]
"""A file's content, or its path."""
KNOWN_PEERS_FILE = "known_peers"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Standing:
    """What an endpoint is made of; `release` gives the key back to other programs."""

    identity: Identity
    held: HeldKey
    certificate: SignedCertificate | None
    trust: Trust
    known_file: KnownPeersFile | None
    """Where keys are remembered; None if they are not, or for this run only."""

    @property
    def key(self) -> SigningKey:
        """What we sign with."""
        return self.held.key

    def release(self) -> None:
        """Let other programs have the key. Harmless when repeated."""
        self.held.release()


def open_standing(
    identity: Identity | None,
    *,
    key: KeySource | SigningKey | Literal[False] | None,
    certificate: Source | None,
    trust: Policy | Iterable[Policy],
    authorities: Source | Iterable[Source] | TrustStore,
    known_peers: str | os.PathLike[str] | bool,
    pin_outgoing: PinOutgoing,
) -> Standing:
    """As `Messages` takes them. Raises UsageError for what cannot be read, does not fit together, or would not be safe."""
    policies = check_policies(trust)
    signed, certified_key = (None, None) if certificate is None else load_certificate(certificate, identity)
    known_file = _open_known_peers(known_peers) if "pinned" in policies else None
    chosen = Trust(
        policies,  # type: ignore[arg-type]
        authorities=open_authorities(authorities) if _are_given(authorities) else None,
        known=KnownPeers(known_file.entries if known_file is not None else ()),
        pin_outgoing=pin_outgoing,
    )
    held = HeldKey(certified_key) if key is None and certified_key is not None else _hold_key(identity, key)
    who = Identity.generic_bytes(held.key.public_bytes) if identity is None else identity
    return Standing(who, held, signed, chosen, known_file)


def open_authorities(authorities: Source | Iterable[Source] | TrustStore) -> TrustStore:
    """What these files say of whom to believe; raises UsageError for one that cannot be read, and for none."""
    if isinstance(authorities, TrustStore):
        return authorities
    sources = [authorities] if isinstance(authorities, str | os.PathLike) else list(authorities)
    if not sources:
        raise UsageError("authorities: give the file of at least one root")
    return load_authorities(sources)


def _are_given(authorities: Source | Iterable[Source] | TrustStore) -> bool:
    return not isinstance(authorities, list | tuple) or bool(authorities)


def _hold_key(identity: Identity | None, key: KeySource | SigningKey | Literal[False] | None) -> HeldKey:
    if key is False:
        return HeldKey(SigningKey.generate(secure_entropy))
    if isinstance(key, SigningKey):
        return HeldKey(key)
    if isinstance(key, bytes | str | os.PathLike):
        return HeldKey(load_key(key))
    if key is not None:
        raise UsageError(f"key: give a file, its content, 32 bytes, or False for one of this run only, not {type(key).__name__}")
    if (given := key_from_environment()) is not None:
        return HeldKey(given)
    folder = config_folder()
    if folder is None:
        _log.warning("this user has no folder for keys (set %s): the key is made for this run only", HOME_VARIABLE)
        return HeldKey(SigningKey.generate(secure_entropy))
    return hold_key_of(identity, folder)


def _open_known_peers(known_peers: str | os.PathLike[str] | bool) -> KnownPeersFile | None:
    if isinstance(known_peers, str | os.PathLike):
        return KnownPeersFile(Path(known_peers))
    if not isinstance(known_peers, bool):
        raise UsageError(f"known_peers: give a file, True or False, not {type(known_peers).__name__}")
    folder = config_folder() if known_peers else None
    return None if folder is None else KnownPeersFile(folder / KNOWN_PEERS_FILE)
