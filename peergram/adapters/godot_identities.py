"""The registry of identities that GodotSteam's scripts name their peers by, as it was until 4.7.

Only the functions that make an entry make one: looking up a name that is not there gives what an empty identity gives, and leaves
no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from peergram.adapters.godot_addresses import AddressRegistry, ipv4_number
from peergram.adapters.godot_constants import CONSTANTS
from peergram.config import GODOT_NAMES_MAX
from peergram.errors import UsageError
from peergram.identity import ANONYMOUS, Identity, IdentityKind

_ACCOUNT_MAX: Final = (1 << 32) - 1
_PERSON: Final = 1 << 56 | 1 << 52 | 1 << 32
"""What a person's 64-bit Steam id has above the account number: public universe, individual, desktop."""
_STADIA: Final = "stadia:"


class IdentityRegistry(AddressRegistry):
    """Names, and the identities they stand for; None until something is set."""

    def __init__(self) -> None:
        super().__init__()
        self._identities: dict[str, Identity | None] = {}

    def named(self, name: str) -> Identity | None:
        """What that name stands for, if it is there and was set."""
        return self._identities.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._identities

    def addIdentity(self, reference_name: str) -> bool:
        """Make an entry, or empty the one of that name; False if the registry is full."""
        if reference_name not in self._identities and len(self._identities) >= GODOT_NAMES_MAX:
            return False
        self._identities[reference_name] = None
        return True

    def clearIdentity(self, reference_name: str) -> bool:
        """Set it back to nobody; False if there is no such entry."""
        return self._set(reference_name, None)

    def getIdentities(self) -> list[dict[str, Any]]:
        """Every entry: `reference_name`, `steam_id`, `type`."""
        return [
            {"reference_name": name, "steam_id": self.getIdentitySteamID64(name), "type": self._type(name)}
            for name in self._identities
        ]

    def isIdentityInvalid(self, reference_name: str) -> bool:
        """Whether it stands for nobody."""
        return self.named(reference_name) is None

    def isIdentityLocalHost(self, reference_name: str) -> bool:
        """Whether it is the local host, as an address."""
        identity = self.named(reference_name)
        return identity is not None and identity.is_localhost

    def setIdentityLocalHost(self, reference_name: str) -> bool:
        """Let it stand for this machine."""
        return self._set(reference_name, ANONYMOUS)

    def setIdentitySteamID(self, reference_name: str, steam_id: int) -> bool:
        """Let it stand for a person: the account number (32 bits), or the whole Steam id; False if that is none."""

        def identity() -> Identity:
            return Identity.steam_id(steam_id | _PERSON if 0 < steam_id <= _ACCOUNT_MAX else steam_id)

        return self._make(reference_name, identity)

    def setIdentitySteamID64(self, reference_name: str, steam_id: int) -> bool:
        """Let it stand for a Steam id, 64 bits."""
        return self._make(reference_name, lambda: Identity.steam_id(steam_id))

    def getIdentitySteamID(self, reference_name: str) -> int:
        """Its Steam id, 64 bits; 0 if it is none."""
        return self.getIdentitySteamID64(reference_name)

    def getIdentitySteamID64(self, reference_name: str) -> int:
        """The same."""
        return self._number(reference_name, IdentityKind.STEAM_ID)

    def setIdentityIPAddr(self, reference_name: str, ip_address_name: str) -> bool:
        """Let it stand for an address of the other registry; False if that has no such entry."""
        address = self.address_named(ip_address_name)
        return address is not None and self._set(reference_name, Identity.ip(address))

    def getIdentityIPAddr(self, reference_name: str) -> int:
        """Its address as `getIPv4` has it; 0 if it is none, or of IPv6."""
        identity = self.named(reference_name)
        address = identity.ip_address if identity is not None else None
        return 0 if address is None else ipv4_number(address)

    def setGenericString(self, reference_name: str, this_string: str) -> bool:
        """Let it stand for a name of at most 31 bytes."""
        return self._make(reference_name, lambda: Identity.string(this_string))

    def getGenericString(self, reference_name: str) -> str:
        """That name; empty if it is none."""
        return self._text(reference_name, IdentityKind.GENERIC_STRING)

    def setGenericBytes(self, reference_name: str, data: bytes | int) -> bool:
        """Let it stand for 1 to 32 bytes; a number is one byte, the only form GodotSteam had."""
        return self._make(reference_name, lambda: Identity.generic_bytes(bytes([data]) if isinstance(data, int) else bytes(data)))

    def getGenericBytes(self, reference_name: str) -> bytes:
        """Those bytes; empty if it is none."""
        identity = self.named(reference_name)
        return identity.content if identity is not None and identity.kind == IdentityKind.GENERIC_BYTES else b""

    def setPSNID(self, reference_name: str, psn_id: int) -> bool:
        """Let it stand for a PSN id."""
        return self._make(reference_name, lambda: Identity.psn(psn_id))

    def getPSNID(self, reference_name: str) -> int:
        """That id; 0 if it is none."""
        return self._number(reference_name, IdentityKind.SONY_PSN)

    def setStadiaID(self, reference_name: str, stadia_id: int) -> bool:
        """Let it stand for a Stadia id. The reference has neither that kind nor a text for it: it is an unknown one there."""
        # The range is that of a PSN id.
        return self._make(reference_name, lambda: Identity.parse(f"{_STADIA}{Identity.psn(stadia_id).number}"))

    def getStadiaID(self, reference_name: str) -> int:
        """That id; 0 if it is none."""
        return _stadia_id(self.named(reference_name)) or 0

    def setXboxPairwiseID(self, reference_name: str, xbox_id: str) -> bool:
        """Let it stand for an Xbox pairwise id."""
        return self._make(reference_name, lambda: Identity.xbox_pairwise(xbox_id))

    def getXboxPairwiseID(self, reference_name: str) -> str:
        """That id; empty if it is none."""
        return self._text(reference_name, IdentityKind.XBOX_PAIRWISE)

    def parseIdentityString(self, reference_name: str, string_to_parse: str) -> bool:
        """Let it stand for what the text says (`str:alice`); False, and no change, if that is no identity."""
        return self._make(reference_name, lambda: Identity.parse(string_to_parse))

    def toIdentityString(self, reference_name: str) -> str:
        """As text; `invalid` for nobody."""
        identity = self.named(reference_name)
        return "invalid" if identity is None else identity.text

    def _set(self, name: str, identity: Identity | None) -> bool:
        if name not in self._identities:
            return False
        self._identities[name] = identity
        return True

    def _make(self, name: str, make: Callable[[], Identity]) -> bool:
        try:
            return self._set(name, make())
        # What a script passes may have any type.
        except (UsageError, TypeError, ValueError, AttributeError):
            return False

    def _type(self, name: str) -> int:
        identity = self.named(name)
        if identity is None:
            return CONSTANTS["IDENTITY_TYPE_INVALID"]
        return CONSTANTS["IDENTITY_TYPE_GOOGLE_STADIA"] if _stadia_id(identity) is not None else int(identity.kind)

    def _number(self, name: str, kind: IdentityKind) -> int:
        identity = self.named(name)
        return identity.number or 0 if identity is not None and identity.kind == kind else 0

    def _text(self, name: str, kind: IdentityKind) -> str:
        identity = self.named(name)
        if identity is None or identity.kind != kind:
            return ""
        return identity.content.decode("utf-8", "surrogateescape")


def _stadia_id(identity: Identity | None) -> int | None:
    if identity is None or identity.kind != IdentityKind.UNKNOWN_TYPE or not identity.text.startswith(_STADIA):
        return None
    digits = identity.text.removeprefix(_STADIA)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else None
