from __future__ import annotations

import pytest
from small_bundles import small_model, write_bundle, write_engine


@pytest.fixture
def openvino_engine(tmp_path):
    """The folder of an engine `openvino`."""
    folder = tmp_path / "engine"
    write_engine(folder, "openvino", small_model()[0])
    return folder


@pytest.fixture(params=["ort", "openvino"])
def bundle(request, tmp_path):
    """A bundle's path, and the constants of the model inside; `batch` is fixed at 2."""
    return write_bundle(tmp_path, request.param, 2)


@pytest.fixture(params=["ort", "openvino"])
def open_bundle(request, tmp_path):
    """The same with the batch left open."""
    return write_bundle(tmp_path, request.param, "batch")
