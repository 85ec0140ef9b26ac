"""Handshakes in virtual time: the straight way, every lost packet, every changed byte, and recorded ones of the reference."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import fuzz_handshake
from peergram.address import Address
from peergram.config import PADDED_BYTES_MIN, Config
from peergram.connection.handshake import (
    Established,
    LocalCredentials,
    LocalCrypt,
    PingSamples,
    Refused,
    establish,
    find_peer_identity,
    is_connection_id,
    local_crypt_info,
    self_made_credentials,
)
from peergram.connection.handshake_client import ClientHandshake
from peergram.connection.handshake_server import ServerHandshake, answer_challenge_request, check_connect_request
from peergram.connection.peer_checks import (
    AGREEMENT_CHECKS,
    PEER_CHECKS,
    Failed,
    PeerClaims,
    run_checks,
)
from peergram.crypto.cookie import ChallengeCookies
from peergram.crypto.derive import Side, derive_session_keys
from peergram.crypto.keys import AgreementKey, Entropy, SigningKey, verify
from peergram.crypto.policy import Trust
from peergram.crypto.seal import make_cipher
from peergram.crypto.trust import TrustStore
from peergram.errors import EndReason, UsageError, WireError
from peergram.identity import ANONYMOUS, Identity
from peergram.timing import Deadline
from peergram.wire.certificates import (
    CIPHER_AES_256_GCM,
    CIPHER_NONE,
    IdentityFields,
    LegacyIdentity,
    SignedCertificate,
    SignedCryptInfo,
    decode_certificate,
    decode_crypt_info,
    encode_certificate,
    encode_crypt_info,
    write_identity,
)
from peergram.wire.control import (
    ChallengeReply,
    ChallengeRequest,
    ConnectOk,
    ConnectRequest,
    decode_control,
    encode_control,
)
from tests.vectors_data import load

VECTORS = load("01-crypto")
CLIENT_AT: Address = ("198.51.100.7", 40_000)
SERVER_AT: Address = ("203.0.113.9", 27_015)
CLIENT_ID, SERVER_ID = 0x11223344, 0x55667788
START_US = 3_000_000_000_000
WALL_S = 1_800_000_000
ONE_WAY_US = 20_000
CONFIG = Config()


def entropy_of(seed: int) -> Entropy:
    return random.Random(seed).randbytes


def credentials_of(who: str | Identity, seed: int = 1) -> LocalCredentials:
    entropy = entropy_of(seed)
    return self_made_credentials(Identity.of(who), SigningKey.generate(entropy), entropy(16))


def key_credentials(seed: int, trust: Trust | None = None) -> LocalCredentials:
    key = SigningKey.generate(entropy_of(seed))
    return self_made_credentials(Identity.generic_bytes(key.public_bytes), key, bytes(16), trust)


@dataclass
class Server:
    """The least endpoint there can be: one listening address, every proven stranger accepted at once."""

    credentials: LocalCredentials = field(default_factory=lambda: credentials_of("bob", 2))
    config: Config = CONFIG
    accepts: bool = True
    now_us: int = START_US
    refused: list[str] = field(default_factory=list)
    waiting: ServerHandshake | None = None
    session: Established | Failed | None = None

    def __post_init__(self) -> None:
        self.cookies = ChallengeCookies(entropy_of(3))

    def answer(self, datagram: bytes, remote: Address = CLIENT_AT) -> bytes | None:
        """What goes back to `remote`."""
        try:
            message = decode_control(datagram)
        except WireError:
            return None
        if self.waiting is not None:
            return self._repeat(message)
        if isinstance(message, ChallengeRequest):
            return answer_challenge_request(message, remote, self.cookies, self.now_us)
        if not isinstance(message, ConnectRequest):
            return None
        checked = check_connect_request(message, remote, self.credentials, self.config, self.now_us, WALL_S, cookies=self.cookies)
        if isinstance(checked, Refused):
            self.refused.append(checked.text)
            return None
        self.waiting = checked
        return self.accept() if self.accepts else None

    def accept(self) -> bytes | None:
        assert self.waiting is not None
        self.session = self.waiting.accept(SERVER_ID, entropy_of(4), self.now_us)
        return self.waiting.connect_ok(self.now_us) if isinstance(self.session, Established) else None

    def _repeat(self, message: object) -> bytes | None:
        assert self.waiting is not None
        asked = {ChallengeRequest: "connection_id", ConnectRequest: "client_connection_id"}.get(type(message))
        if asked is None or getattr(message, asked) != self.waiting.client_connection_id:
            return None
        return self.waiting.connect_ok(self.now_us) if isinstance(self.session, Established) else None


@dataclass
class Run:
    """One handshake over a line of 20 ms each way; `change` may alter or swallow each datagram, in order of sending."""

    client: ClientHandshake
    server: Server
    change: Callable[[int, bytes], bytes | None] = lambda index, datagram: datagram
    sent: list[tuple[int, str, bytes]] = field(default_factory=list)
    now_us: int = START_US

    def until_over(self, limit_us: int = 20_000_000) -> None:
        while self.client.outcome is None and self.now_us < START_US + limit_us:
            datagram = self.client.poll_transmit(self.now_us)
            if datagram is not None:
                self._round_trip(datagram)
                continue
            deadline = self.client.poll_timeout()
            assert deadline is not None
            self.now_us = max(self.now_us, deadline.at_us)
            self.client.handle_timeout(self.now_us)

    def _round_trip(self, datagram: bytes) -> None:
        arrived = self._carry("client", datagram)
        if arrived is None:
            return
        self.server.now_us = self.now_us + ONE_WAY_US
        answer = self.server.answer(arrived)
        answer = None if answer is None else self._carry("server", answer)
        if answer is None:
            return
        self.now_us += 2 * ONE_WAY_US
        hand_to_client(self.client, answer, self.now_us)

    def _carry(self, sender: str, datagram: bytes) -> bytes | None:
        self.sent.append((self.now_us - START_US, sender, datagram))
        return self.change(len(self.sent) - 1, datagram)


def hand_to_client(client: ClientHandshake, datagram: bytes, now_us: int) -> None:
    try:
        message = decode_control(datagram)
    except WireError:
        return
    if isinstance(message, ChallengeReply):
        client.handle_challenge_reply(message, now_us)
    elif isinstance(message, ConnectOk):
        client.handle_connect_ok(message, SERVER_AT, now_us)


def new_client(
    credentials: LocalCredentials | None = None, config: Config = CONFIG, expected_identity: Identity | None = None
) -> ClientHandshake:
    who = credentials or credentials_of("alice")
    return ClientHandshake(who, config, CLIENT_ID, entropy_of(5), START_US, expected_identity=expected_identity)


def new_run(client: ClientHandshake | None = None, server: Server | None = None) -> Run:
    return Run(client or new_client(), server or Server())


def sessions(run: Run) -> tuple[Established, Established]:
    """Both ends' sessions, which must both be up."""
    assert isinstance(run.client.outcome, Established)
    assert isinstance(run.server.session, Established)
    return run.client.outcome, run.server.session


def talk(one: Established, other: Established) -> bool:
    """Whether packets of each end open at the other."""
    there = other.receive_cipher.open(2, one.send_cipher.seal(2, b"there"))
    back = one.receive_cipher.open(2, other.send_cipher.seal(2, b"back"))
    return there == b"there" and back == b"back"


# The straight way


def test_two_round_trips_make_a_session() -> None:
    run = new_run()
    run.until_over()
    client, server = sessions(run)
    assert talk(client, server)
    assert [sender for _, sender, _ in run.sent] == ["client", "server", "client", "server"]
    assert [at_us for at_us, _, _ in run.sent] == [0, 0, 40_000, 40_000]
    assert (client.peer_identity, server.peer_identity) == (Identity.of("bob"), Identity.of("alice"))
    assert (client.peer_connection_id, server.peer_connection_id) == (SERVER_ID, CLIENT_ID)
    assert client.peer_key == credentials_of("bob", 2).signing_key.public_bytes
    assert server.peer_fingerprint.startswith("SHA256:")
    assert client.cipher == server.cipher == CIPHER_AES_256_GCM
    assert client.protocol_version == server.protocol_version == 13
    run.client.confirm()
    assert run.client.poll_timeout() is None
    assert run.client.poll_transmit(run.now_us) is None


def test_own_peers_recognise_each_other_by_their_run_ids() -> None:
    run = new_run()
    run.until_over()
    client, server = sessions(run)
    assert client.capabilities is not None
    assert server.capabilities is not None
    assert client.capabilities.run_id == credentials_of("bob", 2).run_id
    assert server.capabilities.run_id == credentials_of("alice").run_id


def test_a_name_is_only_a_claim() -> None:
    run = new_run()
    run.until_over()
    for session in sessions(run):
        assert session.proven_by == "nothing"
        assert not session.authenticated


def test_a_key_proves_itself_under_either_trust() -> None:
    for trust in (Trust("open"), Trust("key")):
        run = new_run(new_client(key_credentials(7, trust)), Server(key_credentials(8, trust)))
        run.until_over()
        for session in sessions(run):
            assert session.proven_by == "key"
            assert session.authenticated
            assert session.peer_identity.public_key_bytes == session.peer_key


def test_the_first_packet_is_number_two_and_the_hellos_count_as_one() -> None:
    run = new_run()
    run.until_over()
    for session in sessions(run):
        assert (session.next_packet_number, session.highest_received) == (2, 1)


def test_pings_are_measured_on_the_way() -> None:
    run = new_run()
    run.until_over()
    client, server = sessions(run)
    assert client.ping_samples_ms == [40, 40]
    assert client.rtt_us == 40_000
    assert server.ping_samples_ms == [40]
    assert server.rtt_us == 40_000


def test_every_connection_has_keys_of_its_own() -> None:
    seen = set()
    for seed in range(5):
        client = ClientHandshake(credentials_of("alice"), CONFIG, CLIENT_ID, entropy_of(100 + seed), START_US)
        run = new_run(client)
        run.until_over()
        seen.add(sessions(run)[0].send_cipher.seal(2, b"the same text"))
    assert len(seen) == 5


@pytest.mark.parametrize("text", [row["identity"] for row in VECTORS["identity"]])
def test_every_kind_of_identity_arrives_on_both_sides(text: str) -> None:
    identity = Identity.parse(text)
    run = new_run(new_client(credentials_of(identity)), Server(credentials_of(identity, 2)))
    run.until_over()
    client, server = sessions(run)
    assert client.peer_identity == (Identity.ip(SERVER_AT) if identity.is_localhost else identity)
    assert server.peer_identity == (Identity.ip(CLIENT_AT) if identity.is_localhost else identity)


@pytest.mark.parametrize("row", VECTORS["identity"], ids=lambda row: row["identity"])
def test_self_made_certificates_equal_the_references(row: dict[str, Any]) -> None:
    recorded = bytes.fromhex(row["cert"])
    certificate = replace(decode_certificate(recorded), identity_fields=write_identity(Identity.parse(row["identity"])))
    assert encode_certificate(certificate) == recorded
    ours = decode_certificate(credentials_of(Identity.parse(row["identity"])).signed_certificate.cert)
    assert ours == replace(certificate, key_data=ours.key_data)


def test_a_run_id_has_sixteen_bytes() -> None:
    with pytest.raises(UsageError, match="16 random bytes"):
        self_made_credentials(ANONYMOUS, SigningKey(bytes(32)), b"short")


@pytest.mark.parametrize(("number", "good"), [(0, False), (1, False), (0x10000, False), (0x10001, True), (1 << 32 | 1, False)])
def test_both_halves_of_a_connection_id_are_non_zero(number: int, good: bool) -> None:
    assert is_connection_id(number) is good


# Loss and time


LOSSES = [(), (0,), (1,), (2,), (3,), (0, 1), (0, 2), (1, 3), (2, 4), (3, 4), (0, 1, 2, 3, 4), (2, 5), (3, 5, 6)]


@pytest.mark.parametrize("lost", LOSSES, ids=str)
def test_lost_packets_cost_half_a_second_each_and_nothing_else(lost: tuple[int, ...]) -> None:
    run = new_run()
    run.change = lambda index, datagram: None if index in lost else datagram
    run.until_over()
    client, server = sessions(run)
    assert talk(client, server)
    assert run.now_us - START_US <= 540_000 * len(lost) + 80_000


@given(st.lists(st.booleans(), max_size=24))
@settings(max_examples=60, deadline=None)
def test_whatever_is_lost_early_the_rest_connects_with_one_set_of_keys(losses: list[bool]) -> None:
    run = new_run()
    run.change = lambda index, datagram: None if index < len(losses) and losses[index] else datagram
    run.until_over(60_000_000)
    if isinstance(run.client.outcome, Failed):
        assert sum(losses) >= 10
        return
    client, server = sessions(run)
    assert talk(client, server)


def test_a_silent_server_is_asked_every_half_second_for_ten_seconds() -> None:
    run = new_run()
    run.change = lambda index, datagram: None
    run.until_over()
    assert [at_us for at_us, _, _ in run.sent] == [500_000 * n for n in range(20)]
    assert run.now_us == START_US + 10_000_000
    assert run.client.outcome == Failed(EndReason.MISC_TIMEOUT, "Timed out attempting to connect")
    assert run.client.peer_connection_id == 0


def test_the_whole_time_is_the_configured_one() -> None:
    run = new_run(new_client(config=Config(timeout_initial_us=1_250_000)))
    run.change = lambda index, datagram: None
    run.until_over()
    assert run.now_us == START_US + 1_250_000
    assert len(run.sent) == 3


def test_deadlines_say_why() -> None:
    client = new_client()
    assert client.poll_timeout() == Deadline(START_US + 10_000_000, "connect timeout")
    client.poll_transmit(START_US)
    assert client.poll_timeout() == Deadline(START_US + 500_000, "connect retry")


def test_the_retry_waits_half_a_second_after_the_connect_request_too() -> None:
    run = new_run()
    run.change = lambda index, datagram: None if index == 2 else datagram
    run.until_over()
    assert [(at_us, datagram[0]) for at_us, sender, datagram in run.sent if sender == "client"] == [
        (0, 0x20),
        (40_000, 0x22),
        (540_000, 0x20),
        (580_000, 0x22),
    ]


def test_repeated_hellos_carry_the_same_keys() -> None:
    run = new_run()
    run.change = lambda index, datagram: None if index in (2, 5) else datagram
    run.until_over()
    requests = [decode_control(datagram) for _, _, datagram in run.sent if datagram[0] == 0x22]
    assert len(requests) == 3
    assert all(isinstance(request, ConnectRequest) for request in requests)
    assert len({request.crypt.info for request in requests if isinstance(request, ConnectRequest)}) == 1


def test_a_lost_connect_ok_is_repeated_for_a_challenge_request() -> None:
    run = new_run()
    run.change = lambda index, datagram: None if index == 3 else datagram
    run.until_over()
    assert [datagram[0] for _, _, datagram in run.sent] == [0x20, 0x21, 0x22, 0x23, 0x20, 0x23]
    assert talk(*sessions(run))


def test_a_server_that_takes_its_time_still_connects() -> None:
    server = Server(accepts=False)
    run = new_run(server=server)

    def accept_late(index: int, datagram: bytes) -> bytes | None:
        if run.now_us >= START_US + 5_000_000 and server.session is None:
            server.now_us = run.now_us
            server.accept()
        return datagram

    run.change = accept_late
    run.until_over()
    assert talk(*sessions(run))
    assert 5_000_000 <= run.now_us - START_US <= 5_600_000


# What a client ignores and what ends it


def replied(client: ClientHandshake, **changes: int) -> None:
    client.poll_transmit(START_US)
    reply = ChallengeReply(CLIENT_ID, 99, START_US, 13)
    client.handle_challenge_reply(replace(reply, **changes), START_US + 1000)


def test_a_reply_to_somebody_else_is_ignored() -> None:
    client = new_client()
    replied(client, connection_id=CLIENT_ID + 1)
    assert client.poll_transmit(START_US + 1000) is None


def test_a_reply_that_nobody_asked_for_is_ignored() -> None:
    client = new_client()
    client.handle_challenge_reply(ChallengeReply(CLIENT_ID, 99, START_US, 13), START_US)
    datagram = client.poll_transmit(START_US)
    assert datagram is not None
    assert datagram[0] == 0x20


def test_a_replayed_reply_makes_the_client_send_nothing_more() -> None:
    client = new_client()
    for _ in range(100):
        client.handle_challenge_reply(ChallengeReply(CLIENT_ID, 99, START_US, 13), START_US)
    replied(client)
    sent = 0
    for step in range(1000):
        client.handle_challenge_reply(ChallengeReply(CLIENT_ID, step, START_US, 13), START_US + 1000)
        sent += client.poll_transmit(START_US + 1000) is not None
    assert sent == 1


@pytest.mark.parametrize("version", [0, 7])
def test_an_old_server_is_refused_at_its_third_word(version: int) -> None:
    run = new_run()
    run.change = lambda index, datagram: with_version(datagram, version) if datagram[0] == 0x21 else datagram
    run.until_over()
    assert run.client.outcome == Failed(EndReason.MISC_GENERIC, "Peer is running old software and needs to be udpated")
    assert run.now_us == START_US + 1_040_000


def with_version(reply: bytes, version: int) -> bytes:
    message = decode_control(reply)
    assert isinstance(message, ChallengeReply)
    return encode_control(replace(message, protocol_version=version))


@pytest.mark.parametrize("version", [0, 7, 8, 12, 14, 255])
def test_a_challenge_reply_with_a_damaged_version_does_no_harm(version: int) -> None:
    run = new_run()
    run.change = lambda index, datagram: with_version(datagram, version) if index == 1 else datagram
    run.until_over()
    assert talk(*sessions(run))
    assert sessions(run)[0].protocol_version == 13


@pytest.mark.parametrize(
    ("elapsed_us", "samples"), [(-1, []), (0, [0]), (499, [0]), (500, [1]), (2_000_000, [2000]), (2_000_001, [])]
)
def test_only_believable_round_trips_count(elapsed_us: int, samples: list[int]) -> None:
    pings = PingSamples()
    pings.add_elapsed(elapsed_us, START_US)
    assert pings.samples_ms == samples


def ready() -> tuple[ClientHandshake, ConnectOk, Established]:
    """A client that sent its connect request, the answer to it, and the server's session."""
    run = new_run()
    client, server = run.client, run.server
    challenge = server.answer(sent_by(client))
    assert challenge is not None
    hand_to_client(client, challenge, START_US)
    answer = server.answer(sent_by(client))
    assert answer is not None
    message = decode_control(answer)
    assert isinstance(message, ConnectOk)
    assert isinstance(server.session, Established)
    return client, message, server.session


def sent_by(client: ClientHandshake, now_us: int = START_US) -> bytes:
    datagram = client.poll_transmit(now_us)
    assert datagram is not None
    return datagram


def test_the_prepared_answer_is_good() -> None:
    client, message, session = ready()
    client.handle_connect_ok(message, SERVER_AT, START_US)
    assert isinstance(client.outcome, Established)
    assert talk(client.outcome, session)


Hello = TypeVar("Hello", ConnectOk, ConnectRequest)
BAD_IDENTITY = IdentityFields(identity_string=b"nonsense")
NO_IDENTITY = IdentityFields()
IP_IDENTITY = write_identity(Identity.ip(("192.0.2.1", 5)))


def with_certificate(message: Hello, fields: IdentityFields) -> Hello:
    certificate = replace(decode_certificate(message.cert.cert), identity_fields=fields)
    return replace(message, cert=SignedCertificate(encode_certificate(certificate)))


IGNORED: list[tuple[str, Callable[[ConnectOk], ConnectOk]]] = [
    ("for somebody else", lambda ok: replace(ok, client_connection_id=CLIENT_ID + 1)),
    ("garbage certificate", lambda ok: replace(ok, cert=SignedCertificate(b"\xff\xff"))),
    ("garbage identity in the certificate", lambda ok: with_certificate(ok, BAD_IDENTITY)),
    ("garbage identity beside it", lambda ok: replace(with_certificate(ok, NO_IDENTITY), identity_fields=BAD_IDENTITY)),
    ("empty legacy identity", lambda ok: with_certificate(ok, IdentityFields(legacy_binary=LegacyIdentity()))),
    ("an address beside it", lambda ok: replace(with_certificate(ok, NO_IDENTITY), identity_fields=IP_IDENTITY)),
]


@pytest.mark.parametrize("change", [row[1] for row in IGNORED], ids=[row[0] for row in IGNORED])
def test_a_client_ignores_answers_that_name_nobody_it_could_talk_to(change: Callable[[ConnectOk], ConnectOk]) -> None:
    client, message, _ = ready()
    client.handle_connect_ok(change(message), SERVER_AT, START_US)
    assert client.outcome is None
    client.handle_connect_ok(message, SERVER_AT, START_US)
    assert isinstance(client.outcome, Established)


def test_a_client_ignores_an_answer_to_a_request_it_has_not_made() -> None:
    _, message, _ = ready()
    client = new_client()
    client.handle_connect_ok(message, SERVER_AT, START_US)
    assert client.outcome is None


def test_after_the_end_everything_is_ignored() -> None:
    client, message, _ = ready()
    client.handle_connect_ok(message, SERVER_AT, START_US)
    outcome = client.outcome
    client.handle_connect_ok(replace(message, server_connection_id=0), SERVER_AT, START_US)
    client.handle_challenge_reply(ChallengeReply(CLIENT_ID, 1, START_US, 3), START_US)
    client.handle_timeout(START_US + 20_000_000)
    assert client.outcome is outcome
    assert client.poll_transmit(START_US + 20_000_000) is None


FAILING: list[tuple[str, Callable[[ConnectOk], ConnectOk], int, str]] = [
    (
        "no connection id",
        lambda ok: replace(ok, server_connection_id=0x10000),
        EndReason.REMOTE_BAD_CRYPT,
        "Didn't send valid connection ID",
    ),
    (
        "no certificate",
        lambda ok: replace(ok, cert=SignedCertificate(b"")),
        EndReason.REMOTE_BAD_CRYPT,
        "Crypto handshake missing cert or session data",
    ),
    (
        "no crypt info",
        lambda ok: replace(ok, crypt=SignedCryptInfo(b"", b"")),
        EndReason.REMOTE_BAD_CRYPT,
        "Crypto handshake missing cert or session data",
    ),
    (
        "no signature",
        lambda ok: replace(ok, crypt=replace(ok.crypt, signature=b"")),
        EndReason.REMOTE_BAD_CRYPT,
        "No signature",
    ),
]


FAILING_IDS = [row[0] for row in FAILING]


def is_under_way(client: ClientHandshake) -> bool:
    return client.outcome is None and client.peer_connection_id == 0


def insist(client: ClientHandshake, message: ConnectOk, times: int = 3) -> None:
    """The server gives the same answer, time stamps apart, in so many retry intervals."""
    for count in range(times):
        now_us = START_US + 500_000 * count
        client.handle_timeout(now_us)
        client.poll_transmit(now_us)
        client.handle_connect_ok(replace(message, delay_time_us=500_000 * count), SERVER_AT, now_us)


@pytest.mark.parametrize(("change", "reason", "text"), [row[1:] for row in FAILING], ids=FAILING_IDS)
def test_a_client_ends_with_the_reason_to_tell_the_server(
    change: Callable[[ConnectOk], ConnectOk], reason: int, text: str
) -> None:
    client, message, _ = ready()
    insist(client, change(message), 2)
    assert is_under_way(client)
    insist(client, change(message))
    assert client.outcome == Failed(reason, text)
    assert client.peer_connection_id == change(message).server_connection_id
    assert client.poll_timeout() is None


@pytest.mark.parametrize("change", [row[1] for row in FAILING], ids=FAILING_IDS)
def test_a_bad_answer_is_as_good_as_lost(change: Callable[[ConnectOk], ConnectOk]) -> None:
    client, message, session = ready()
    client.handle_connect_ok(change(message), SERVER_AT, START_US)
    assert is_under_way(client)
    assert client.poll_timeout() == Deadline(START_US + 500_000, "connect retry")
    client.handle_connect_ok(message, SERVER_AT, START_US + 540_000)
    assert isinstance(client.outcome, Established)
    assert talk(client.outcome, session)


@pytest.mark.parametrize(("change", "reason", "text"), [row[1:] for row in FAILING], ids=FAILING_IDS)
def test_a_client_that_runs_out_of_time_tells_what_was_wrong_with_the_last_answer(
    change: Callable[[ConnectOk], ConnectOk], reason: int, text: str
) -> None:
    client, message, _ = ready()
    client.handle_connect_ok(change(message), SERVER_AT, START_US)
    client.handle_timeout(START_US + 9_999_999)
    assert is_under_way(client)
    client.handle_timeout(START_US + 10_000_000)
    assert client.outcome == Failed(reason, text)
    assert client.peer_connection_id == change(message).server_connection_id


def test_copies_of_a_bad_answer_within_one_interval_count_once() -> None:
    client, message, _ = ready()
    for at_us in range(100):
        client.handle_connect_ok(FAILING[0][1](message), SERVER_AT, START_US + at_us)
    assert is_under_way(client)


def test_answers_that_fail_each_in_its_own_way_do_not_add_up() -> None:
    client, message, session = ready()
    for count in range(8):
        now_us = START_US + 500_000 * count
        client.handle_timeout(now_us)
        signature = bytes([count]) * 64
        client.handle_connect_ok(replace(message, crypt=replace(message.crypt, signature=signature)), SERVER_AT, now_us)
    assert is_under_way(client)
    client.handle_connect_ok(message, SERVER_AT, START_US + 4_000_000)
    assert isinstance(client.outcome, Established)
    assert talk(client.outcome, session)


def of_another_library(message: Hello) -> Hello:
    """The same hello as a reference peer would sign it: nothing about its connection id and certificate."""
    who = "bob" if isinstance(message, ConnectOk) else "alice"
    info = encode_crypt_info(replace(decode_crypt_info(message.crypt.info), capabilities=None))
    key = credentials_of(who, 2 if who == "bob" else 1).signing_key
    return replace(message, crypt=SignedCryptInfo(info, key.sign(info)))


def test_an_own_peers_answer_with_another_connection_id_or_certificate_is_as_good_as_lost() -> None:
    client, message, session = ready()
    for changed in (
        replace(message, server_connection_id=SERVER_ID ^ 0x100),
        with_certificate(message, write_identity(Identity.of("bab"))),
        replace(message, cert=replace(message.cert, ca_key_id=5)),
        replace(message, cert=replace(message.cert, ca_signature=b"x")),
    ):
        client.handle_connect_ok(changed, SERVER_AT, START_US)
        assert is_under_way(client)
    client.handle_connect_ok(message, SERVER_AT, START_US)
    assert isinstance(client.outcome, Established)
    assert talk(client.outcome, session)


def test_what_a_reference_server_did_not_sign_may_be_corrected_until_a_packet_opens() -> None:
    client, message, _ = ready()
    right = of_another_library(message)
    damaged_id = replace(right, server_connection_id=SERVER_ID ^ 0x100)
    damaged_name = with_certificate(right, write_identity(Identity.of("bab")))
    keys = set()
    for answer, peer_id, name in (
        (damaged_id, SERVER_ID ^ 0x100, "bob"),
        (damaged_name, SERVER_ID, "bab"),
        (right, SERVER_ID, "bob"),
    ):
        client.handle_connect_ok(answer, SERVER_AT, START_US)
        outcome = client.outcome
        assert isinstance(outcome, Established)
        assert (outcome.peer_connection_id, client.peer_connection_id) == (peer_id, peer_id)
        assert outcome.peer_identity == Identity.of(name)
        keys.add(outcome.send_cipher.seal(2, b"the same text"))
    assert len(keys) == 3
    client.handle_connect_ok(right, SERVER_AT, START_US)
    assert client.outcome is outcome, "a mere repeat changes nothing"
    client.confirm()
    client.handle_connect_ok(damaged_id, SERVER_AT, START_US)
    assert client.outcome is outcome


def test_no_correction_brings_other_keys_or_a_failure() -> None:
    client, message, _ = ready()
    right = of_another_library(message)
    client.handle_connect_ok(right, SERVER_AT, START_US)
    outcome = client.outcome
    assert isinstance(outcome, Established)
    client.handle_connect_ok(signed_info(right, nonce=1), SERVER_AT, START_US)
    for _, change, _, _ in FAILING:
        insist(client, change(right))
    assert client.outcome is outcome


def test_the_server_is_asked_again_until_a_packet_opens() -> None:
    client, message, _ = ready()
    client.handle_connect_ok(of_another_library(message), SERVER_AT, START_US)
    assert client.poll_transmit(START_US) is None
    assert client.poll_timeout() == Deadline(START_US + 500_000, "connect retry")
    client.handle_timeout(START_US + 500_000)
    assert sent_by(client, START_US + 500_000)[0] == 0x20
    client.handle_timeout(START_US + 1_000_000)
    client.confirm()
    assert client.poll_transmit(START_US + 1_000_000) is None
    assert client.poll_timeout() is None


def test_the_server_is_not_asked_for_longer_than_a_dial_may_take() -> None:
    client, message, _ = ready()
    client.handle_connect_ok(message, SERVER_AT, START_US)
    client.handle_timeout(START_US + 10_000_000)
    assert isinstance(client.outcome, Established)
    assert client.poll_transmit(START_US + 10_000_000) is None
    assert client.poll_timeout() is None


def signed_info(message: ConnectOk, **changes: Any) -> ConnectOk:
    info = encode_crypt_info(replace(decode_crypt_info(message.crypt.info), **changes))
    return replace(message, crypt=SignedCryptInfo(info, credentials_of("bob", 2).signing_key.sign(info)))


def test_an_old_server_is_refused_by_what_it_signs() -> None:
    client, message, _ = ready()
    insist(client, signed_info(message, protocol_version=7))
    assert isinstance(client.outcome, Failed)
    assert client.outcome.reason == EndReason.REMOTE_BAD_PROTOCOL_VERSION
    assert client.peer_connection_id == SERVER_ID


@pytest.mark.parametrize("version", [12, 14])
def test_the_version_that_counts_is_the_signed_one(version: int) -> None:
    client, message, _ = ready()
    client.handle_connect_ok(signed_info(message, protocol_version=version), SERVER_AT, START_US)
    assert isinstance(client.outcome, Established)
    assert client.outcome.protocol_version == version


@pytest.mark.parametrize("ciphers", [(CIPHER_AES_256_GCM, CIPHER_NONE), (CIPHER_NONE,)])
def test_a_server_must_choose_one_cipher_that_the_client_listed(ciphers: tuple[int, ...]) -> None:
    client, message, _ = ready()
    insist(client, signed_info(message, ciphers=ciphers))
    assert isinstance(client.outcome, Failed)
    assert client.outcome.reason == EndReason.REMOTE_BAD_CRYPT


def test_our_own_hello_sent_back_to_us_is_not_a_peer() -> None:
    run = new_run()
    challenge = run.server.answer(sent_by(run.client))
    assert challenge is not None
    hand_to_client(run.client, challenge, START_US)
    request = decode_control(sent_by(run.client))
    assert isinstance(request, ConnectRequest)
    reflected = ConnectOk(CLIENT_ID, CLIENT_ID, None, None, request.cert, request.crypt, request.identity_fields)
    insist(run.client, reflected)
    assert run.client.outcome == Failed(EndReason.REMOTE_BAD_CRYPT, "Key exchange failed")


def test_somebody_else_than_the_one_we_called_is_refused() -> None:
    run = new_run(new_client(expected_identity=Identity.of("carol")))
    run.until_over()
    assert run.client.outcome == Failed(EndReason.REMOTE_BAD_CERT, "Cert was issued to str:bob, not str:carol")


def test_an_anonymous_peer_is_not_the_one_we_called() -> None:
    run = new_run(new_client(expected_identity=Identity.of("bob")), Server(credentials_of(ANONYMOUS, 2)))
    run.until_over()
    assert isinstance(run.client.outcome, Failed)
    assert run.client.outcome.reason == EndReason.REMOTE_BAD_CERT


def test_the_one_we_called_is_let_in() -> None:
    run = new_run(new_client(expected_identity=Identity.of("bob")))
    run.until_over()
    assert talk(*sessions(run))


# What a server refuses


def connect_request(remote: Address = CLIENT_AT, server: Server | None = None) -> tuple[Server, ConnectRequest]:
    """A server and a good request with its challenge, not handed in yet."""
    at = server or Server()
    client = new_client()
    challenge = at.answer(sent_by(client), remote)
    assert challenge is not None
    hand_to_client(client, challenge, START_US)
    message = decode_control(sent_by(client))
    assert isinstance(message, ConnectRequest)
    return at, message


def test_the_prepared_request_is_good() -> None:
    server, message = connect_request()
    assert server.answer(encode_control(message)) is not None


def test_a_challenge_request_is_answered_small_and_without_memory() -> None:
    server = Server()
    reply = server.answer(encode_control(ChallengeRequest(CLIENT_ID, 0x1234, 7)))
    assert reply is not None
    assert len(reply) == 26
    message = decode_control(reply)
    assert isinstance(message, ChallengeReply)
    assert (message.connection_id, message.your_timestamp, message.protocol_version) == (CLIENT_ID, 0x1234, 13)
    assert server.waiting is None


def test_a_challenge_request_without_a_connection_gets_nothing() -> None:
    assert Server().answer(encode_control(ChallengeRequest(0, 1, 13))) is None


@pytest.mark.parametrize(("later_us", "good"), [(0, True), (3_000_000, True), (4_300_000, False), (60_000_000, False)])
def test_a_challenge_must_come_back_soon(later_us: int, good: bool) -> None:
    server, message = connect_request()
    server.now_us += later_us
    assert (server.answer(encode_control(message)) is not None) is good


def test_a_challenge_is_of_no_use_at_another_address() -> None:
    server, message = connect_request()
    assert server.answer(encode_control(message), ("198.51.100.8", CLIENT_AT[1])) is None
    assert server.answer(encode_control(message), (CLIENT_AT[0], CLIENT_AT[1] + 1)) is None
    assert server.refused == ["the challenge is too old or not ours"] * 2


def test_the_challenge_is_looked_at_before_anything_else() -> None:
    server, message = connect_request()
    everything_wrong = ConnectRequest(
        0, message.challenge ^ 1 << 40, None, None, SignedCertificate(b"\xff"), SignedCryptInfo(b"\xff", b"x"), BAD_IDENTITY
    )
    server.answer(encode_control(everything_wrong))
    assert server.refused == ["the challenge is too old or not ours"]


def test_a_request_for_no_connection_is_dropped_even_with_its_challenge() -> None:
    server, message = connect_request()
    challenge = server.cookies.make(CLIENT_AT, 0, server.now_us)
    server.answer(encode_control(replace(message, client_connection_id=0, challenge=challenge)))
    assert server.refused == ["the client names no connection"]


@pytest.mark.parametrize("connection_id", [0x10000, 0x00001])
def test_any_other_connection_id_of_a_client_is_taken(connection_id: int) -> None:
    server, message = connect_request()
    challenge = server.cookies.make(CLIENT_AT, connection_id, server.now_us)
    foreign = of_another_library(replace(message, client_connection_id=connection_id, challenge=challenge))
    assert server.answer(encode_control(foreign)) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda request: replace(request, cert=SignedCertificate(b"\xff\xff")),
        lambda request: with_certificate(request, BAD_IDENTITY),
        lambda request: replace(with_certificate(request, NO_IDENTITY), identity_fields=BAD_IDENTITY),
        lambda request: replace(with_certificate(request, NO_IDENTITY), identity_fields=IP_IDENTITY),
        lambda request: replace(request, cert=SignedCertificate(b"")),
        lambda request: replace(request, crypt=SignedCryptInfo(b"", b"")),
        lambda request: replace(request, crypt=replace(request.crypt, signature=bytes(64))),
        lambda request: replace(request, crypt=replace(request.crypt, info=b"\xff\xff")),
    ],
    ids=["cert", "identity in cert", "identity beside", "address beside", "no cert", "no info", "signature", "info"],
)
def test_a_bad_request_is_dropped_in_silence_with_a_sentence_for_the_log(change: Callable[[Any], ConnectRequest]) -> None:
    server, message = connect_request()
    assert server.answer(encode_control(change(message))) is None
    assert len(server.refused) == 1
    assert server.refused[0]
    assert server.waiting is None


def test_an_identity_beside_the_certificate_serves_if_that_has_none() -> None:
    server, message = connect_request()
    changed = replace(with_certificate(message, NO_IDENTITY), identity_fields=write_identity(Identity.of("carol")))
    server.answer(encode_control(of_another_library(changed)))
    assert server.waiting is not None
    assert server.waiting.peer_identity == Identity.of("carol")


def test_an_anonymous_peer_is_its_address() -> None:
    for fields in (NO_IDENTITY, write_identity(ANONYMOUS), write_identity(Identity.ip(("127.0.0.1", 9)))):
        cert = SignedCertificate(
            encode_certificate(replace(decode_certificate(credentials_of("x").signed_certificate.cert), identity_fields=fields))
        )
        assert find_peer_identity(cert, NO_IDENTITY, CLIENT_AT) == Identity.ip(CLIENT_AT)


def test_another_address_as_identity_must_be_in_the_certificate() -> None:
    cert = credentials_of(Identity.ip(("192.0.2.1", 5))).signed_certificate
    assert find_peer_identity(cert, NO_IDENTITY, CLIENT_AT) == Identity.ip(("192.0.2.1", 5))
    with pytest.raises(WireError, match="must be in the certificate"):
        find_peer_identity(SignedCertificate(b""), IP_IDENTITY, CLIENT_AT)


def test_under_trust_key_names_and_addresses_stay_outside() -> None:
    for who in (Identity.of("alice"), ANONYMOUS, Identity.generic_bytes(bytes(32))):
        run = new_run(new_client(credentials_of(who)), Server(key_credentials(8, Trust("key"))))
        run.until_over()
        assert run.server.waiting is None
        expected = (
            "is a key, and the certificate has another one" if who.public_key_bytes else "that are their own key may connect"
        )
        assert all(expected in text for text in run.server.refused)
        assert run.server.refused
        assert run.client.outcome == Failed(EndReason.MISC_TIMEOUT, "Timed out attempting to connect")


def test_under_trust_key_a_client_refuses_a_server_with_a_name() -> None:
    run = new_run(new_client(key_credentials(7, Trust("key"))), Server())
    run.until_over()
    assert isinstance(run.client.outcome, Failed)
    assert run.client.outcome.reason == EndReason.REMOTE_BAD_CERT


def test_what_an_application_is_asked_with_tells_who_and_how_sure() -> None:
    server = Server(key_credentials(8), accepts=False)
    new_run(new_client(key_credentials(7)), server).until_over(200_000)
    waiting = server.waiting
    assert waiting is not None
    assert waiting.client_connection_id == CLIENT_ID
    assert waiting.peer_identity.public_key_bytes == waiting.peer_key
    assert waiting.peer_fingerprint.startswith("SHA256:")
    assert waiting.proven_by == "key"
    assert waiting.capabilities is not None


def test_an_application_that_does_not_decide_loses_the_request() -> None:
    server = Server(accepts=False)
    server, message = connect_request(server=server)
    server.answer(encode_control(message))
    waiting = server.waiting
    assert waiting is not None
    assert waiting.poll_timeout() == Deadline(START_US + 10_000_000, "accept timeout")
    assert waiting.handle_timeout(START_US + 9_999_999) is None
    expected = Failed(EndReason.MISC_TIMEOUT, "App didn't accept or close incoming connection in time.")
    assert waiting.handle_timeout(START_US + 10_000_000) == expected
    assert waiting.accept(SERVER_ID, entropy_of(4), START_US + 10_000_000) == expected


def test_an_accepted_request_has_no_deadline() -> None:
    server, message = connect_request()
    server.answer(encode_control(message))
    assert server.waiting is not None
    assert server.waiting.poll_timeout() is None
    assert server.waiting.handle_timeout(START_US + 60_000_000) is None


def resigned(message: ConnectRequest, **changes: Any) -> ConnectRequest:
    info = encode_crypt_info(replace(decode_crypt_info(message.crypt.info), **changes))
    return replace(message, crypt=SignedCryptInfo(info, credentials_of("alice").signing_key.sign(info)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ciphers": (CIPHER_NONE,)}, "Failed to negotiate mutually-agreeable cipher"),
        ({"key_type": 0}, "Unsupported DH key type 0"),
        ({"key_data": bytes(31)}, "Invalid DH key"),
        ({"key_data": bytes(32)}, "Key exchange failed"),
    ],
)
def test_what_fails_at_accept_is_told_to_the_client(changes: dict[str, Any], text: str) -> None:
    server, message = connect_request()
    server.answer(encode_control(resigned(message, **changes)))
    assert server.session == Failed(EndReason.REMOTE_BAD_CRYPT, text)


@pytest.mark.parametrize(("version", "first"), [(8, 1), (9, 1), (10, 2), (11, 2), (12, 2), (13, 2), (14, 2)])
def test_packet_numbers_begin_where_the_peers_version_has_them(version: int, first: int) -> None:
    server, message = connect_request()
    server.answer(encode_control(resigned(message, protocol_version=version)))
    assert isinstance(server.session, Established)
    assert (server.session.next_packet_number, server.session.highest_received) == (first, first - 1)
    assert server.session.protocol_version == version


def test_a_peer_without_capabilities_is_not_ours() -> None:
    server, message = connect_request()
    server.answer(encode_control(resigned(message, capabilities=None)))
    assert isinstance(server.session, Established)
    assert server.session.capabilities is None


@pytest.mark.parametrize(
    ("claimed", "samples", "rtt_us"), [(None, [], None), (0, [0], 500), (1500, [1500], 1_500_000), (1501, [], None)]
)
def test_a_clients_ping_is_taken_up_to_a_second_and_a_half(claimed: int | None, samples: list[int], rtt_us: int | None) -> None:
    server, message = connect_request()
    server.answer(encode_control(replace(message, ping_est_ms=claimed)))
    assert isinstance(server.session, Established)
    assert (server.session.ping_samples_ms, server.session.rtt_us) == (samples, rtt_us)


# ConnectOK again and again


def test_a_repeated_connect_ok_tells_the_growing_delay_for_four_seconds() -> None:
    server, message = connect_request()
    server.answer(encode_control(message))
    assert server.waiting is not None
    told = []
    for later_us in (0, 1_000_000, 3_999_999, 4_000_000, 9_000_000):
        answer = decode_control(server.waiting.connect_ok(START_US + later_us))
        assert isinstance(answer, ConnectOk)
        told.append((answer.your_timestamp, answer.delay_time_us))
    stamp = message.my_timestamp
    assert told == [(stamp, 0), (stamp, 1_000_000), (stamp, 3_999_999), (None, None), (None, None)]


def test_a_request_without_time_stamp_gets_none_back() -> None:
    server, message = connect_request()
    answer = server.answer(encode_control(replace(message, my_timestamp=None)))
    assert answer is not None
    message_back = decode_control(answer)
    assert isinstance(message_back, ConnectOk)
    assert (message_back.your_timestamp, message_back.delay_time_us) == (None, None)


def test_repeats_get_the_same_keys_even_if_they_bring_others() -> None:
    server, message = connect_request()
    first = server.answer(encode_control(message))
    other = local_crypt_info(
        credentials_of("alice"), AgreementKey(bytes(32)), (CIPHER_AES_256_GCM,), entropy_of(9), connection_id=CLIENT_ID
    ).signed
    again = server.answer(encode_control(replace(message, crypt=other)))
    assert first == again
    assert first == server.answer(encode_control(ChallengeRequest(CLIENT_ID, 1, 13)))


# Recorded handshakes


def conversation_sides(conversation: dict[str, Any]) -> tuple[ConnectRequest, ConnectOk]:
    requests = [packet for packet in conversation["packets"] if packet["kind"] == "ConnectRequest"]
    answers = [packet for packet in conversation["packets"] if packet["kind"] == "ConnectOK"]
    request, answer = decode_control(bytes.fromhex(requests[0]["hex"])), decode_control(bytes.fromhex(answers[0]["hex"]))
    assert isinstance(request, ConnectRequest)
    assert isinstance(answer, ConnectOk)
    return request, answer


def replayed(conversation: dict[str, Any], *, as_client: bool) -> Established:
    """The session that one recorded side must have made, from its private keys and the other side's recorded hello."""
    own_role, peer_role = ("client", "server") if as_client else ("server", "client")
    own, (request, answer) = conversation["inputs"][own_role], conversation_sides(conversation)
    theirs = answer if as_client else request
    identity = find_peer_identity(theirs.cert, theirs.identity_fields, CLIENT_AT)
    claims = PeerClaims(
        theirs.cert,
        theirs.crypt,
        identity,
        peer_is_server=as_client,
        local_ciphers=(conversation["cipher"],),
        agreement_key=AgreementKey(bytes.fromhex(own["x25519_private"])),
    )
    assert run_checks(PEER_CHECKS + AGREEMENT_CHECKS, claims) is None
    key = SigningKey(bytes.fromhex(own["ed25519_private"]))
    info = bytes.fromhex(own["crypt_info"])
    assert key.sign(info) == bytes.fromhex(own["crypt_signature"])
    credentials = LocalCredentials(identity, key, SignedCertificate(bytes.fromhex(own["cert"])), bytes(16))
    assert claims.agreement_key is not None
    return establish(
        claims,
        credentials,
        LocalCrypt(claims.agreement_key, int(own["nonce"], 16), SignedCryptInfo(info, key.sign(info))),
        local_connection_id=own["connection_id"],
        peer_connection_id=conversation["inputs"][peer_role]["connection_id"],
        pings=PingSamples(),
    )


def sealed_part(datagram: bytes) -> bytes:
    offset = 7
    if datagram[0] & 1:
        assert datagram[offset] < 0x80
        offset += 1 + datagram[offset]
    return datagram[offset + 2 * (datagram[0] >> 1 & 1) :]


@pytest.mark.parametrize("conversation", VECTORS["conversations"], ids=lambda conversation: conversation["name"])
def test_recorded_conversations_open_from_both_sides_private_keys(conversation: dict[str, Any]) -> None:
    client, server = replayed(conversation, as_client=True), replayed(conversation, as_client=False)
    peer_version = conversation["protocol_version"]
    assert server.next_packet_number == (2 if peer_version >= 10 else 1)
    opened = 0
    for packet in conversation["packets"]:
        if packet["kind"] != "Data":
            continue
        sender, receiver = (client, server) if packet["from"] == "client" else (server, client)
        sealed, number = sealed_part(bytes.fromhex(packet["hex"])), packet["packet_number"]
        plaintext = receiver.receive_cipher.open(number, sealed)
        assert plaintext is not None
        assert plaintext.hex() == packet["plaintext"]
        assert sender.send_cipher.seal(number, plaintext) == sealed
        opened += 1
    assert opened >= 3


@pytest.mark.parametrize("conversation", VECTORS["conversations"], ids=lambda conversation: conversation["name"])
def test_recorded_hellos_are_signed_by_the_keys_of_their_certificates(conversation: dict[str, Any]) -> None:
    for hello in conversation_sides(conversation):
        key = decode_certificate(hello.cert.cert).key_data
        assert verify(key, hello.crypt.signature, hello.crypt.info)


# Tampering (C1, C2, C3)


def whole_or_apart(run: Run) -> None:
    """A changed datagram either leads to nothing, or to ends that cannot read each other, or changed nothing that matters."""
    client, server = run.client.outcome, run.server.session
    if not isinstance(client, Established) or not isinstance(server, Established) or not talk(client, server):
        return
    assert client.peer_identity == Identity.of("bob")
    assert server.peer_identity == Identity.of("alice")
    assert client.peer_key == credentials_of("bob", 2).signing_key.public_bytes
    assert server.peer_key == credentials_of("alice").signing_key.public_bytes
    assert client.cipher == server.cipher == CIPHER_AES_256_GCM
    assert client.protocol_version == server.protocol_version == 13


def tampered(index: int, at: int, flip: int) -> Run:
    run = new_run(new_client(config=Config(timeout_initial_us=400_000)))

    def change(number: int, datagram: bytes) -> bytes | None:
        if number != index:
            return datagram
        return datagram[:at] + bytes([datagram[at] ^ flip]) + datagram[at + 1 :]

    run.change = change
    run.until_over()
    return run


def hello_bytes(index: int) -> bytes:
    run = new_run()
    run.until_over()
    return run.sent[index][2]


@pytest.mark.parametrize("index", [0, 1, 2, 3], ids=["challenge request", "challenge reply", "connect request", "connect ok"])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_changed_byte_in_any_hello_is_refused_or_harmless(index: int, flip: int) -> None:
    for at in range(min(len(hello_bytes(index)), 320)):
        whole_or_apart(tampered(index, at, flip))


@pytest.mark.parametrize("index", [0, 1, 2, 3], ids=["challenge request", "challenge reply", "connect request", "connect ok"])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_byte_changed_once_in_any_hello_costs_half_a_second_at_most(index: int, flip: int) -> None:
    """E22: with the next attempt the dial succeeds, and both ends hold the same keys for the right peer."""
    for at in range(len(hello_bytes(index)) if index else 40):
        run = new_run()

        def change(number: int, datagram: bytes, at: int = at) -> bytes:
            return datagram[:at] + bytes([datagram[at] ^ flip]) + datagram[at + 1 :] if number == index else datagram

        run.change = change
        run.until_over()
        client, server = sessions(run)
        assert talk(client, server)
        assert (client.peer_identity, server.peer_identity) == (Identity.of("bob"), Identity.of("alice"))
        assert (client.peer_connection_id, server.peer_connection_id) == (SERVER_ID, CLIENT_ID)
        assert run.now_us - START_US <= 620_000


@pytest.mark.parametrize("index", [2, 3], ids=["connect request", "connect ok"])
def test_a_changed_byte_of_certificate_info_or_signature_never_gives_a_session(index: int) -> None:
    datagram = hello_bytes(index)
    message = decode_control(datagram)
    assert isinstance(message, ConnectRequest | ConnectOk)
    tried = 0
    for part in (message.cert.cert, message.crypt.info, message.crypt.signature):
        start = datagram.index(part)
        for at in range(start, start + len(part)):
            run = tampered(index, at, 0x01)
            client, server = run.client.outcome, run.server.session
            assert not (isinstance(client, Established) and isinstance(server, Established) and talk(client, server))
            tried += 1
    assert tried > 180


def test_somebody_elses_certificate_is_of_no_use_without_its_key() -> None:
    stolen = credentials_of("alice")
    thief = replace(credentials_of("mallory", 9), signed_certificate=stolen.signed_certificate, identity=stolen.identity)
    run = new_run(new_client(thief))
    run.until_over()
    assert set(run.server.refused) == {"Invalid signature"}
    run = new_run(server=Server(replace(thief)))
    run.until_over()
    assert run.client.outcome == Failed(EndReason.REMOTE_BAD_CRYPT, "Invalid signature")


@pytest.mark.parametrize(("who", "proof"), [("str:alice", "certificate"), ("ip:192.0.2.1:5", "nothing")])
def test_an_authority_proves_every_identity_but_an_address(who: str, proof: str) -> None:
    root, peer = SigningKey(b"r" * 32), credentials_of(Identity.parse(who))
    certificate = replace(decode_certificate(peer.signed_certificate.cert), time_expiry=WALL_S)
    cert = encode_certificate(certificate)
    store = TrustStore()
    signed = SignedCertificate(cert, store.add_root(root.public_bytes), root.sign(cert))
    for certified, expected in ((signed, proof), (SignedCertificate(cert), "nothing")):
        shown = replace(peer, signed_certificate=certified)
        local = local_crypt_info(shown, AgreementKey(b"d" * 32), (CIPHER_AES_256_GCM,), entropy_of(6), connection_id=5)
        trust = Trust(authorities=store)
        claims = PeerClaims(certified, local.signed, peer.identity, connection_id=5, trust=trust, wall_s=WALL_S)
        assert run_checks(PEER_CHECKS, claims) is None
        assert claims.proven_by == expected


def test_a_replayed_hello_gives_a_session_that_the_replayer_cannot_use() -> None:
    server, message = connect_request()
    attacker = ("192.0.2.66", 6666)
    challenge = server.cookies.make(attacker, CLIENT_ID, server.now_us)
    server.answer(encode_control(replace(message, challenge=challenge)), attacker)
    assert isinstance(server.session, Established)
    keys = derive_session_keys(bytes(32), client=Side(1, 2, b"", b""), server=Side(3, 4, b"", b""))
    guess = make_cipher(CIPHER_AES_256_GCM, keys.client_to_server)
    assert server.session.receive_cipher.open(2, guess.seal(2, b"hello")) is None


@pytest.mark.parametrize("client_option", range(4))
@pytest.mark.parametrize("server_option", range(4))
def test_plain_text_needs_the_wish_of_both(client_option: int, server_option: int) -> None:
    run = new_run(new_client(config=Config(unencrypted=client_option)), Server(config=Config(unencrypted=server_option)))
    run.until_over()
    if {client_option, server_option} == {0, 3}:
        assert isinstance(run.server.session, Failed)
        assert isinstance(run.client.outcome, Failed)
        return
    client, server = sessions(run)
    assert client.cipher == server.cipher
    assert talk(client, server)
    if 0 in (client_option, server_option):
        assert client.cipher == CIPHER_AES_256_GCM
        assert client.send_cipher.seal(2, b"a text that is long enough") != b"a text that is long enough"
    if 3 in (client_option, server_option):
        assert client.cipher == CIPHER_NONE


# Amplification and floods (E4, E5)


def random_packets(seed: int, count: int) -> list[bytes]:
    """Random bytes, true hellos, and true hellos cut, stretched or damaged."""
    rng = random.Random(seed)
    run = new_run()
    run.until_over()
    true = [datagram for _, _, datagram in run.sent]
    packets = []
    for _ in range(count):
        packet = bytearray(rng.choice(true) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 5, 30, 512, 1300))))
        for _ in range(rng.choice((0, 0, 1, 4))):
            packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            packet = packet[: rng.randrange(1, len(packet) + 1)]
        packets.append(bytes(packet))
    return packets


@pytest.mark.parametrize("seed", range(4))
def test_no_stranger_ever_gets_more_bytes_than_he_sent(seed: int) -> None:
    server = Server(accepts=False)
    for packet in random_packets(seed, 2_500):
        answer = server.answer(packet, (f"192.0.2.{seed}", 1000))
        assert answer is None or len(answer) <= len(packet)
        server.now_us += 1_000
        server.waiting = None


def test_answers_to_a_whole_handshake_are_smaller_than_its_requests() -> None:
    for lost in LOSSES:
        run = new_run()
        run.change = lambda index, datagram, lost=lost: None if index in lost else datagram  # type: ignore[misc]
        run.until_over()
        got = sum(len(datagram) for _, sender, datagram in run.sent if sender == "client")
        gave = sum(len(datagram) for _, sender, datagram in run.sent if sender == "server")
        assert gave <= got


def test_the_largest_connect_ok_fits_in_the_request_that_repeats_it() -> None:
    longest = credentials_of(Identity.xbox_pairwise("x" * 32)), credentials_of(Identity.string("x" * 31)), key_credentials(8)
    for credentials in longest:
        server, message = connect_request(server=Server(credentials))
        server.answer(encode_control(message))
        repeated = server.answer(encode_control(ChallengeRequest(CLIENT_ID, 1, 13)))
        assert repeated is not None
        assert repeated[0] == 0x23
        assert len(repeated) <= PADDED_BYTES_MIN


def test_a_flood_of_forged_requests_is_stopped_by_the_challenge_and_a_real_one_gets_through() -> None:
    server, message = connect_request()
    rng = random.Random(1)
    for number in range(5_000):
        forged = replace(message, client_connection_id=number + 1, challenge=rng.getrandbits(64))
        assert server.answer(encode_control(forged), (f"10.0.{number >> 8}.{number & 255}", 1 + number)) is None
    assert set(server.refused) == {"the challenge is too old or not ours"}
    assert server.answer(encode_control(message)) is not None


def test_the_fuzz_targets_seeds_keep_its_invariant() -> None:
    seeds = fuzz_handshake.seeds()
    assert len(seeds) > 50
    for seed in seeds:
        fuzz_handshake.fuzz_one(seed)


@given(st.sampled_from(fuzz_handshake.seeds()), st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=4)), max_size=4))
def test_damaged_recordings_keep_the_fuzz_targets_invariant(seed: bytes, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(seed)
    for at, new in changes:
        data[at : at + len(new)] = new
    fuzz_handshake.fuzz_one(bytes(data))


# Smoothing of pings (6.4)


@pytest.mark.parametrize(
    ("samples", "estimate"),
    [([], None), ([30], 30), ([30, 20], 20), ([30, 20, 50], 25), ([31, 20, 50], 25), ([9, 8, 7, 60], 7), ([1, 2, 3, 50, 60], 26)],
)
def test_the_estimate_is_made_of_the_smaller_samples(samples: list[int], estimate: int | None) -> None:
    pings = PingSamples()
    for at, sample_ms in enumerate(samples):
        pings.add_elapsed(sample_ms * 1000, START_US + at * 200_000)
    assert pings.estimate_ms == estimate


def test_a_fourth_sample_within_a_tenth_of_a_second_only_improves_the_third() -> None:
    pings = PingSamples()
    for sample_ms in (50, 40, 30, 60):
        pings.add_elapsed(sample_ms * 1000, START_US)
    assert pings.samples_ms == [50, 40, 30]
    pings.add_elapsed(20_000, START_US + 99_999)
    assert pings.samples_ms == [50, 40, 20]
    pings.add_elapsed(25_000, START_US + 100_000)
    assert pings.samples_ms == [40, 20, 25]
