"""Both roles of the handshake against changed hellos: nothing raises, no answer outgrows its question, no session is forged."""

from __future__ import annotations

import random
from collections.abc import Iterator

from fuzz.run import load_vectors, run
from peergram.config import Config
from peergram.connection.handshake import Established, LocalCredentials, Refused, self_made_credentials
from peergram.connection.handshake_client import ClientHandshake
from peergram.connection.handshake_server import (
    ServerHandshake,
    answer_challenge_request,
    check_connect_request,
)
from peergram.crypto.cookie import ChallengeCookies
from peergram.crypto.keys import SigningKey
from peergram.errors import WireError
from peergram.identity import Identity
from peergram.wire.control import (
    ChallengeReply,
    ChallengeRequest,
    ConnectOk,
    ConnectRequest,
    decode_control,
    encode_control,
)

CLIENT_AT, SERVER_AT = ("198.51.100.7", 40_000), ("203.0.113.9", 27_015)
CLIENT_ID, SERVER_ID = 0x11223344, 0x55667788
NOW_US, WALL_S = 3_000_000_000_000, 1_800_000_000
CONFIG = Config()


def credentials(name: str) -> LocalCredentials:
    """The same for every run, so that a found input repeats."""
    return self_made_credentials(Identity.string(name), SigningKey(name.encode().ljust(32, b".")), bytes(16))


ALICE, BOB = credentials("alice"), credentials("bob")
COOKIES = ChallengeCookies(random.Random(1).randbytes)


def fuzz_one(data: bytes) -> None:
    """The first byte says how to read the rest: as a datagram for a server, as one for a waiting client, or as a change (place,
    new bytes) to a true hello, which is then carried through to the end."""
    role, rest = data[0] % 4 if data else 0, data[1:]
    if role == 0:
        hand_to_server(rest)
    elif role == 1:
        client, _, _ = waiting_client()
        hand_to_client(client, rest)
    else:
        changed_hello(role == 2, rest)


def hand_to_server(datagram: bytes) -> ServerHandshake | None:
    """A server's first look at a datagram; connect requests get the right challenge, to reach the checks behind it."""
    try:
        message = decode_control(datagram)
    except WireError:
        return None
    if isinstance(message, ChallengeRequest):
        answer = answer_challenge_request(message, CLIENT_AT, COOKIES, NOW_US)
        assert answer is None or len(answer) <= len(datagram)
    if not isinstance(message, ConnectRequest):
        return None
    message.challenge = COOKIES.make(CLIENT_AT, message.client_connection_id, NOW_US)
    checked = check_connect_request(message, CLIENT_AT, BOB, CONFIG, NOW_US, WALL_S, cookies=COOKIES)
    if isinstance(checked, Refused):
        assert checked.text
        return None
    return checked


def hand_to_client(client: ClientHandshake, datagram: bytes) -> None:
    """What the client makes of a datagram from the server's address."""
    try:
        message = decode_control(datagram)
    except WireError:
        return
    if isinstance(message, ChallengeReply):
        client.handle_challenge_reply(message, NOW_US)
    elif isinstance(message, ConnectOk):
        client.handle_connect_ok(message, SERVER_AT, NOW_US)
    client.poll_transmit(NOW_US)


def waiting_client() -> tuple[ClientHandshake, bytes, bytes]:
    """A client whose connect request is under way, that request, and the server's true answer."""
    client = ClientHandshake(ALICE, CONFIG, CLIENT_ID, random.Random(2).randbytes, NOW_US)
    client.poll_transmit(NOW_US)
    challenge = COOKIES.make(CLIENT_AT, CLIENT_ID, NOW_US)
    client.handle_challenge_reply(ChallengeReply(CLIENT_ID, challenge, NOW_US, 13), NOW_US)
    request = client.poll_transmit(NOW_US)
    assert request is not None
    server = hand_to_server(request)
    assert server is not None
    server.accept(SERVER_ID, random.Random(3).randbytes, NOW_US)
    return client, request, server.connect_ok(NOW_US)


def changed_hello(is_request: bool, change: bytes) -> None:
    """Change one hello of a whole handshake; sessions that understand each other are between the right two."""
    client, request, answer = waiting_client()
    if is_request:
        server = hand_to_server(replaced(request, change))
    else:
        server = hand_to_server(request)
    if server is None:
        return
    session = server.accept(SERVER_ID, random.Random(3).randbytes, NOW_US)
    if not isinstance(session, Established):
        return
    answer = server.connect_ok(NOW_US)
    hand_to_client(client, answer if is_request else replaced(answer, change))
    if isinstance(client.outcome, Established) and understand(client.outcome, session):
        assert session.peer_identity == ALICE.identity
        assert client.outcome.peer_identity == BOB.identity
        assert session.peer_key == ALICE.signing_key.public_bytes
        assert client.outcome.peer_key == BOB.signing_key.public_bytes


def replaced(hello: bytes, change: bytes) -> bytes:
    """`hello` with new bytes at the place that the first two bytes of `change` name."""
    at = int.from_bytes(change[:2], "little") % len(hello)
    return hello[:at] + change[2:] + hello[at + len(change[2:]) :]


def understand(one: Established, other: Established) -> bool:
    """Whether a packet of the one opens at the other."""
    return other.receive_cipher.open(2, one.send_cipher.seal(2, b"hello")) == b"hello"


def recorded_hellos() -> Iterator[bytes]:
    """Every control packet of the recorded conversations."""
    for conversation in load_vectors("01-crypto")["conversations"]:
        for packet in conversation["packets"]:
            if packet["kind"] != "Data":
                yield bytes.fromhex(packet["hex"]) + bytes(packet.get("zero_padding", 0))


def seeds() -> list[bytes]:
    """Recorded hellos for both roles, and some small changes."""
    hellos = list(recorded_hellos())
    _, request, answer = waiting_client()
    own = [encode_control(ChallengeRequest(CLIENT_ID, 1, 13)), request, answer]
    changes = [bytes((role, at & 0xFF, at >> 8, 0)) for role in (2, 3) for at in range(0, 240, 40)]
    return [bytes((role,)) + hello for role in (0, 1) for hello in hellos + own] + changes


if __name__ == "__main__":
    run(fuzz_one, seeds())
