"""The relay map and tickets at the signaling server's desk."""

from __future__ import annotations

from pathlib import Path

import pytest

from peergram.config import RELAY_TICKET_S, SERVER_RELAY_NEWS_AT_ONCE
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.routes.relay_map import RelayMap, format_relay_map, parse_relay_map
from peergram.servers.relay_access import RelayAccess
from peergram.servers.relay_desk import RelayDesk
from peergram.servers.relay_files import load_relay_secrets
from peergram.signaling.websocket_protocol import Welcome
from peergram.wire.relay_news import RelayNews, Tickets
from peergram.wire.stun import long_term_key

from .harness import SECOND, Client, Server

WALL_S = 1_800_000_000
MAP = parse_relay_map(
    b'{"version": 1, "pops": ['
    b'{"code": "fra", "name": "Frankfurt", "latitude": 50, "longitude": 8, "servers": ["turn:192.0.2.1"]},'
    b'{"code": "ams", "name": "Amsterdam", "latitude": 52, "longitude": 4, "servers": ["turn:192.0.2.2"]}]}'
)
SECRETS = {"fra": b"a long secret", "ams": b"another secret"}


def desk(relays: RelayMap = MAP, secrets: dict[str, bytes] | None = None) -> RelayDesk:
    return RelayDesk(relays, SECRETS if secrets is None else secrets, wall_s=lambda: WALL_S)


def log_in(server: Server, name: str) -> Client:
    client = server.connect()
    client.log_in(name)
    return client


def tickets_of(client: Client) -> list[Tickets]:
    return [message for message in client.heard if isinstance(message, Tickets)]


def test_a_client_hears_of_relays_right_after_the_welcome() -> None:
    client = log_in(Server(relays=desk()), "alice")
    welcome, news, tickets = client.heard[-3:]
    assert isinstance(welcome, Welcome)
    assert news == RelayNews(format_relay_map(MAP))
    assert isinstance(tickets, Tickets)
    assert tickets.lifetime_s == RELAY_TICKET_S
    assert [ticket.code for ticket in tickets.tickets] == ["fra", "ams"]


def test_a_ticket_opens_the_relay_of_its_place_for_its_time_and_no_other() -> None:
    tickets = desk().mint(Identity.of("alice"))
    relays = {code: RelayAccess(secret=secret) for code, secret in SECRETS.items()}
    for ticket in tickets.tickets:
        name = ticket.username.encode()
        key = long_term_key(name, b"peergram", ticket.password.encode())
        for code, access in relays.items():
            assert (access.key(name, WALL_S) == key) is (code == ticket.code)
            assert access.identity(name, "192.0.2.1") == b"str:alice"
        assert relays[ticket.code].key(name, WALL_S + RELAY_TICKET_S - 1) == key
        assert relays[ticket.code].key(name, WALL_S + RELAY_TICKET_S) is None
        assert ticket.password not in repr(ticket)


def test_tickets_are_renewed_at_half_their_life_for_as_long_as_the_client_stays() -> None:
    server = Server(relays=desk())
    client = log_in(server, "alice")
    for count in range(2, 5):
        for _ in range(RELAY_TICKET_S // 2 // 20):
            server.pass_time(20 * SECOND)
            client.say(None)
        assert len(tickets_of(client)) == count
    client.leave()
    server.pass_time(RELAY_TICKET_S * SECOND)
    assert len(tickets_of(client)) == 4


def test_a_place_without_a_secret_has_no_ticket() -> None:
    client = log_in(Server(relays=desk(secrets={"ams": b"another secret"})), "alice")
    assert [ticket.code for ticket in tickets_of(client)[0].tickets] == ["ams"]
    client = log_in(Server(relays=desk(secrets={})), "alice")
    assert isinstance(client.heard[-1], RelayNews)


def test_a_server_without_relays_says_nothing_of_them() -> None:
    for relays in (None, desk(RelayMap(), {})):
        client = log_in(Server(relays=relays), "alice")
        assert isinstance(client.heard[-1], Welcome)


def test_everybody_hears_of_another_map_a_few_at_a_time() -> None:
    relays = desk()
    server = Server(relays=relays)
    clients = []
    for index in range(SERVER_RELAY_NEWS_AT_ONCE + 50):
        clients.append(server.log_in(f"client {index}", host=f"10.0.{index >> 8}.{index & 255}"))
    for client in clients:
        client.heard.clear()
    other = RelayMap(MAP.pops[:1])
    relays.replace(other, {"fra": b"a newer secret"})
    server.core.handle_relays_changed(server.now_us)
    server.core.handle_timeout(server.now_us)
    server.drain()
    assert sum(bool(client.heard) for client in clients) == SERVER_RELAY_NEWS_AT_ONCE
    server.pass_time(SECOND)
    for client in clients:
        news, tickets = client.heard
        assert news == RelayNews(format_relay_map(other))
        assert isinstance(tickets, Tickets)
        assert [ticket.code for ticket in tickets.tickets] == ["fra"]
    relays.replace(RelayMap(), {})
    server.core.handle_relays_changed(server.now_us)
    server.pass_time(SECOND)
    assert all(client.heard[2:] == [RelayNews(b"")] for client in clients)


def test_what_does_not_fit_changes_nothing() -> None:
    relays = desk()
    before = relays.map_text, relays.mint(Identity.of("alice"))
    for secrets in ({"iad": b"a long secret"}, {"fra": b"short"}):
        with pytest.raises(UsageError):
            relays.replace(RelayMap(MAP.pops[:1]), secrets)
    assert (relays.map_text, relays.mint(Identity.of("alice"))) == before


def test_secrets_are_read_from_a_file_for_its_owners_eyes_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("# of our relays\nfra  a-long-secret\n\nams another-secret\n")
    path.chmod(0o600)
    assert load_relay_secrets(path) == {"fra": b"a-long-secret", "ams": b"another-secret"}
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod"):
        load_relay_secrets(path)


@pytest.mark.parametrize("line", ["fra", "fra two words", "Frankfurt hush-hush", "fra hush-hush\nfra hush-hush"])
def test_a_line_that_is_none_is_named_by_its_number_and_not_shown(tmp_path: Path, line: str) -> None:
    path = tmp_path / "secrets"
    path.write_text(f"ams hush-hush\n{line}\n")
    path.chmod(0o600)
    with pytest.raises(UsageError, match=f"line {line.count(chr(10)) + 2}: ") as caught:
        load_relay_secrets(path)
    assert "hush" not in str(caught.value)


def test_an_operator_reads_where_tickets_are_missing() -> None:
    assert desk().summary == "Clients are told of 2 places with relays, and get tickets for 2."
    assert "for none of them (--relay-secrets FILE" in desk(secrets={}).summary
