"""Our relay beside coturn, in one run: python -m benches.relay [--seconds 3] [--rounds 3] [--allocations 5000]

Forwarding through channels, client to peer and peer to client, packets of 1000 and of 100 bytes: packets per second with a window
of packets under way, CPU time of the relay's process per packet, and the latency it adds at 1000 packets a second. `batched`:
clients send and take runs of packets in one call, as ours do on Linux; `single`: a call for each packet, as most others do. At
the end idle allocations, and what each adds to the memory of the relay's process. Needs coturn (Debian: coturn).
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from peergram.address import Address
from peergram.drivers.udp_batch import UdpSocket
from peergram.servers.relay_access import RelayAccess
from peergram.servers.relay_quotas import RelayQuotas
from peergram.servers.relay_run import RelayServer, RelaySettings
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_channel_data, encode_stun, long_term_key

_USER, _PASSWORD, _REALM = b"ann", b"secret", b"example.org"
_HOST: Final = "127.0.0.1"
_CLIENTS: Final = 8
_BURST: Final = 32
_WINDOW: Final = 1_536
_CHANNEL: Final = 0x4000
_STALL_S: Final = 0.3
_nonces: dict[Address, bytes] = {}
"""What each relay gave last."""


@dataclass(slots=True)
class Relay:
    """One that runs."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        line = next(
            each for each in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if each.startswith("VmRSS")
        )
        return int(line.split()[1]) * 1024


class Client:
    """One allocation with a channel to a peer's socket."""

    def __init__(self, port: int) -> None:
        self.server = (_HOST, port)
        self.udp = UdpSocket((_HOST, 0))
        self.peer = UdpSocket((_HOST, 0))
        self._nonce = _nonces.get(self.server)
        self._transactions = count(1)
        answer = self._ask(Method.ALLOCATE, requested_transport=17)
        assert answer.xor_relayed_address is not None, f"no allocation: {answer}"
        self.relayed = answer.xor_relayed_address

    def bind(self) -> None:
        answer = self._ask(Method.CHANNEL_BIND, channel_number=_CHANNEL, xor_peer_addresses=[self.peer.local])
        assert answer.message_class == Class.SUCCESS, answer

    def close(self) -> None:
        self.udp.receive()
        self._say(StunMessage(Method.REFRESH, Class.REQUEST, bytes(12), lifetime_s=0))
        self.udp.close()
        self.peer.close()

    def _ask(self, method: int, **attributes: Any) -> StunMessage:
        answer: StunMessage | None = None
        while answer is None or answer.error_code in (401, 438):
            message = StunMessage(method, Class.REQUEST, next(self._transactions).to_bytes(12, "big"), **attributes)
            answer, tries = None, 0
            while answer is None:
                tries += 1
                assert tries <= 20, "the relay does not answer"
                self._say(message)
                answer = self._answer(message.transaction_id)
            if answer.nonce is not None:
                # Ours gives one to a host, so that it need not be asked as often for another one than it answers strangers.
                self._nonce = _nonces[self.server] = answer.nonce
        return answer

    def _say(self, message: StunMessage) -> None:
        key = None
        if self._nonce is not None:
            message.username, message.realm, message.nonce = _USER, _REALM, self._nonce
            key = long_term_key(_USER, _REALM, _PASSWORD)
        self.udp.send_batch([encode_stun(message, integrity_key=key, fingerprint=False)], self.server)

    def _answer(self, transaction_id: bytes) -> StunMessage | None:
        end_s = time.monotonic() + 0.5
        while time.monotonic() < end_s:
            for data, _, _ in self.udp.receive()[0]:
                answer = decode_stun(data)
                if answer.transaction_id == transaction_id:
                    return answer
        return None


def drain(udp: UdpSocket) -> int:
    """How many datagrams have arrived."""
    batches, _ = udp.receive()
    return sum(-(-len(data) // size) for data, size, _ in batches)


def forward(relay: Relay, size: int, *, to_peer: bool, batched: bool, seconds: float) -> tuple[float, float]:
    """Packets per second, and microseconds of CPU per packet."""
    with clients(relay, _CLIENTS) as all_clients:
        lanes = []
        for client in all_clients:
            client.bind()
            payload = bytes(size)
            if to_peer:
                lanes.append((client.udp, client.server, client.peer, [encode_channel_data(_CHANNEL, payload)] * _BURST))
            else:
                lanes.append((client.peer, client.relayed, client.udp, [payload] * _BURST))
            if not batched:
                for udp in (client.udp, client.peer):
                    udp._sends_batches = False
                    udp._socket.setsockopt(17, 104, 0)
        sent = [0] * len(lanes)
        arrived = [0] * len(lanes)
        window = _WINDOW // len(lanes)
        cpu_s, begin_s = relay.cpu_s(), time.monotonic()
        moved_s, now_s = begin_s, begin_s
        total = 0
        while now_s - begin_s < seconds:
            found = 0
            for at, (sender, to, receiver, burst) in enumerate(lanes):
                if sent[at] - arrived[at] <= window - _BURST:
                    sender.send_batch(burst, to)
                    sent[at] += _BURST
                got = drain(receiver)
                arrived[at] += got
                found += got
            now_s = time.monotonic()
            total += found
            if found:
                moved_s = now_s
            elif now_s - moved_s > _STALL_S:
                # Some were lost: they are not under way any more.
                sent = arrived.copy()
                moved_s = now_s
        return total / (now_s - begin_s), (relay.cpu_s() - cpu_s) / max(1, total) * 1e6


def latency(relay: Relay | None, size: int, seconds: float) -> list[float]:
    """Microseconds from sending to arrival of each packet, 1000 a second; without a relay directly."""
    found: list[float] = []
    with ExitStack() as stack:
        if relay is not None:
            (client,) = stack.enter_context(clients(relay, 1))
            client.bind()
            sender, to, receiver = client.udp, client.server, client.peer
        else:
            sender, receiver = UdpSocket((_HOST, 0)), UdpSocket((_HOST, 0))
            to = receiver.local
        stamp = struct.Struct("d")
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            payload = stamp.pack(now_s) + bytes(size - stamp.size)
            sender.send_batch([encode_channel_data(_CHANNEL, payload) if relay is not None else payload], to)
            until_s = now_s + 0.001
            while time.monotonic() < until_s:
                for data, _, _ in receiver.receive(1)[0]:
                    found.append((time.monotonic() - stamp.unpack(data[:8])[0]) * 1e6)
    return sorted(found)


@contextmanager
def clients(relay: Relay, how_many: int) -> Iterator[list[Client]]:
    made = []
    try:
        for _ in range(how_many):
            made.append(Client(relay.port))
        yield made
    finally:
        for client in made:
            client.close()


def idle(relay: Relay, how_many: int) -> float:
    """Bytes of the relay's process for each of so many allocations that do nothing."""
    before = relay.rss_bytes()
    with clients(relay, how_many):
        return (relay.rss_bytes() - before) / how_many


@contextmanager
def running(name: str, threads: int) -> Iterator[Relay]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        if name == "peergram":
            command = [sys.executable, "-m", "benches.relay", "--serve", str(port)]
        else:
            command = ["turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--lt-cred-mech", "--log-file=/dev/null"]
            command += [
                f"--user={_USER.decode()}:{_PASSWORD.decode()}",
                f"--realm={_REALM.decode()}",
                f"--relay-threads={threads}",
            ]
            command += [f"--listening-ip={_HOST}", f"--relay-ip={_HOST}", f"--listening-port={port}", "--allow-loopback-peers"]
            command += [f"--pidfile={folder}/pid", f"--userdb={folder}/db", "--no-stdout-log"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            relay = Relay(name, port, process)
            wait_for(relay)
            yield relay
        finally:
            process.terminate()
            process.wait()


def wait_for(relay: Relay) -> None:
    question = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, bytes(12)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((_HOST, relay.port))
        probe.settimeout(0.1)
        for _ in range(100):
            try:
                probe.send(question)
                probe.recv(1_000)
            except OSError:
                time.sleep(0.05)
                continue
            return
    raise AssertionError(f"{relay.name} does not start")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def serve(port: int) -> None:
    """Our relay without quotas, for the processes above."""
    quotas = RelayQuotas(
        allocations_max=100_000, allocations_per_identity_max=100_000, allocations_per_host_max=100_000,
        identity_bytes_per_s=0, network_bytes_per_s=0, total_bytes_per_s=0,
    )  # fmt: skip
    access = RelayAccess(user=_USER, password=_PASSWORD, realm=_REALM)
    server = RelayServer(RelaySettings(binds=((_HOST, port),), access=access, allow_loopback=True, quotas=quotas))
    server.start()
    while True:
        time.sleep(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--allocations", type=int, default=5_000, help="idle ones at the end; 0 for none")
    parser.add_argument("--threads", type=int, default=1, help="of coturn (0: none of its own, 1: as here)")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
    if shutil.which("turnserver") is None:
        raise SystemExit("turnserver is missing (Debian: coturn)")
    rates: dict[tuple[str, int, bool, bool], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        relays = [stack.enter_context(running(name, options.threads)) for name in ("peergram", "coturn")]
        for _ in range(options.rounds):
            for size in (1_000, 100):
                for batched in (True, False):
                    for to_peer in (True, False):
                        for relay in relays:
                            found = forward(relay, size, to_peer=to_peer, batched=batched, seconds=options.seconds)
                            rates.setdefault((relay.name, size, batched, to_peer), []).append(found)
        print(
            "| packets | clients | direction | peergram packets/s | coturn packets/s | ratio | peergram CPU us | coturn CPU us |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for size in (1_000, 100):
            for batched in (True, False):
                for to_peer in (True, False):
                    ours, theirs = (
                        [statistics.median(column) for column in zip(*rates[name, size, batched, to_peer], strict=True)]
                        for name in ("peergram", "coturn")
                    )
                    words = ("batched" if batched else "single", "to peer" if to_peer else "to client")
                    figures = f"{ours[0]:,.0f} | {theirs[0]:,.0f} | {ours[0] / theirs[0]:.2f} | {ours[1]:.2f} | {theirs[1]:.2f}"
                    print(f"| {size} B | {words[0]} | {words[1]} | {figures} |")
        print()
        print("| latency at 1000 packets/s | p50 us | p99 us |\n| --- | --- | --- |")
        for each in (None, *relays):
            found_us = latency(each, 1_000, options.seconds)
            p50, p99 = (found_us[round(len(found_us) * share)] for share in (0.5, 0.99))
            print(f"| {each.name if each else 'without a relay'} | {p50:.0f} | {p99:.0f} |")
    if options.allocations:
        print()
        for name in ("peergram", "coturn"):
            with running(name, options.threads) as relay:
                print(f"{options.allocations} idle allocations: {name} {idle(relay, options.allocations) / 1024:.2f} KiB each")


if __name__ == "__main__":
    main()
