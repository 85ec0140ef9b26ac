"""Against another implementation, over real sockets of this machine: aioice in both roles (03, chapter 14 says what to adapt)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from peergram.address import canonical_address
from peergram.config import Config
from peergram.routes.candidates import (
    Base,
    Candidate,
    CandidateKind,
    LocalCandidate,
    decode_candidate,
    encode_candidate,
    priority_of,
    ufrag_of,
)
from peergram.routes.ice_agent import IceAgent
from peergram.wire.stun import decode_stun, looks_like_stun

aioice = pytest.importorskip("aioice")

OUR_ID, THEIR_ID = 305_419_896, 2_368_670_461
LIMIT_S = 5.0


def now_us() -> int:
    return time.monotonic_ns() // 1_000


class AgentOnSocket(asyncio.DatagramProtocol):
    """Our agent with one socket of this machine."""

    def __init__(self, *, controlling: bool) -> None:
        self.password = b"0123456789abcdefghijkl"
        self.agent = IceAgent(
            local_ufrag=ufrag_of(OUR_ID),
            local_password=self.password,
            controlling=controlling,
            entropy=secrets.token_bytes,
            now_us=now_us(),
            config=Config(),
        )
        self.base = Base(1)
        self.data: asyncio.Queue[bytes] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.address = canonical_address(*transport.get_extra_info("sockname")[:2])
        candidate = Candidate(CandidateKind.HOST, self.address, priority_of(CandidateKind.HOST, 65_535), "1")
        self.local = LocalCandidate(candidate, self.base, self.address, 65_535)
        self.agent.add_local(self.local, now_us())
        self.drain()

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        address = canonical_address(*source[:2])
        if looks_like_stun(data):
            self.agent.handle_stun(self.base, address, decode_stun(data), data, now_us())
        else:
            self.data.put_nowait(data)
        self.drain()

    def send(self, data: bytes) -> None:
        assert self.agent.selected is not None
        self.transport.sendto(data, self.agent.selected.remote)

    def drain(self) -> None:
        while (transmit := self.agent.poll_transmit(now_us())) is not None:
            self.transport.sendto(transmit[2], transmit[1])
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.agent.poll_timeout()
        if deadline is not None:
            delay_s = max(deadline.at_us - now_us(), 0) / 1e6
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._timeout)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.transport.close()

    def _timeout(self) -> None:
        self.agent.handle_timeout(now_us())
        self.drain()


async def _until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(0.005)


async def _exchange(ours: AgentOnSocket, theirs: Any) -> None:
    await theirs.gather_candidates()
    ours.agent.set_remote(theirs.local_username.encode(), theirs.local_password.encode(), now_us())
    theirs.remote_username, theirs.remote_password = ufrag_of(OUR_ID).decode(), ours.password.decode()
    text = encode_candidate(ours.local.candidate).removeprefix("candidate:").replace(" 0 udp", " 1 udp", 1)
    await theirs.add_remote_candidate(aioice.Candidate.from_sdp(text))
    await theirs.add_remote_candidate(None)
    for candidate in theirs.local_candidates:
        ours.agent.add_remote(decode_candidate("candidate:" + candidate.to_sdp()), now_us())
    ours.drain()
    await theirs.connect()
    await _until(lambda: ours.agent.selected is not None and ours.agent.selected.is_nominated)
    await theirs.send(b"\x80 from them")
    assert await ours.data.get() == b"\x80 from them"
    ours.send(b"\x80 from us")
    assert await theirs.recv() == b"\x80 from us"


async def _with_timeout(work: Awaitable[None]) -> None:
    await asyncio.wait_for(work, LIMIT_S)


async def _meet(host: str, *, controlling: bool) -> None:
    loop = asyncio.get_running_loop()
    _, ours = await loop.create_datagram_endpoint(lambda: AgentOnSocket(controlling=controlling), local_addr=(host, 0))
    theirs = aioice.Connection(
        ice_controlling=not controlling,
        local_username=ufrag_of(THEIR_ID).decode(),
        use_ipv6=":" in host,
        use_ipv4=":" not in host,
    )
    try:
        await _with_timeout(_exchange(ours, theirs))
        assert ours.agent.controlling is controlling
    finally:
        ours.close()
        await theirs.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("controlling", [True, False], ids=["controlling", "controlled"])
def test_we_meet_aioice_and_exchange_data(controlling: bool, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: [host])
    asyncio.run(_meet(host, controlling=controlling))
