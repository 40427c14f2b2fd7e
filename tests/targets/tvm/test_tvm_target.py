"""Small graphs through TVM: compiled, opened and compared; and what it refuses."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from x86_graphs import LENGTH, WIDTH, block_proto, graph_of

from edgec.core.bundle import ENGINE, IO, InputsOutputs, write_json
from edgec.core.errors import JobError, RequestError
from edgec.runtime.engine import EngineDescription
from edgec.runtime.engine_tvm import check_processor
from edgec.runtime.engines import open_engine
from edgec.targets import target_named
from edgec.targets.tvm.prediction import least_latency

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="TVM is not installed")


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    graph = graph_of(block_proto())
    target = target_named("x86:tvm")
    [candidate] = target.candidates(graph, "auto")
    folder = tmp_path_factory.mktemp("engine")
    target.build(target.lower(graph, candidate), candidate, folder)
    return graph, folder


def test_a_block_computes_what_its_source_does(block):
    graph, folder = block
    engine = open_engine(folder)
    try:
        for feeds, expected in zip(graph.examples, graph.references, strict=True):
            found = engine.run(feeds)
            assert np.abs(found["y"] - expected["y"]).max() <= 1e-5 * expected["y"].std()
        layers = {time.source for time in engine.profile(graph.examples[0], runs=2)}
    finally:
        engine.close()
    assert {"attn", "attn.qkv", "attn.proj", "fc1", "norm1"} <= layers
    with pytest.raises(RequestError, match="closed"):
        engine.run(graph.examples[0])


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_example_runs_the_engine_without_python(block, tmp_path):
    graph, folder = block
    shutil.copytree(folder, tmp_path / ENGINE)
    write_json(tmp_path / IO, InputsOutputs(graph.inputs, graph.outputs, None, ()).to_json())
    target_named("x86:tvm").ship(tmp_path)
    graph.examples[0]["x"].tofile(tmp_path / "x.bin")
    for command in (["-S", tmp_path / "cpp", "-B", tmp_path / "build"], ["--build", tmp_path / "build"]):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    program = [tmp_path / "build" / "example", tmp_path / ENGINE]
    said = subprocess.run([*program, tmp_path / "x.bin"], check=True, capture_output=True, text=True).stdout
    numbers = [float(word) for word in said.split("output 0:")[1].split("…")[0].split()]
    np.testing.assert_allclose(numbers, graph.references[0]["y"].ravel()[:5], rtol=1e-4, atol=1e-5)
    short = subprocess.run([*program, folder / "engine.json"], check=False, capture_output=True, text=True)
    assert short.returncode == 1
    assert "bytes of x" in short.stderr


def test_products_are_counted_and_a_board_is_predicted(block, tmp_path):
    _, folder = block
    width, length = WIDTH, LENGTH
    macs = length * width * width * (3 + 1 + 2 + 2) + 2 * length * length * width
    assert EngineDescription.read(folder).settings["macs"] == str(macs)
    [predicted] = least_latency("cortex-a72", 24_000_000)
    # 4 cores, 4 a cycle, 1.5 GHz.
    assert predicted["p50"] == pytest.approx(1.0)
    shutil.copytree(folder, tmp_path / ENGINE)
    for name, boards in (("arm", 3), ("arm:cortex-a76", 1), ("x86:tvm", 0)):
        report = {"latency": {"predicted": []}}
        target_named(name).annotate(report, tmp_path)
        assert len(report["latency"]["predicted"]) == boards


def test_a_library_for_another_processor_is_refused_before_it_is_loaded(block, tmp_path):
    _, folder = block
    described = EngineDescription.read(folder)
    for settings, said in (
        ({"processor": "aarch64", "needs": "asimd"}, "aarch64"),
        ({"processor": "x86_64", "needs": "avx2 no_such_set"}, "no_such_set"),
    ):
        described.settings.clear()
        described.settings.update(settings)
        with pytest.raises(JobError, match=said):
            check_processor(described, tmp_path)


def test_a_core_that_is_not_known_is_refused_with_the_nearest():
    with pytest.raises(RequestError, match="cortex-a7"):
        target_named("arm:cortex-a7")
