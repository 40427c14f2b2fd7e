"""Keeping the chatter of exporters and libraries away from the user."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_TALKATIVE = (
    "huggingface_hub",
    "onnx_ir",
    "onnxscript",
    "timm",
    "torch",
    "torch.export",
    "torch.onnx",
    "transformers",
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Python warnings, prints to standard output and the libraries' loggers.

    Nothing is silenced while the logger `edgec` is at DEBUG, which is what `--debug` sets.
    """
    if logging.getLogger("edgec").isEnabledFor(logging.DEBUG):
        yield
        return
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line: its class and the first line with words.

    The exporters wrap the cause in several exceptions; the innermost one says what happened.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    for line in str(error).splitlines():
        if line.strip():
            return f"{type(error).__name__}: {line.strip()[:200]}"
    return type(error).__name__
