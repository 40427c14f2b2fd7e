"""Every test's children can be interrupted, also where the tests run in the background.

A shell starts `make test &` with SIGINT ignored, as nohup and some runners do; a child inherits that, and a
test of an interrupt would wait for ever. A signal that is handled is no longer ignored in children.
"""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
