from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

REPORT = "EDGEC_CONFORMANCE_REPORT"


@pytest.fixture(scope="session")
def report():
    """Results of the whole run; written as JSON to the file that `EDGEC_CONFORMANCE_REPORT` names."""
    results = []
    yield results
    path = os.environ.get(REPORT)
    if path:
        ordered = sorted((result.to_json() for result in results), key=lambda line: sorted(line.items()))
        Path(path).write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
