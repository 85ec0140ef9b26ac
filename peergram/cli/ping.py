"""`peergram ping`: round trips to somebody, measured by the libraries of both sides, and the way they take.

The other program notices a session and nothing else: its library answers.
"""

from __future__ import annotations

import time

import click

from peergram.cli.call import Call, place_of
from peergram.cli.network_options import ANSWER_TIMEOUT_S, NetworkOptions, network_options, peer_identity
from peergram.cli.paths import describe_path
from peergram.cli.terminal import Failure, describe_proof, on_terminal, out, say, seconds_text
from peergram.config import Config
from peergram.errors import Result
from peergram.events import PingAnswer

_CHANNELS_DRAINED = (0, 1)
"""What a chat says to whom it takes for a guest: read, so that it does not wait in memory."""
_MISSING_AFTER_S = 2.0
_LOOK_INTERVAL_S = 0.02


@click.command()
@click.argument("identity")
@click.option("--as", "who", metavar="NAME", help="Who you are, such as alice [default: a new key, which proves itself].")
@network_options
@click.option("--count", metavar="N", type=click.IntRange(1), help="End after N pings [default: at Ctrl-C].")
@click.option(
    "--interval", metavar="SECONDS", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True,
    help="Time from one ping to the next.",
)  # fmt: skip
@click.option(
    "--timeout", metavar="SECONDS", type=click.FloatRange(0.1, 3600), default=ANSWER_TIMEOUT_S, show_default=True,
    help="How long the other side may take to accept.",
)  # fmt: skip
def ping(identity: str, who: str | None, network: NetworkOptions, count: int | None, interval: float, timeout: float) -> int:
    """Measure round trips to IDENTITY, a name such as bob or ip:ADDRESS:PORT.

    A peergram program must run there, such as `peergram chat bob`, and its user must let you in. Exits with 1 if nothing was
    answered.

    \b
    Examples:
      peergram ping bob
      peergram ping bob --as alice --count 10 --interval 0.2
    """
    peer = peer_identity(identity)
    with network.open(who, peer, config=Config(timeout_initial_us=int(timeout * 1e6))) as net:
        call = Call(net, peer, _CHANNELS_DRAINED[0])
        say(f"You are {net.identity.printable}, key {net.key_fingerprint}.")
        say(f"Calling {place_of(peer)}; waiting for {place_of(peer)} to accept (Ctrl-C gives up) …")
        if (result := net.ping_user(peer)) != Result.OK:
            raise Failure(f"{place_of(peer)} cannot be called ({result.name})")
        call.wait_connected(timeout)
        connection = call.connection
        if connection is not None:
            say(f"{call.name} has accepted.")
            for line in describe_proof(connection):
                say(line)
            call.tell_path()
        pinger = Pinger(call, interval)
        try:
            pinger.run(count)
        except KeyboardInterrupt:
            if on_terminal():
                # Behind the terminal's own ^C.
                out.print()
            raise
        finally:
            say(pinger.summary)
        return 0 if pinger.round_trips_us else 1


class Pinger:
    """Asks in intervals, and says what comes of it."""

    def __init__(self, call: Call, interval_s: float) -> None:
        self.round_trips_us: list[int] = []
        self._call = call
        self._interval_s = interval_s
        self._sent = 0
        self._first = 0
        """The number that the connection gave to the first one, less 1."""
        self._open: dict[int, float] = {}
        """When those were asked whose answer is neither there nor given up."""
        self._seen = 0
        """The highest number of an answer that was looked at."""

    def run(self, count: int | None) -> None:
        """Until so many are answered or given up; raises Failure when the session ends."""
        next_at_s = time.monotonic()
        while count is None or self._sent < count or self._open:
            now_s = time.monotonic()
            if now_s >= next_at_s and (count is None or self._sent < count):
                self._ask(now_s)
                next_at_s = max(next_at_s + self._interval_s, now_s)
            self._wait(next_at_s)
            self._look()
            self._call.check()

    def _ask(self, now_s: float) -> None:
        net, peer = self._call.net, self._call.peer
        if net.ping_user(peer) != Result.OK:
            self._call.check(now=True)
            return
        status = self._call.status
        if status is None:
            return
        if not self._sent:
            self._first = self._seen = status.pings_asked - 1
        self._sent += 1
        self._open[status.pings_asked] = now_s

    def _wait(self, next_at_s: float) -> None:
        left_s = min(next_at_s - time.monotonic(), _LOOK_INTERVAL_S)
        if left_s > 0 and self._call.net.wait(left_s):
            for channel in _CHANNELS_DRAINED:
                self._call.net.receive_messages_on_channel(channel, 64)
            # On channels that nobody reads here something may go on waiting.
            time.sleep(left_s)

    def _look(self) -> None:
        status, connection = self._call.status, self._call.connection
        if status is None or connection is None:
            return
        path = describe_path(connection)
        for answer in status.ping_answers:
            if answer.number > self._seen:
                self._seen = answer.number
                self._take(answer, path)
        now_s = time.monotonic()
        for number, asked_at_s in list(self._open.items()):
            if now_s >= asked_at_s + _MISSING_AFTER_S:
                del self._open[number]
                say(f"{number - self._first:>4}: no answer within {seconds_text(_MISSING_AFTER_S)} ({path})", "yellow")

    def _take(self, answer: PingAnswer, path: str) -> None:
        is_late = self._open.pop(answer.number, None) is None
        self.round_trips_us.append(answer.round_trip_us)
        late = ", after all" if is_late else ""
        say(f"{answer.number - self._first:>4}: {milliseconds(answer.round_trip_us)} {path}{late}")

    @property
    def summary(self) -> str:
        """How many were answered, and how quickly."""
        times_us = self.round_trips_us
        # What is under way when somebody stops is neither answered nor missing.
        decided = self._sent - len(self._open)
        missing = f" ({1 - len(times_us) / decided:.0%} missing)" if decided and len(times_us) < decided else ""
        counts = f"{self._sent} sent, {len(times_us)} answered{missing}"
        if not times_us:
            return f"{self._call.name}: {counts}."
        mean_us = sum(times_us) / len(times_us)
        spread = f"min {milliseconds(min(times_us))}, avg {milliseconds(mean_us)}, max {milliseconds(max(times_us))}"
        return f"{self._call.name}: {counts}; {spread}."


def milliseconds(us: float) -> str:
    """`0.412 ms`, `38.1 ms`: three digits that matter, no finer than the microsecond."""
    ms = us / 1000
    return f"{ms:.{3 if ms < 10 else 1}f} ms"
