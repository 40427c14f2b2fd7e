"""What is shipped under another name is the same code, with other imports."""

from __future__ import annotations

import pytest

from edgec.core.relocation import _rewritten, needed, relocated

NAMES = {"edgec": "shipped", "edgec.core": "shipped.inner"}


def test_imports_alone_are_rewritten() -> None:
    text = (
        "from edgec.core.npz import read\n"
        "from edgec.version import (\n    __version__,\n)\n"
        "import os\n"
        "def late():\n    from edgec.core import bundle  # from edgec.core\n"
        "said = 'from edgec.core import bundle'\n"
    )
    assert _rewritten(text, NAMES) == (
        "from shipped.inner.npz import read\n"
        "from shipped.version import (\n    __version__,\n)\n"
        "import os\n"
        "def late():\n    from shipped.inner import bundle  # from edgec.core\n"
        "said = 'from edgec.core import bundle'\n"
    )


def test_what_cannot_be_rewritten_is_refused() -> None:
    with pytest.raises(ValueError, match="import from it instead"):
        _rewritten("import edgec.core.npz\n", NAMES)
    with pytest.raises(ValueError, match="no other name"):
        _rewritten("from edgec.plugins import x\n", {"edgec.core": "a"})


def test_what_a_module_imports_comes_with_it() -> None:
    found = needed(["edgec.core.bundle"])
    assert {"edgec.core", "edgec.core.npz", "edgec.core.errors"} <= set(found)
    assert "edgec.core.branches" not in found  # for type checkers alone
    assert "shipped/inner/npz.py" in relocated(found, NAMES)
    assert "shipped/inner/__init__.py" in relocated(found, NAMES)
