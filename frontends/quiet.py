"""Keeping the chatter of exporters and libraries away from the user."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Python warnings, prints, all loggers, and what libraries in C++ print.

    Nothing is silenced while the logger `edgec` is at DEBUG, which is what `--debug` sets.
    """
    if logging.getLogger("edgec").isEnabledFor(logging.DEBUG):
        yield
        return
    disabled = logging.root.manager.disable
    sink = io.StringIO()
    with (
        warnings.catch_warnings(),
        _without_standard_output(),
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


@contextlib.contextmanager
def _without_standard_output() -> Iterator[None]:
    """Send file descriptor 1 nowhere: torch prints graphs that it cannot convert past Python's own stream."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # the process has no standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C still holds back would come out behind this
        os.dup2(kept, 1)
        os.close(kept)


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line: its class and the first line with words.

    The exporters wrap the cause in several exceptions; the innermost one says what happened.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    # ONNX Runtime says what happened last, behind codes and names of its own functions.
    text = str(error).rpartition("Status Message: ")[2]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    for line in text.splitlines():
        if line.strip():
            # Addresses differ from run to run, and what is said may end in a bundle.
            clean = re.sub(r" at 0x[0-9a-fA-F]+", "", line.strip())
            return f"{type(error).__name__}: {clean[:200]}"
    return type(error).__name__
