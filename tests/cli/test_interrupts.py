"""Signals that come while a package is imported, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SWALLOWS = """
import os, time
try:
    print("loading", flush=True)
    for _ in range({steps}):
        time.sleep(0.01)
    print("loaded", flush=True)
except:  # as packages do that take another one for missing
    print("cut short", flush=True)
    os._exit(3)
"""

COMMAND = """
import sys, time
from edgec.cli import interrupts
from edgec.core.errors import Terminated
interrupts.LONGEST = {longest}
with interrupts.interruptible():
    try:
        import package
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
    except Terminated:
        sys.exit(143)
"""


def _signalled(
    folder: Path, number: signal.Signals, *, steps: int = 40, longest: float = 30.0, ignored: bool = False
) -> tuple[int, list[str]]:
    (folder / "package.py").write_text(SWALLOWS.format(steps=steps))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(COMMAND.format(longest=longest))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline().strip()]
        process.send_signal(number)
        if ignored:
            said.append(process.stdout.readline().strip())
            process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=60)
        return status, said + process.stdout.read().split("\n")[:-1]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_import_is_finished_before_a_signal_unwinds_the_command(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    assert _signalled(tmp_path, number) == (status, ["loading", "loaded"])


def test_a_file_that_does_not_end_is_cut_short(tmp_path: Path) -> None:
    found = _signalled(tmp_path, signal.SIGINT, steps=3000, longest=0.3)
    assert found == (3, ["loading", "cut short"])


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    assert _signalled(tmp_path, signal.SIGINT, ignored=True) == (143, ["loading", "loaded"])
