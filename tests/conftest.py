"""What every test runs in.

Every test's children can be interrupted, also where the tests run in the background: a shell starts
`make test &` with SIGINT ignored, as nohup and some runners do; a child inherits that, and a test of an
interrupt would wait for ever. A signal that is handled is no longer ignored in children.

Measuring takes the machine for quiet: tests run beside each other, and none waits for the others. Its blocks
are short: what a test asks of a latency is that it was measured, not how well.

The garbage collector looks at no module more than once: torch and coremltools are half a million objects, and
coremltools asks for a full collection at each conversion.

No child outlives its test, and none is waited for without end (`children.py`); a test that hangs is ended by
pytest-timeout, a long one after an hour.
"""

from __future__ import annotations

import gc
import signal
import sys

import children
import pytest
from children import pytest_runtest_call, pytest_sessionfinish

from edgec.core import timing

__all__ = ["pytest_runtest_call", "pytest_sessionfinish"]

children.watch()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


BLOCK_SECONDS = 0.005
SETTLE_SECONDS = 0.001
NEW_MODULES = 100
LONG_SECONDS = 3600
_frozen_modules = 0


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    monkeypatch.setattr(timing, "is_disturbed", lambda: False)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    whole = timing._run_round

    def short(calls, order, block_seconds, settle_seconds):
        return whole(calls, order, min(block_seconds, BLOCK_SECONDS), min(settle_seconds, SETTLE_SECONDS))

    monkeypatch.setattr(timing, "_run_round", short)


def pytest_collection_modifyitems(config, items):
    if not config.pluginmanager.hasplugin("timeout"):
        return
    for item in items:
        if item.get_closest_marker("full") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))


def pytest_runtest_setup(item):
    """Keep what was imported out of further collections, whenever much of it is new."""
    global _frozen_modules
    if len(sys.modules) > _frozen_modules + NEW_MODULES:
        gc.collect()
        gc.freeze()
        _frozen_modules = len(sys.modules)
