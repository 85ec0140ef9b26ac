"""Blobs over real loopback sockets: whole, resumed after a break, refused, cancelled; with asyncio and with threads.

PEERGRAM_SOAK=1 sends 50 MB and breaks the session again and again.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import threading
import time
import tracemalloc
from pathlib import Path
from random import Random

import pytest

from peergram import BlobError, Config, ConnectionState, Messages, SessionBrokenError, UsageError, aio
from peergram.config import (
    BLOB_BYTES_IN_MEMORY_MAX,
    BLOB_FINISHED_MAX,
    BLOB_NAME_BYTES_MAX,
    BLOB_OFFERS_MAX,
    BLOB_WINDOW_BYTES,
)

from .test_aio import Pair, until

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
BYTES = 50_000_000 if SOAK else 3_000_000
CHANNEL = 9
TIMEOUT_S = 300 if SOAK else 30


def content(size: int = BYTES, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 32_768, 32_769, BYTES])
def test_a_blob_arrives_whole_and_with_its_name(size: int) -> None:
    data = content(size)
    seen: list[tuple[int, int]] = []

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            sending = asyncio.create_task(
                pair.alice.send_blob(
                    pair.to_bob, data, channel=CHANNEL, name="maps/one", progress=lambda done, of: seen.append((done, of))
                )
            )
            blob = await pair.bob.receive_blob(channel=CHANNEL)
            await sending
            assert blob.data == data
            assert (blob.name, blob.size, blob.sha256) == ("maps/one", size, hashlib.sha256(data).hexdigest())

    asyncio.run(main())
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_files_and_file_objects_are_sent_and_written(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content())
    into = io.BytesIO()

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, source, channel=CHANNEL))
            assert (await pair.bob.receive_blob(channel=CHANNEL, into=target)).data is None
            await sending
            with source.open("rb") as file:
                file.seek(1_000)
                sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, file, channel=CHANNEL))
                await pair.bob.receive_blob(channel=CHANNEL, into=into)
                await sending

    asyncio.run(main())
    assert target.read_bytes() == content()
    assert into.getvalue() == content()[1_000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_transfer_goes_on_after_its_session_was_broken(side: str) -> None:
    data = content()
    breaks = 20 if SOAK else 2
    begins: list[int] = []

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            positions = [0]
            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, data, channel=CHANNEL))
            receiving = asyncio.create_task(
                pair.bob.receive_blob(channel=CHANNEL, progress=lambda done, _: positions.append(done))
            )
            for number in range(breaks):
                await until(lambda: positions[-1] > BYTES * (number + 1) // (breaks + 2))  # noqa: B023
                begins.append(positions[-1])
                assert pair.alice.close(pair.to_bob) if side == "sender" else pair.bob.close("alice")
            assert (await receiving).data == data
            await sending
            # It went on where it was, instead of beginning anew.
            assert positions == sorted(positions)

    asyncio.run(main())
    assert len(begins) == breaks


def test_a_receiver_that_was_started_anew_wants_only_what_is_missing(tmp_path: Path) -> None:
    data, target = content(), tmp_path / "target"

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            address, to_bob = pair.bob.local_addresses[0], pair.to_bob
            positions = [0]
            sending = asyncio.create_task(pair.alice.send_blob(to_bob, data, channel=CHANNEL))
            receiving = asyncio.create_task(
                pair.bob.receive_blob(channel=CHANNEL, into=target, progress=lambda done, _: positions.append(done))
            )
            await until(lambda: positions[-1] > BYTES // 3)
            receiving.cancel()
            await asyncio.wait([receiving])
            await pair.bob.aclose()
            assert not target.exists()
            async with aio.open("bob", listen=address, signaling=None) as bob:
                bob.on_session_request = lambda request: bob.accept(request.identity)
                again: list[int] = []
                await bob.receive_blob(channel=CHANNEL, into=target, progress=lambda done, _: again.append(done))
                await sending
                assert again[0] >= BYTES // 3

    asyncio.run(main())
    assert target.read_bytes() == data
    assert list(tmp_path.iterdir()) == [target]


def test_threads_send_and_receive_with_messages(tmp_path: Path) -> None:
    data, target = content(), tmp_path / "target"
    with (
        Messages("bob", listen=("127.0.0.1", 0), signaling=None) as bob,
        Messages("alice", signaling=None) as alice,
    ):
        host, port = bob.local_addresses[0]
        sender = threading.Thread(target=alice.send_blob_to_user, args=(f"ip:{host}:{port}", data, CHANNEL))
        sender.start()
        bob.wait(5)
        bob.accept_session_with_user("alice")
        blob = bob.receive_blob_on_channel(CHANNEL, target, timeout_s=TIMEOUT_S)
        sender.join(TIMEOUT_S)
        assert not sender.is_alive()
        with pytest.raises(TimeoutError):
            bob.receive_blob_on_channel(CHANNEL, timeout_s=0.01)
    assert target.read_bytes() == data
    assert blob.sha256 == hashlib.sha256(data).hexdigest()


def test_several_blobs_share_a_channel_in_both_directions() -> None:
    blobs = [content(300_000, seed) for seed in range(4)]

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            await pair.alice.connected(pair.to_bob)
            async with asyncio.TaskGroup() as group:
                for data in blobs[:2]:
                    group.create_task(pair.alice.send_blob(pair.to_bob, data, channel=CHANNEL))
                for data in blobs[2:]:
                    group.create_task(pair.bob.send_blob("alice", data, channel=CHANNEL))
                at_bob = [group.create_task(pair.bob.receive_blob(channel=CHANNEL, identity="alice")) for _ in range(2)]
                at_alice = [group.create_task(pair.alice.receive_blob(channel=CHANNEL)) for _ in range(2)]
            assert sorted(task.result().data or b"" for task in at_bob) == sorted(blobs[:2])
            assert sorted(task.result().data or b"" for task in at_alice) == sorted(blobs[2:])

    asyncio.run(main())


def test_a_blob_that_is_too_large_is_refused_and_its_sender_told() -> None:
    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            receiving = asyncio.create_task(pair.bob.receive_blob(channel=CHANNEL, size_max=1_000))
            with pytest.raises(BlobError, match="at most 1000 bytes"):
                await pair.alice.send_blob(pair.to_bob, bytes(1_001), channel=CHANNEL)
            await pair.alice.send_blob(pair.to_bob, bytes(1_000), channel=CHANNEL)
            assert (await receiving).data == bytes(1_000)

    asyncio.run(main())


def test_a_cancelled_send_tells_the_receiver_and_can_be_taken_up_again(tmp_path: Path) -> None:
    data, target = content(), tmp_path / "target"

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            positions = [0]
            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, data, channel=CHANNEL))
            receiving = asyncio.create_task(
                pair.bob.receive_blob(channel=CHANNEL, into=target, progress=lambda done, _: positions.append(done))
            )
            await until(lambda: positions[-1] > BYTES // 3)
            sending.cancel()
            with pytest.raises(BlobError, match="gave up"):
                await receiving
            again: list[int] = []
            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, data, channel=CHANNEL))
            await pair.bob.receive_blob(channel=CHANNEL, into=target, progress=lambda done, _: again.append(done))
            await sending
            assert again[0] > BYTES // 3

    asyncio.run(main())
    assert target.read_bytes() == data


def test_a_file_that_changes_while_it_is_sent_is_noticed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(BYTES))

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):

            def change(done: int, size: int) -> None:
                if done == 0:
                    with source.open("r+b") as file:
                        file.seek(BYTES - 1)
                        file.write(b"x")

            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, source, channel=CHANNEL, progress=change))
            with pytest.raises(BlobError, match="another checksum"):
                await pair.bob.receive_blob(channel=CHANNEL, into=target)
            with pytest.raises(BlobError, match="changed while it was sent"):
                await sending

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == [source]


def test_nobody_there_is_told_in_time() -> None:
    async def main() -> None:
        config = Config(timeout_initial_us=50_000)
        async with aio.open("alice", signaling=None, config=config) as alice, asyncio.timeout(TIMEOUT_S):
            with pytest.raises(BlobError, match="not reached again"):
                await alice.send_blob("ip:127.0.0.1:9", b"data", channel=CHANNEL, give_up_after_s=0.2)
            with pytest.raises(BlobError, match="cannot be reached"):
                await alice.send_blob("carol", b"data", channel=CHANNEL)
            with pytest.raises(UsageError, match="name: at most"):
                await alice.send_blob("carol", b"", channel=CHANNEL, name="x" * (BLOB_NAME_BYTES_MAX + 1))
            with pytest.raises(UsageError, match="can seek"):
                await alice.send_blob("carol", 5, channel=CHANNEL)  # type: ignore[arg-type]

    asyncio.run(main())


def test_a_sender_is_never_further_ahead_than_the_window_and_keeps_other_channels_free() -> None:
    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, bytes(4 * BLOB_WINDOW_BYTES), channel=CHANNEL))
            offer = await pair.bob.receive(CHANNEL)
            await pair.bob.send(offer.identity, b"\2" + offer.payload[1:9] + bytes(8), channel=CHANNEL)
            await until(lambda: pair.bob._endpoint.unread_messages * 32_768 >= BLOB_WINDOW_BYTES)
            await asyncio.sleep(0.05)
            assert pair.bob._endpoint.unread_messages * 32_768 == BLOB_WINDOW_BYTES
            await pair.alice.send(pair.to_bob, b"small", channel=0)
            assert (await pair.bob.receive(0)).payload == b"small"
            sending.cancel()

    asyncio.run(main())


def test_messages_that_are_no_blobs_do_no_harm_and_offers_have_a_limit() -> None:
    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            receiving = asyncio.create_task(pair.bob.receive_blob(channel=CHANNEL, identity="carol"))
            rng = Random(7)
            for _ in range(500):
                await pair.alice.send(pair.to_bob, bytes([rng.randrange(9)]) + rng.randbytes(rng.randrange(60)), channel=CHANNEL)
            for number in range(100):
                offer = bytes((1,)) + number.to_bytes(8) + bytes(32) + bytes(8)
                await pair.alice.send(pair.to_bob, offer, channel=CHANNEL)
            # Behind everything else on its lane, and so the last to arrive.
            await pair.alice.send(pair.to_bob, b"", channel=CHANNEL, delivered=True)
            await until(lambda: not pair.bob._endpoint.unread_messages)
            assert not receiving.done()
            assert len(pair.bob._blobs.desk(CHANNEL).offers) == BLOB_OFFERS_MAX
            receiving.cancel()

    asyncio.run(main())


def test_a_sender_who_missed_the_end_is_told_again_while_it_is_remembered() -> None:
    count = BLOB_FINISHED_MAX + 1
    empty = hashlib.sha256().digest() + bytes(8)

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            for number in range(count):
                await pair.alice.send(pair.to_bob, bytes((1,)) + number.to_bytes(8) + empty, channel=CHANNEL)
                assert (await pair.bob.receive_blob(channel=CHANNEL)).data == b""
            done = [bytes((5,)) + number.to_bytes(8) + bytes(1) for number in range(count)]
            answers = [await pair.alice.receive(CHANNEL) for _ in range(2 * count)]
            assert [answer.payload for answer in answers if answer.payload[0] == 5] == done
            receiving = asyncio.create_task(pair.bob.receive_blob(channel=CHANNEL))
            await pair.alice.send(pair.to_bob, bytes((1,)) + (count - 1).to_bytes(8) + empty, channel=CHANNEL)
            assert (await pair.alice.receive(CHANNEL)).payload == done[-1]
            assert not receiving.done()
            # The oldest one is forgotten, and so is a blob like any other.
            await pair.alice.send(pair.to_bob, bytes((1,)) + bytes(8) + empty, channel=CHANNEL)
            assert (await receiving).data == b""

    asyncio.run(main())


def test_a_sender_who_did_not_hear_the_end_is_told_although_nobody_receives_any_more() -> None:
    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, b"once only", channel=CHANNEL))
            assert (await pair.bob.receive_blob(channel=CHANNEL)).data == b"once only"
            # The word is on its way, and the session that it goes by is gone.
            assert pair.alice.close(pair.to_bob)
            await sending
            await until(lambda: not pair.bob._blobs.owing)
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "peergram blobs"]
            assert not pair.bob._endpoint.has_unread(CHANNEL)

    asyncio.run(main())


def test_running_callbacks_tells_a_sender_who_did_not_hear_the_end() -> None:
    with Messages("bob", listen="127.0.0.1:0", signaling=None) as bob, Messages("alice", signaling=None) as alice:
        bob.on_session_request = lambda request: bob.accept_session_with_user(request.identity)
        host, port = bob.local_addresses[0]
        to_bob = f"ip:{host}:{port}"
        sending = threading.Thread(target=alice.send_blob_to_user, args=(to_bob, b"once only", CHANNEL))
        sending.start()
        got: list[bytes | None] = []

        def receive() -> None:
            got.append(bob.receive_blob_on_channel(CHANNEL).data)
            alice.close_session_with_user(to_bob)

        receiving = threading.Thread(target=receive)
        receiving.start()
        deadline_s = time.monotonic() + TIMEOUT_S
        while sending.is_alive():
            assert time.monotonic() < deadline_s, "the sender waits in vain"
            bob.run_callbacks()
            bob.wait(0.01)
        receiving.join(TIMEOUT_S)
        assert got == [b"once only"]


def test_an_end_that_does_not_fit_the_send_buffer_is_told_once_it_does() -> None:
    async def main() -> None:
        config = Config(receipts_max=1)
        async with Pair(config) as pair, asyncio.timeout(TIMEOUT_S):
            await pair.alice.send(pair.to_bob, b"hello")
            await pair.bob.receive()
            # The one receipt there may be is taken for as long as nobody acknowledges.
            pair.alice.on_session_request = None
            other = aio.open("carol", signaling=None)
            async with other:
                host, port = pair.bob.local_addresses[0]
                sending = asyncio.create_task(other.send_blob(f"ip:{host}:{port}", b"whole", channel=CHANNEL))
                waiting = asyncio.create_task(pair.bob.send("ip:127.0.0.1:9", b"to nobody", delivered=True))
                await asyncio.sleep(0)
                assert (await pair.bob.receive_blob(channel=CHANNEL)).data == b"whole"
                assert pair.bob._blobs.owing
                assert not sending.done()
                assert pair.bob.close("ip:127.0.0.1:9")
                with pytest.raises(SessionBrokenError):
                    await waiting
                await sending

    asyncio.run(main())


def test_what_a_peer_said_elsewhere_is_not_lost_when_a_blob_takes_up_a_broken_session() -> None:
    async def main() -> None:
        async with Pair(Config(recv_message_bytes_max=66_000)) as pair, asyncio.timeout(TIMEOUT_S):
            data = content(100_000)
            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, data, channel=CHANNEL))
            await until(lambda: pair.bob._endpoint.has_unread(CHANNEL))
            await pair.bob.send("alice", b"before the end", channel=1, delivered=True)
            # More than she takes, so that the session breaks at her side.
            await pair.bob.send("alice", bytes(100_000), channel=1)
            await until(lambda: pair.alice.info(pair.to_bob).state is ConnectionState.PROBLEM_DETECTED_LOCALLY)
            assert (await pair.bob.receive_blob(channel=CHANNEL)).data == data
            await sending
            assert (await pair.alice.receive(1)).payload == b"before the end"

    asyncio.run(main())


def test_into_memory_goes_so_much_unless_more_is_asked_for() -> None:
    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            receiving = asyncio.create_task(pair.bob.receive_blob(channel=CHANNEL))
            offer = bytes((1,)) + bytes(8) + bytes(32) + (BLOB_BYTES_IN_MEMORY_MAX + 1).to_bytes(8, "little")
            await pair.alice.send(pair.to_bob, offer, channel=CHANNEL)
            answer = (await pair.alice.receive(CHANNEL)).payload
            assert (answer[0], answer[9]) == (5, 2)
            assert b"67108864" in answer
            receiving.cancel()

    asyncio.run(main())


def test_a_large_blob_takes_little_memory(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    size = 50_000_000 if SOAK else 12_000_000
    source.write_bytes(Random(3).randbytes(size))

    async def main() -> None:
        async with Pair() as pair, asyncio.timeout(TIMEOUT_S):
            sending = asyncio.create_task(pair.alice.send_blob(pair.to_bob, source, channel=CHANNEL))
            await pair.bob.receive_blob(channel=CHANNEL, into=target)
            await sending

    tracemalloc.start()
    try:
        asyncio.run(main())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert target.read_bytes() == source.read_bytes()
