"""The signaling server without its sockets: who is connected, who may call himself what, who may send how much to whom.

A client proves a key. `gen:` identities are their own key; any other name belongs to the key that was the first to use it. The
server names the sender of each signal itself, says nothing about whether a receiver is here (S6), and keeps no signal: who is not
connected does not get it. Which name is whose outlasts the process if the runner keeps it: it is told when that has changed.

As a node of a fleet it tells its runner who comes and goes and what is for those who are not here, takes signals from other
nodes, and asks a store whose a name is before it lets somebody in whom it does not know.

The runner gives every connection a number from 1, reports what happens to it, and then takes `poll_output` until it is None.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from peergram import config as limits
from peergram.address import Address, address_bytes, is_loopback
from peergram.crypto.keys import verify
from peergram.errors import UsageError, WireError
from peergram.identity import Identity
from peergram.servers.fleet_names import LeasedNames
from peergram.servers.login_certificates import LoginCertificates
from peergram.servers.relay_desk import RelayDesk
from peergram.signaling.rates import TokenBuckets
from peergram.signaling.server_url import ServerUrl, parse_server_url
from peergram.signaling.websocket_protocol import (
    NONCE_BYTES,
    VERSION,
    CarriedSignal,
    Hello,
    Issued,
    Login,
    Refusal,
    Refused,
    Replaced,
    Welcome,
    check_name,
    decode_client_message,
    encode_server_message,
    login_text,
    speaks_other_version,
)
from peergram.timing import Deadline, TimerTable
from peergram.wire.relay_news import RelayNews, Tickets

AcceptsUrl = Callable[[ServerUrl, Address], bool]
"""Whether a client that dialed this URL, and arrived at this address of ours, was meant to come here."""


NOBODY = 0
"""No connection has this number: a frame for it is to be sent nowhere, at the price of one for a client."""


@dataclass(slots=True)
class Send:
    """One frame for a connection, or for `NOBODY`."""

    client_id: int
    frame: bytes


@dataclass(slots=True)
class Cut:
    """Send the frame, if any, and close the connection; the core has forgotten it."""

    client_id: int
    frame: bytes | None


@dataclass(slots=True)
class Ask:
    """A WebSocket ping: is anybody there?"""

    client_id: int


@dataclass(slots=True)
class NamesChanged:
    """`owned_names` has news that a runner should keep for the next run."""


@dataclass(slots=True)
class Arrived:
    """In a fleet: a client has logged in."""

    identity: Identity
    public_key: bytes


@dataclass(slots=True)
class Left:
    """In a fleet: it is gone, and no other of ours has its identity."""

    identity: Identity


@dataclass(slots=True)
class Elsewhere:
    """In a fleet: a signal for whoever has this identity at another node; for nobody, at the same price, if he `is_here` (S6)."""

    sender: Identity
    host: bytes
    receiver: Identity
    blob: bytes
    is_here: bool


@dataclass(slots=True)
class ClaimName:
    """In a fleet: whose is this name? If nobody's, it becomes this key's where that is allowed; `handle_claimed` answers."""

    client_id: int
    identity: Identity
    public_key: bytes
    may_create: bool


@dataclass(slots=True)
class RenewName:
    """In a fleet: its owner is here; `handle_renewed` answers, if the store does."""

    identity: Identity
    public_key: bytes
    is_proven: bool


FleetOutput = Arrived | Left | Elsewhere | ClaimName | RenewName
Output = Send | Cut | Ask | NamesChanged | FleetOutput


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the store says of a name. `owner` is None where it is nobody's and may not become ours now."""

    owner: bytes | None
    is_proven: bool = False
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class OwnedName:
    """A name and the key that it belongs to. One that `is_proven` was in use for ten minutes at a stretch, and is kept longer."""

    identity: Identity
    public_key: bytes
    used_at_us: int
    is_proven: bool


@dataclass(slots=True)
class _Client:
    host: bytes
    local: Address
    is_local_host: bool
    nonce: bytes | None = None
    """Ours; until it is used, once."""
    identity: Identity | None = None
    public_key: bytes = b""
    logged_in_at_us: int = 0
    was_asked: bool = False
    claims: tuple[Identity, bytes, bool] | None = None
    """The name and key of a login that waits for the store, and whether its address has paid for a new name."""


@dataclass(slots=True)
class _Name:
    key: bytes
    used_at_us: int
    is_proven: bool = False
    noted_at_us: int = 0
    """The use that the runner was told of."""


class SignalingCore:
    """All clients of one server. `counters` only grow; `clients`, `pending` and `names` are numbers of the moment."""

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes],
        accepts_url: AcceptsUrl,
        now_us: int,
        clients_max: int = limits.SERVER_CLIENTS_MAX,
        names_max: int = limits.SERVER_NAMES_MAX,
        login_us: int = limits.SERVER_LOGIN_US,
        names: Iterable[OwnedName] = (),
        certificates: LoginCertificates | None = None,
        relays: RelayDesk | None = None,
        is_in_fleet: bool = False,
        leases: LeasedNames | None = None,
    ) -> None:
        """`names` are those of the run before; of too many, those that were used last stay.

        With `leases` a store that the fleet shares knows whose a name is, and not this server.
        """
        self.counters: Counter[str] = Counter()
        self._entropy = entropy
        self._accepts_url = accepts_url
        self._clients_max = clients_max
        self._names_max = names_max
        self._login_us = login_us
        self._certificates = certificates or LoginCertificates()
        self._relays = relays
        self._is_in_fleet = is_in_fleet
        self._leases = leases
        self._claims = 0
        self._is_draining = False
        self._to_tell: deque[int] = deque()
        self._told_at_once = 0
        self._clients: dict[int, _Client] = {}
        self._by_identity: dict[Identity, int] = {}
        self._by_host: Counter[bytes] = Counter()
        self._names: dict[Identity, _Name] = {}
        for each in sorted(names, key=lambda name: name.used_at_us, reverse=True)[:names_max]:
            used_at_us = min(each.used_at_us, now_us)
            self._names[each.identity] = _Name(each.public_key, used_at_us, each.is_proven, used_at_us)
        # In the order of their times, which are always a constant ahead of now.
        self._login_until_us: OrderedDict[int, int] = OrderedDict()
        self._quiet_until_us: OrderedDict[int, int] = OrderedDict()
        self._renew_at_us: OrderedDict[int, int] = OrderedDict()
        self._tickets_at_us: OrderedDict[int, int] = OrderedDict()
        self._untold: dict[int, None] = {}
        """Whom the relay map as it is now has not been sent to."""
        self._timers = TimerTable()
        self._timers.set("sweep", now_us + limits.SERVER_SWEEP_US)
        self._outputs: deque[Output] = deque()

        keys, hosts = limits.SIGNAL_RATE_KEYS_MAX, limits.SERVER_HOSTS_WATCHED_MAX
        self._logins = TokenBuckets(limits.SERVER_LOGINS_PER_S, limits.SERVER_LOGINS_BURST, 1)
        self._logins_of_host = TokenBuckets(limits.SERVER_LOGINS_PER_HOST_PER_S, limits.SERVER_LOGINS_PER_HOST_BURST, hosts)
        self._logins_of_name = TokenBuckets(limits.SERVER_LOGINS_PER_NAME_PER_S, limits.SERVER_LOGINS_PER_NAME_BURST, keys)
        self._new_names = TokenBuckets(limits.SERVER_NAMES_PER_HOST_PER_S, limits.SERVER_NAMES_PER_HOST_BURST, hosts)
        self._frames = TokenBuckets(limits.SERVER_FRAMES_PER_S, limits.SERVER_FRAMES_BURST, clients_max)
        self._sent = TokenBuckets(limits.SIGNALS_SENDER_PER_S, limits.SIGNALS_SENDER_BURST, keys)
        self._sent_to = TokenBuckets(limits.SIGNALS_PAIR_PER_S, limits.SIGNALS_PAIR_BURST, keys)
        self._host_sent_to = TokenBuckets(limits.SIGNALS_HOST_PAIR_PER_S, limits.SIGNALS_HOST_PAIR_BURST, keys)
        self._received = TokenBuckets(limits.SIGNALS_VICTIM_PER_S, limits.SIGNALS_VICTIM_BURST, keys)
        self._received_by_nobody = TokenBuckets(limits.SIGNALS_VICTIM_PER_S, limits.SIGNALS_VICTIM_BURST, 1)
        self._buckets = (
            self._logins, self._logins_of_host, self._logins_of_name, self._new_names, self._frames,
            self._sent, self._sent_to, self._host_sent_to, self._received, self._received_by_nobody,
        )  # fmt: skip

    # Numbers of the moment

    @property
    def clients(self) -> int:
        """Clients that are logged in."""
        return len(self._by_identity)

    @property
    def pending(self) -> int:
        """Connections that are not logged in yet."""
        return len(self._login_until_us)

    @property
    def names(self) -> int:
        """Names that belong to somebody; in a fleet, as far as this node has heard."""
        return len(self._names) if self._leases is None else len(self._leases)

    @property
    def is_draining(self) -> bool:
        """Whether clients are being told to go elsewhere, and nobody comes in any more."""
        return self._is_draining

    @property
    def rates_watched(self) -> int:
        """Senders, receivers, addresses and so on whose recent use is remembered."""
        return sum(len(each) for each in self._buckets)

    def owned_names(self) -> Iterator[OwnedName]:
        """All names that belong to somebody, for the next run; the uses of those who are here are a minute old at most.

        Which names is settled by the call; the rest of the work is done as they are taken, by any thread.
        """
        now = list(self._names.items())
        return (OwnedName(identity, name.key, name.used_at_us, name.is_proven) for identity, name in now)

    # What happens

    def handle_connected(self, client_id: int, remote: Address, local: Address, now_us: int) -> None:
        """A connection was accepted; it has `login_us` to log in. It may be refused at once, or take the place of another."""
        self.counters["connections"] += 1
        host = _host_key(remote)
        is_local_host = is_loopback(remote)
        if not is_local_host and self._by_host[host] >= limits.SERVER_CLIENTS_PER_HOST_MAX:
            self._refuse_unknown(client_id, Refusal.BUSY, "too many connections from your address")
            return
        is_full = len(self._clients) >= self._clients_max
        if is_full or len(self._login_until_us) >= limits.SERVER_PENDING_MAX:
            if not self._login_until_us:
                self._refuse_unknown(client_id, Refusal.BUSY, "this server has all the clients it can hold")
                return
            self._refuse(next(iter(self._login_until_us)), Refusal.TOO_SLOW, "others were waiting", now_us)
        self._clients[client_id] = _Client(host, local, is_local_host)
        self._by_host[host] += 1
        self._login_until_us[client_id] = now_us + self._login_us

    def handle_ready(self, client_id: int, now_us: int) -> None:
        """Frames can be sent now."""
        client = self._clients.get(client_id)
        if client is not None and client.nonce is None and client.identity is None:
            if self._is_draining:
                self._refuse(client_id, Refusal.CLOSING, "this server is about to stop", now_us)
                return
            client.nonce = self._entropy(NONCE_BYTES)
            self._send(client_id, Hello(VERSION, client.nonce))

    def handle_frame(self, client_id: int, frame: bytes | None, now_us: int) -> None:
        """A frame came; None for one without a message in it, such as a pong. Never raises, whatever the bytes are."""
        client = self._clients.get(client_id)
        if client is None:
            return
        if not self._frames.take(client_id, now_us):
            self._refuse(client_id, Refusal.TOO_FAST, "far more came than is allowed", now_us)
            return
        if client.identity is not None:
            client.was_asked = False
            self._quiet_until_us[client_id] = now_us + limits.SERVER_QUIET_US
            self._quiet_until_us.move_to_end(client_id)
        if frame is None:
            return
        try:
            message = decode_client_message(frame)
        except WireError as error:
            code = Refusal.VERSION if speaks_other_version(frame) else Refusal.BAD_MESSAGE
            self._refuse(client_id, code, str(error), now_us)
            return
        if isinstance(message, Login):
            self._handle_login(client_id, client, message, now_us)
        elif client.identity is None:
            self._refuse(client_id, Refusal.BAD_MESSAGE, "a signal before the login", now_us)
        else:
            self._carry(client, client.identity, message, now_us)

    def handle_from_elsewhere(self, sender: Identity, host: bytes, receiver: Identity, blob: bytes, now_us: int) -> None:
        """A signal that another node of the fleet has taken. What protects a receiver counts here, wherever senders are (S3)."""
        receiver_id = self._by_identity.get(receiver)
        if receiver_id is None:
            self.counters["dropped_absent"] += 1
        elif not (
            self._sent_to.take((sender, receiver), now_us) and (not host or self._host_sent_to.take((host, receiver), now_us))
        ):
            self.counters["dropped_sender_rate"] += 1
        elif not self._received.take(receiver, now_us):
            self.counters["dropped_receiver_rate"] += 1
        else:
            self.counters["signals_from_elsewhere"] += 1
            self._send(receiver_id, CarriedSignal(sender, blob))

    def handle_displaced(self, identity: Identity, has_same_key: bool, now_us: int) -> None:
        """The identity is at another node of the fleet now, by a later login of its key or by who has more right to the name."""
        client_id = self._by_identity.get(identity)
        if client_id is None:
            return
        if has_same_key or self._certificates.are_demanded:
            self.counters["replaced"] += 1
            self._cut(client_id, Replaced(), now_us)
        else:
            self._refuse(client_id, Refusal.NAME_TAKEN, "somebody with another key has this name here", now_us)

    def handle_claimed(self, client_id: int, claimed: Claimed | None, now_us: int) -> None:
        """What the store says to `ClaimName`; None if it is out of reach."""
        self._claims -= 1
        client = self._clients.get(client_id)
        if client is None or client.claims is None:
            return
        (identity, public_key, has_paid), client.claims = client.claims, None
        if has_paid and (claimed is None or not claimed.is_new):
            self._new_names.give_back(client.host)
        if claimed is None:
            self.counters["names_out_of_reach"] += 1
            self._refuse(client_id, Refusal.BUSY, "it cannot be seen at the moment whose this name is", now_us)
        elif claimed.owner is None:
            self._refuse(client_id, Refusal.BUSY, "too many new names at the moment", now_us)
        elif claimed.owner != public_key:
            self._refuse(client_id, Refusal.NAME_TAKEN, "somebody with another key has this name here", now_us)
        else:
            self.learn_name(identity, public_key, claimed.is_proven, now_us)
            if self._is_draining:
                self._refuse(client_id, Refusal.CLOSING, "this server is about to stop", now_us)
            else:
                self._let_in(client_id, client, identity, public_key, now_us)

    def handle_renewed(self, identity: Identity, claimed: Claimed, now_us: int) -> None:
        """What the store says to `RenewName`."""
        client_id = self._by_identity.get(identity)
        if claimed.owner is None or client_id is None:
            return
        if claimed.owner == self._clients[client_id].public_key:
            self.learn_name(identity, claimed.owner, claimed.is_proven, now_us)
        else:
            assert self._leases is not None
            self._leases.forget(identity)
            self._refuse(client_id, Refusal.NAME_TAKEN, "somebody with another key has this name here", now_us)

    def learn_name(self, identity: Identity, public_key: bytes, is_proven: bool, written_at_us: int) -> None:
        """In a fleet: this was written into the store then."""
        if self._leases is not None:
            self._leases.learn(identity, public_key, is_proven, written_at_us)

    def replace_certificates(self, certificates: LoginCertificates) -> None:
        """From now on others are demanded and issued."""
        self._certificates = certificates

    def handle_closed(self, client_id: int, now_us: int) -> None:
        """The connection is gone."""
        self._forget(client_id, now_us)

    def handle_relays_changed(self, now_us: int) -> None:
        """The map or the secrets of the relays are others now: everybody is told, a few at a time."""
        self._untold = dict.fromkeys(self._by_identity.values())
        if self._untold:
            self._timers.set("relay news", now_us)

    def handle_timeout(self, now_us: int) -> None:
        """Logins that took too long, clients that are silent, and what nobody needs any more."""
        while (client_id := _first_due(self._login_until_us, now_us)) is not None:
            self._refuse(client_id, Refusal.TOO_SLOW, "no login in time", now_us)
        while (client_id := _first_due(self._quiet_until_us, now_us)) is not None:
            self._handle_quiet(client_id, now_us)
        while (client_id := _first_due(self._renew_at_us, now_us)) is not None:
            del self._renew_at_us[client_id]
            self._issue(client_id, self._clients[client_id], now_us)
        while (client_id := _first_due(self._tickets_at_us, now_us)) is not None:
            del self._tickets_at_us[client_id]
            self._give_tickets(client_id, now_us)
        due = self._timers.pop_due(now_us)
        if "relay news" in due:
            self._tell_relays_changed(now_us)
        if "drain" in due:
            self._tell_some(now_us)
        if "sweep" in due:
            self._sweep(now_us)
            self._timers.set("sweep", now_us + limits.SERVER_SWEEP_US)

    def drain(self, now_us: int) -> None:
        """Let nobody in any more, and tell those who are here to go elsewhere: not all at once, since elsewhere is busy, too."""
        if self._is_draining:
            return
        self._is_draining = True
        self._to_tell.extend(self._by_identity.values())
        slots = limits.SERVER_DRAIN_TOLD_US // limits.SERVER_DRAIN_SLOT_US
        usual = limits.SERVER_DRAIN_TOLD_PER_S * limits.SERVER_DRAIN_SLOT_US // 1_000_000
        self._told_at_once = max(usual, -(-len(self._to_tell) // slots))
        self._tell_some(now_us)

    def _tell_some(self, now_us: int) -> None:
        for _ in range(min(self._told_at_once, len(self._to_tell))):
            client_id = self._to_tell.popleft()
            if client_id in self._clients:
                self._refuse(client_id, Refusal.CLOSING, "this server is about to stop", now_us)
        if self._to_tell:
            self._timers.set("drain", now_us + limits.SERVER_DRAIN_SLOT_US)

    def close(self, now_us: int) -> None:
        """Say goodbye to everybody."""
        for client_id in list(self._clients):
            self._refuse(client_id, Refusal.CLOSING, "this server is being stopped", now_us)

    def poll_output(self) -> Output | None:
        """What to do next."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`."""
        deadlines = [self._timers.next()]
        if self._login_until_us:
            deadlines.append(Deadline(next(iter(self._login_until_us.values())), "login"))
        if self._quiet_until_us:
            slot_us = limits.SERVER_QUIET_SLOT_US
            deadlines.append(Deadline(-(-next(iter(self._quiet_until_us.values())) // slot_us) * slot_us, "silent client"))
        if self._renew_at_us:
            deadlines.append(Deadline(next(iter(self._renew_at_us.values())), "certificate"))
        if self._tickets_at_us:
            deadlines.append(Deadline(next(iter(self._tickets_at_us.values())), "tickets"))
        return min(each for each in deadlines if each is not None)

    # Logging in

    def _handle_login(self, client_id: int, client: _Client, login: Login, now_us: int) -> None:
        nonce, client.nonce = client.nonce, None
        if nonce is None:
            self._refuse(client_id, Refusal.BAD_MESSAGE, "a login out of turn", now_us)
            return
        refusal = self._reason_to_refuse(client, nonce, login, now_us)
        if refusal is not None:
            self._refuse(client_id, *refusal, now_us)
            return
        identity = login.identity
        if self._has_to_claim(identity, now_us):
            # Paid for before the answer, so that asking for many at once gives no more.
            has_paid = not client.is_local_host and self._new_names.take(client.host, now_us)
            may_create = client.is_local_host or has_paid
            self._claims += 1
            client.claims = (identity, login.public_key, has_paid)
            self._outputs.append(ClaimName(client_id, identity, login.public_key, may_create))
        else:
            self._let_in(client_id, client, identity, login.public_key, now_us)

    def _has_to_claim(self, identity: Identity, now_us: int) -> bool:
        """Whether only the store knows whose this name is."""
        if self._leases is None or identity.public_key_bytes is not None:
            return False
        return self._leases.owner(identity, now_us) is None

    def _let_in(self, client_id: int, client: _Client, identity: Identity, public_key: bytes, now_us: int) -> None:
        if self._leases is None:
            self._hand_over(identity, public_key)
            self._note_name(identity, public_key, now_us)
        before = self._by_identity.get(identity)
        if before is not None:
            self._cut(before, Replaced(), now_us)
            self.counters["replaced"] += 1
        del self._login_until_us[client_id]
        client.identity, client.public_key, client.logged_in_at_us = identity, public_key, now_us
        self._by_identity[identity] = client_id
        self._quiet_until_us[client_id] = now_us + limits.SERVER_QUIET_US
        self.counters["logins"] += 1
        self._send(client_id, Welcome())
        self._issue(client_id, client, now_us)
        if self._relays is not None and self._relays.map_text:
            self._send(client_id, RelayNews(self._relays.map_text))
            self._give_tickets(client_id, now_us)
        if self._is_in_fleet:
            self._outputs.append(Arrived(identity, public_key))

    def _note_name(self, identity: Identity, public_key: bytes, now_us: int) -> None:
        """Its owner is here."""
        if identity.public_key_bytes is not None:
            return
        name = self._names.get(identity)
        if name is None:
            self._names[identity] = _Name(public_key, now_us, noted_at_us=now_us)
            self._outputs.append(NamesChanged())
        elif self._note_use(name, now_us, now_us):
            self._outputs.append(NamesChanged())

    def _hand_over(self, identity: Identity, public_key: bytes) -> None:
        """The authority has said whose this name is: what another key had of it is over."""
        name = self._names.get(identity)
        if name is not None and name.key != public_key:
            del self._names[identity]

    def _issue(self, client_id: int, client: _Client, now_us: int) -> None:
        """A certificate for the name that the client has proven to be his, if this server issues any; and again in good time."""
        assert client.identity is not None
        certificate = self._certificates.issue(client.identity, client.public_key)
        if certificate is not None:
            self.counters["certificates"] += 1
            self._renew_at_us[client_id] = now_us + limits.SERVER_ISSUED_US // 2
            self._send(client_id, Issued(certificate))

    def _give_tickets(self, client_id: int, now_us: int) -> None:
        """Tickets for the relays, if there are any; and again at half their life."""
        client = self._clients[client_id]
        if self._relays is None or client.identity is None:
            return
        tickets = self._relays.mint(client.identity)
        self._tickets_at_us.pop(client_id, None)
        if tickets.tickets:
            self.counters["tickets"] += len(tickets.tickets)
            self._tickets_at_us[client_id] = now_us + tickets.lifetime_s * 500_000
            self._send(client_id, tickets)

    def _tell_relays_changed(self, now_us: int) -> None:
        if self._relays is None:
            return
        news = RelayNews(self._relays.map_text)
        for client_id in list(self._untold)[: limits.SERVER_RELAY_NEWS_AT_ONCE]:
            del self._untold[client_id]
            self._send(client_id, news)
            self._give_tickets(client_id, now_us)
        if self._untold:
            self._timers.set("relay news", now_us + limits.SERVER_RELAY_NEWS_PAUSE_US)

    def _reason_to_refuse(self, client: _Client, nonce: bytes, login: Login, now_us: int) -> tuple[int, str] | None:
        """None if the login is good. Cheap checks come first; what depends on others' names comes after the proof."""
        host, identity = client.host, login.identity
        if not client.is_local_host and not self._logins_of_host.take(host, now_us):
            return Refusal.BUSY, "too many logins from your address"
        if not self._logins.take(None, now_us):
            return Refusal.BUSY, "too many logins at the moment"
        try:
            check_name(identity)
            url = parse_server_url(login.url)
        except UsageError as error:
            return Refusal.BAD_NAME, str(error)
        if not self._accepts_url(url, client.local):
            return Refusal.WRONG_URL, f"this server does not know itself by the address {login.url}"
        if identity.public_key_bytes not in (None, login.public_key):
            return Refusal.BAD_PROOF, "this identity is another key"
        text = login_text(
            server_nonce=nonce, client_nonce=login.nonce, url=login.url, identity=identity, public_key=login.public_key
        )
        if not verify(login.public_key, login.signature, text):
            return Refusal.BAD_PROOF, "the signature does not prove the key"
        if (doubt := self._certificates.doubt_of(login)) is not None:
            return Refusal.CERTIFICATE, doubt
        if identity.public_key_bytes is None and (refusal := self._reason_to_refuse_name(client, login, now_us)) is not None:
            return refusal
        if not self._logins_of_name.take(identity, now_us):
            return Refusal.BUSY, "too many logins with this identity"
        return None

    def _reason_to_refuse_name(self, client: _Client, login: Login, now_us: int) -> tuple[int, str] | None:
        if self._leases is not None:
            if self._claims >= limits.FLEET_CLAIMS_MAX:
                return Refusal.BUSY, "too many logins at the moment"
            is_his = self._leases.owner(login.identity, now_us) in (None, login.public_key)
            return None if is_his else (Refusal.NAME_TAKEN, "somebody with another key has this name here")
        name = self._names.get(login.identity)
        if name is not None:
            is_his = name.key == login.public_key or self._certificates.are_demanded
            return None if is_his else (Refusal.NAME_TAKEN, "somebody with another key has this name here")
        if len(self._names) >= self._names_max or not (client.is_local_host or self._new_names.take(client.host, now_us)):
            return Refusal.BUSY, "too many new names at the moment"
        return None

    # Carrying signals

    def _carry(self, client: _Client, sender: Identity, signal: CarriedSignal, now_us: int) -> None:
        receiver = signal.peer
        allowed = (
            self._sent.take(sender, now_us)
            and self._sent_to.take((sender, receiver), now_us)
            and (client.is_local_host or self._host_sent_to.take((client.host, receiver), now_us))
        )
        if not allowed:
            self.counters["dropped_sender_rate"] += 1
            return
        # The same steps whoever is here: what is sent to nobody costs as much, so that no pong tells by its time (S6).
        receiver_id = self._by_identity.get(receiver, NOBODY)
        is_in_rate = (self._received if receiver_id else self._received_by_nobody).take(receiver if receiver_id else None, now_us)
        if not receiver_id:
            self.counters["elsewhere" if self._is_in_fleet else "dropped_absent"] += 1
        elif not is_in_rate:
            self.counters["dropped_receiver_rate"] += 1
            receiver_id = NOBODY
        else:
            self.counters["signals"] += 1
        self._send(receiver_id, CarriedSignal(sender, signal.blob))
        if self._is_in_fleet:
            host = b"" if client.is_local_host else client.host
            is_here = receiver in self._by_identity
            self._outputs.append(Elsewhere(sender, host, receiver, signal.blob, is_here))

    # Ending

    def _handle_quiet(self, client_id: int, now_us: int) -> None:
        client = self._clients[client_id]
        if client.was_asked:
            self._refuse(client_id, Refusal.TOO_SLOW, "no sign of life", now_us)
            return
        client.was_asked = True
        self._quiet_until_us[client_id] = now_us + limits.SERVER_QUIET_US
        self._quiet_until_us.move_to_end(client_id)
        self._outputs.append(Ask(client_id))

    def _refuse(self, client_id: int, code: int, text: str, now_us: int) -> None:
        self.counters[f"refused_{code}"] += 1
        self._cut(client_id, Refused(code, text), now_us)

    def _refuse_unknown(self, client_id: int, code: int, text: str) -> None:
        self.counters[f"refused_{code}"] += 1
        self._outputs.append(Cut(client_id, encode_server_message(Refused(code, text))))

    def _cut(self, client_id: int, last_word: Refused | Replaced, now_us: int) -> None:
        self._forget(client_id, now_us)
        self._outputs.append(Cut(client_id, encode_server_message(last_word)))

    def _forget(self, client_id: int, now_us: int) -> None:
        client = self._clients.pop(client_id, None)
        if client is None:
            return
        self._by_host[client.host] -= 1
        if not self._by_host[client.host]:
            del self._by_host[client.host]
        self._login_until_us.pop(client_id, None)
        self._quiet_until_us.pop(client_id, None)
        self._renew_at_us.pop(client_id, None)
        self._tickets_at_us.pop(client_id, None)
        self._untold.pop(client_id, None)
        if client.identity is not None and self._by_identity.get(client.identity) == client_id:
            del self._by_identity[client.identity]
            if self._is_in_fleet:
                self._outputs.append(Left(client.identity))
            name = self._names.get(client.identity)
            if name is not None and self._note_use(name, client.logged_in_at_us, now_us):
                self._outputs.append(NamesChanged())

    @staticmethod
    def _note_use(name: _Name, since_us: int, now_us: int) -> bool:
        """The name is in use, and has been since then; whether the runner should hear of it.

        Rarely, since nearly all that happens to names is that they are used again; what a crash may take off the time that a name
        is kept must only be small beside it.
        """
        was_proven = name.is_proven
        name.used_at_us = now_us
        name.is_proven |= now_us - since_us >= limits.SERVER_NAME_PROVEN_US
        noted_us = limits.SERVER_NAME_NOTED_US if name.is_proven else limits.SERVER_NAME_NOTED_SHORT_US
        if name.is_proven == was_proven and now_us - name.noted_at_us < noted_us:
            return False
        name.noted_at_us = now_us
        return True

    def _sweep(self, now_us: int) -> None:
        """Names whose time is over, uses that go on, and counters that are back to nothing."""
        have_changed = False
        for identity, name in list(self._names.items()):
            client_id = self._by_identity.get(identity)
            kept_us = limits.SERVER_NAME_KEPT_US if name.is_proven else limits.SERVER_NAME_KEPT_SHORT_US
            if client_id is not None:
                have_changed |= self._note_use(name, self._clients[client_id].logged_in_at_us, now_us)
            elif now_us - name.used_at_us > kept_us:
                del self._names[identity]
                have_changed = True
        if have_changed:
            self._outputs.append(NamesChanged())
        self._renew_leases(now_us)
        for buckets in self._buckets:
            buckets.sweep(now_us)

    def _renew_leases(self, now_us: int) -> None:
        """Names in a fleet whose owners are here should stay theirs."""
        if self._leases is None:
            return
        for identity, client_id in self._by_identity.items():
            client = self._clients[client_id]
            is_proven = now_us - client.logged_in_at_us >= limits.SERVER_NAME_PROVEN_US
            if identity.public_key_bytes is None and self._leases.is_to_be_renewed(identity, is_proven, now_us):
                self._outputs.append(RenewName(identity, client.public_key, is_proven))
        self._leases.sweep(now_us)

    def _send(self, client_id: int, message: Hello | Welcome | CarriedSignal | Issued | RelayNews | Tickets) -> None:
        self._outputs.append(Send(client_id, encode_server_message(message)))


def _first_due(until_us: OrderedDict[int, int], now_us: int) -> int | None:
    """The first key, if its time has come."""
    first = next(iter(until_us), None)
    return first if first is not None and until_us[first] <= now_us else None


def _host_key(remote: Address) -> bytes:
    """What counts as one address: of IPv6 the network of 64 bits, since whoever has one address there has them all."""
    packed = address_bytes(remote)
    return packed[:16] if ":" not in remote[0] else packed[:8]
