"""S6 through sockets: nobody learns from the server who is connected, neither by what it says nor by how long it takes.

A prober sends a signal and a ping in one write, and then a second ping as soon as the first pong is there: whatever the server
does for the signal before it answers delays the first pong, and whatever it does afterwards the second. Probes of names that are
here and of names that are not come in random order, so what else happens on the machine hits both alike; those who are here read
only at the end, since on one machine their work would delay the prober. If the times have one distribution, the share of pairs in
which the one is longer is a half, with a known spread (Mann and Whitney).
"""

from __future__ import annotations

import math
import time
from random import Random

from peergram.identity import Identity
from peergram.signaling.websocket_protocol import CarriedSignal, encode_client_message
from tests.threats.world import full_or

from .processes import server_process
from .raw_client import RawClient, masked

PROBERS = 20
NAMES = 100
"""Of each kind; enough that no limit for one sender, receiver or pair is reached."""
PROBES_PER_S = 700
SPREADS_MAX = 5.0
"""Once in two million runs a difference that is not there looks like that."""
_PING, _PONG = 9, 10


def share_longer(ones: list[float], others: list[float]) -> float:
    """The share of pairs in which the one is longer than the other."""
    ranked = sorted([(value, True) for value in ones] + [(value, False) for value in others])
    ranks = sum(rank for rank, (_, is_one) in enumerate(ranked, 1) if is_one)
    return (ranks - len(ones) * (len(ones) + 1) / 2) / (len(ones) * len(others))


def spreads_from_half(ones: list[float], others: list[float]) -> float:
    spread = math.sqrt((len(ones) + len(others) + 1) / (12 * len(ones) * len(others)))
    return (share_longer(ones, others) - 0.5) / spread


def wait_pong(client: RawClient) -> float:
    opcode, content = client.read_frame()
    assert (opcode, content) == (_PONG, b""), "the server said something"
    return time.perf_counter()


def test_neither_answers_nor_times_tell_who_is_here() -> None:
    count, rng = full_or(10_000, 1_000), Random(6)
    first: dict[bool, list[float]] = {True: [], False: []}
    second: dict[bool, list[float]] = {True: [], False: []}
    with server_process() as server:
        here = [RawClient(server.address, f"here{number}", retry_busy=True) for number in range(NAMES)]
        probers = [RawClient(server.address, f"prober{number}", retry_busy=True) for number in range(PROBERS)]
        begin_s = time.perf_counter()
        for number in range(count):
            time.sleep(max(0.0, begin_s + number / PROBES_PER_S - time.perf_counter()))
            prober, is_here = probers[number % PROBERS], rng.random() < 0.5
            name = f"{'here' if is_here else 'gone'}{rng.randrange(NAMES)}"
            probe = masked(encode_client_message(CarriedSignal(Identity.of(name), bytes(300)))) + masked(b"", _PING)
            ping = masked(b"", _PING)
            sent_s = time.perf_counter()
            prober.socket.sendall(probe)
            answered_s = wait_pong(prober)
            prober.socket.sendall(ping)
            first[is_here].append(answered_s - sent_s)
            second[is_here].append(wait_pong(prober) - answered_s)
        last = RawClient(server.address, "last", retry_busy=True)
        for each in range(NAMES):
            last.send(f"here{each}", b"end")
        came = sum(1 for each in here for _ in iter(each.read_signal, CarriedSignal(Identity.of("last"), b"end")))
        for client in [*here, *probers, last]:
            client.close()
    assert came == len(first[True]), "not every signal was carried"
    for what, times in (("first", first), ("second", second)):
        median = {is_here: sorted(values)[len(values) // 2] * 1e6 for is_here, values in times.items()}
        spreads = spreads_from_half(times[True], times[False])
        share = share_longer(times[True], times[False])
        print(
            f"{count} probes, {what} pong: median {median[True]:.1f} us for who is here, {median[False]:.1f} us for who is not; "
            f"longer for who is here in {100 * share:.1f} % ({spreads:+.1f} spreads)"
        )
    for times in (first, second):
        assert abs(spreads_from_half(times[True], times[False])) < SPREADS_MAX
