"""A relay and twelve trap sockets inside its operator's network, in a network namespace of its own (R1): says as JSON how many
datagrams came to each trap when a client tried every spelling of every address, with permission, without, and by channel."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from ipaddress import ip_address
from typing import Any

from peergram.address import Address, canonical_address
from peergram.servers.relay_access import RelayAccess
from peergram.servers.relay_run import RelayServer, RelaySettings
from peergram.wire.stun import (
    Class,
    Method,
    StunMessage,
    StunStream,
    decode_stun,
    encode_channel_data,
    encode_stun,
    long_term_key,
)
from tests.servers.test_relay_peers import SPELLINGS, spellings_of

OWN, OWN_6, CLIENT = "198.51.100.7", "2606:4700::7", "203.0.113.5"
_FREE_BIND_4, _FREE_BIND_6 = (socket.IPPROTO_IP, 15), (socket.IPPROTO_IPV6, 78)
"""ip(7), ipv6(7): addresses that no interface has."""
PORT, TRAP_PORT = 3_478, 7_777
TRAPS = (
    *("127.0.0.1", "127.0.0.2", "10.1.2.3", "100.64.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1", "::1", "fd12:3456::1"),
    *("fe80::1%lo", OWN, OWN_6),
)


class Client:
    """One allocation, whose data goes to wherever it is told."""

    def __init__(self, transport: str, family: int) -> None:
        kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.settimeout(2)
        self._socket.bind((CLIENT, 0))
        self._socket.connect((OWN, PORT))
        self._stream = StunStream()
        self._nonce: bytes | None = None
        self._number = 0
        answer = self.ask(Method.ALLOCATE, requested_transport=17, requested_address_family=family)
        assert answer.message_class == Class.SUCCESS, answer

    def ask(self, method: int, **attributes: Any) -> StunMessage:
        while True:
            answer = self._answer(self.say(method, **attributes))
            if answer.error_code not in (401, 438):
                return answer
            self._nonce = answer.nonce

    def say(self, method: int, **attributes: Any) -> bytes:
        """A request whose answer nobody waits for: so many refusals are not all said. Its number."""
        self._number += 1
        message = StunMessage(method, Class.REQUEST, self._number.to_bytes(12, "big"), **attributes)
        key = None
        if self._nonce is not None:
            message.username, message.realm, message.nonce = b"u", b"peergram", self._nonce
            key = long_term_key(b"u", b"peergram", b"p")
        self._socket.send(encode_stun(message, integrity_key=key))
        return message.transaction_id

    def send(self, packet: bytes) -> None:
        self._socket.send(packet + bytes(-len(packet) % 4))

    def _answer(self, transaction_id: bytes) -> StunMessage:
        while True:
            data = self._socket.recv(65_536)
            for frame in [data] if self._socket.type == socket.SOCK_DGRAM else self._stream.handle_data(data):
                answer = decode_stun(frame)
                if answer.transaction_id == transaction_id:
                    return answer


def try_all(transport: str, targets: list[Address]) -> None:
    clients = {4: Client(transport, 1), 6: Client(transport, 2)}
    number = 0x4000
    for peer in targets:
        client = clients[6 if ":" in peer[0] else 4]
        send = StunMessage(Method.SEND, Class.INDICATION, bytes(12), xor_peer_addresses=[peer], data=b"trapped")
        client.send(encode_stun(send, fingerprint=False))
        client.say(Method.CREATE_PERMISSION, xor_peer_addresses=[peer])
        client.send(encode_stun(send, fingerprint=False))
        client.say(Method.CHANNEL_BIND, channel_number=number, xor_peer_addresses=[peer])
        client.send(encode_channel_data(number, b"trapped"))
        number += 1


def main() -> None:
    for host in (OWN, OWN_6, CLIENT, "fe80::1"):
        words = ["ip", "addr", "add", f"{host}/{128 if ':' in host else 32}", "dev", "lo"]
        subprocess.run([*words, "nodad"] if ":" in host else words, check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # The rest of the world is here, too, and so is the rest of the operator's network.
    subprocess.run(["ip", "route", "add", "local", "default", "dev", "lo"], check=True)
    subprocess.run(["ip", "-6", "route", "add", "local", "default", "dev", "lo"], check=True)
    traps = []
    for host in TRAPS:
        trap = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        trap.setblocking(False)
        trap.setsockopt(*(_FREE_BIND_6 if ":" in host else _FREE_BIND_4), 1)
        plain, _, zone = host.partition("%")
        trap.bind((plain, TRAP_PORT, 0, socket.if_nametoindex(zone)) if zone else (plain, TRAP_PORT))
        traps.append(trap)
    allowed = tuple(sys.argv[1:])
    access = RelayAccess(user=b"u", password=b"p")
    relay = RelayServer(RelaySettings(binds=((OWN, PORT), (OWN_6, PORT)), access=access, allow_private=allowed))
    relay.start()
    hosts = {canonical_address(str(ip_address(host.partition("%")[0])), 0)[0] for host in (*SPELLINGS, *TRAPS)}
    hosts |= {canonical_address(text, 0)[0] for text in spellings_of(OWN)}
    targets = [(host, TRAP_PORT) for host in sorted(hosts)]
    for transport in ("udp", "tcp"):
        try_all(transport, targets)
    time.sleep(0.2)
    caught = {}
    for host, trap in zip(TRAPS, traps, strict=True):
        caught[host] = 0
        try:
            while trap.recv(100):
                caught[host] += 1
        except BlockingIOError:
            pass
    metrics = relay.metrics()
    relay.close()
    print(json.dumps({"tried": len(targets), "caught": caught, "metrics": metrics}))


if __name__ == "__main__":
    main()
