from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def x() -> np.ndarray:
    return np.arange(4, dtype=np.float32)[None]
