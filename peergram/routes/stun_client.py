"""Under which address the world sees one of our sockets: questions to STUN servers (RFC 8489).

All servers are asked at once and the first answer decides, so that a dead one costs nothing. Whoever answered is asked again
every 15 seconds, which keeps the mapping in the NAT and notices when it changes; when that server falls silent, all are asked
again. Requests carry no address of ours: servers refuse an attribute they do not expect there (wire protocol, part 3, D9).

Nothing in these answers is authenticated. They count only with the transaction id of a request in flight, from the address it
was sent to; a server that answers with an error, or with something that must be understood and is not, has had its chance until
all are asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from peergram.address import Address
from peergram.config import STUN_ANSWER_BYTES_MAX, STUN_KEEPALIVE_US, STUN_REDIRECTS_MAX
from peergram.routes.transaction import Transaction
from peergram.timing import Deadline, TimerTable
from peergram.wire.stun import TRANSACTION_ID_BYTES, Class, Method, StunMessage, encode_stun

ASK_AGAIN = "ask for the mapped address"


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """The socket has another mapped address than before; None: it had none."""

    previous: Address | None
    mapped: Address
    server: Address


class StunClient:
    """Finds the mapped address of one socket and watches it. Drain transmits, then events, then re-arm `poll_timeout`."""

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes],
        is_usable: Callable[[Address], bool],
        allow_redirect: bool = False,
    ) -> None:
        self.mapped: Address | None = None
        self.mapped_by: Address | None = None
        """Who told us `mapped`."""
        self._keeper: Address | None = None
        """Who is asked again and again; None while that is to be found out anew."""
        self._entropy = entropy
        self._is_usable = is_usable
        self._allow_redirect = allow_redirect
        self._redirects = 0
        self._servers: list[Address] = []
        self._asked: dict[Address, Transaction] = {}
        self._timers = TimerTable()
        self._events: deque[MappingChanged] = deque()

    @property
    def is_asking(self) -> bool:
        """Whether the mapped address is not known and may still come."""
        return self.mapped is None and bool(self._asked)

    def add_server(self, server: Address, now_us: int) -> None:
        """One more that may be asked; asked now unless another one has answered."""
        if server not in self._servers:
            self._servers.append(server)
            if self.mapped is None:
                self._ask(server, now_us)

    def ask_all(self, now_us: int) -> None:
        """The network may have changed: ask everybody again."""
        self._redirects = 0
        for server in self._servers:
            self._ask(server, now_us)

    def handle_response(self, source: Address, message: StunMessage, size_bytes: int, now_us: int) -> bool:
        """Whether this answers a question of ours, whatever it says."""
        request = self._asked.get(source)
        if request is None or request.transaction_id != message.transaction_id or message.method != Method.BINDING:
            return False
        if message.message_class not in (Class.SUCCESS, Class.ERROR) or size_bytes > STUN_ANSWER_BYTES_MAX:
            return True
        del self._asked[source]
        mapped = message.xor_mapped_address or message.mapped_address
        is_success = message.message_class == Class.SUCCESS and not message.unknown_required
        if is_success and mapped is not None and self._is_usable(mapped):
            self._learn(mapped, source, now_us)
        else:
            self._follow_redirect(message, now_us)
            self._lose_keeper(source, now_us)
        self._arm(now_us)
        return True

    def handle_timeout(self, now_us: int) -> None:
        """Give up on who did not answer; ask again what is to be asked."""
        for server, request in list(self._asked.items()):
            if request.is_spent(now_us):
                del self._asked[server]
                self._lose_keeper(server, now_us)
        if self._timers.pop_due(now_us):
            if self._keeper is not None:
                self._ask(self._keeper, now_us)
            else:
                self.ask_all(now_us)
        self._arm(now_us)

    def poll_transmit(self, now_us: int) -> tuple[Address, bytes] | None:
        """The next question to send, and to whom."""
        for server, request in self._asked.items():
            if (datagram := request.take(now_us)) is not None:
                return server, datagram
        return None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        deadlines = [Deadline(request.due_at_us, "STUN request") for request in self._asked.values()]
        keepalive = self._timers.next()
        if keepalive is not None:
            deadlines.append(keepalive)
        return min(deadlines, default=None)

    def poll_event(self) -> MappingChanged | None:
        """What there is to know since the last call."""
        return self._events.popleft() if self._events else None

    def _arm(self, now_us: int) -> None:
        if not self._asked and self._servers:
            self._timers.set_earlier(ASK_AGAIN, now_us + STUN_KEEPALIVE_US)

    def _ask(self, server: Address, now_us: int) -> None:
        if server in self._asked:
            return
        transaction_id = self._entropy(TRANSACTION_ID_BYTES)
        request = StunMessage(Method.BINDING, Class.REQUEST, transaction_id)
        self._asked[server] = Transaction(transaction_id, encode_stun(request), now_us)
        self._timers.stop(ASK_AGAIN)

    def _learn(self, mapped: Address, server: Address, now_us: int) -> None:
        self._keeper = server
        self._asked.clear()
        self._timers.set(ASK_AGAIN, now_us + STUN_KEEPALIVE_US)
        if mapped != self.mapped:
            self._events.append(MappingChanged(self.mapped, mapped, server))
            self.mapped, self.mapped_by = mapped, server

    def _lose_keeper(self, server: Address, now_us: int) -> None:
        """If that was who is asked all the time, somebody else has to be found."""
        if server == self._keeper:
            self._keeper = None
            self.ask_all(now_us)

    def _follow_redirect(self, message: StunMessage, now_us: int) -> None:
        target = message.alternate_server
        if message.error_code != 300 or target is None or not self._allow_redirect or self._redirects >= STUN_REDIRECTS_MAX:
            return
        if self._is_usable(target) and target not in self._servers:
            self._redirects += 1
            self._ask(target, now_us)
