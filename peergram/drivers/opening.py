"""Makes an endpoint from what a program asks for: identity, key, trust, signaling, servers, memory and a bad network on purpose.

`Messages` and `peergram.aio` open their endpoints here, so that every option means the same in both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypedDict

from peergram.address import Address, canonical_address, parse_address
from peergram.config import Config
from peergram.crypto.keys import SigningKey
from peergram.crypto.policy import PinOutgoing, Policy
from peergram.crypto.trust import TrustStore
from peergram.drivers.authority_files import Source
from peergram.drivers.call_memory import CallMemory, state_folder
from peergram.drivers.driven_endpoint import DrivenEndpoint
from peergram.drivers.fake_network import EndpointBehindFakeNetwork, FakeNetwork
from peergram.drivers.relay_files import load_relay_map, load_relay_tickets
from peergram.drivers.signaling.choose import open_signaling
from peergram.drivers.signaling.lan import LanSignaling
from peergram.drivers.system import secure_entropy, wall_offset_us
from peergram.drivers.trust_files import KeySource, Standing, open_standing
from peergram.endpoint.endpoint import Endpoint
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.routes.ice_servers import IceServers
from peergram.routes.relay_map import RelayMap
from peergram.routes.relay_network import RelayOptions
from peergram.signaling.service import LocalParty, SignalingService
from peergram.wire.certificates import encode_signed_certificate
from peergram.wire.relay_news import RelayNews, Tickets

RelayMapSource = str | os.PathLike[str] | RelayMap
"""A file, or the map itself."""
RelayTicketSource = str | os.PathLike[str] | tuple[str, str]
"""A file, or one user and password for all places."""


class OpenOptions(TypedDict, total=False):
    """What `Messages` and `aio.open` take by name; `Messages` says what each means."""

    listen: str | Address | None
    trust: Policy | Iterable[Policy]
    key: KeySource | SigningKey | Literal[False] | None
    certificate: Source | None
    authorities: Source | Iterable[Source] | TrustStore
    pin_outgoing: PinOutgoing
    known_peers: str | os.PathLike[str] | bool
    signaling: str | Sequence[str] | SignalingService | None
    stun: str | Sequence[str]
    turn: str | Sequence[str]
    config: Config | None
    batching: bool
    fake_network: FakeNetwork | None
    state: str | os.PathLike[str] | bool
    relay_map: RelayMapSource | None
    relay_tickets: RelayTicketSource | None
    hide_ip: bool


class Delivering(Protocol):
    """What a signaling service needs of a driver."""

    def deliver_signal(self, sender: Identity | None, signal: bytes) -> None: ...
    def deliver_certificate(self, certificate: bytes) -> None: ...
    def deliver_relays(self, message: RelayNews | Tickets) -> None: ...


@dataclass(slots=True)
class Opened:
    """An endpoint and what belongs to it, ready for a driver; `release` the standing once the driver is closed."""

    endpoint: Endpoint
    driven: DrivenEndpoint
    """The same for the driver, behind the bad network if there is one."""
    standing: Standing
    service: SignalingService | None
    memory: CallMemory | None
    batching: bool

    def start_service(self, driver: Delivering, on_failure: Callable[[], None]) -> None:
        """Begin to be found by identity, once the driver runs; calls `on_failure` before it raises."""
        if self.service is None:
            return
        given, key = self.standing.certificate, self.standing.key
        party = LocalParty(
            self.standing.identity,
            key.public_bytes,
            key.sign,
            b"" if given is None else encode_signed_certificate(given),
            # What the program was given is what it means to show.
            driver.deliver_certificate if given is None else None,
            driver.deliver_relays,
        )
        try:
            self.service.start(party, driver.deliver_signal)
        except BaseException:
            on_failure()
            raise


def open_endpoint(
    identity: str | Identity | None = None,
    *,
    listen: str | Address | None = None,
    trust: Policy | Iterable[Policy] = "pinned",
    key: KeySource | SigningKey | Literal[False] | None = None,
    certificate: Source | None = None,
    authorities: Source | Iterable[Source] | TrustStore = (),
    pin_outgoing: PinOutgoing = "remember",
    known_peers: str | os.PathLike[str] | bool = True,
    signaling: str | Sequence[str] | SignalingService | None = "lan",
    stun: str | Sequence[str] = (),
    turn: str | Sequence[str] = (),
    config: Config | None = None,
    batching: bool = True,
    fake_network: FakeNetwork | None = None,
    state: str | os.PathLike[str] | bool = True,
    relay_map: RelayMapSource | None = None,
    relay_tickets: RelayTicketSource | None = None,
    hide_ip: bool = False,
) -> Opened:
    """As `Messages`, which explains the arguments and what they raise."""
    if not isinstance(config, Config | None):
        raise UsageError(f"config: give a peergram.Config(...), not {type(config).__name__}")
    if not isinstance(fake_network, FakeNetwork | None):
        raise UsageError(f"fake_network: give a FakeNetwork(...), not {type(fake_network).__name__}")
    if isinstance(signaling, Sequence) and not isinstance(signaling, str):
        signaling = ",".join(signaling)
    config = _hiding(config or Config(), listen, signaling) if hide_ip else config or Config()
    relays = relay_options(relay_map, relay_tickets, awaits_map=signaling != "lan" and isinstance(signaling, str))
    if signaling is None and (relay_map is not None or relay_tickets is not None):
        raise UsageError("relay_map: relays help to reach peers by identity, which takes signaling")
    bind = None if listen is None else _address_of(listen)
    folder = _state_folder_of(state)
    standing = open_standing(
        None if identity is None else Identity.of(identity),
        key=key,
        certificate=certificate,
        trust=trust,
        authorities=authorities,
        known_peers=known_peers,
        pin_outgoing=pin_outgoing,
    )
    try:
        service = open_signaling(signaling)
        # Without a name of our own nobody waits for us to come back.
        is_remembered = identity is not None and service is not None and folder is not None
        memory = CallMemory(standing.identity, folder) if is_remembered and folder is not None else None
        endpoint = Endpoint(
            standing.identity,
            config=config,
            entropy=secure_entropy,
            key=standing.key,
            certificate=standing.certificate,
            trust=standing.trust,
            wall_offset_us=wall_offset_us(),
            ice_servers=None if service is None else IceServers.of(*_texts(stun), *_texts(turn)),
            remembered=() if memory is None else memory.remembered,
            relay_options=relays,
        )
        if bind is not None:
            endpoint.listen(bind)
    except BaseException:
        standing.release()
        raise
    driven = endpoint if fake_network is None else EndpointBehindFakeNetwork(endpoint, fake_network)
    return Opened(endpoint, driven, standing, service, memory, batching)


def relay_options(
    relay_map: RelayMapSource | None, relay_tickets: RelayTicketSource | None, *, awaits_map: bool = False
) -> RelayOptions:
    """What a program says about relays, read from files where it names some. Raises UsageError."""
    relays = relay_map if isinstance(relay_map, RelayMap) else None
    if isinstance(relay_map, str | os.PathLike):
        relays = load_relay_map(Path(relay_map))
    elif relays is None and relay_map is not None:
        raise UsageError(f"relay_map: give a file or a RelayMap, not {type(relay_map).__name__}")
    if relay_tickets is None:
        return RelayOptions(relays, awaits_map=awaits_map)
    if isinstance(relay_tickets, tuple):
        if len(relay_tickets) != 2 or not all(isinstance(word, str) and word for word in relay_tickets):
            raise UsageError("relay_tickets: give a file, or (user, password)")
        return RelayOptions(relays, login=relay_tickets, awaits_map=awaits_map)
    if isinstance(relay_tickets, str | os.PathLike):
        return RelayOptions(relays, load_relay_tickets(Path(relay_tickets)), awaits_map=awaits_map)
    raise UsageError("relay_tickets: give a file, or (user, password)")


def _hiding(config: Config, listen: object, signaling: str | SignalingService | None) -> Config:
    """With what keeps our address from peers. Raises UsageError for what would tell it."""
    if listen is not None:
        raise UsageError("hide_ip: who listens at an address shows it; leave out listen")
    if signaling is None or signaling == "lan" or isinstance(signaling, LanSignaling):
        raise UsageError(
            "hide_ip: signals on the local network come from our address; name a server, as in signaling='wss://HOST/'"
        )
    return replace(config, candidates="relay")


def _state_folder_of(state: object) -> Path | None:
    """Where to keep what the next run should know; None if nowhere."""
    if isinstance(state, bool):
        return state_folder() if state else None
    if isinstance(state, str | os.PathLike):
        return Path(state)
    raise UsageError(f"state: give a folder, True or False, not {type(state).__name__}")


def _texts(servers: str | Sequence[str]) -> list[str]:
    return [servers] if isinstance(servers, str) else list(servers)


def _address_of(listen: object) -> Address:
    """A local address, however it was written."""
    if isinstance(listen, str):
        return parse_address(listen)
    if isinstance(listen, tuple) and len(listen) == 2 and isinstance(listen[0], str) and type(listen[1]) is int:
        return canonical_address(listen[0], listen[1])
    raise UsageError(f"listen: write the address and port as '0.0.0.0:27015' or ('0.0.0.0', 27015), not {listen!r}")
