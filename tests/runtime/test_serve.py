from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

from edgec.core import bundle as bundles
from edgec.core.numerics import Expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_at_a_signal_that_it_handles(bundle, number):
    path, _ = bundle
    feeds = {"x": np.ones((2, 4), np.float32), "ids": np.arange(2)}
    bundles.write_samples(path, [feeds], Expected([{}]))
    bundles.seal(path, {"samples": 1})
    command = [sys.executable, "-m", "edgec.runtime.serve", str(path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert "listening" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
