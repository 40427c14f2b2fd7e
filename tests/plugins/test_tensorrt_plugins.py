"""The TensorRT plugin classes through TensorRT's own steps, over kernels of the host."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import tensorrt_build
from tensorrt_harness import CHW2, FLOAT, HALF, INT8, INT32, INT64, Harness, PluginError, Tensor

from edgec.plugins.bindings import tensorrt
from edgec.plugins.infra import Kind, Plugin, Port, plugins

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

REAL = [path for path in os.environ.get("EDGEC_TENSORRT_HEADERS", "").split(os.pathsep) if path]
"""Folders of NVIDIA's headers, where someone has them."""


@pytest.fixture(scope="module", params=[*tensorrt_build.GENERATIONS, *REAL])
def harness(request: pytest.FixtureRequest) -> Harness:
    generation = tensorrt_build.GENERATIONS.get(request.param, 0)
    return Harness(tensorrt_build.on_host(generation, "" if generation else request.param))


def test_every_op_is_registered_once_in_the_namespace_that_nodes_name(harness: Harness) -> None:
    wanted = {f"{tensorrt.NAMESPACE}::{op_type} {tensorrt.VERSION}" for op_type in tensorrt.libraries()}
    assert harness.creators() == wanted


TYPES = {Kind.FLOAT32: FLOAT, Kind.INT32: INT32}
SIZES = {
    "batch": 1,
    "length": 8,
    "channels": 4,
    "heads": 2,
    "depth": 8,
    "kept": 8,
    "total": 8,
    "ends": 3,
    "r": 0,
}


def described(plugin: Plugin, first: int) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors of a small node, all of the types that go with the first input's."""
    known = {**SIZES, **plugin.attributes}

    def tensor(port: Port) -> Tensor:
        return Tensor.of([size.value(known) for size in port.sizes], TYPES.get(port.kind, first))

    return [tensor(port) for port in plugin.inputs], [tensor(port) for port in plugin.outputs]


@pytest.mark.parametrize("op_type", tensorrt.libraries())
def test_types_and_formats(harness: Harness, op_type: str) -> None:
    plugin_ = plugins()[op_type]
    kinds = [port.kind for port in (*plugin_.inputs, *plugin_.outputs)]
    may_be = {HALF: "float16", FLOAT: "float32"}
    with harness.create(op_type) as plugin:
        for first, name in may_be.items():
            inputs, outputs = described(plugin_, first)
            everything = [*inputs, *outputs]
            taken = name in plugin_.kernels["cuda"].types
            assert taken == all(plugin.supports(place, inputs, outputs) for place in range(len(everything)))
            if not taken:
                continue
            for place, tensor in enumerate(everything):
                right = tensor.type
                for wrong in {HALF, FLOAT, INT8, INT32, INT64} - {right}:
                    tensor.type = wrong
                    # The first input alone may be another; the others must then go with it.
                    free = place == 0 and kinds[0] is Kind.LIKE_FIRST
                    free = free and may_be.get(wrong) in plugin_.kernels["cuda"].types
                    assert plugin.supports(place, inputs, outputs) == free
                tensor.type = right
                tensor.format = CHW2
                assert not plugin.supports(place, inputs, outputs)
                tensor.format = 0
            assert [one.type for one in plugin.infer(inputs)] == [one.type for one in outputs]
            assert [list(one.size) for one in plugin.infer(inputs)] == [list(one.size) for one in outputs]
        assert not plugin.supports(len(everything), [*inputs, inputs[0]], outputs)


def test_the_workspace_is_that_of_the_profiles_largest_sizes(harness: Harness) -> None:
    small, large = ((1, 8, 4), (1, 2, 8, 4), (1, 8, 1)), ((4, 16, 4), (4, 2, 16, 4), (4, 16, 1))
    kinds = (HALF, HALF, FLOAT)
    with harness.create("TokenMerge", {"r": 2}) as plugin:
        ranged = [
            Tensor.of(one, kind, largest=other) for one, other, kind in zip(small, large, kinds, strict=True)
        ]
        fixed = [Tensor.of(one, kind) for one, kind in zip(large, kinds, strict=True)]
        # IPluginV2's description has room for one size; TensorRT puts the largest there.
        assert plugin.workspace(ranged) == plugin.workspace(fixed) > 0


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (
            {"r": 9, "protected": 1},
            "length - protected does not hold: length 17, protected 1, r 9",
        ),
        ({"r": -1}, "0 <= r does not hold: r -1"),
        ({"r": 1, "protected": 16}, "protected \\+ 2 <= length does not hold: length 17, protected 16"),
    ],
)
def test_an_r_that_the_tokens_do_not_allow_is_said(harness: Harness, attributes: dict, said: str) -> None:
    feeds = [np.zeros(shape, np.float32) for shape in ((1, 17, 4), (1, 1, 17, 4), (1, 17, 1))]
    with (
        harness.create("TokenMerge", attributes, layer="/blocks.3/merge") as plugin,
        pytest.raises(PluginError, match=f"TokenMerge '/blocks.3/merge': .*{said}"),
    ):
        plugin.run(feeds)


def test_inputs_that_do_not_go_together_are_said(harness: Harness) -> None:
    with (
        harness.create("TokenMerge") as plugin,
        pytest.raises(PluginError, match="length of tokens and of metric differ: 8 and 9"),
    ):
        plugin.run([np.zeros(shape, np.float32) for shape in ((1, 8, 4), (1, 1, 9, 4), (1, 8, 1))])
    with (
        harness.create("TokenRestore") as plugin,
        pytest.raises(PluginError, match="tokens must have 3 dimensions, not 2"),
    ):
        plugin.run([np.zeros((1, 8), np.float32), np.zeros((1, 8), np.int32)])
    feeds = [np.zeros((4, 1, 8), np.float16)] * 2 + [np.zeros((5, 1, 8), np.float16), np.zeros(2, np.int32)]
    with (
        harness.create("VarlenAttention") as plugin,
        pytest.raises(PluginError, match="total of query and of value"),
    ):
        plugin.run(feeds)


def test_what_a_kernel_refuses_is_said(harness: Harness) -> None:
    feeds = [np.zeros((1, 4, 2), np.float16), np.full((1, 8), 9, np.int32)]
    with (
        harness.create("TokenRestore") as plugin,
        pytest.raises(PluginError, match=r"does not take these sizes: tokens \(1, 4, 2\)"),
    ):
        plugin.run(feeds)


def test_an_attribute_of_another_type_is_said(harness: Harness) -> None:
    with pytest.raises(PluginError, match="TokenMerge: the attribute r is not one int"):
        harness.create("TokenMerge", {"r": 2.0})
    with pytest.raises(PluginError, match="margin is not one float"):
        harness.create("TokenMergeEnergy", {"margin": 1})


def test_another_namespace_finds_nothing(harness: Harness) -> None:
    with pytest.raises(PluginError, match="not found"):
        harness.create("TokenMerge", space="")


def test_without_tokens_nothing_is_launched(harness: Harness) -> None:
    feeds = [np.zeros((0, 2, 8), np.float16)] * 3 + [np.zeros(2, np.int32)]
    with harness.create("VarlenAttention") as plugin:
        assert plugin.run(feeds)[0].shape == (0, 2, 8)
