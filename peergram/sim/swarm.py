"""Runs seeds: a drawn scenario with faults, then without; checks every promise on the way.

Phase 1 (`faults`) is safety: anything may happen to the network and the hosts, and nothing may be lost silently, doubled or
invented. Phase 2 (`calm`) is liveness: links are good, hosts run, applications behave, and everything outstanding must be
settled, and every pair be able to talk, within a bound. Then an idle time (`quiet`), a burst that must
not be late, and the end of all sessions (`ended`), which must leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from peergram.config import Config
from peergram.errors import Result
from peergram.events import ConnectionState, SendFlags
from peergram.identity import Identity
from peergram.sim.attacks import Attacker
from peergram.sim.checkers import V12, all_checkers
from peergram.sim.ledger import Sent
from peergram.sim.player import Player
from peergram.sim.scenario import SECOND_US, Scenario, Step, draw_scenario
from peergram.sim.trace import TAIL_LINES, render, replay_command
from peergram.sim.world import EndpointLike, Host, MakeEndpoint, Violation, World

SETTLE_US = 3 * SECOND_US
"""Old packets arrive and old timers fire before the probes begin."""
LIVENESS_US = 60 * SECOND_US
"""Everything is settled this long after the faults stopped, plus the time that the bytes need."""
SLOWEST_RATE_BYTES = 16_384
PROBE_TRIES = 3
"""A session that died in phase 1 may still have to fail, on either side, before a new one can come up."""
QUIET_AFTER_US = 35 * SECOND_US
"""A session to a peer that vanished is noticed after a keep-alive and a time-out, at most so late."""
QUIET_US = 30 * SECOND_US
END_AFTER_US = 45 * SECOND_US
"""Time for FinWait, lingering and quiet ports to pass."""
CALM_DELAY_US = 10_000
BURST_MESSAGES, BURST_MESSAGE_BYTES = 40, 1_000
"""More than goes at once at any fixed rate drawn, so that the rest has to wait for its timer."""
PROMPT_US = 2 * SECOND_US
"""What a burst may take beside twice the time that its bytes need: a handshake, if the session had idled out."""


@dataclass(slots=True)
class SeedResult:
    """What became of a seed."""

    seed: int
    ok: bool
    violations: list[Violation]
    trace_hash: str
    events: int
    packets: int
    marks: frozenset[str]
    virtual_us: int
    story: list[str]
    trace: list[str] = field(default_factory=list)
    """Empty unless asked for."""
    off: frozenset[str] = frozenset()
    command: str = ""
    """What replays it, if not `peergram sim`."""

    def report(self) -> str:
        """The story of a failing seed, with the command that replays it."""
        lines = [*self.story, *(f"  {violation}" for violation in self.violations)]
        if self.trace:
            lines += ["  what led to it:", render(self.before_violation(TAIL_LINES))]
        lines.append(f"  replay: {self.command or replay_command(self.seed, self.off)}")
        return "\n".join(lines)

    def before_violation(self, lines: int) -> list[str]:
        """The trace up to the first broken promise, or its end."""
        end = next((at for at, line in enumerate(self.trace, 1) if " VIOLATION " in line), len(self.trace))
        return self.trace[max(end - lines, 0) : end]


def make_endpoint(identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None) -> EndpointLike:
    """The real thing."""
    from peergram.crypto.keys import SigningKey
    from peergram.endpoint.endpoint import Endpoint

    key = SigningKey(key_seed) if key_seed is not None else None
    endpoint: EndpointLike = Endpoint(identity, config=config, entropy=entropy, key=key)
    return endpoint


Plant = Callable[[MakeEndpoint], AbstractContextManager[MakeEndpoint]]
"""A deliberate defect: while it is entered, endpoints made by what it returns misbehave (see `planted`)."""


def run_seed(
    seed: int,
    *,
    make_endpoint: MakeEndpoint = make_endpoint,
    trace: bool = False,
    off: frozenset[str] = frozenset(),
    plant: Plant | None = None,
) -> SeedResult:
    """Draw the scenario of `seed` without the features in `off`, run it, and say what was found."""
    return run_scenario(draw_scenario(seed, off), make_endpoint=make_endpoint, trace=trace, off=off, plant=plant)


def run_scenario(
    scenario: Scenario,
    *,
    make_endpoint: MakeEndpoint = make_endpoint,
    trace: bool = False,
    off: frozenset[str] = frozenset(),
    plant: Plant | None = None,
) -> SeedResult:
    """Run this scenario, and say what was found."""
    context = plant(make_endpoint) if plant else nullcontext(make_endpoint)
    with context as make:
        runner = _Runner(scenario, make, trace)
        runner.run()
    world = runner.world
    return SeedResult(
        seed=scenario.seed,
        ok=not world.violations,
        violations=world.violations,
        trace_hash=world.trace.digest(),
        events=world.event_count,
        packets=world.packet_count,
        marks=frozenset(world.marks),
        virtual_us=world.now_us,
        story=scenario.story(),
        trace=world.trace.lines,
        off=off,
    )


def check_replay(seed: int, *, make_endpoint: MakeEndpoint = make_endpoint, plant: Plant | None = None) -> SeedResult:
    """Run a seed twice; V17 is broken when the traces differ."""
    first = run_seed(seed, make_endpoint=make_endpoint, trace=True, plant=plant)
    second = run_seed(seed, make_endpoint=make_endpoint, trace=True, plant=plant)
    return compare_runs(first, second)


def compare_runs(first: SeedResult, second: SeedResult) -> SeedResult:
    """The first run of a seed, with a violation of V17 where the second, whose trace was kept too, differs."""
    if first.trace_hash != second.trace_hash:
        pairs = zip(first.trace, second.trace, strict=False)
        where = next((f"{one!r} against {other!r}" for one, other in pairs if one != other), "one trace is longer")
        first.violations.append(Violation("V17", 0, "world", f"two runs of the seed differ: {where}"))
        first.ok = False
    return first


def shrink(result: SeedResult, *, make_endpoint: MakeEndpoint = make_endpoint, plant: Plant | None = None) -> SeedResult:
    """The same seed with as few features as still break the same promise."""
    broken = {violation.name for violation in result.violations}
    best = result
    for feature in sorted(draw_scenario(result.seed, result.off).features):
        tried = run_seed(result.seed, make_endpoint=make_endpoint, trace=True, off=best.off | {feature}, plant=plant)
        if broken & {violation.name for violation in tried.violations}:
            best = tried
    return best


class _Runner:
    """Carries out one scenario."""

    def __init__(self, scenario: Scenario, make: MakeEndpoint, trace: bool) -> None:
        self.scenario = scenario
        checkers = all_checkers()
        self.world = World(scenario.seed, make_endpoint=make, checkers=checkers, trace=trace)
        self.world.shuffle_ties = "ties" in scenario.features
        self.health = next(checker for checker in checkers if isinstance(checker, V12))
        self.players: list[Player] = []
        self.dialed: set[tuple[int, int]] = set()
        self.attacker = Attacker(self.world)
        self._build()

    def run(self) -> None:
        """All parts, as long as not too much goes wrong."""
        for part in (self._faults, self._calm, self._prove_liveness, self._be_quiet, self._prove_promptness, self._end):
            part()
            if self.world.stopped:
                break
        self._note_marks()

    def _build(self) -> None:
        world = self.world
        for index, plan in enumerate(self.scenario.hosts):
            host = world.add_host(plan.identity, config=plan.config, options=plan.options)
            host.clock.set_drift(0, plan.drift_ppm)
            player = Player(host, plan, world.seeded(f"player/{index}"))
            host.application = player
            self.players.append(player)
        for pair, model in self.scenario.links.items():
            world.links[pair].model = model
        for step in self.scenario.steps:
            world.at(step.at_us, lambda step=step: self._do(step))  # type: ignore[misc]

    # Phase 1

    def _faults(self) -> None:
        self.world.enter("faults")
        self.world.run_until(self.scenario.faults_us)

    @property
    def is_faulty(self) -> bool:
        """Whether this is phase 1; what was put off because a host stood still is then dropped."""
        return self.world.phase == "faults"

    def _do(self, step: Step) -> None:
        host = self.world.hosts[step.host]
        _STEPS[step.action](self, host, step)

    def _send(self, host: Host, step: Step) -> None:
        target = self.world.hosts[step.target]
        self.dialed.add((step.host, step.target))

        def act() -> None:
            for _ in range(step.count if self.is_faulty else 0):
                result = self.players[step.host].send(
                    target.dial_name, step.size_bytes, channel=step.channel, reliable=step.reliable, flags=step.flags
                )
                if result is None:
                    return

        host.when_running(act)

    def _close_session(self, host: Host, step: Step) -> None:
        name = self._name_for(host, step.target)
        host.when_running(lambda: self._marked("session closed", self.is_faulty and host.close_session(name)))

    def _close_channel(self, host: Host, step: Step) -> None:
        name = self._name_for(host, step.target)
        host.when_running(lambda: self._marked("channel closed", self.is_faulty and host.close_channel(name, step.channel)))

    def _marked(self, mark: str, happened: bool) -> None:
        if happened:
            self.world.mark(mark)

    def _name_for(self, host: Host, target: int) -> str:
        """The name under which this host knows the other, else the one to dial."""
        peer = self.world.hosts[target]
        return next((name for name in sorted(peer.names) if name in host.known), peer.dial_name)

    def _cut(self, host: Host, step: Step) -> None:
        link = self.world.links[step.host, step.target]
        self.world.note(host.name, f"path to host-{step.target} is cut for {step.for_us} us")
        link.up = False

        def heal() -> None:
            link.up = True

        self.world.after(step.for_us, heal)

    def _pause(self, host: Host, step: Step) -> None:
        host.pause(step.for_us)
        self.world.mark("paused")

    def _jump(self, host: Host, step: Step) -> None:
        host.jump_clock(step.for_us)
        self.world.mark("clock jumped")

    def _crash(self, host: Host, step: Step) -> None:
        if not host.is_alive:
            return
        states = [info.state for name in sorted(host.known) if (info := host.info(name)) is not None]
        self.world.mark("crash while connected" if ConnectionState.CONNECTED in states else "crash while unconnected")
        host.crash()
        if step.for_us:
            self.world.after(step.for_us, lambda: self._restart(host) if self.is_faulty else None)

    def _restart(self, host: Host) -> None:
        if not host.is_alive:
            self.world.mark("restarted")
            host.start()

    def _attack(self, host: Host, step: Step) -> None:
        self.attacker.attack(host)
        self.world.mark("attacked")

    # Phase 2

    def _calm(self) -> None:
        """Faults stop: good links, running hosts, well-behaved applications."""
        world = self.world
        world.enter("calm")
        for link in world.links.values():
            link.calm(CALM_DELAY_US)
        for host, player in zip(world.hosts, self.players, strict=True):
            host.options.bind_failures = 0.0
            host.clock.set_drift(world.now_us, 0)
            host.resume_now()
            player.is_calm = True
            if not host.is_alive and player.plan.returns:
                self._restart(host)
            elif host.is_alive:
                player.calm()

    def _prove_liveness(self) -> None:
        """Every pair that talked can talk, and everything that was sent is settled, within the bound."""
        world, ledger = self.world, self.world.ledger
        world.run_for(SETTLE_US)
        backlog_bytes = sum(len(record.payload) for record in ledger.unsettled())
        deadline_us = world.now_us + LIVENESS_US + 4 * backlog_bytes * SECOND_US // SLOWEST_RATE_BYTES
        probes = [_Probe(self, world.hosts[a], world.hosts[b]) for a, b in sorted(self.dialed) if self._can_talk(a, b)]
        while world.now_us < deadline_us and not world.stopped:
            for probe in probes:
                probe.advance()
            if all(probe.is_done for probe in probes) and not ledger.unsettled():
                break
            world.run_for(SECOND_US // 4)
        for probe in probes:
            if not probe.is_done:
                world.violate("V12", probe.host.name, f"no message came through to {probe.name} after {probe.tries} tries")
        world.enter("settled")

    def _be_quiet(self) -> None:
        """Nobody sends anything."""
        self.world.run_for(QUIET_AFTER_US)
        self.world.enter("quiet")
        self.world.run_for(QUIET_US)
        self.world.enter("quiet over")

    def _prove_promptness(self) -> None:
        """After all that, a burst gets through in the time that its bytes need: no timer is missing, no peer is starved."""
        self.world.enter("burst")
        bursts: list[tuple[Host, Host, list[Sent]]] = []
        for host, peer in sorted(self.health.healthy, key=lambda pair: (pair[0].index, pair[1].index)):
            if peer.config.pending_requests_max < len(self.world.hosts):
                continue
            records = self.world.ledger.records
            first = len(records)
            for _ in range(BURST_MESSAGES):
                host.send(peer.dial_name, BURST_MESSAGE_BYTES, flags=SendFlags.NO_NAGLE)
            bursts.append((host, peer, records[first:]))
        if not bursts:
            return
        rates = [host.config.send_rate_bytes for host, _, _ in bursts if host.config.rate == "fixed"]
        bytes_max = max(sum(len(record.payload) for record in records) for _, _, records in bursts)
        self.world.run_for(PROMPT_US + 2 * bytes_max * SECOND_US // min(rates, default=SLOWEST_RATE_BYTES))
        for host, peer, records in bursts:
            late = sum(not record.is_delivered for record in records)
            if late or not records:
                self.world.violate("V12", host.name, f"{late} of {len(records)} messages to {peer.dial_name} are late")

    def _can_talk(self, a: int, b: int) -> bool:
        return all(self.world.hosts[i].is_alive for i in (a, b)) and self.players[b].plan.accept != "never"

    def _end(self) -> None:
        """Half of the seeds close everything, the others, and all storms, let their sessions idle out."""
        world = self.world
        self.health.healthy.clear()
        if world.seeded("end").random() < 0.5 and not self.scenario.ends_idle:
            for host in world.hosts:
                host.when_running(host.close)
            world.mark("closed at the end")
            world.run_for(END_AFTER_US)
        else:
            world.mark("idle at the end")
            world.run_for(max(host.config.session_idle_us for host in world.hosts) + END_AFTER_US)
        if not world.stopped:
            world.enter("ended")

    def _note_marks(self) -> None:
        world = self.world
        for link in world.links.values():
            for what in ("lost", "overflowed", "oversize", "duplicated", "replayed", "reordered", "corrupted"):
                if getattr(link.counts, what):
                    world.mark(f"packet {what}")
        records = world.ledger.records
        marks: dict[str, bool] = {
            "reliable message delivered": any(r.reliable and r.is_delivered for r in records),
            "unreliable message delivered": any(not r.reliable and r.is_delivered for r in records),
            "unreliable message lost": any(not r.reliable and not r.is_delivered for r in records),
            "empty message delivered": any(not r.payload and r.is_delivered for r in records),
            "message of many packets": any(len(r.payload) > 20_000 and r.is_delivered for r in records),
            "reliable message thrown away by its sender": any(_is_thrown_away(r) for r in records),
            "delivered after its sender closed": any(r.let_go and r.is_delivered for r in records),
            "unconfirmed messages reported": any(f.messages for talk in world.ledger.talks.values() for f in talk.failures),
            "failure with nothing lost": any(not f.messages for talk in world.ledger.talks.values() for f in talk.failures),
            "both sides dialed": any((b, a) in self.dialed for a, b in self.dialed),
            "answered in the same session": any(r.to not in {h.dial_name for h in world.hosts} for r in records),
        }
        world.marks.update(mark for mark, seen in marks.items() if seen)


def _is_thrown_away(record: Sent) -> bool:
    return record.reliable and record.let_go and not record.is_delivered


class _Probe:
    """A reliable message in a network without faults; it must arrive, at the third try at the latest."""

    def __init__(self, runner: _Runner, host: Host, peer: Host) -> None:
        self.runner = runner
        self.host = host
        self.peer = peer
        self.name = peer.dial_name
        self.tries = 0
        self.is_done = False
        self._record: Sent | None = None
        self._failures = 0

    def advance(self) -> None:
        """Look what became of the last try; try again if it failed."""
        if self.is_done or self.host.world.stopped:
            return
        if self._record is not None:
            if self._record.is_delivered:
                self.is_done = True
                self.runner.health.healthy.add((self.host, self.peer))
                return
            if self._failure_count() == self._failures:
                return
        if self.tries < PROBE_TRIES:
            self._try()

    def _try(self) -> None:
        result = self.host.send(self.name, 100, flags=SendFlags.NO_NAGLE)
        if result == Result.OK:
            self.tries += 1
            self._record = self.host.world.ledger.records[-1]
            self._failures = self._failure_count()
        elif result == Result.CONNECT_FAILED:
            self.host.close_session(self.name)

    def _failure_count(self) -> int:
        return self.host.world.ledger.failure_count(self.host.index, self.host.run, self.peer.index)


_STEPS: dict[str, Callable[[_Runner, Host, Step], None]] = {
    "send": _Runner._send,
    "close session": _Runner._close_session,
    "close channel": _Runner._close_channel,
    "cut": _Runner._cut,
    "pause": _Runner._pause,
    "jump": _Runner._jump,
    "crash": _Runner._crash,
    "attack": _Runner._attack,
}
