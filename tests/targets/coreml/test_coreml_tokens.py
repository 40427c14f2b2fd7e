"""Token reduction on Core ML: plugin bodies, which know no scatter, through lowering and checker."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from coreml_graphs import KINDS, ops_of
from onnx import helper

from edgec.core.evaluation import Evaluator
from edgec.targets.coreml.lowering.definitions import with_bodies
from edgec.targets.coreml.versions import RELEASES

DOMAIN = "ai.edgec"
BATCH, TOKENS, WIDTH = 1, 13, 8


def node(op_type: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, domain=DOMAIN, **attributes)


def reduced(op_type: str, restored: bool, **attributes: object) -> ir.Model:
    """One reduction, and the tokens spread back over their places."""
    inputs = {
        "tokens": ("float32", (BATCH, TOKENS, WIDTH)),
        "metric": ("float32", (BATCH, 2, TOKENS, 4)),
        "sizes": ("float32", (BATCH, TOKENS, 1)),
    }
    given = ["tokens", "metric", "sizes"]
    if op_type == "TokenPrune":
        inputs["score"] = ("float32", (BATCH, TOKENS))
        given = ["tokens", "score", "metric", "sizes"]
    left = TOKENS - 4
    nodes = [node(op_type, given, ["merged", "merged_sizes", "where"], r=4, protected=1, **attributes)]
    outputs = {"merged": ("float32", (BATCH, left, WIDTH)), "merged_sizes": ("float32", (BATCH, left, 1))}
    if restored:
        nodes.append(node("TokenRestore", ["merged", "where"], ["all"]))
        outputs["all"] = ("float32", (BATCH, TOKENS, WIDTH))
    infos = [
        [helper.make_tensor_value_info(name, KINDS[kind], shape) for name, (kind, shape) in values.items()]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "g", *infos)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=11))


CASES = [
    ("TokenMerge", {}, False),
    ("TokenMerge", {}, True),
    ("TokenMergeEnergy", {"margin": 0.4}, False),
    ("TokenPrune", {"merge": 1}, False),
    ("TokenPrune", {"merge": 0}, True),
]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("op_type", "attributes", "restored"),
    CASES,
    ids=[f"{case[0]}-{case[2]}-{index}" for index, case in enumerate(CASES)],
)
def test_reduction_through_bodies(
    saved, rng: np.random.Generator, release: str, op_type: str, attributes: dict, restored: bool
) -> None:
    model = reduced(op_type, restored, **attributes)
    run = saved(model, release)
    with Evaluator(with_bodies(model)) as evaluator:
        for _ in range(3):
            feeds = {
                "tokens": rng.normal(size=(BATCH, TOKENS, WIDTH)).astype(np.float32),
                "metric": rng.normal(size=(BATCH, 2, TOKENS, 4)).astype(np.float32),
                "sizes": rng.integers(1, 4, (BATCH, TOKENS, 1)).astype(np.float32),
            }
            if op_type == "TokenPrune":
                feeds["score"] = rng.random((BATCH, TOKENS)).astype(np.float32)
            expected = list(evaluator.run(feeds).values())
            for found, wanted in zip(run(feeds), expected, strict=True):
                # Sums in another order; a wrong group would be off by the tokens themselves.
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    kinds = set(ops_of(run.program))
    assert not {kind for kind in kinds if "scatter" in kind or kind in ("one_hot", "non_zero")}
