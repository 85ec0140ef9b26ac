"""A signaling server in virtual time, and clients that say what a test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from peergram.address import Address
from peergram.config import SERVER_LOGINS_PER_S
from peergram.crypto.keys import SigningKey
from peergram.identity import Identity
from peergram.servers.fleet_names import LeasedNames
from peergram.servers.login_certificates import LoginCertificates
from peergram.servers.relay_desk import RelayDesk
from peergram.servers.signaling_core import NOBODY, Ask, Cut, FleetOutput, NamesChanged, OwnedName, Send, SignalingCore
from peergram.signaling.websocket_protocol import (
    CarriedSignal,
    Hello,
    Login,
    Refused,
    ServerMessage,
    Welcome,
    decode_server_message,
    encode_client_message,
    login_text,
)

URL = "ws://192.0.2.7:27180/"
SERVER: Address = ("192.0.2.7", 27_180)
SECOND = 1_000_000


def key_of(name: str) -> SigningKey:
    return SigningKey.generate(Random(name).randbytes)


class Server:
    """The core and what it said to each connection."""

    def __init__(
        self,
        *,
        names: Sequence[OwnedName] = (),
        certificates: LoginCertificates | None = None,
        relays: RelayDesk | None = None,
        now_us: int = SECOND,
        on_fleet: Callable[[FleetOutput], None] | None = None,
        leases: LeasedNames | None = None,
        **options: int,
    ) -> None:
        self.now_us = now_us
        self.core = SignalingCore(
            entropy=Random(0).randbytes,
            accepts_url=lambda url, local: str(url) == URL,
            now_us=now_us,
            names=names,
            certificates=certificates,
            relays=relays,
            is_in_fleet=on_fleet is not None,
            leases=leases,
            **options,
        )
        self.said: dict[int, list[ServerMessage]] = {}
        self.cut: set[int] = set()
        self.asked: list[int] = []
        self.news_of_names = self.sent_to_nobody = 0
        self.keeps_names = True
        self.kept: list[OwnedName] = []
        self.connections = 0
        self._on_fleet = on_fleet

    def drain(self) -> None:
        while (output := self.core.poll_output()) is not None:
            if isinstance(output, Ask):
                self.asked.append(output.client_id)
                continue
            if isinstance(output, NamesChanged):
                self.news_of_names += 1
                if self.keeps_names:
                    self.kept = list(self.core.owned_names())
                continue
            if isinstance(output, FleetOutput):
                assert self._on_fleet is not None
                self._on_fleet(output)
                continue
            if output.client_id == NOBODY:
                self.sent_to_nobody += 1
                continue
            assert output.client_id not in self.cut, "something was said after the end"
            if output.frame is not None:
                self.said.setdefault(output.client_id, []).append(decode_server_message(output.frame))
            if isinstance(output, Cut):
                self.cut.add(output.client_id)
            else:
                assert isinstance(output, Send)

    def pass_time(self, us: int) -> None:
        """Timers run when they are due, as a driver would have it."""
        until_us = self.now_us + us
        while (deadline := self.core.poll_timeout()) is not None and deadline.at_us <= until_us:
            self.now_us = max(self.now_us, deadline.at_us)
            self.core.handle_timeout(self.now_us)
            self.drain()
        self.now_us = until_us

    def connect(self, host: str = "192.0.2.1") -> Client:
        self.connections += 1
        client = Client(self, self.connections)
        self.core.handle_connected(client.number, (host, 40_000), SERVER, self.now_us)
        self.core.handle_ready(client.number, self.now_us)
        self.drain()
        return client

    def log_in(self, name: str, key: SigningKey | None = None, host: str = "192.0.2.1") -> Client:
        # One after another, as fast as logins are taken for ever.
        self.pass_time(SECOND // SERVER_LOGINS_PER_S + 1)
        client = self.connect(host)
        client.log_in(name, key)
        assert any(isinstance(message, Welcome) for message in client.heard), client.heard
        client.heard.clear()
        return client


class Client:
    """One connection; `heard` is what the server said."""

    def __init__(self, server: Server, number: int) -> None:
        self.server = server
        self.number = number

    @property
    def heard(self) -> list[ServerMessage]:
        return self.server.said.setdefault(self.number, [])

    @property
    def is_cut(self) -> bool:
        return self.number in self.server.cut

    @property
    def signals(self) -> list[CarriedSignal]:
        return [message for message in self.heard if isinstance(message, CarriedSignal)]

    @property
    def refusal(self) -> int | None:
        last = self.heard[-1] if self.heard else None
        return last.code if isinstance(last, Refused) else None

    def say(self, frame: bytes | None) -> None:
        self.server.core.handle_frame(self.number, frame, self.server.now_us)
        self.server.drain()

    def login(self, name: str, key: SigningKey | None = None, *, url: str = URL) -> Login:
        """A right login for what the server has said."""
        hello = self.heard[-1]
        assert isinstance(hello, Hello)
        key = key or key_of(name)
        identity = Identity.generic_bytes(key.public_bytes) if name == "key" else Identity.of(name)
        nonce = b"n" * 32
        text = login_text(server_nonce=hello.nonce, client_nonce=nonce, url=url, identity=identity, public_key=key.public_bytes)
        return Login(identity, key.public_bytes, nonce, url, key.sign(text))

    def log_in(self, name: str, key: SigningKey | None = None) -> None:
        self.say(encode_client_message(self.login(name, key)))

    def send(self, to: str, blob: bytes = b"blob") -> None:
        self.say(encode_client_message(CarriedSignal(Identity.of(to), blob)))

    def leave(self) -> None:
        self.server.core.handle_closed(self.number, self.server.now_us)
        self.server.drain()
