"""Where the builder is, said in lines: a phase a line, and a share every second while it lasts."""

from __future__ import annotations

import time
from typing import Any, Callable

_SECONDS = 1.0


def monitor(trt: Any, say: Callable[[str], None]) -> Any | None:
    """A progress monitor for the builder, None before TensorRT 10, which has none."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._open: list[str] = []
            self._said = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._open.append(phase_name)
            if parent_phase is None:
                say(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self._open:
                self._open.remove(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            now = time.monotonic()
            # Steps of inner phases come by the thousand.
            if now - self._said >= _SECONDS:
                self._said = now
                say(f"{phase_name}: {step + 1} of {self._steps.get(phase_name, step + 1)}")
            return True  # False would stop the build

    return Monitor()
