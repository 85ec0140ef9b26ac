"""Receipts of an endpoint: how many are open, and which the application has not been told of yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from peergram.errors import End
from peergram.events import Delivered, Receipt
from peergram.sessions.session import explain


class Receipts:
    """At most `receipts_max` are open or wait to be told; who wants more is refused, so that none is ever dropped."""

    __slots__ = ("_receipts_max", "_tells", "_untold", "open_count")

    def __init__(self, receipts_max: int) -> None:
        self._receipts_max = receipts_max
        self._untold: deque[Receipt] = deque()
        self.open_count = 0
        self._tells = False

    @property
    def is_full(self) -> bool:
        """Whether there may be none more."""
        return self.open_count + len(self._untold) >= self._receipts_max

    @property
    def has_room(self) -> bool:
        """Whether at least half of them are settled, as far as that is the network's business."""
        return self.open_count * 2 <= self._receipts_max

    def tell(self, *, tells: bool) -> None:
        """Whether, from now on, `poll` says which are settled."""
        self._tells = tells
        if not tells:
            self._untold.clear()

    def note_opened(self) -> None:
        """One more is under way."""
        self.open_count += 1

    def settle_delivered(self, receipts: Iterable[Receipt]) -> None:
        """The peer has these messages."""
        for receipt in receipts:
            receipt.state = "delivered"
            self._note_settled(receipt)

    def settle_unconfirmed(self, receipts: Iterable[Receipt], end: End) -> None:
        """Their session is over."""
        for receipt in receipts:
            receipt.reason, receipt.debug = int(end.reason), explain(end)
            receipt.state = "unconfirmed"
            self._note_settled(receipt)

    def _note_settled(self, receipt: Receipt) -> None:
        self.open_count -= 1
        if self._tells:
            self._untold.append(receipt)

    def poll(self) -> Delivered | None:
        """The one settled longest ago of which nobody was told."""
        if not self._untold:
            return None
        receipt = self._untold.popleft()
        return Delivered(receipt.identity, receipt)
