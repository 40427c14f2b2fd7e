"""The TensorRT plugin classes through TensorRT's own steps, over kernels of the host, and the definitions."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import tensorrt_build
import tensorrt_cases as cases
import token_bodies
import varlen_bodies
from tensorrt_harness import CHW2, FLOAT, HALF, INT8, INT32, INT64, Harness, PluginError, Tensor

from edgec.plugins.bindings import tensorrt
from edgec.plugins.infra import plugins

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

REAL = [path for path in os.environ.get("EDGEC_TENSORRT_HEADERS", "").split(os.pathsep) if path]
"""Folders of NVIDIA's headers, where someone has them."""


@pytest.fixture(scope="module", params=[*tensorrt_build.GENERATIONS, *REAL])
def harness(request: pytest.FixtureRequest) -> Harness:
    generation = tensorrt_build.GENERATIONS.get(request.param, 0)
    return Harness(tensorrt_build.on_host(generation, "" if generation else request.param))


def expected(op_type: str, feeds: dict[str, np.ndarray], attributes: dict) -> list[np.ndarray]:
    if op_type == "VarlenAttention":
        return [varlen_bodies.run_body(feeds, scale=attributes.get("scale", 0.0))]
    return token_bodies.run_body(op_type, feeds, **attributes)


def test_every_op_is_registered_once_in_the_namespace_that_nodes_name(harness: Harness) -> None:
    wanted = {f"{tensorrt.NAMESPACE}::{op_type} {tensorrt.VERSION}" for op_type in tensorrt.LIBRARIES}
    assert harness.creators() == wanted
    assert set(tensorrt.LIBRARIES) <= set(plugins())


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("op_type", tensorrt.LIBRARIES)
def test_a_plugin_computes_its_definition(harness: Harness, op_type: str, half: bool) -> None:
    if op_type == "VarlenAttention" and not half:
        pytest.skip("fp16 only")
    rng = np.random.default_rng(7)
    for _ in range(40):
        feeds, attributes = cases.draw(op_type, rng)
        with harness.create(op_type, attributes) as plugin:
            found = plugin.run(cases.inputs_of(op_type, feeds, half=half))
        wrong = cases.difference(op_type, found, expected(op_type, feeds, attributes), half=half)
        assert not wrong, (wrong, attributes, {name: array.shape for name, array in feeds.items()})


def described(op_type: str, first: int) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors of a small node, all of the types that go with the first input's."""
    inputs = {
        "tokens": Tensor.of((1, 8, 4), first),
        "metric": Tensor.of((1, 2, 8, 4), first),
        "sizes": Tensor.of((1, 8, 1), FLOAT),
        "score": Tensor.of((1, 8), FLOAT),
        "assignment": Tensor.of((1, 8), INT32),
        "query": Tensor.of((8, 2, 8), first),
        "key": Tensor.of((8, 2, 8), first),
        "value": Tensor.of((8, 2, 8), first),
        "cu_seqlens": Tensor.of((3,), INT32),
    }
    merged = [Tensor.of((1, 6, 4), first), Tensor.of((1, 6, 1), FLOAT), Tensor.of((1, 8), INT32)]
    outputs = merged if op_type in cases.REDUCTIONS else [Tensor.of((1, 8, 4), first)]
    return [inputs[name] for name in cases.ORDER[op_type]], outputs


@pytest.mark.parametrize("op_type", tensorrt.LIBRARIES)
def test_types_and_formats(harness: Harness, op_type: str) -> None:
    with harness.create(op_type) as plugin:
        for first in (HALF, FLOAT):
            inputs, outputs = described(op_type, first)
            everything = [*inputs, *outputs]
            taken = first == HALF or op_type != "VarlenAttention"
            assert taken == all(plugin.supports(place, inputs, outputs) for place in range(len(everything)))
            if not taken:
                continue
            for place, tensor in enumerate(everything):
                right = tensor.type
                for wrong in {HALF, FLOAT, INT8, INT32, INT64} - {right}:
                    tensor.type = wrong
                    # The first input alone may be either; the others must then go with it.
                    free = place == 0 and wrong in (HALF, FLOAT) and op_type != "VarlenAttention"
                    assert plugin.supports(place, inputs, outputs) == free
                tensor.type = right
                tensor.format = CHW2
                assert not plugin.supports(place, inputs, outputs)
                tensor.format = 0
            assert [one.type for one in plugin.infer(inputs)] == [one.type for one in outputs]
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
        ({"r": 9, "protected": 1}, "r=9 of 17 tokens with 1 protected; at most 8 can go"),
        ({"r": -1}, "must not be negative"),
        ({"r": 1, "protected": 16}, "at most 0 can go"),
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
        pytest.raises(PluginError, match="lengths of tokens and metric"),
    ):
        plugin.run([np.zeros(shape, np.float32) for shape in ((1, 8, 4), (1, 1, 9, 4), (1, 8, 1))])
    with harness.create("TokenRestore") as plugin, pytest.raises(PluginError, match="must be"):
        plugin.run([np.zeros((1, 8), np.float32), np.zeros((1, 8), np.int32)])
    feeds = [np.zeros((4, 1, 8), np.float16)] * 2 + [np.zeros((5, 1, 8), np.float16), np.zeros(2, np.int32)]
    with harness.create("VarlenAttention") as plugin, pytest.raises(PluginError, match="query and value"):
        plugin.run(feeds)


def test_sizes_outside_a_kernels_range_are_said(harness: Harness) -> None:
    feeds = [np.zeros((4, 1, 12), np.float16)] * 3 + [np.asarray([0, 4], np.int32)]
    with (
        harness.create("VarlenAttention") as plugin,
        pytest.raises(PluginError, match=r"does not take these sizes: query \(4, 1, 12\)"),
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
