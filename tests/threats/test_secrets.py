"""C7: nothing that must stay secret is in a log, in a `repr`, in an exception or on the terminal, in whatever spelling."""

from __future__ import annotations

import base64
import gc
import logging
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from peergram import COMPILED, Messages, SendFlags, UsageError
from peergram.connection import handshake
from peergram.crypto import keys
from peergram.crypto.derive import SessionKeys, derive_session_keys
from peergram.crypto.key_text import read_private_key
from peergram.crypto.keys import AgreementKey, SigningKey
from peergram.events import SessionRequested
from peergram.routes.ice_servers import IceServers, TurnServer
from peergram.wire.certificates import StoredCertificate, encode_stored_certificate
from tests.endpoint import by_identity
from tests.threats.tampering import ALICE, ALICE_KEY, BOB_KEY, ROOT, good_certificate, issue, trust_of

PASSWORD = "correct horse battery"
SECOND_US = 1_000_000


def spellings(secret: bytes) -> set[str]:
    """How a secret might be written."""
    code = base64.b64encode(secret).decode().rstrip("=")
    return {
        secret.hex(),
        secret.hex().upper(),
        secret.hex(" "),
        secret.hex(":"),
        code,
        code.replace("+", "-").replace("/", "_"),
        base64.b32encode(secret).decode().rstrip("="),
        repr(secret)[2:-1],
        secret.decode("latin-1"),
        secret.decode("utf-8", "replace"),
        ", ".join(map(str, secret)),
        f"{int.from_bytes(secret, 'big'):d}" if len(secret) <= 64 else secret.hex(),
        f"{int.from_bytes(secret, 'little'):d}" if len(secret) <= 64 else secret.hex(),
    }


class Secrets:
    """Everything secret that came about, and what was said meanwhile."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()

    def assert_not_in(self, where: str, text: str) -> None:
        """None of them, however spelled."""
        for secret in self.known:
            for spelled in spellings(secret):
                assert spelled not in text, f"{where}: {len(secret)} secret bytes are in it"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    """Notes private keys, shared secrets and session keys as they are made."""
    if COMPILED:
        pytest.skip("the library is compiled here: its parts cannot be listened to")
    noted = Secrets()
    noted.known.update((ALICE_KEY.private_bytes(), BOB_KEY.private_bytes(), PASSWORD.encode()))
    checked = keys._checked_private

    def checking(private_bytes: bytes) -> bytes:
        noted.known.add(private_bytes)
        return checked(private_bytes)

    def deriving(shared_secret: bytes, **sides: object) -> SessionKeys:
        derived = derive_session_keys(shared_secret, **sides)  # type: ignore[arg-type]
        noted.known.add(shared_secret)
        for direction in (derived.client_to_server, derived.server_to_client):
            noted.known.update((direction.key, direction.iv))
        return derived

    monkeypatch.setattr(keys, "_checked_private", checking)
    monkeypatch.setattr(handshake, "derive_session_keys", deriving)
    return noted


def reprs() -> list[str]:
    """Of every object of this library that lives."""
    found = []
    for thing in gc.get_objects():
        # Some types of others hold a descriptor there.
        if str(type(thing).__module__).split(".")[0] == "peergram":
            with suppress(Exception):
                found.append(repr(thing))
    return found


def until(done: Callable[[], object], *nets: Messages) -> None:
    end_s = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end_s, "did not happen in time"
        for net in nets:
            net.run_callbacks()
        time.sleep(0.002)


def test_a_session_over_sockets_tells_nobody_its_secrets(
    secrets: Secrets, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    key_file = tmp_path / "alice.key"
    key_file.write_bytes(ALICE_KEY.to_pem())
    key_file.chmod(0o600)
    turn = f"turn:user:{PASSWORD.replace(' ', '%20')}@127.0.0.1:9?transport=udp"
    with (
        Messages("alice", listen="127.0.0.1:0", key=key_file, trust="pinned", signaling=None) as alice,
        Messages("bob", listen="127.0.0.1:0", key=BOB_KEY.private_bytes(), trust="pinned", turn=turn) as bob,
    ):
        for net in (alice, bob):
            net.on_session_request = lambda request, net=net: net.accept_session_with_user(request.identity)
        place = f"ip:127.0.0.1:{bob.local_addresses[0][1]}"
        alice.send_message_to_user(place, b"hello", SendFlags.RELIABLE)
        until(lambda: bob.receive_messages_on_channel(0, 1), alice, bob)
        info = alice.get_session_connection_info(place, True, True)
        assert info.connection is not None
        assert len(secrets.known) > 6, "agreement, session keys and shared secrets were noted"
        for text in [repr(info), repr(alice), repr(bob), *reprs()]:
            secrets.assert_not_in("repr", text)
    secrets.assert_not_in("log", caplog.text + "".join(repr(record.args) for record in caplog.records))
    out, err = capfd.readouterr()
    secrets.assert_not_in("terminal", out + err)


def test_a_call_by_identity_tells_nobody_its_secrets(secrets: Secrets, caplog: pytest.LogCaptureFixture) -> None:
    """And its refusals neither: one of each kind that the handshake knows comes by."""
    caplog.set_level(logging.DEBUG)
    world = by_identity.World()
    bob = world.add("bob", "192.168.1.11", key=BOB_KEY, trust=trust_of("pinned"))
    alice = world.add("alice", "192.168.1.10", key=ALICE_KEY)
    servers = IceServers(turn=(TurnServer("192.0.2.1", username="user", password=PASSWORD),))
    alice.send(bob, b"hello")
    world.run(SECOND_US, lambda: any(isinstance(event, SessionRequested) for event in bob.events))
    bob.accept(alice)
    assert world.run(5 * SECOND_US, lambda: bob.endpoint.unread_messages > 0)
    for call in alice.endpoint._calls._calls.values():  # type: ignore[union-attr]
        secrets.known.add(call.local_password)
    assert len(secrets.known) > 8
    for text in [repr(servers), *reprs(), *map(repr, alice.events + bob.events)]:
        secrets.assert_not_in("repr", text)
    secrets.assert_not_in("log", caplog.text)


def wrong_keys() -> list[bytes]:
    """Files that nearly hold Alice's key."""
    pem = ALICE_KEY.to_pem()
    secret = ALICE_KEY.private_bytes()
    body = pem.splitlines()[1]
    return [
        secret[:31],
        secret + b".",
        secret.hex().encode()[:-1],
        secret.hex().encode() + b"z",
        pem[:-40],
        pem.replace(b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"),
        pem.replace(b"PRIVATE KEY", b"OPENSSH PRIVATE KEY"),
        pem.replace(body, body[:-4] + b"!!!!"),
        pem.replace(body, body[4:]),
        pem + pem,
        body,
        body * 300,
    ]


@pytest.mark.parametrize("content", wrong_keys(), ids=range(len(wrong_keys())))
def test_what_is_wrong_with_a_key_is_said_without_the_key(content: bytes, secrets: Secrets, tmp_path: Path) -> None:
    secrets.known.update((ALICE_KEY.private_bytes(), ALICE_KEY.private_bytes()[:31], ALICE_KEY.private_bytes()[:16]))
    file = tmp_path / "wrong.key"
    file.write_bytes(content)
    file.chmod(0o600)
    tries: list[Callable[[], object]] = [
        lambda: SigningKey(content),
        lambda: AgreementKey(content),
        lambda: SigningKey.from_pem(content),
        lambda: read_private_key(content.decode("latin-1")),
        lambda: Messages("alice", key=content, signaling=None),
        lambda: Messages("alice", key=file, signaling=None),
        lambda: Messages("alice", key=content.decode("latin-1"), signaling=None),
    ]
    failed = 0
    for attempt in tries:
        try:
            made = attempt()
        except (UsageError, TypeError, AttributeError, ValueError) as error:
            failed += 1
            chain: BaseException | None = error
            while chain is not None:
                secrets.assert_not_in("exception", f"{chain} {chain!r} {chain.args!r}")
                chain = chain.__cause__ or chain.__context__
            secrets.assert_not_in("traceback", "".join(traceback.format_exception(error)))
        else:
            if isinstance(made, Messages):
                made.close()
    assert failed


def test_keys_in_the_environment_are_not_repeated(secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (ALICE_KEY.private_bytes().hex()[:-2], ALICE_KEY.to_pem().decode()[:-30]):
        monkeypatch.setenv("PEERGRAM_KEY", wrong)
        with pytest.raises(UsageError) as raised:
            Messages("alice", signaling=None)
        secrets.assert_not_in("exception", "".join(traceback.format_exception(raised.value)))
    assert os.environ["PEERGRAM_KEY"]


def test_a_server_with_a_password_is_refused_without_it(secrets: Secrets) -> None:
    password = "sesame5"
    secrets.known.add(password.encode())
    for wrong in (
        f"turn:user:{password}@",
        f"turn:user:{password}@host?transport=pigeon",
        f"turn:user:{password}@host:port",
        f"turn:user:{password}@host:99999",
    ):
        with pytest.raises(UsageError) as raised:
            IceServers.of(wrong)
        secrets.assert_not_in("exception", str(raised.value))


def test_a_stored_certificate_does_not_show_the_key_beside_it(secrets: Secrets) -> None:
    stored = StoredCertificate(issue(ROOT, good_certificate()), ALICE_KEY.private_bytes())
    secrets.assert_not_in("repr", repr(stored))
    assert ALICE_KEY.private_bytes() in encode_stored_certificate(stored)


def test_the_search_would_find_what_it_looks_for() -> None:
    secrets = Secrets()
    secret = Random(1).randbytes(32)
    secrets.known.add(secret)
    for text in (f"key={secret!r}", secret.hex(), f"x{base64.b64encode(secret).decode()}x", str(list(secret))):
        with pytest.raises(AssertionError):
            secrets.assert_not_in("test", text)
    secrets.assert_not_in("test", f"{ALICE_KEY!r} {ALICE.text}")
