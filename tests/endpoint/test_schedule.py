"""Who is woken when, against a plain table; and turns among those with something to send."""

from __future__ import annotations

from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peergram.endpoint.link import Link
from peergram.endpoint.schedule import Schedule
from peergram.timing import NEVER, Deadline
from tests.compiled import STANDS_IN
from tests.threats.world import SOAK


class Owner:
    """Somebody who can be woken, and who can be made ready."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.armed_at_us = NEVER
        self.is_ready = False


class ScheduleModel(RuleBasedStateMachine):
    """Ten owners; the model is a dictionary of deadlines and a list of who is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule()
        self.owners = [Owner(name) for name in range(10)]
        self.armed: dict[int, int] = {}
        self.ready: list[int] = []
        self.now_us = 0

    @rule(name=st.integers(0, 9), after_us=st.integers(0, 20))
    def arm(self, name: int, after_us: int) -> None:
        at_us = self.now_us + after_us
        self.schedule.arm(self.owners[name], Deadline(at_us, f"owner {name}"))
        self.armed[name] = at_us

    @rule(name=st.integers(0, 9))
    def disarm(self, name: int) -> None:
        self.schedule.arm(self.owners[name], None)
        self.armed.pop(name, None)

    @rule(by_us=st.integers(0, 15))
    def let_time_pass(self, by_us: int) -> None:
        self.now_us += by_us
        due = []
        while (owner := self.schedule.pop_due(self.now_us)) is not None:
            name = cast(Owner, owner).name
            due.append((self.armed.pop(name), name))
            assert owner.armed_at_us == NEVER
        assert [at_us for at_us, _ in due] == sorted(at_us for at_us, _ in due)
        assert all(at_us <= self.now_us for at_us, _ in due)
        assert all(at_us > self.now_us for at_us in self.armed.values())

    @rule(name=st.integers(0, 9))
    def make_ready(self, name: int) -> None:
        self.schedule.make_ready(cast(Link, self.owners[name]))
        if name not in self.ready:
            self.ready.append(name)

    @rule()
    def take_turn(self) -> None:
        owner = cast("Owner | None", self.schedule.next_ready())
        assert (owner.name if owner is not None else None) == (self.ready.pop(0) if self.ready else None)

    @invariant()
    def the_next_deadline_is_the_earliest(self) -> None:
        deadline = self.schedule.poll_timeout()
        assert (deadline.at_us if deadline is not None else None) == min(self.armed.values(), default=None)
        if deadline is not None:
            names = {f"owner {name}" for name, at_us in self.armed.items() if at_us == deadline.at_us}
            assert deadline.reason in names


TestScheduleModel = STANDS_IN(ScheduleModel.TestCase)
TestScheduleModel.settings = settings(max_examples=2_000 if SOAK else 50, stateful_step_count=40)
