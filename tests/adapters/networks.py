"""Networks of one process for tests of the look-alikes: real loopback, names found within the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from peergram import Config, Messages
from peergram.adapters.datagram_network import DatagramNetwork
from peergram.drivers.signaling.in_process import InProcessHub

WAIT_S = 10.0
"""How long anything may take before a test calls it broken."""


def until(condition: Callable[[], object]) -> None:
    """Wait until something holds; fails the test if it does not in time."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.001)


class Town:
    """Where everybody finds everybody by name. Closes all networks at the end."""

    def __init__(self) -> None:
        self._hub = InProcessHub()
        self._nets: list[Messages] = []

    def messages(self, name: str, config: Config | None = None) -> Messages:
        net = Messages(
            name, signaling=self._hub.service(), key=False, known_peers=False, trust="open", state=False, config=config
        )
        self._nets.append(net)
        return net

    def network(self, name: str, mapped: Any = None, *, config: Config | None = None, **options: Any) -> DatagramNetwork:
        return DatagramNetwork(self.messages(name, config), mapped, **options)

    def close(self) -> None:
        for net in self._nets:
            net.close()
