"""An op with a kernel for processors and one for GPUs is a declaration and two sources, and nothing else."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import bodies
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tensorrt_build
from tensorrt_harness import Harness

import edgec.plugins.infra as infra
from edgec.core.errors import JobError
from edgec.passes.canonicalize.shapes import Shapes
from edgec.passes.manager import Pipeline
from edgec.plugins.bindings import openvino as extension
from edgec.plugins.bindings import tensorrt
from edgec.plugins.kernels.cpu import build, native
from edgec.plugins.kernels.cuda.build import cuda_library

DECLARATION = '''
from pathlib import Path

from edgec.plugins.infra import CpuKernel, CudaKernel, Kind, Limit, Plugin, Port, register

HERE = Path(__file__).parent

WEIGHTED_PAIRS = register(
    Plugin(
        "WeightedPairs",
        "Sums of neighbouring rows, one of them weighted.",
        inputs=(Port("rows", "length, width"), Port("weight", "length", Kind.FLOAT32)),
        outputs=(
            Port("sums", "length - skipped - 1, width"),
            Port("taken", "length - skipped - 1", Kind.INT32),
        ),
        body="""
  axis = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  far = Constant <value_ints = [9223372036854775807]> ()
  skipped_ = Constant <value_int: int = @skipped> ()
  begin = Reshape (skipped_, one)
  second = Add (begin, one)
  end = Constant <value_ints = [-1]> ()
  first_rows = Slice (rows, begin, end, axis)
  second_rows = Slice (rows, second, far, axis)
  weights = Slice (weight, second, far, axis)
  column = Unsqueeze (weights, one)
  like = CastLike (column, rows)
  scale = Constant <value_float: float = @scale> ()
  scale_like = CastLike (scale, rows)
  product = Mul (second_rows, like)
  scaled = Mul (product, scale_like)
  sums = Add (first_rows, scaled)
  length = Shape <start = 0, end = 1> (weights)
  zeros = Cast <to = 6> (weights)
  none = Sub (zeros, zeros)
  place = Cast <to = 6> (skipped_)
  taken = Add (none, place)
""",
        attributes={"skipped": 0, "scale": 1.0},
        rules=("0 <= skipped", "skipped + 2 <= length"),
        kernels={
            "cpu": CpuKernel(HERE / "weighted_pairs.cpp", vectorised=True),
            "cuda": CudaKernel(HERE / "weighted_pairs.cu", limits=(Limit("width", most=64),)),
        },
    )
)
'''

CPU = """
#include "kernel.h"

EDGEC_CPU_KERNEL(WeightedPairs) {
    const int64_t length = call->inputs[0].sizes[0], width = call->inputs[0].sizes[1];
    const int64_t skipped = attribute(*call, "skipped").integer;
    const float scale = static_cast<float>(attribute(*call, "scale").number);
    const float* rows = static_cast<const float*>(call->inputs[0].data);
    const float* weight = static_cast<const float*>(call->inputs[1].data);
    float* sums = static_cast<float*>(call->outputs[0].data);
    int32_t* taken = static_cast<int32_t*>(call->outputs[1].data);
    for (int64_t row = skipped; row + 1 < length; ++row) {
        for (int64_t k = 0; k < width; ++k)
            sums[(row - skipped) * width + k] =
                rows[row * width + k] + rows[(row + 1) * width + k] * weight[row + 1] * scale;
        taken[row - skipped] = static_cast<int32_t>(skipped);
    }
    return EDGEC_DONE;
}
"""

CUDA = """
#include "kernel.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace {

template <typename T>
__global__ void pairs(int64_t count, int64_t width, int skipped, float scale, const T* rows,
                      const float* weight, T* sums, int32_t* taken) {
    const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= count * width) return;
    const int64_t row = index / width + skipped, k = index % width;
    sums[index] = static_cast<T>(static_cast<float>(rows[row * width + k]) +
                                 static_cast<float>(rows[(row + 1) * width + k]) * weight[row + 1] * scale);
    taken[index / width] = skipped;
}

template <typename T>
int launch(const edgec_cuda_call& call) {
    const int64_t count = call.outputs[0].sizes[0], width = call.outputs[0].sizes[1];
    const auto blocks = static_cast<unsigned>(count * width / 256 + 1);
    pairs<T><<<blocks, 256, 0, static_cast<cudaStream_t>(call.stream)>>>(
        count, width, static_cast<int>(attribute(call, "skipped").integer),
        static_cast<float>(attribute(call, "scale").number), static_cast<const T*>(call.inputs[0].data),
        static_cast<const float*>(call.inputs[1].data), static_cast<T*>(call.outputs[0].data),
        static_cast<int32_t*>(call.outputs[1].data));
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? EDGEC_DONE : EDGEC_CUDA_ERROR + static_cast<int>(error);
}

}  // namespace

EDGEC_CUDA_KERNEL(WeightedPairs) {
    return call->inputs[0].type == EDGEC_FLOAT16 ? launch<__half>(*call) : launch<float>(*call);
}
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> infra.Plugin:
    """The op, known as long as the test runs."""
    monkeypatch.setattr(infra, "_PLUGINS", dict(infra.plugins()))
    folder = tmp_path / "weighted_pairs"
    folder.mkdir()
    (folder / "weighted_pairs.cpp").write_text(CPU, encoding="utf-8")
    (folder / "weighted_pairs.cu").write_text(CUDA, encoding="utf-8")
    (folder / "op.py").write_text(DECLARATION, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("weighted_pairs_op", folder / "op.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return infra.plugins()["WeightedPairs"]


ATTRIBUTES = {"skipped": 2, "scale": 0.5}


def drawn() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "rows": (rng.integers(-64, 65, (9, 5)) / 16).astype(np.float32),
        "weight": rng.integers(0, 4, 9).astype(np.float32),
    }


def test_it_runs_in_openvino(plugin: infra.Plugin) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    core.add_extension(str(extension.openvino_library([plugin])))
    proto = bodies.model(plugin, ATTRIBUTES)
    expected = bodies.run_body("WeightedPairs", drawn(), **ATTRIBUTES)
    del proto.functions[:]
    compiled = core.compile_model(core.read_model(proto.SerializeToString()), "CPU")
    for found, wanted in zip(compiled(drawn()).values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    with pytest.raises(RuntimeError, match="the length of rows and of weight differ: 9 and 8"):
        compiled({**drawn(), "weight": np.ones(8, np.float32)})
    with pytest.raises(RuntimeError, match="skipped \\+ 2 <= length does not hold: length 3, skipped 2"):
        compiled({name: array[:3] for name, array in drawn().items()})


def test_each_instruction_set_is_compiled(plugin: infra.Plugin) -> None:
    import ctypes

    kernels = ctypes.CDLL(str(build.kernel_library([plugin])))
    expected = bodies.run_body("WeightedPairs", drawn(), **ATTRIBUTES)
    for isa in infra.INSTRUCTIONS:
        if not kernels.edgec_runs(isa.encode()):
            continue
        call, found = native.prepare(plugin, drawn(), ATTRIBUTES, isa=isa, kernels=kernels)
        call()
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("generation", tensorrt_build.GENERATIONS.values())
def test_it_is_a_plugin_of_tensorrt(plugin: infra.Plugin, generation: int) -> None:
    harness = Harness(tensorrt_build.on_host.__wrapped__(generation, "", ("WeightedPairs",)))
    assert harness.creators() == {"ai.edgec::WeightedPairs 1"}
    expected = bodies.run_body("WeightedPairs", drawn(), **ATTRIBUTES)
    for dtype in (np.float32, np.float16):
        with harness.create("WeightedPairs", ATTRIBUTES) as made:
            found = made.run([drawn()["rows"].astype(dtype), drawn()["weight"]])
        np.testing.assert_allclose(found[0].astype(np.float32), expected[0], rtol=1e-3)
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_its_cuda_kernel_compiles(plugin: infra.Plugin) -> None:
    library = cuda_library(plugin.kernels["cuda"].path, ["87"])
    assert b"edgec_cuda_WeightedPairs" in library.read_bytes()


def test_targets_ask_the_declaration(plugin: infra.Plugin) -> None:
    assert tensorrt.libraries()["WeightedPairs"] == "libedgec_weighted_pairs.so"
    assert "WeightedPairs" in tensorrt.kernels_for(72, half=False)
    assert "WeightedPairs" in extension.ops()
    proto = bodies.model(plugin, ATTRIBUTES)
    for value, shape in zip(proto.graph.input, ((9, 65), (9,)), strict=True):
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))
    model = ir.from_proto(proto)
    Pipeline([Shapes()]).run(model)
    assert [list(value.shape or ()) for value in model.graph.outputs] == [[6, 65], [6]]
    assert tensorrt.obstacle(next(iter(model.graph))) == "its width is 65; the kernel takes up to 64"


def test_a_source_that_does_not_compile_is_named(plugin: infra.Plugin, tmp_path: Path) -> None:
    (tmp_path / "weighted_pairs" / "weighted_pairs.cpp").write_text("int broken(", encoding="utf-8")
    with pytest.raises(JobError, match=r"weighted_pairs.cpp"):
        build.kernel_library([plugin])
