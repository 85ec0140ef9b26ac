"""The store of names on real brokers: who was first, how long, how many, and how many copies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import nats
import pytest
from nats.js import JetStreamContext

from peergram import config
from peergram.identity import Identity
from peergram.servers.fleet_store import NAMES_BUCKET, NEW_NAMES_BUCKET, NameStore
from peergram.servers.signaling_core import Claimed

from .brokers import Broker, brokers, needs_nats
from .harness import key_of

pytestmark = needs_nats
T = TypeVar("T")

ALICE = Identity.of("alice")
KEY, OTHER_KEY = (key_of(name).public_bytes for name in ("alice", "mallory"))


def with_store(bus: list[Broker], work: Callable[[NameStore, JetStreamContext], Awaitable[T]]) -> T:
    """`work` with a store that is open, which a cluster that starts may take its time for."""

    async def live() -> T:
        client = await nats.connect([broker.url for broker in bus])
        stream = client.jetstream(timeout=2)
        until_s = time.monotonic() + 30
        while True:
            try:
                store = await NameStore.open(stream, len(bus))
                break
            except (nats.errors.Error, TimeoutError):
                assert time.monotonic() < until_s
                await asyncio.sleep(0.1)
        try:
            return await work(store, stream)
        finally:
            await client.close()

    return asyncio.run(live())


def test_a_name_is_the_first_keys_and_no_others(tmp_path: Path) -> None:
    async def work(store: NameStore, stream: JetStreamContext) -> None:
        assert await store.claim(ALICE, KEY, False) == Claimed(None)
        assert await store.claim(ALICE, KEY, True) == Claimed(KEY, is_new=True)
        assert await store.claim(ALICE, OTHER_KEY, True) == Claimed(KEY)
        assert await store.claim(ALICE, KEY, False) == Claimed(KEY)

    with brokers(tmp_path) as bus:
        with_store(bus, work)


def test_of_many_who_claim_a_name_at_the_same_moment_one_gets_it(tmp_path: Path) -> None:
    async def work(store: NameStore, stream: JetStreamContext) -> None:
        for number in range(20):
            name = Identity.of(f"name {number}")
            keys = [key_of(f"{number} {n}").public_bytes for n in range(10)]
            got = await asyncio.gather(*(store.claim(name, key, True) for key in keys))
            assert len({each.owner for each in got}) == 1
            assert sum(each.is_new for each in got) == 1

    with brokers(tmp_path) as bus:
        with_store(bus, work)


def test_who_has_been_here_for_long_is_written_down_for_a_month(tmp_path: Path) -> None:
    async def work(store: NameStore, stream: JetStreamContext) -> None:
        await store.claim(ALICE, KEY, True)
        assert await store.renew(ALICE, KEY, False) == Claimed(KEY)
        assert (await store.renew(ALICE, KEY, True)).is_proven
        # What is kept an hour may be gone by now.
        await stream.purge_stream(f"KV_{NEW_NAMES_BUCKET}")
        assert await store.claim(ALICE, OTHER_KEY, True) == Claimed(KEY, is_proven=True)
        assert await store.renew(ALICE, OTHER_KEY, True) == Claimed(KEY, is_proven=True)
        for bucket, kept_us in ((NAMES_BUCKET, config.SERVER_NAME_KEPT_US), (NEW_NAMES_BUCKET, config.SERVER_NAME_KEPT_SHORT_US)):
            info = await stream.stream_info(f"KV_{bucket}")
            assert info.config.max_age == kept_us / 1e6

    with brokers(tmp_path) as bus:
        with_store(bus, work)


def test_who_was_away_too_long_and_has_lost_his_name_does_not_get_it_back_by_staying(tmp_path: Path) -> None:
    async def work(store: NameStore, stream: JetStreamContext) -> None:
        await store.claim(ALICE, KEY, True)
        await stream.purge_stream(f"KV_{NEW_NAMES_BUCKET}")
        await store.claim(ALICE, OTHER_KEY, True)
        for is_proven in (False, True):
            assert (await store.renew(ALICE, KEY, is_proven)).owner == OTHER_KEY

    with brokers(tmp_path) as bus:
        with_store(bus, work)


def test_a_full_bucket_takes_no_new_names_and_keeps_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "FLEET_NEW_NAMES_MAX", 100)
    monkeypatch.setattr(config, "FLEET_NAMES_MAX", 100)

    async def work(store: NameStore, stream: JetStreamContext) -> None:
        claimed = [await store.claim(Identity.of(f"name {number}"), KEY, True) for number in range(150)]
        assert [each.owner for each in claimed] == [KEY] * 100 + [None] * 50
        # All of them are as good as new for their owner, and nobody else's.
        for number in range(100):
            assert await store.claim(Identity.of(f"name {number}"), KEY, False) == Claimed(KEY)
            assert (await store.claim(Identity.of(f"name {number}"), OTHER_KEY, True)).owner == KEY

    with brokers(tmp_path) as bus:
        with_store(bus, work)


def test_the_longest_name_fits_and_no_more_than_an_entry_does(tmp_path: Path) -> None:
    async def work(store: NameStore, stream: JetStreamContext) -> None:
        longest = Identity.of("x" * 31)
        assert await store.claim(longest, KEY, True) == Claimed(KEY, is_new=True)
        with pytest.raises(nats.js.errors.APIError):
            await stream.publish(f"$KV.{NEW_NAMES_BUCKET}.x", bytes(config.FLEET_NAME_BYTES_MAX + 1))

    with brokers(tmp_path) as bus:
        with_store(bus, work)


@pytest.mark.parametrize("count", [1, 3])
def test_three_brokers_keep_a_copy_each_and_fewer_one(tmp_path: Path, count: int) -> None:
    async def work(store: NameStore, stream: JetStreamContext) -> None:
        for bucket in (NAMES_BUCKET, NEW_NAMES_BUCKET):
            info = await stream.stream_info(f"KV_{bucket}")
            assert info.config.num_replicas == count

    with brokers(tmp_path, count) as bus:
        with_store(bus, work)


def test_a_node_that_starts_reads_what_stands_there_and_when_it_was_written(tmp_path: Path) -> None:
    async def work(store: NameStore, stream: JetStreamContext) -> None:
        learned = []
        for number in range(10):
            await store.claim(Identity.of(f"name {number}"), KEY, True)
        await store.renew(ALICE, KEY, True)
        await store.read_all(lambda *what: learned.append(what), 100)
        assert len(learned) == 11
        assert {what[0] for what in learned if what[2]} == {ALICE}
        assert all(what[1] == KEY and abs(what[3] - time.time_ns()) < 60e9 for what in learned)
        learned.clear()
        await store.read_all(lambda *what: learned.append(what), 4)
        assert len(learned) <= 8

    with brokers(tmp_path) as bus:
        with_store(bus, work)
