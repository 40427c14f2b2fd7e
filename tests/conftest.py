"""What every test runs in.

Every test's children can be interrupted, also where the tests run in the background: a shell starts
`make test &` with SIGINT ignored, as nohup and some runners do; a child inherits that, and a test of an
interrupt would wait for ever. A signal that is handled is no longer ignored in children.

Measuring takes the machine for quiet: tests run beside each other, and none waits for the others.
"""

from __future__ import annotations

import signal

import pytest

from edgec.core import timing

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    monkeypatch.setattr(timing, "is_disturbed", lambda: False)
