"""A busy machine is known by a workload that takes longer than its own processor time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from edgec.core import disturbance
from edgec.core.disturbance import Patience, is_disturbed, stretch


class Clock:
    """A clock and a processor time that only the workload moves, by so many seconds."""

    def __init__(self) -> None:
        self.now = self.used = 0.0
        self.waited, self.worked = 0.0, 1.0

    def work(self, *_: object) -> None:
        self.now += self.waited + self.worked
        self.used += self.worked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(disturbance.time, "perf_counter", lambda: found.now)
    monkeypatch.setattr(disturbance.time, "thread_time", lambda: found.used)
    monkeypatch.setattr(disturbance.hashlib, "pbkdf2_hmac", found.work)
    monkeypatch.setattr(disturbance, "_cores", lambda: 1)
    return found


def test_a_workload_that_waits_for_the_processor_tells_of_others(clock: Clock) -> None:
    clock.waited = 0.6
    assert stretch() == pytest.approx(1.6)
    assert is_disturbed()
    clock.waited = 0.1
    assert not is_disturbed()


def test_a_processor_that_is_slow_for_all_is_no_disturbance(clock: Clock) -> None:
    assert stretch() == 1.0
    clock.worked = 5.0
    assert stretch() == 1.0
    clock.worked = 0.0
    assert stretch() == 1.0


def test_one_short_jump_is_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = iter((0.9, 0.0))

    def work(*_: object) -> None:
        clock.waited = next(jumps)
        clock.work()

    monkeypatch.setattr(disturbance.hashlib, "pbkdf2_hmac", work)
    assert not is_disturbed()


@pytest.fixture
def busy() -> Iterator[None]:
    hogs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * disturbance._cores())
    ]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


def test_a_busy_process_on_every_core_is_noticed(busy: None) -> None:
    assert any(is_disturbed() for _ in range(50))


def test_waiting_ends_when_the_machine_is_quiet_or_the_time_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "_POLL_SECONDS", 0.001)
    looks = iter([True, False, True, False, False, False])
    monkeypatch.setattr(disturbance, "is_disturbed", lambda: next(looks))
    patience = Patience(60.0)
    patience.wait()
    assert 0 < patience.seconds < 60
    assert next(looks, None) is None
    monkeypatch.setattr(disturbance, "is_disturbed", lambda: True)
    impatient = Patience(0.01)
    impatient.wait()
    assert impatient.seconds == 0


def test_what_was_met_is_said_in_a_sentence() -> None:
    assert Patience().said == ""
    assert Patience(0, rounds=1).said.endswith("something else: 1 round of measuring ran again")
