"""The experiments behind docs/congestion.md: python -m benches.congestion [--only WORD]

Every line is one scenario on the simulated bottleneck (`peergram.sim.bottleneck`) with its figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from benches.congestion_others import Copa, Model
from peergram.connection.auto_rate import AutoRate
from peergram.sim.bottleneck import SECOND_US, Bottleneck, CubicFlow, MakeController, OwnFlow, jain

MBIT = 125_000
DEFAULT_RATE = 20 * MBIT


def percentile(values: list[int], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] / 1000 if values else 0.0


def queue(link: Bottleneck, begin_s: float, end_s: float) -> str:
    part = link.queue_delays_us[int(begin_s * 100) : int(end_s * 100)]
    return f"queue {percentile(part, 0.5):.1f} / {percentile(part, 0.95):.1f} ms"


def bdp(rate: int, rtt_us: int) -> int:
    return rate * rtt_us // SECOND_US


def single(
    make: MakeController,
    *,
    rate: int = DEFAULT_RATE,
    rtt_us: int = 50_000,
    buffer_bdp: float = 1.0,
    buffer_bytes: int = 0,
    loss: float = 0.0,
    seconds: float = 20,
    begin: float = 4,
    ack_delay_us: int = 10_000,
    coalesce_us: int = 0,
    jitter_us: int = 0,
    app_rate: int = 0,
) -> str:
    size = buffer_bytes or max(int(buffer_bdp * bdp(rate, rtt_us)), 4 * 1300)
    link = Bottleneck(rate_bytes_per_s=rate, buffer_bytes=size, loss=loss)
    flow = OwnFlow(
        link,
        make,
        rtt_us=rtt_us,
        ack_loss=loss,
        ack_delay_us=ack_delay_us,
        coalesce_us=coalesce_us,
        app_rate=app_rate,
        jitter_us=jitter_us,
    )
    link.run(int(seconds * SECOND_US))
    can = (app_rate or rate) * (1 - loss)
    first = flow.sink.rate(0, min(2, seconds)) / can
    used = flow.sink.rate(begin, seconds) / can
    return f"used {used:.3f} (first 2 s {first:.2f}), {queue(link, begin, seconds)}, dropped {link.overflowed}"


def selves(
    make: MakeController, *, flows: int = 4, stagger_s: float = 0.0, buffer_bdp: float = 4, rtts: tuple[int, ...] = (50_000,),
    seconds: float = 60, loss: float = 0.0, rate: int = DEFAULT_RATE, begin: float = 0,
) -> str:  # fmt: skip
    link = Bottleneck(rate_bytes_per_s=rate, buffer_bytes=max(int(buffer_bdp * bdp(rate, rtts[0])), 5200), loss=loss)
    some = [
        OwnFlow(link, make, rtt_us=rtts[at % len(rtts)], start_us=int(at * stagger_s * SECOND_US) + 7_000 * at, ack_loss=loss)
        for at in range(flows)
    ]
    link.run(int(seconds * SECOND_US))
    begin = begin or flows * stagger_s + 10
    rates = [flow.sink.rate(begin, seconds) for flow in some]
    shares = " ".join(f"{each / rate:.2f}" for each in rates)
    return f"jain {jain(rates):.3f} ({shares}), sum {sum(rates) / rate:.3f}, {queue(link, begin, seconds)}"


def against_cubic(make: MakeController, *, buffer_bdp: float, first: bool = True, rtt_us: int = 50_000, loss: float = 0.0,
    seconds: float = 60, rate: int = DEFAULT_RATE) -> str:  # fmt: skip
    link = Bottleneck(rate_bytes_per_s=rate, buffer_bytes=int(buffer_bdp * bdp(rate, rtt_us)), loss=loss)
    own = OwnFlow(link, make, rtt_us=rtt_us, start_us=0 if first else 5 * SECOND_US, ack_loss=loss)
    cubic = CubicFlow(link, rtt_us=rtt_us, start_us=5 * SECOND_US if first else 0)
    link.run(int(seconds * SECOND_US))
    mine, theirs = own.sink.rate(10, seconds), cubic.sink.rate(10, seconds)
    worst = min(own.sink.rate(at, at + 10) / max(own.sink.rate(at, at + 10) + cubic.sink.rate(at, at + 10), 1)
                for at in range(10, int(seconds) - 9, 10))  # fmt: skip
    best = max(own.sink.rate(at, at + 10) / max(own.sink.rate(at, at + 10) + cubic.sink.rate(at, at + 10), 1)
               for at in range(10, int(seconds) - 9, 10))  # fmt: skip
    return (
        f"own share {mine / (mine + theirs):.2f} (10 s: {worst:.2f}..{best:.2f}), sum {(mine + theirs) / rate:.3f}, "
        f"{queue(link, 10, seconds)}"
    )


def step(make: MakeController, *, before: int, after: int) -> str:
    link = Bottleneck(rate_bytes_per_s=before, buffer_bytes=4 * bdp(max(before, after), 50_000))
    flow = OwnFlow(link, make, rtt_us=50_000)
    link.run(15 * SECOND_US)
    link.set_rate(after)
    link.run(35 * SECOND_US)
    reached = next((at / 10 - 15 for at in range(150, 340) if sum(flow.sink.bins[at : at + 10]) >= 0.8 * after), 99)
    part = link.queue_delays_us[1500:]
    calm = next((at / 100 for at in range(len(part)) if max(part[at : at + 100]) < 50_000), 99)
    return f"80 % after {reached:.1f} s, queue < 50 ms after {calm:.1f} s, used {flow.sink.rate(25, 35) / after:.3f}, " + queue(
        link, 25, 35
    )


def vanishing_cubic(make: MakeController) -> str:
    """CUBIC leaves: does the queue come down again?"""
    link = Bottleneck(rate_bytes_per_s=DEFAULT_RATE, buffer_bytes=2 * bdp(DEFAULT_RATE, 50_000))
    own = [OwnFlow(link, make, rtt_us=50_000), OwnFlow(link, make, rtt_us=50_000, start_us=9_000)]
    cubic = CubicFlow(link, rtt_us=50_000, start_us=5 * SECOND_US)
    link.run(25 * SECOND_US)
    cubic.stop()
    link.run(60 * SECOND_US)
    rates = [flow.sink.rate(35, 60) for flow in own]
    return f"jain {jain(rates):.3f}, sum {sum(rates) / DEFAULT_RATE:.3f}, {queue(link, 35, 60)}"


SCENARIOS: dict[str, Callable[[MakeController], str]] = {
    "lossy 1 %": lambda make: single(make, loss=0.01),
    "lossy 1 %, RTT 100": lambda make: single(make, loss=0.01, rtt_us=100_000),
    "lossy 1 %, jitter 30 ms": lambda make: single(make, loss=0.01, jitter_us=30_000),
    "clean, jitter 30 ms": lambda make: single(make, jitter_us=30_000),
    "clean, jitter 100 ms": lambda make: single(make, jitter_us=100_000),
    "lossy 5 %": lambda make: single(make, loss=0.05),
    "lossy 35 %": lambda make: single(make, loss=0.35),
    "lossy 60 %": lambda make: single(make, loss=0.60, seconds=30),
    "clean deep (10 BDP)": lambda make: single(make, buffer_bdp=10),
    "clean 1 BDP": lambda make: single(make),
    "clean 0.25 BDP": lambda make: single(make, buffer_bdp=0.25),
    "reference peer acks": lambda make: single(make, buffer_bdp=10, ack_delay_us=50_000),
    "RTT 200, deep": lambda make: single(make, rtt_us=200_000, buffer_bdp=4, seconds=40, begin=10),
    "RTT 5, deep": lambda make: single(make, rtt_us=5_000, buffer_bdp=40),
    "256 kbit/s": lambda make: single(make, rate=32_000, buffer_bytes=64_000, seconds=40, begin=10),
    "1 Gbit/s LAN": lambda make: single(make, rate=125_000_000, rtt_us=200, buffer_bytes=1 << 20, seconds=1.5, begin=0.5),
    "1 Gbit/s LAN, bursts 2 ms": lambda make: single(
        make, rate=125_000_000, rtt_us=200, buffer_bytes=1 << 20, seconds=1.5, begin=0.5, coalesce_us=2_000
    ),
    "200 Mbit/s, RTT 40": lambda make: single(make, rate=200 * MBIT, rtt_us=40_000, seconds=6, begin=2),
    "application at 2 Mbit/s": lambda make: single(make, app_rate=2 * MBIT),
    "4 own, together": lambda make: selves(make),
    "4 own, 2 s apart": lambda make: selves(make, stagger_s=2),
    "4 own, 1 BDP": lambda make: selves(make, stagger_s=2, buffer_bdp=1),
    "4 own, 0.5 BDP": lambda make: selves(make, stagger_s=2, buffer_bdp=0.5),
    "4 own, 1 % loss": lambda make: selves(make, stagger_s=2, loss=0.01),
    "4 own, 2 Mbit/s": lambda make: selves(make, stagger_s=2, rate=2 * MBIT),
    "late joiner": lambda make: selves(make, flows=2, stagger_s=15, seconds=45, begin=20),
    "RTT 20 and 80": lambda make: selves(make, flows=2, rtts=(20_000, 80_000), buffer_bdp=10),
    "cubic 0.5 BDP": lambda make: against_cubic(make, buffer_bdp=0.5),
    "cubic 1 BDP": lambda make: against_cubic(make, buffer_bdp=1),
    "cubic 2 BDP": lambda make: against_cubic(make, buffer_bdp=2),
    "cubic 4 BDP": lambda make: against_cubic(make, buffer_bdp=4),
    "cubic first 0.5 BDP": lambda make: against_cubic(make, buffer_bdp=0.5, first=False),
    "cubic first 1 BDP": lambda make: against_cubic(make, buffer_bdp=1, first=False),
    "cubic first 2 BDP": lambda make: against_cubic(make, buffer_bdp=2, first=False),
    "cubic first 4 BDP": lambda make: against_cubic(make, buffer_bdp=4, first=False),
    "cubic 1 BDP, RTT 20": lambda make: against_cubic(make, buffer_bdp=1, rtt_us=20_000),
    "cubic comes and goes": vanishing_cubic,
    "step 20 to 5": lambda make: step(make, before=DEFAULT_RATE, after=5 * MBIT),
    "step 5 to 20": lambda make: step(make, before=5 * MBIT, after=DEFAULT_RATE),
}


CANDIDATES: dict[str, MakeController] = {"auto": AutoRate, "copa": Copa, "model": Model}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", default=[], help="run scenarios whose name holds this word")
    parser.add_argument("--candidate", default="auto", choices=sorted(CANDIDATES))
    chosen = parser.parse_args()
    for name, run in SCENARIOS.items():
        if chosen.only and not any(word in name for word in chosen.only):
            continue
        begin = time.monotonic()
        print(f"{name:28} {run(CANDIDATES[chosen.candidate])}  [{time.monotonic() - begin:.1f} s]", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
