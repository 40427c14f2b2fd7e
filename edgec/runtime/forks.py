"""Open sessions in a forked child: refused, and left alone.

A fork copies an engine without the threads that it computes with, in whatever state other threads held it.
ONNX Runtime and OpenVINO then compute alone, wait for ever, or answer that they are busy; freeing an
engine waits for threads that are not there, at the latest when the child exits; and OpenVINO cannot be
opened anew while the parent ran.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from edgec.core.errors import RequestError

if TYPE_CHECKING:
    from edgec.runtime.engine import EngineDescription
    from edgec.runtime.session import Session

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class OtherProcessEngine:
    """Stands in a forked child for the engine that the parent opened.

    Attributes:
        description: the engine's.
    """

    def __init__(self, description: EngineDescription) -> None:
        self.description = description

    def run(self, feeds: Mapping[str, np.ndarray]) -> NoReturn:  # noqa: ARG002
        """Refuse.

        Raises:
            RequestError: always.
        """
        raise RequestError(
            "the session was opened before this process was forked, and an engine does not outlive a fork",
            fix="load the bundle in the process that runs it, or start processes with the method 'spawn'",
        )

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> NoReturn:  # noqa: ARG002
        """Refuse, as `run` does."""
        self.run(feeds)

    def close(self) -> None:
        """Nothing: what was copied of the engine stays as it is until the process ends."""


def remember(session: Session) -> None:
    """Have a session refuse in children that are forked from now on."""
    _sessions.add(session)


def _refuse_in_child() -> None:
    for session in list(_sessions):
        # One reference more than anyone gives back: it is never freed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session.engine))
        session.engine = OtherProcessEngine(session.engine.description)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_refuse_in_child)
