"""A scenario of another kind: two or three hosts that do nothing but open, send and close, a hundred times, in any order.

Gaps between two steps go from nothing to a few round trips, so that a close meets data that is queued, in flight or unread, a
hello that is still under way, or a session that lingers. What must hold is what holds in every scenario; at the end nobody
closes anything, and all sessions must go by themselves.
"""

from __future__ import annotations

from random import Random

from peergram.config import Config
from peergram.sim.link import LinkModel
from peergram.sim.scenario import SECOND_US, HostPlan, Scenario, Step, log_uniform

STEPS = 100
GAP_MAX_US = 1_500_000


def draw_storm(seed: int) -> Scenario:
    """The storm of that seed."""
    rng = Random(f"{seed}/storm")
    hosts = [_host(index, rng) for index in range(rng.choice((2, 2, 3)))]
    scenario = Scenario(seed, frozenset({"storm"}), faults_us=0, hosts=hosts, ends_idle=True)
    for a in range(len(hosts)):
        for b in range(a + 1, len(hosts)):
            model = _link(rng)
            scenario.links[a, b] = scenario.links[b, a] = model
    at_us = 0
    for _ in range(STEPS):
        scenario.steps.append(_step(len(hosts), at_us, rng))
        at_us += 0 if rng.random() < 0.2 else log_uniform(rng, 50, GAP_MAX_US)
    scenario.faults_us = at_us + SECOND_US
    return scenario


def _host(index: int, rng: Random) -> HostPlan:
    linger_us = rng.choice((0, 20_000, 300_000, 2 * SECOND_US))
    plan = HostPlan(f"str:host-{index}", config=Config(linger_us=linger_us))
    plan.accept = rng.choice(("at once", "at once", "late", "by sending"))
    plan.accept_late_us = log_uniform(rng, 10_000, SECOND_US)
    plan.read = rng.choice(("at once", "at once", "slowly"))
    plan.read_every_us = log_uniform(rng, 1_000, SECOND_US // 2)
    plan.on_failure = rng.choice(("close", "auto restart"))
    plan.echo = rng.choice((0.0, 0.2))
    return plan


def _link(rng: Random) -> LinkModel:
    model = LinkModel(delay_us=log_uniform(rng, 100, 200_000))
    if rng.random() < 0.5:
        model.jitter_us = log_uniform(rng, 100, 100_000)
    if rng.random() < 0.5:
        model.loss = rng.uniform(0, 0.2)
    if rng.random() < 0.3:
        model.duplicate = rng.uniform(0, 0.3)
    return model


def _step(hosts: int, at_us: int, rng: Random) -> Step:
    host, target = rng.sample(range(hosts), 2)
    kind, channel = rng.random(), rng.choice((0, 0, 1, 7))
    if kind < 0.3:
        return Step(at_us, "close session", host, target)
    if kind < 0.4:
        return Step(at_us, "close channel", host, target, channel=channel)
    size = rng.choice((0, 10, 200, 2_000, 20_000))
    count = rng.choice((1, 1, 3, 10)) if size < 20_000 else 1
    flags = rng.choice((0, 0, 1))
    return Step(at_us, "send", host, target, channel, size, count, reliable=rng.random() < 0.8, flags=flags)
