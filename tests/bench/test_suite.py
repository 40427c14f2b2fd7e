"""The suite's arithmetic, its data and its cache; the models themselves are measured by the benchmark."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from edgec.bench import suite, suite_data
from edgec.core.errors import RequestError
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.progress import Silent
from edgec.core.timing import Latency
from edgec.devices.rates import ProductRate, Rates
from edgec.targets.x86 import cpu

RATES = Rates(
    1024,
    2,
    (ProductRate("openvino", "fp32", 100.0, 0.0), ProductRate("openvino", "int8", 400.0, 0.0)),
    10.0,
    0.0,
)

FIELDS = {
    "name": "m",
    "engine": "openvino int8+bf16 (static, decomposed)",
    "precision": "int8",
    "tokens": None,
    "work": 1.0,
    "macs": 10**9,
    "parameters": 10**6,
    "cosine": 0.999,
    "accuracy": None,
    "search_seconds": 60.0,
    "prepared_at": "2026-01-01",
    "peers": {
        "ort fp32": {"path": "a", "cosine": 1.0, "counts": True},
        "ort int8": {"path": "b", "cosine": 0.93, "counts": False},
        "openvino int8": {"error": "it broke"},
    },
}


def _latency(milliseconds: float) -> Latency:
    return Latency((milliseconds,) * 3, (milliseconds,) * 9)


def test_a_peer_below_the_bound_is_shown_and_does_not_count():
    row = suite._row(
        FIELDS, {"edgec": _latency(10.0), "ort fp32": _latency(20.0), "ort int8": _latency(5.0)}, RATES
    )
    assert row["best_peer"] == "ort fp32"
    assert row["ratio_to_best_peer"] == pytest.approx(0.5)
    assert row["peers_ms"]["ort int8"] == 5.0
    assert row["peers_not_counted"] == {
        "ort int8": "cosine 0.9300 to the source",
        "openvino int8": "it broke",
    }


def test_the_roofline_is_the_slower_of_products_and_of_reading_the_weights():
    assert suite.roofline_ms(FIELDS, "fp32", RATES) == pytest.approx(20.0)
    assert suite.roofline_ms(FIELDS, "int8", RATES) == pytest.approx(5.0)
    heavy = {**FIELDS, "macs": 1, "parameters": 10**9}
    assert suite.roofline_ms(heavy, "int8", RATES) == pytest.approx(100.0)
    # A precision that was not measured is bounded by fp32's rate.
    assert suite.roofline_ms(FIELDS, "bf16", RATES) == pytest.approx(20.0)


def test_what_is_kept_is_found_again_and_other_versions_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "cache_folder", lambda: tmp_path)
    folder = suite._folder("deit_tiny", "off", "")
    folder.mkdir(parents=True)
    (folder / suite.ENTRY).write_text(json.dumps(FIELDS))
    assert suite.prepared("deit_tiny", tokens="off", short=True, progress=Silent()).fields == FIELDS
    monkeypatch.setattr(suite, "tool_versions", lambda: {"openvino": "1.0"})
    assert suite._folder("deit_tiny", "off", "") != folder


def test_without_anything_kept_a_short_search_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "cache_folder", lambda: tmp_path)
    shorts = []

    def prepare(name, tokens, short, folder, progress):
        shorts.append(short)
        return FIELDS

    monkeypatch.setattr(suite, "_prepare", prepare)
    told = Silent()
    entry = suite.prepared("deit_tiny", tokens="off", short=True, progress=told)
    assert shorts == [True]
    assert "no search is kept" in told.notes[0]
    # A short search is no substitute for a whole one.
    suite.prepared("deit_tiny", tokens="off", short=False, progress=told)
    assert shorts == [True, False]
    assert entry.folder.name.startswith("deit_tiny-short-")


def _graph(*specs: TensorSpec, **preprocessing) -> Graph:
    return Graph(None, Source("m", "zoo", "m", "0"), specs, [], [], preprocessing=preprocessing)  # type: ignore[arg-type]


def test_scenes_are_brought_to_the_models_size_and_normalisation(monkeypatch):
    monkeypatch.setattr(suite_data, "SAMPLES", {"calibration": 2, "held out": 2})
    spec = TensorSpec("image", (1, 3, 96, 128), "float32")
    graph = _graph(spec, image={"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]})
    seen, held_out = (suite_data.data_of(graph, "deit_tiny", part) for part in ("calibration", "held out"))
    pictures = seen.inputs["image"]
    assert pictures.shape == (2, 3, 96, 128)
    assert pictures.dtype == np.float32
    assert (pictures * 0.5 + np.reshape([0.1, 0.2, 0.3], (1, 3, 1, 1))).min() >= -1e-5
    assert not np.array_equal(pictures, held_out.inputs["image"])


def test_resizing_keeps_a_slope_and_leaves_the_same_size_alone():
    slope = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 3, 8, 8))
    wide = suite_data._resized(slope, 8, 16)
    assert np.allclose(np.diff(wide[0, 0, 0, 2:-2]), 0.5)
    np.testing.assert_allclose(suite_data._resized(slope, 8, 8), slope)


def test_a_model_that_takes_no_pictures_is_refused():
    with pytest.raises(RequestError, match="takes no pictures"):
        suite_data.data_of(_graph(TensorSpec("x", (1, 10), "float32")), "deit_tiny", "held out")


def test_without_padding_every_token_is_one_of_the_samples_own_real_ones():
    mask = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0]])
    words = np.array([[7, 8, 0, 0, 0], [4, 0, 5, 6, 0]])
    other = np.ones((2, 3))
    found = suite.unpadded({"ids": words, "mask": mask, "other": other}, "mask")
    np.testing.assert_array_equal(found["mask"], np.ones_like(mask))
    np.testing.assert_array_equal(found["ids"], [[7, 8, 7, 8, 7], [4, 5, 6, 4, 5]])
    assert found["other"] is other


def test_a_peer_in_a_precision_that_the_processor_lacks_is_named_and_not_measured(monkeypatch, tmp_path):
    old = dataclasses.replace(cpu.read_processor(), isa=("avx2",), model="An old one")
    monkeypatch.setattr(cpu, "read_processor", lambda: old)
    peer = suite._prepare_peer(None, "openvino", "bf16", tmp_path, None)
    assert "An old one" in peer["error"]
    assert not any(tmp_path.iterdir())
