"""`peergram.aio` over real loopback sockets: on the usual loop, and on one that cannot wait for sockets, like that of Windows.

Everything that waits has a deadline; nothing here measures speed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import peergram
from peergram import (
    ClosedError,
    Config,
    ConnectionState,
    Identity,
    Message,
    MessageTooLargeError,
    NoRouteError,
    SessionBrokenError,
    SessionRequested,
    UsageError,
    aio,
)
from peergram.config import REFERENCE_MESSAGE_BYTES_MAX
from peergram.drivers.opening import OpenOptions, open_endpoint
from peergram.drivers.signaling.in_process import InProcessHub, InProcessSignaling

from .drivers.rigs import LoopWithoutReaders

ANY_PORT = ("127.0.0.1", 0)
Main = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Main], None]


@pytest.fixture(params=[asyncio.SelectorEventLoop, LoopWithoutReaders], ids=["selector", "no readers"])
def run(request: pytest.FixtureRequest) -> Run:
    def run(main: Main) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), 30))

    return run


class Pair:
    """Alice, who dials Bob, and Bob, who accepts everybody."""

    def __init__(self, config: Config | None = None) -> None:
        self.bob = aio.open("bob", listen=ANY_PORT, signaling=None, config=config)
        self.alice = aio.open("alice", signaling=None, config=config)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Pair:
        await self._stack.enter_async_context(self.bob)
        await self._stack.enter_async_context(self.alice)
        self.bob.on_session_request = lambda request: self.bob.accept(request.identity)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def to_bob(self) -> str:
        host, port = self.bob.local_addresses[0]
        return f"ip:{host}:{port}"


async def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        await asyncio.sleep(0.001)


def test_messages_go_both_ways_on_channels(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            await pair.alice.send(pair.to_bob, b"hi", channel=3)
            message = await pair.bob.receive(3)
            assert (message.payload, message.channel, message.reliable) == (b"hi", 3, True)
            assert message.identity == Identity.of("alice")
            await pair.bob.send(message.identity, b"there", reliable=False)
            async for answer in pair.alice.channel(0):
                assert (answer.payload, answer.reliable) == (b"there", False)
                break

    run(main)


def test_peers_find_each_other_by_name_and_are_remembered_in_the_same_files_as_those_of_messages(
    run: Run, tmp_path: Path
) -> None:
    known = tmp_path / "known"

    async def main() -> None:
        hub = InProcessHub()
        async with (
            aio.open("bob", signaling=InProcessSignaling(hub)) as bob,
            aio.open("alice", signaling=InProcessSignaling(hub), known_peers=known) as alice,
        ):
            bob.on_session_request = lambda request: bob.accept(request.identity)
            await alice.send("bob", b"hi")
            assert (await bob.receive()).payload == b"hi"
            assert bob.key_fingerprint in known.read_text(encoding="utf-8")
            with pytest.raises(peergram.IdentityInUseError):
                aio.open("bob", signaling=None)
        peergram.Messages("bob", signaling=None).close()

    run(main)


def test_a_send_waits_for_room_and_nothing_is_lost_or_mixed_up(run: Run) -> None:
    count = 200

    async def main() -> None:
        async with Pair(Config(send_buffer_bytes=65_536)) as pair:
            sent = asyncio.gather(*(pair.alice.send(pair.to_bob, number.to_bytes(2) + bytes(10_000)) for number in range(count)))
            numbers = [int.from_bytes((await pair.bob.receive()).payload[:2]) for _ in range(count)]
            await sent
            assert numbers == list(range(count))

    run(main)


def test_who_waits_on_one_channel_keeps_no_other_channel_waiting(run: Run) -> None:
    async def main() -> None:
        async with Pair(Config(send_buffer_bytes=65_536)) as pair:
            # Nobody accepts yet, so that the buffer stays as full as it is.
            pair.bob.on_session_request = None
            await pair.alice.send(pair.to_bob, bytes(60_000), channel=9)
            waiting = asyncio.create_task(pair.alice.send(pair.to_bob, bytes(40_000), channel=9))
            await asyncio.sleep(0)
            await asyncio.wait_for(pair.alice.send(pair.to_bob, b"small", channel=0), 1)
            assert not waiting.done()
            pair.bob.accept((await anext(pair.bob.requests())).identity)
            assert (await pair.bob.receive(0)).payload == b"small"
            await waiting

    run(main)


def test_a_cancelled_send_was_not_sent_and_lets_the_next_one_go(run: Run) -> None:
    async def main() -> None:
        async with Pair(Config(send_buffer_bytes=65_536)) as pair:
            pair.bob.on_session_request = None
            await pair.alice.send(pair.to_bob, bytes(60_000))
            tasks = [asyncio.create_task(pair.alice.send(pair.to_bob, bytes([number]) * 30_000)) for number in (1, 2)]
            await asyncio.sleep(0.01)
            tasks[0].cancel()
            pair.bob.accept((await anext(pair.bob.requests())).identity)
            await tasks[1]
            assert tasks[0].cancelled()
            assert [(await pair.bob.receive()).payload[:1] for _ in range(2)] == [b"\0", b"\2"]

    run(main)


def test_a_cancelled_receive_loses_no_message(run: Run) -> None:
    count = 300

    async def main() -> None:
        async with Pair() as pair:
            received: list[int] = []

            async def send() -> None:
                for number in range(count):
                    await pair.alice.send(pair.to_bob, number.to_bytes(2))
                    await asyncio.sleep(0)

            sending = asyncio.create_task(send())
            attempts = cancelled = 0
            while len(received) < count:
                receiving = asyncio.create_task(pair.bob.receive())
                attempts += 1
                for _ in range(attempts % 7):
                    await asyncio.sleep(0)
                receiving.cancel()
                try:
                    received.append(int.from_bytes((await receiving).payload))
                except asyncio.CancelledError:
                    assert receiving.cancelled()
                    cancelled += 1
            await sending
            assert cancelled > 0
            assert received == list(range(count))

    run(main)


def test_tasks_that_share_a_channel_get_each_message_once(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            taken: list[list[bytes]] = [[], [], []]

            async def take(into: list[bytes]) -> None:
                async for message in pair.bob.channel(1):
                    into.append(message.payload)
                    await asyncio.sleep(0.002)

            tasks = [asyncio.create_task(take(into)) for into in taken]
            for number in range(90):
                await pair.alice.send(pair.to_bob, bytes([number]), channel=1)
                await asyncio.sleep(0.001)
            await until(lambda: sum(map(len, taken)) == 90)
            for task in tasks:
                task.cancel()
            assert sorted(payload[0] for into in taken for payload in into) == list(range(90))
            assert all(taken)

    run(main)


def test_connected_calls_and_waits_until_the_session_is_up(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            info = await pair.alice.connected(pair.to_bob)
            assert info.state is ConnectionState.CONNECTED
            assert pair.alice.info(pair.to_bob).connection is not None
            assert (await pair.alice.connected("alice")).state is not ConnectionState.CONNECTING

    run(main)


def test_what_cannot_be_sent_raises_and_says_what_would_help(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            with pytest.raises(NoRouteError, match="give a signaling service") as caught:
                await pair.alice.send("carol", b"hi")
            assert caught.value.identity == Identity.of("carol")
            with pytest.raises(NoRouteError):
                await pair.alice.connected("carol")
            with pytest.raises(MessageTooLargeError, match="at most"):
                await pair.alice.send(pair.to_bob, bytes(600_000))
            with pytest.raises(UsageError, match="encode text first"):
                await pair.alice.send(pair.to_bob, "text")  # type: ignore[arg-type]
            await pair.alice.send(pair.to_bob, bytes(524_288))
            assert (await pair.bob.receive()).size == 524_288

    run(main)


def test_a_message_larger_than_a_small_buffer_is_refused_rather_than_waited_for(run: Run) -> None:
    async def main() -> None:
        async with Pair(Config(send_buffer_bytes=65_536)) as pair:
            with pytest.raises(MessageTooLargeError):
                await pair.alice.send(pair.to_bob, bytes(100_000))

    run(main)


def test_a_broken_session_raises_until_it_is_closed(run: Run) -> None:
    nobody = "ip:127.0.0.1:9"

    async def main() -> None:
        async with aio.open("alice", signaling=None, config=Config(timeout_initial_us=50_000)) as alice:
            with pytest.raises(SessionBrokenError, match="Timed out"):
                await alice.connected(nobody)
            failure = await anext(alice.failures())
            with pytest.raises(SessionBrokenError, match="close it") as caught:
                await alice.send(nobody, b"two")
            assert caught.value.reason == failure.reason
            assert alice.close(nobody)
            await alice.send(nobody, b"three")

    run(main)


def test_a_send_that_waits_for_room_learns_that_the_session_broke(run: Run) -> None:
    async def main() -> None:
        async with Pair(Config(send_buffer_bytes=65_536, timeout_initial_us=300_000)) as pair:
            pair.bob.on_session_request = None
            await pair.alice.send(pair.to_bob, bytes(60_000))
            with pytest.raises(SessionBrokenError):
                await pair.alice.send(pair.to_bob, bytes(60_000))

    run(main)


def test_who_waits_for_room_when_the_peer_closes_the_session_is_told_and_opens_no_other_one(run: Run) -> None:
    async def main() -> None:
        # At this rate what is sent takes seconds to leave; as fast as it can, all of it might be on its way at once.
        async with Pair(Config(send_buffer_bytes=65_536, recv_buffer_bytes=65_536, rate="fixed")) as pair:
            asked: list[SessionRequested] = []

            def accept(request: SessionRequested) -> None:
                asked.append(request)
                pair.bob.accept(request.identity)

            pair.bob.on_session_request = accept
            await pair.alice.connected(pair.to_bob)
            # Nobody reads at the other end; what he throws away as he closes may make room for the first ones.
            sends = [asyncio.create_task(pair.alice.send(pair.to_bob, bytes(20_000), channel=9)) for _ in range(100)]
            _, waiting = await asyncio.wait(sends, timeout=0.2)
            assert waiting
            assert pair.bob.close("alice")
            results = await asyncio.gather(*waiting, return_exceptions=True)
            refused = [each for each in results if each is not None]
            assert refused
            assert all(isinstance(each, SessionBrokenError) and "it was not sent" in str(each) for each in refused)
            assert pair.alice.info(pair.to_bob).state is ConnectionState.NONE
            assert len(asked) == 1

    run(main)


@pytest.mark.parametrize("what", ["session", "only channel", "one channel of two"])
def test_who_waits_for_room_when_the_session_is_closed_here_is_told_and_opens_no_other_one(run: Run, what: str) -> None:
    async def main() -> None:
        async with Pair(Config(send_buffer_bytes=65_536)) as pair:
            pair.bob.on_session_request = None
            await pair.alice.send(pair.to_bob, bytes(60_000), channel=9)
            waiting = [asyncio.create_task(pair.alice.send(pair.to_bob, bytes(60_000), channel=9)) for _ in range(2)]
            if what == "one channel of two":
                await pair.alice.send(pair.to_bob, b"small", channel=1)
            await asyncio.sleep(0.01)
            assert pair.alice.close(pair.to_bob) if what == "session" else pair.alice.close_channel(pair.to_bob, 9)
            for each in waiting:
                with pytest.raises(SessionBrokenError, match="it was not sent") as caught:
                    await each
                assert caught.value.reason == peergram.EndReason.SESSION_CLOSED
            state = pair.alice.info(pair.to_bob).state
            assert (state is ConnectionState.NONE) == (what != "one channel of two")
            pair.bob.on_session_request = lambda request: pair.bob.accept(request.identity)
            await pair.alice.send(pair.to_bob, b"anew", channel=9, delivered=True)
            until_anew = [message async for message in _until_payload(pair.bob, 9, b"anew")]
            assert all(len(message.payload) == 60_000 for message in until_anew[:-1])
            assert len(until_anew) <= 2, "the first one may have arrived, those that waited have not"

    run(main)


async def _until_payload(net: aio.Net, channel: int, payload: bytes) -> AsyncIterator[Message]:
    async for message in net.channel(channel):
        yield message
        if message.payload == payload:
            return


def test_a_session_closed_for_a_send_that_waits_behind_a_large_message_tells_both(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.bob.on_session_request = None
            sends = [
                asyncio.create_task(pair.alice.send(pair.to_bob, bytes(REFERENCE_MESSAGE_BYTES_MAX + 1))),
                asyncio.create_task(pair.alice.send(pair.to_bob, b"behind it")),
            ]
            await asyncio.sleep(0.01)
            pair.alice.close(pair.to_bob)
            assert [type(each) for each in await asyncio.gather(*sends, return_exceptions=True)] == [SessionBrokenError] * 2
            assert pair.alice.info(pair.to_bob).state is ConnectionState.NONE

    run(main)


def test_a_send_may_wait_until_the_message_is_delivered(run: Run) -> None:
    async def main() -> None:
        async with Pair(Config(receipts_max=4)) as pair:
            await asyncio.gather(*(pair.alice.send(pair.to_bob, bytes([number]), delivered=True) for number in range(20)))
            arrived = [pair.bob._endpoint.unread_messages]
            assert [(await pair.bob.receive()).payload[0] for _ in range(20)] == list(range(20))
            assert arrived == [20]
            with pytest.raises(UsageError, match="send it reliably"):
                await pair.alice.send(pair.to_bob, b"", reliable=False, delivered=True)

    run(main)


def test_a_message_that_nobody_confirmed_raises_with_the_reason(run: Run) -> None:
    async def main() -> None:
        async with aio.open("alice", signaling=None, config=Config(timeout_initial_us=50_000)) as alice:
            with pytest.raises(SessionBrokenError, match="Timed out") as caught:
                await alice.send("ip:127.0.0.1:9", b"hi", delivered=True)
            assert caught.value.reason == peergram.EndReason.MISC_TIMEOUT

    run(main)


def test_closing_releases_everybody_who_waits(run: Run) -> None:
    async def main() -> None:
        async with Pair(Config(send_buffer_bytes=65_536)) as pair:
            pair.bob.on_session_request = None
            await pair.alice.send(pair.to_bob, bytes(60_000))
            waiting = [
                asyncio.create_task(each)
                for each in (
                    pair.alice.receive(),
                    pair.alice.send(pair.to_bob, bytes(60_000)),
                    anext(pair.alice.requests()),
                    pair.alice.connected(pair.to_bob),
                )
            ]
            await asyncio.sleep(0.01)
            closing = asyncio.create_task(pair.alice.aclose())
            done, _ = await asyncio.wait(waiting, timeout=5)
            assert len(done) == len(waiting)
            assert {type(task.exception()) for task in done} == {ClosedError}
            await asyncio.gather(closing, pair.alice.aclose())
            with pytest.raises(ClosedError):
                await pair.alice.receive()
            with pytest.raises(ClosedError):
                pair.alice.info("bob")

    run(main)


def test_what_was_sent_before_closing_arrives(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            await pair.alice.connected(pair.to_bob)
            for number in range(20):
                await pair.alice.send(pair.to_bob, bytes([number]) * 20_000)
            receiving = asyncio.gather(*(pair.bob.receive() for _ in range(20)))
            await pair.alice.aclose()
            messages: list[Message] = await receiving
            assert [message.payload[0] for message in messages] == list(range(20))

    run(main)


def test_what_a_callback_raises_goes_to_the_loops_handler(run: Run) -> None:
    async def main() -> None:
        contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: contexts.append(context))

        async def fail_later(request: SessionRequested) -> None:
            await asyncio.sleep(0)
            raise KeyError("later")

        def fail(request: SessionRequested) -> None:
            raise ValueError("at once")

        for handler, expected in ((fail, ValueError), (fail_later, KeyError)):
            async with Pair() as pair:
                pair.bob.on_session_request = handler
                await pair.alice.send(pair.to_bob, b"hi", reliable=False)
                await until(lambda: contexts)
                assert isinstance(contexts.pop()["exception"], expected)
        assert not contexts

    run(main)


def test_a_coroutine_may_answer_requests_and_a_late_callback_hears_what_waited(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.bob.on_session_request = None
            await pair.alice.send(pair.to_bob, b"hi")
            await asyncio.sleep(0.05)

            async def answer(request: SessionRequested) -> None:
                await pair.bob.send(request.identity, b"welcome")

            pair.bob.on_session_request = answer
            assert (await pair.alice.receive()).payload == b"welcome"

    run(main)


def test_unconfirmed_messages_are_logged_when_all_is_closed(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Pair(Config(linger_us=50_000)) as pair:
            pair.bob.on_session_request = None
            await pair.alice.send(pair.to_bob, b"never read")
            with caplog.at_level(logging.WARNING):
                await pair.alice.aclose()

    run(main)
    assert "127.0.0.1" in caplog.text


def test_both_dresses_take_the_same_options() -> None:
    messages = dict(inspect.signature(peergram.Messages).parameters)
    opening = dict(inspect.signature(open_endpoint).parameters)
    assert {name: each.default for name, each in messages.items()} == {name: each.default for name, each in opening.items()}
    assert set(opening) - {"identity"} == set(OpenOptions.__annotations__)


@pytest.mark.parametrize("name", ["renew_certificate", "renew_authorities"])
def test_what_both_dresses_have_under_one_name_takes_the_same_arguments(name: str) -> None:
    assert inspect.signature(getattr(aio.Net, name)) == inspect.signature(getattr(peergram.Messages, name))


def test_the_package_loads_it_on_first_use() -> None:
    assert peergram.aio is aio
    with pytest.raises(AttributeError, match="no attribute"):
        _ = peergram.nothing
