"""Whose a name is, for a whole fleet: two buckets of NATS JetStream, in which a name is created by one key only.

A name is written into the bucket of new names first, where it is kept for an hour, and once it was in use for ten minutes into
the one where it is kept for a month; the brokers forget by themselves. Whoever is in the second owns the name; he was in the
first when he got there, so the two never disagree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from peergram import config as limits
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.servers.fleet_core import name_key
from peergram.servers.signaling_core import Claimed

NAMES_BUCKET, NEW_NAMES_BUCKET = "peergram_names", "peergram_names_new"
_KEY_BYTES = 32
_ATTEMPTS_MAX = 4
"""How often a name may change under our hands before we say that the store is out of reach."""

Learn = Callable[[Identity, bytes, bool, int], None]
"""Takes a name, its key, whether it is proven, and when it was written in nanoseconds since 1970."""


class NameStore:
    """Opened by `open`; every question raises `NatsError`, `TimeoutError` or `OSError` where the store cannot answer it."""

    def __init__(self, names: KeyValue, new_names: KeyValue) -> None:
        self._names = names
        self._new_names = new_names

    @classmethod
    async def open(cls, stream: JetStreamContext, brokers: int) -> NameStore:
        """The buckets, made if there are none."""
        replicas = limits.FLEET_REPLICAS if brokers >= limits.FLEET_REPLICAS else 1
        names = await _open_bucket(stream, NAMES_BUCKET, limits.SERVER_NAME_KEPT_US, limits.FLEET_NAMES_MAX, replicas)
        new_names = await _open_bucket(
            stream, NEW_NAMES_BUCKET, limits.SERVER_NAME_KEPT_SHORT_US, limits.FLEET_NEW_NAMES_MAX, replicas
        )
        return cls(names, new_names)

    async def claim(self, identity: Identity, public_key: bytes, may_create: bool) -> Claimed:
        """Whose it is; ours from now on if it was nobody's and we may. If it is ours it is written anew, and kept from now on."""
        for _ in range(_ATTEMPTS_MAX):
            with suppress(KeyWrongLastSequenceError):
                for bucket in (self._names, self._new_names):
                    claimed = await self._write_own(bucket, identity, public_key)
                    if claimed is not None:
                        return claimed
                if not may_create:
                    return Claimed(None)
                return await self._create(self._new_names, identity, public_key)
        raise TimeoutError

    async def renew(self, identity: Identity, public_key: bytes, is_proven: bool) -> Claimed:
        """Its owner is here: it is kept from now on, and for a month if it `is_proven`."""
        for _ in range(_ATTEMPTS_MAX):
            with suppress(KeyWrongLastSequenceError):
                claimed = await self._write_own(self._names, identity, public_key)
                if claimed is None and not is_proven:
                    claimed = await self._write_own(self._new_names, identity, public_key)
                if claimed is not None:
                    return claimed
                if is_proven:
                    # Nobody else may have come in meanwhile, by way of the other bucket.
                    before = await self._write_own(self._new_names, identity, public_key)
                    if before is not None and before.owner != public_key:
                        return before
                return await self._create(self._names if is_proven else self._new_names, identity, public_key)
        raise TimeoutError

    async def read_all(self, learn: Learn, names_max: int) -> None:
        """Everything that stands there, once."""
        for bucket in (self._new_names, self._names):
            watcher = await bucket.watchall()
            try:
                count = 0
                while count < names_max and (entry := await _next(watcher)) is not None:
                    count += 1
                    if entry.value is not None and entry.operation is None and len(entry.value) > _KEY_BYTES:
                        with suppress(UsageError):
                            identity = Identity.parse_bytes(entry.value[_KEY_BYTES:])
                            learn(identity, entry.value[:_KEY_BYTES], bucket is self._names, _created_ns(entry))
            finally:
                await watcher.stop()  # type: ignore[no-untyped-call]

    async def _write_own(self, bucket: KeyValue, identity: Identity, public_key: bytes) -> Claimed | None:
        """None if it does not stand there."""
        try:
            entry = await bucket.get(name_key(identity))
        except KeyNotFoundError:
            return None
        value = entry.value or b""
        is_proven = bucket is self._names
        if value[:_KEY_BYTES] == public_key:
            await bucket.update(name_key(identity), _value(identity, public_key), last=entry.revision)
        return Claimed(value[:_KEY_BYTES], is_proven)

    async def _create(self, bucket: KeyValue, identity: Identity, public_key: bytes) -> Claimed:
        try:
            await bucket.create(name_key(identity), _value(identity, public_key))
        except KeyWrongLastSequenceError:
            raise
        except APIError as error:
            if "maximum" in (error.description or ""):
                # The bucket is full (S9).
                return Claimed(None)
            raise
        return Claimed(public_key, bucket is self._names, is_new=True)


async def _open_bucket(stream: JetStreamContext, name: str, kept_us: int, names_max: int, replicas: int) -> KeyValue:
    try:
        return await stream.key_value(name)
    except BucketNotFoundError:
        pass
    # What `create_key_value` makes, but for the limit in messages.
    config = StreamConfig(
        name=f"KV_{name}",
        subjects=[f"$KV.{name}.>"],
        max_age=kept_us / 1e6,
        max_msgs=names_max,
        max_msgs_per_subject=1,
        max_msg_size=limits.FLEET_NAME_BYTES_MAX,
        discard=DiscardPolicy.NEW,
        storage=StorageType.FILE,
        num_replicas=replicas,
        allow_rollup_hdrs=True,
        deny_delete=True,
    )
    try:
        await stream.add_stream(config)
        return await stream.key_value(name)
    except NatsError:
        # Another node may have made it at the same moment.
        await asyncio.sleep(limits.FLEET_RETRY_US / 1e6)
        return await stream.key_value(name)


async def _next(watcher: KeyValue.KeyWatcher) -> KeyValue.Entry | None:
    """None behind the last one."""
    entry: KeyValue.Entry | None = await watcher.updates(timeout=limits.FLEET_CLAIM_US / 1e6)  # type: ignore[no-untyped-call]
    return entry


def _created_ns(entry: KeyValue.Entry) -> int:
    """The library says that it is a number, and gives a time of its own kind."""
    created: object = entry.created
    return int(created.timestamp() * 1e9) if isinstance(created, datetime) else 0


def _value(identity: Identity, public_key: bytes) -> bytes:
    return public_key + identity.text_bytes
