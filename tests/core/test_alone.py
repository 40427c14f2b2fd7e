"""Whoever measures has the machine alone among the processes that share its locks."""

from __future__ import annotations

import os
import subprocess
import sys

from edgec.core import alone

# Each process works, measures twice and says when; a measurement takes a while.
WORKER = """
import sys, time
from edgec.core import alone
from edgec.core.timing import measure
with alone.working():
    print("work", time.monotonic())
    for _ in range(2):
        with alone.measuring():
            begun = time.monotonic()
            with alone.measuring():
                time.sleep(0.05)
            print("alone", begun, time.monotonic())
    begun = time.monotonic()
    time.sleep(0.05)
    print("work", begun, time.monotonic())
"""


def test_a_measurement_overlaps_no_work_of_another_process(tmp_path):
    environment = {**os.environ, alone.FOLDER: str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", WORKER], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    spans = []
    for index, process in enumerate(running):
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        lines = [line.split() for line in said.splitlines()]
        assert [line[0] for line in lines] == ["work", "alone", "alone", "work"]
        spans += [(index, line[0], float(line[1]), float(line[2])) for line in lines[1:]]
    for one, kind, begun, ended in spans:
        for other, _, its_begin, its_end in spans:
            if kind == "alone" and other != one:
                assert ended <= its_begin or its_end <= begun


def test_timing_measures_alone(tmp_path, monkeypatch):
    import fcntl

    from edgec.core.timing import measure

    monkeypatch.setenv(alone.FOLDER, str(tmp_path))
    free = []

    def call():
        handle = os.open(tmp_path / "machine", os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            free.append(True)
        except BlockingIOError:
            free.append(False)
        os.close(handle)

    with alone.working():
        call()
        measure({"it": call}, blocks=1, block_seconds=0.0)
        call()
    assert free[0]
    assert free[-1]
    assert not any(free[1:-1])


def test_without_a_folder_nothing_is_locked(monkeypatch):
    monkeypatch.delenv(alone.FOLDER, raising=False)
    with alone.working(), alone.measuring():
        assert not alone._held
