"""A scenario, drawn from a seed: who is there, what the network does to them, and what their applications do.

Each feature is off with probability 0.5, so that rare mixes occur, and draws from a generator of its own, so that leaving one
out does not change the others: that is how a failing seed is made smaller. Ranges follow the design of the simulation; volumes
are chosen so that a seed is some hundred packets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

from peergram.config import Config
from peergram.sim.link import LinkModel
from peergram.sim.world import HostOptions

FEATURES = (
    "jitter", "loss", "bursts", "duplicates", "replay", "reorder", "corruption", "rate", "mtu", "slow links",
    "one way", "partition", "flapping", "pause", "crash", "silent death", "drift", "clock jump",
    "slow reader", "stalled reader", "flood", "small buffers", "odd config", "fixed rate",
    "late accept", "accept by sending", "never accept", "close session", "close channel", "echo", "large messages",
    "many channels", "both dial", "address names", "new key", "auto restart", "keep failed", "no delay",
    "attacker", "late timers", "lazy driver", "coalesce", "ties", "socket failures", "pile up",
)  # fmt: skip
"""What a seed may switch on."""
RARE = {
    "mtu": 0.15,
    "never accept": 0.2,
    "address names": 0.3,
    "socket failures": 0.2,
    "silent death": 0.25,
    "keep failed": 0.25,
    "pile up": 0.3,
}
"""Features that would hide too much if every other seed had them, with their probability."""

SECOND_US = 1_000_000
HOST_BYTES_MAX = 300_000
"""What one host may send in phase 1."""

SMALL_BUFFER_MESSAGE_BYTES = 15_000
"""Largest message where receive buffers may be small: one must fit."""

AcceptPolicy = Literal["at once", "late", "by sending", "never"]
ReadPolicy = Literal["at once", "slowly", "stalled"]
FailurePolicy = Literal["close", "auto restart", "keep"]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done at a time: `action` is a method of the player or of the scenario's runner."""

    at_us: int
    action: str
    host: int
    target: int = 0
    channel: int = 0
    size_bytes: int = 0
    count: int = 1
    reliable: bool = True
    flags: int = 0
    for_us: int = 0


@dataclass(slots=True)
class HostPlan:
    """One host: its name, limits, driver and application."""

    identity: str
    config: Config = field(default_factory=Config)
    options: HostOptions = field(default_factory=HostOptions)
    drift_ppm: int = 0
    accept: AcceptPolicy = "at once"
    accept_late_us: int = 0
    read: ReadPolicy = "at once"
    read_every_us: int = 0
    on_failure: FailurePolicy = "close"
    echo: float = 0.0
    returns: bool = True
    """Whether a crashed host is there again when the faults stop."""


@dataclass(slots=True)
class Scenario:
    """Everything drawn; `steps` are in order of time."""

    seed: int
    features: frozenset[str]
    faults_us: int
    hosts: list[HostPlan] = field(default_factory=list)
    links: dict[tuple[int, int], LinkModel] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    ends_idle: bool = False
    """Whether sessions must in the end go by themselves, for want of messages; else half of the seeds close them."""

    def story(self) -> list[str]:
        """What this seed is about, in a few lines."""
        names = ", ".join(sorted(self.features)) or "nothing special"
        lines = [f"seed {self.seed}: {len(self.hosts)} hosts, {self.faults_us / 1e6:.1f} s with {names}"]
        for index, plan in enumerate(self.hosts):
            lines.append(f"host-{index} {plan.identity}: accepts {plan.accept}, reads {plan.read}, on failure {plan.on_failure}")
        return lines


def draw_scenario(seed: int, off: frozenset[str] = frozenset()) -> Scenario:
    """The scenario of that seed, without the features in `off`."""
    dice = Random(f"{seed}/features")
    drawn = [feature for feature in FEATURES if dice.random() < RARE.get(feature, 0.5)]
    features = frozenset(feature for feature in drawn if feature not in off)
    rng = Random(f"{seed}/shape")
    scenario = Scenario(seed, features, faults_us=log_uniform(rng, 3 * SECOND_US, 90 * SECOND_US))
    draw = _Drawing(seed, scenario)
    count = rng.choice((2, 2, 2, 3, 3, 4))
    scenario.hosts = [draw.host(index) for index in range(count)]
    scenario.links = {(a, b): draw.link(a, b) for a in range(count) for b in range(count) if a != b}
    draw.traffic()
    draw.trouble()
    scenario.steps = sorted((step for step in scenario.steps if step.at_us < scenario.faults_us), key=lambda step: step.at_us)
    return scenario


def log_uniform(rng: Random, low: int, high: int) -> int:
    """Small and large values of a range alike."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


class _Drawing:
    """Draws the parts of a scenario."""

    def __init__(self, seed: int, scenario: Scenario) -> None:
        self.seed = seed
        self.scenario = scenario

    def on(self, feature: str) -> bool:
        return feature in self.scenario.features

    def rng(self, purpose: str) -> Random:
        return Random(f"{self.seed}/{purpose}")

    def host(self, index: int) -> HostPlan:
        plan = HostPlan(f"ip:10.0.0.{index + 1}:7000" if self.on("address names") else f"str:host-{index}")
        plan.config = self._config(index)
        plan.options = self._options(index)
        rng = self.rng(f"drift/{index}")
        if self.on("drift"):
            plan.drift_ppm = rng.randint(-500, 500)
        self._manners(index, plan)
        return plan

    def _manners(self, index: int, plan: HostPlan) -> None:
        rng = self.rng(f"manners/{index}")
        accept, read, failure, echo = rng.random(), rng.random(), rng.random(), rng.random()
        plan.accept_late_us = log_uniform(rng, 100_000, 8 * SECOND_US)
        plan.read_every_us = log_uniform(rng, 10_000, 2 * SECOND_US)
        if self.on("never accept") and index == 1:
            plan.accept = "never"
        elif self.on("late accept") and accept < 0.5:
            plan.accept = "late"
        elif self.on("accept by sending") and accept > 0.4:
            plan.accept = "by sending"
        if self.on("slow reader") and read < 0.5:
            plan.read = "slowly"
        elif self.on("stalled reader") and read > 0.4:
            plan.read = "stalled"
        if self.on("auto restart") and failure < 0.5:
            plan.on_failure = "auto restart"
        elif self.on("keep failed") and failure > 0.4:
            plan.on_failure = "keep"
        if self.on("echo"):
            plan.echo = echo * 0.5

    def _options(self, index: int) -> HostOptions:
        rng = self.rng(f"options/{index}")
        late_us, lazy_us = rng.choice((0, 1_000, 16_000)), rng.choice((0, 500, 5_000))
        return HostOptions(
            late_us=late_us if self.on("late timers") else 0,
            lazy_us=lazy_us if self.on("lazy driver") else 0,
            bind_failures=0.3 if self.on("socket failures") else 0.0,
            keeps_key=not self.on("new key"),
        )

    def _config(self, index: int) -> Config:
        values: dict[str, Any] = {}
        rng = self.rng(f"buffers/{index}")
        small = {
            "send_buffer_bytes": log_uniform(rng, 4_096, 65_536),
            "recv_buffer_messages": log_uniform(rng, 2, 60),
            "recv_buffer_bytes": log_uniform(rng, 20_000, 200_000),
        }
        if self.on("small buffers"):
            values.update((name, value) for name, value in small.items() if rng.random() < 0.6)
        rng = self.rng(f"config/{index}")
        odd = {
            "timeout_initial_us": rng.choice((2, 5, 10)) * SECOND_US,
            "timeout_connected_us": rng.choice((2, 5, 10)) * SECOND_US,
            "nagle_us": rng.choice((0, 1_000, 20_000)),
            "datagram_bytes": rng.choice((200, 576, 1_000, 1_200)),
            "linger_us": rng.choice((0, 100_000, 2 * SECOND_US)),
            "session_idle_us": rng.choice((5, 20, 80, 180)) * SECOND_US,
            "pending_requests_max": rng.choice((1, 4, 256)),
        }
        if self.on("odd config"):
            values.update((name, value) for name, value in odd.items() if rng.random() < 0.4)
        if self.rng("path mtu").random() < 0.5:
            values["path_mtu_bytes_max"] = 0
        if self.on("pile up"):
            values["recv_buffer_bytes"] = log_uniform(self.rng(f"pile up/{index}"), 16_000, 40_000)
        rng = self.rng(f"fixed rate/{index}")
        rate = log_uniform(rng, 32_768, 4_000_000)
        config = replace(Config(), **values)
        return replace(config, rate="fixed", send_rate_bytes=rate) if self.on("fixed rate") and rng.random() < 0.6 else config

    def link(self, source: int, destination: int) -> LinkModel:
        """Both directions have the same delay and rate; faults may be on one of them."""
        here, pair = f"{source}/{destination}", f"{min(source, destination)}/{max(source, destination)}"
        model = LinkModel(delay_us=self._delay_us(self.rng(f"delay/{pair}")))
        for feature, apply in _LINK_FEATURES.items():
            rng = self.rng(f"{feature}/{pair if feature in ('rate', 'mtu') else here}")
            if self.on(feature) and rng.random() < 0.8:
                apply(model, rng)
        return model

    def _delay_us(self, rng: Random) -> int:
        return log_uniform(rng, 20_000, 400_000) if self.on("slow links") else log_uniform(rng, 100, 60_000)

    # Applications

    def traffic(self) -> None:
        """Who dials whom, and what he sends when."""
        count = len(self.scenario.hosts)
        rng = self.rng("pairs")
        pairs = [(a, b) for a in range(count) for b in range(a + 1, count) if count == 2 or rng.random() < 0.7] or [(0, 1)]
        if self.on("both dial"):
            pairs += [(b, a) for a, b in pairs if rng.random() < 0.7]
        for source, target in pairs:
            self._talk(source, target, self.rng(f"talk/{source}/{target}"))

    def _talk(self, source: int, target: int, rng: Random) -> None:
        until_us = self.scenario.faults_us
        channels = [rng.choice((-7, 1, 5, 77, 1 << 20)) for _ in range(rng.randint(1, 6))] if self.on("many channels") else [0, 1]
        left_bytes = HOST_BYTES_MAX
        for _ in range(log_uniform(rng, 4, 60)):
            small = self.on("small buffers") or self.on("pile up")
            size = min(self._size(rng), left_bytes, SMALL_BUFFER_MESSAGE_BYTES if small else left_bytes)
            left_bytes -= size
            self._add(
                Step(
                    at_us=rng.randrange(until_us) if rng.random() < 0.7 else rng.randrange(min(until_us, 2 * SECOND_US)),
                    action="send",
                    host=source,
                    target=target,
                    channel=rng.choice(channels),
                    size_bytes=size,
                    count=rng.choice((1, 1, 1, 2, 5)) if size < 2_000 else 1,
                    reliable=rng.random() < 0.7,
                    flags=self._flags(rng),
                )
            )
        self._closes(source, target, channels)
        if self.on("pile up"):
            self._pile_up(source, target, self.rng(f"pile up/{source}/{target}"))
        if self.on("flood") and rng.random() < 0.4:
            size = rng.choice((0, 20, 1_000))
            self._add(Step(rng.randrange(until_us), "send", source, target, 0, size, 120, reliable=rng.random() < 0.7))

    def _pile_up(self, source: int, target: int, rng: Random) -> None:
        """More parts of large messages on several lanes at once than the receiver has room for."""
        at_us = rng.randrange(self.scenario.faults_us)
        for channel in range(rng.randint(2, 8)):
            for _ in range(rng.randint(1, 3)):
                self._add(Step(at_us, "send", source, target, channel, rng.randrange(2_000, 12_000)))

    def _flags(self, rng: Random) -> int:
        return rng.choice((0, 0, 0, 1, 5)) if self.on("no delay") else rng.choice((0, 0, 0, 1))

    def _size(self, rng: Random) -> int:
        kind = rng.random()
        if kind < 0.05:
            return rng.randrange(5)
        if kind < 0.7:
            return rng.randrange(200)
        if kind < 0.95 or not self.on("large messages"):
            return rng.randrange(200, 3_000)
        return rng.randrange(3_000, 20_000) if kind < 0.99 else rng.randrange(20_000, 100_000)

    def _closes(self, source: int, target: int, channels: list[int]) -> None:
        rng = self.rng(f"closes/{source}/{target}")
        for action in ("close session", "close channel"):
            for _ in range(rng.randint(1, 3)):
                host, other = rng.choice(((source, target), (target, source)))
                step = Step(rng.randrange(self.scenario.faults_us), action, host, other, channel=rng.choice(channels))
                if self.on(action):
                    self._add(step)

    # Faults

    def trouble(self) -> None:
        """Faults that come and go."""
        for feature, add in _TROUBLE.items():
            if self.on(feature):
                add(self, self.rng(feature))

    def _add(self, step: Step) -> None:
        self.scenario.steps.append(step)

    def _some_time(self, rng: Random) -> int:
        return rng.randrange(self.scenario.faults_us)

    def _pair(self, rng: Random) -> tuple[int, int]:
        a, b = rng.sample(range(len(self.scenario.hosts)), 2)
        return a, b

    def _cut(self, rng: Random, at_us: int, for_us: int, *, both: bool) -> None:
        a, b = self._pair(rng)
        for source, target in ((a, b), (b, a)) if both else ((a, b),):
            self._add(Step(at_us, "cut", source, target, for_us=for_us))

    def one_way(self, rng: Random) -> None:
        self._cut(rng, self._some_time(rng), log_uniform(rng, SECOND_US, 30 * SECOND_US), both=False)

    def partition(self, rng: Random) -> None:
        for _ in range(rng.randint(1, 3)):
            self._cut(rng, self._some_time(rng), log_uniform(rng, SECOND_US // 10, 40 * SECOND_US), both=True)

    def flapping(self, rng: Random) -> None:
        a, b = self._pair(rng)
        at_us, period_us = self._some_time(rng), log_uniform(rng, 200_000, 4 * SECOND_US)
        for round_ in range(10):
            self._add(Step(at_us + round_ * period_us, "cut", a, b, for_us=period_us // 2))
            self._add(Step(at_us + round_ * period_us, "cut", b, a, for_us=period_us // 2))

    def pause(self, rng: Random) -> None:
        for _ in range(rng.randint(1, 3)):
            host = rng.randrange(len(self.scenario.hosts))
            self._add(Step(self._some_time(rng), "pause", host, for_us=log_uniform(rng, 10_000, 60 * SECOND_US)))

    def crash(self, rng: Random) -> None:
        for _ in range(rng.randint(1, 2)):
            host = rng.randrange(len(self.scenario.hosts))
            self._add(Step(self._some_time(rng), "crash", host, for_us=log_uniform(rng, 1_000, 20 * SECOND_US)))

    def silent_death(self, rng: Random) -> None:
        host = rng.randrange(len(self.scenario.hosts))
        self.scenario.hosts[host].returns = rng.random() < 0.5
        self._add(Step(self._some_time(rng), "crash", host))

    def clock_jump(self, rng: Random) -> None:
        for _ in range(rng.randint(1, 2)):
            host = rng.randrange(len(self.scenario.hosts))
            self._add(Step(self._some_time(rng), "jump", host, for_us=log_uniform(rng, 1_000, 86_400 * SECOND_US)))

    def attacker(self, rng: Random) -> None:
        for _ in range(rng.randint(5, 40)):
            self._add(Step(self._some_time(rng), "attack", rng.randrange(len(self.scenario.hosts))))


def _jitter(model: LinkModel, rng: Random) -> None:
    model.jitter_us = log_uniform(rng, 100, 200_000)


def _loss(model: LinkModel, rng: Random) -> None:
    model.loss = rng.uniform(0, 0.3) if rng.random() < 0.3 else rng.uniform(0, 0.05)


def _bursts(model: LinkModel, rng: Random) -> None:
    model.burst_begin, model.burst_packets = rng.uniform(0, 0.03), rng.randint(2, 40)


def _duplicates(model: LinkModel, rng: Random) -> None:
    model.duplicate = rng.uniform(0, 0.5)


def _replay(model: LinkModel, rng: Random) -> None:
    model.replay, model.replay_delay_us = rng.uniform(0, 0.5), log_uniform(rng, 10_000, 20 * SECOND_US)


def _reorder(model: LinkModel, rng: Random) -> None:
    model.reorder, model.reorder_us = rng.uniform(0, 0.3), log_uniform(rng, 1_001, 500_000)


def _corruption(model: LinkModel, rng: Random) -> None:
    model.corrupt = rng.uniform(0, 0.05)


def _rate(model: LinkModel, rng: Random) -> None:
    model.rate_bytes_per_s, model.queue_packets = log_uniform(rng, 4_000, 100_000_000), log_uniform(rng, 2, 200)


def _mtu(model: LinkModel, rng: Random) -> None:
    model.mtu_bytes = rng.randint(1_000, 1_500)


def _coalesce(model: LinkModel, rng: Random) -> None:
    model.coalesce_us = log_uniform(rng, 50, 5_000)


_LINK_FEATURES: dict[str, Callable[[LinkModel, Random], None]] = {
    "jitter": _jitter,
    "loss": _loss,
    "bursts": _bursts,
    "duplicates": _duplicates,
    "replay": _replay,
    "reorder": _reorder,
    "corruption": _corruption,
    "rate": _rate,
    "mtu": _mtu,
    "coalesce": _coalesce,
}
_TROUBLE: dict[str, Callable[[_Drawing, Random], None]] = {
    "one way": _Drawing.one_way,
    "partition": _Drawing.partition,
    "flapping": _Drawing.flapping,
    "pause": _Drawing.pause,
    "crash": _Drawing.crash,
    "silent death": _Drawing.silent_death,
    "clock jump": _Drawing.clock_jump,
    "attacker": _Drawing.attacker,
}
