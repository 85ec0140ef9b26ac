"""`Messages` and the user's files: keys, known peers, certificates, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from peergram import (
    ConnectionState,
    IdentityInUseError,
    InfoFlags,
    Messages,
    PeerRefused,
    SendFlags,
    SessionFailed,
    SessionRequested,
    UsageError,
    aio,
)
from peergram.crypto.authority import issue_certificate
from peergram.crypto.keys import SigningKey, fingerprint
from peergram.crypto.trust import TrustStore
from peergram.identity import Identity
from peergram.servers.login_certificates import LoginCertificates
from peergram.wire.certificate_text import write_certificate
from peergram.wire.certificates import StoredCertificate
from tests.servers.running import running_server

RELIABLE = SendFlags.RELIABLE
ANY_PORT = "127.0.0.1:0"
Start = Callable[..., Messages]


@pytest.fixture
def start() -> Iterator[Start]:
    """Opens a `Messages` that is closed with the test, and accepts everybody."""
    with ExitStack() as stack:

        def start(name: str | None = None, **options: Any) -> Messages:
            net = stack.enter_context(Messages(name, signaling=None, **options))
            net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
            return net

        yield start


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder."""
    monkeypatch.setenv("PEERGRAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def place(net: Messages) -> str:
    return f"ip:127.0.0.1:{net.local_addresses[0][1]}"


def until(done: Callable[[], object], *nets: Messages, limit_s: float = 20) -> None:
    end_s = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end_s, "did not happen in time"
        for net in nets:
            net.run_callbacks()
        time.sleep(0.002)


def talk(caller: Messages, called: Messages) -> str:
    """One message arrives; how the called side's identity is proven to the caller."""
    caller.send_message_to_user(place(called), b"hello", RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION)
    until(lambda: called.receive_messages_on_channel(0, 1), caller, called)
    connection = caller.get_session_connection_info(place(called)).connection
    assert connection is not None
    return connection.proven_by


# --- keys ---


def test_a_name_has_the_same_key_in_every_run_and_is_one_program_s_at_a_time(home: Path) -> None:
    with Messages("alice", signaling=None) as first:
        with pytest.raises(IdentityInUseError, match=r"str:alice is in use"):
            Messages("alice", signaling=None)
        shown = first.key_fingerprint
    with Messages("alice", signaling=None) as again:
        assert again.key_fingerprint == shown
    assert (home / "keys").is_dir()


def test_without_a_name_the_identity_is_the_user_s_key_and_two_programs_have_two(home: Path) -> None:
    with Messages(signaling=None) as first, Messages(signaling=None) as second:
        assert first.identity != second.identity
        kept = first.identity
    with Messages(signaling=None) as again:
        assert again.identity == kept


def test_a_key_for_this_run_only_leaves_no_file(home: Path) -> None:
    with Messages("alice", key=False, signaling=None) as one, Messages("alice", key=False, signaling=None) as two:
        assert one.key_fingerprint != two.key_fingerprint
    assert not home.exists()


def test_a_key_is_given_as_bytes_file_or_environment(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = SigningKey(bytes(range(32)))
    file = tmp_path / "mine.key"
    file.write_bytes(key.to_pem())
    file.chmod(0o600)
    for given in (key, bytes(range(32)), key.to_pem(), file, str(file)):
        with Messages("alice", key=given, signaling=None) as net:
            assert net.key_fingerprint == fingerprint(key.public_bytes)
    monkeypatch.setenv("PEERGRAM_KEY", bytes(range(32)).hex())
    with Messages(signaling=None) as net:
        assert net.identity.public_key_bytes == key.public_bytes
    assert not (home / "keys").exists()


def test_a_key_that_others_can_read_is_refused_and_gives_no_endpoint(tmp_path: Path) -> None:
    file = tmp_path / "mine.key"
    file.write_bytes(SigningKey(bytes(range(32))).to_pem())
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod"):
        Messages("alice", key=file, signaling=None)


def test_what_is_no_key_is_a_clear_error(tmp_path: Path) -> None:
    for wrong in (b"short", tmp_path / "nowhere.key", 7):
        with pytest.raises(UsageError, match="key"):
            Messages("alice", key=wrong, signaling=None)  # type: ignore[arg-type]


def test_an_endpoint_that_could_not_be_opened_gives_its_key_back(home: Path) -> None:
    with Messages("bob", listen=ANY_PORT, signaling=None) as bob:
        with pytest.raises(OSError, match="in use"):
            Messages("alice", listen=("127.0.0.1", bob.local_addresses[0][1]), signaling=None)
        Messages("alice", signaling=None).close()


def test_a_killed_program_s_name_is_free_at_once(home: Path) -> None:
    program = "import peergram, time; net = peergram.Messages('alice', signaling=None); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        child.kill()
        child.wait()
    Messages("alice", signaling=None).close()


# --- known peers ---


def test_a_peer_is_known_after_the_first_contact_also_in_the_next_run(start: Start, home: Path) -> None:
    bob = start("bob", listen=ANY_PORT)
    with Messages("alice", signaling=None) as alice:
        assert talk(alice, bob) == "first_contact"
    with Messages("alice", signaling=None) as alice:
        assert talk(alice, bob) == "pinned"
        connection = alice.get_session_connection_info(place(bob)).connection
        assert connection is not None
        assert InfoFlags.UNAUTHENTICATED not in connection.flags
    text = (home / "known_peers").read_text(encoding="utf-8")
    assert f"str:bob {bob.key_fingerprint}" in text
    assert "str:alice SHA256:" in text


def test_another_key_is_refused_until_the_file_says_otherwise(start: Start, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    bob = start("bob", listen=ANY_PORT)
    with Messages("alice", key=False, signaling=None) as alice:
        talk(alice, bob)
    impostor = start("alice", key=False, known_peers=False)
    refused: list[PeerRefused] = []
    bob.on_peer_refused = refused.append
    impostor.send_message_to_user(place(bob), b"let me in", RELIABLE)
    until(lambda: refused, bob)
    assert f"peergram known accept str:alice {impostor.key_fingerprint}" in refused[0].text
    until(lambda: (home / "known_peers").exists() and "str:alice" in (home / "known_peers").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "peergram.cli", "known", "accept", "alice", impostor.key_fingerprint]
    assert subprocess.run(command, check=False, timeout=30).returncode == 0

    def came_in() -> object:
        # His first attempt may have timed out meanwhile.
        impostor.send_message_to_user(place(bob), b"now?", RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION)
        return bob.receive_messages_on_channel(0, 1)

    until(came_in, bob, impostor)


def test_without_a_handler_an_impostor_is_in_the_log(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    bob = start("bob", listen=ANY_PORT)
    talk(start("alice", key=False), bob)
    impostor = start("alice", key=False, known_peers=False)
    with caplog.at_level(logging.WARNING):
        impostor.send_message_to_user(place(bob), b"let me in", RELIABLE)
        until(lambda: "str:alice is known with another key" in caplog.text, bob)


def test_a_called_impostor_is_a_failure_that_names_both_keys(start: Start) -> None:
    alice, failures = start("alice"), list[SessionFailed]()
    with Messages("bob", key=False, listen=ANY_PORT, signaling=None) as bob:
        bob.on_session_request = lambda request: bob.accept_session_with_user(request.identity)
        known = bob.key_fingerprint
        talk(alice, bob)
        here = place(bob)
    impostor = start("bob", key=False, known_peers=False, listen=here.removeprefix("ip:"))
    alice.on_session_failed = failures.append
    alice.close_session_with_user(here)
    alice.send_message_to_user(here, b"hello again", RELIABLE)
    until(lambda: failures, alice, impostor)
    assert f"{impostor.key_fingerprint} now, but {known} before" in failures[0].debug
    assert failures[0].unconfirmed.messages == 1


def test_known_peers_may_be_kept_elsewhere_or_not_at_all(start: Start, tmp_path: Path, home: Path) -> None:
    bob = start("bob", listen=ANY_PORT, known_peers=tmp_path / "friends")
    talk(start("alice", known_peers=False), bob)
    bob.close()
    assert "str:alice SHA256:" in (tmp_path / "friends").read_text(encoding="utf-8")
    assert not (home / "known_peers").exists()
    with pytest.raises(UsageError, match="known_peers"):
        Messages("carol", known_peers=7, signaling=None)  # type: ignore[arg-type]


def test_who_wants_to_see_a_key_first_is_asked_and_nothing_was_sent(start: Start) -> None:
    bob = start("bob", listen=ANY_PORT)
    alice, asked = start("alice", pin_outgoing="ask"), list[SessionRequested]()
    alice.on_session_request = asked.append
    alice.send_message_to_user(place(bob), b"secret", RELIABLE)
    until(lambda: asked, alice, bob)
    assert (asked[0].is_outgoing, asked[0].key_fingerprint) == (True, bob.key_fingerprint)
    assert alice.get_session_connection_info(place(bob)).state == ConnectionState.CONNECTING
    assert not bob.receive_messages_on_channel(0, 1)
    assert alice.accept_session_with_user(place(bob))
    until(lambda: bob.receive_messages_on_channel(0, 1), alice, bob)


# --- policies ---


def test_open_lets_anyone_in_and_says_so(start: Start) -> None:
    bob = start("bob", listen=ANY_PORT)
    alice = start("alice", trust="open")
    assert talk(alice, bob) == "nothing"
    connection = alice.get_session_connection_info(place(bob)).connection
    assert connection is not None
    assert InfoFlags.UNAUTHENTICATED in connection.flags


def test_certificates_of_an_authority_let_names_in(start: Start, tmp_path: Path, home: Path) -> None:
    command = [sys.executable, "-m", "peergram.cli"]
    for arguments in (
        ("ca", "init", str(tmp_path / "ca")),
        ("id", "new", "bob"),
        ("cert", "issue", "--ca", str(tmp_path / "ca"), "--identity", "bob", "--out", str(tmp_path / "bob.cert")),
    ):
        done = subprocess.run([*command, *arguments], check=False, timeout=30, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    bob = start("bob", listen=ANY_PORT, certificate=tmp_path / "bob.cert")
    alice = start(trust="ca", authorities=tmp_path / "ca" / "authority.txt")
    assert talk(alice, bob) == "certificate"


def test_unknown_policies_are_refused_before_anything_is_opened(home: Path) -> None:
    with pytest.raises(UsageError, match="trust: use one or several of key, pinned, ca, open"):
        Messages("alice", trust="friends", signaling=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one root"):
        Messages("alice", trust="ca", signaling=None)
    assert not home.exists()


def test_a_certificate_that_the_signaling_server_issues_is_shown_to_those_who_demand_one() -> None:
    root, store = SigningKey(b"r" * 32), TrustStore()
    store.add_root(root.public_bytes)
    issuing = LoginCertificates(issuer_key=root, wall_s=lambda: int(time.time()))
    with (
        running_server(certificates=issuing) as server,
        Messages("bob", signaling=server.url) as bob,
        Messages("alice", signaling=server.url, trust="ca", authorities=store) as alice,
    ):
        bob.on_session_request = lambda request: bob.accept_session_with_user(request.identity)
        until(lambda: server.count("certificates") >= 2)
        alice.send_message_to_user("bob", b"hello", RELIABLE)
        until(lambda: bob.receive_messages_on_channel(0, 1), alice, bob)
        connection = alice.get_session_connection_info("bob").connection
        assert connection is not None
        assert connection.proven_by == "certificate"


@pytest.mark.parametrize("dress", ["messages", "aio"])
def test_a_renewed_certificate_must_be_for_us(start: Start, tmp_path: Path, dress: str) -> None:
    root = SigningKey(b"r" * 32)
    if dress == "messages":
        _renew(start("alice", key=bytes(range(32))), root, tmp_path)
        return

    async def main() -> None:
        async with aio.open("alice", key=bytes(range(32)), signaling=None, known_peers=False) as alice:
            _renew(alice, root, tmp_path)

    asyncio.run(main())


def _renew(alice: Messages | aio.Net, root: SigningKey, folder: Path) -> None:
    now_s = int(time.time())
    for name, key, is_ours in (("alice", bytes(range(32)), True), ("bob", bytes(range(32)), False), ("alice", b"k" * 32, False)):
        signed = issue_certificate(
            root,
            subject_key=SigningKey(key).public_bytes,
            identity=Identity.of(name),
            app_ids=(0,),
            created_s=now_s - 60,
            expires_s=now_s + 3_600,
        )
        file = folder / "renewed.cert"
        file.write_text(write_certificate(StoredCertificate(signed)), encoding="ascii")
        if is_ours:
            alice.renew_certificate(file)
        else:
            with pytest.raises(UsageError):
                alice.renew_certificate(file)
