"""What likely leaves the Neural Engine is found, each with its rule, layer and source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coreml_graphs import make_model
from onnx import helper

from edgec.targets.coreml.lowering.program import lower
from edgec.targets.coreml.neural_engine.lint import _CHECKS, SEVERITIES, leaving, lint, rules
from edgec.targets.coreml.neural_engine.operations import Operation, Tensor, operations
from edgec.targets.coreml.package import save
from edgec.targets.coreml.versions import release

node = helper.make_node


def operation(op: str, *shapes: tuple[int, ...], dtype: str = "fp16", **numbers: object) -> Operation:
    *given, made = [Tensor(f"t{index}", dtype, shape, False) for index, shape in enumerate(shapes)]
    names = ("query", "key", "value") if op.startswith("scaled") else ("x", "y", "z")
    return Operation("op", op, "layer", tuple(zip(names, given, strict=False)), (made,), dict(numbers))


CASES = [
    ("rank", operation("add", (1, 1, 1, 1, 1, 2))),
    ("rank-5", operation("add", (1, 1, 1, 1, 2))),
    ("fp32", operation("add", (1, 4), dtype="fp32")),
    ("int32", operation("add", (1, 4), dtype="int32")),
    ("bool", operation("less", (1, 4), dtype="bool")),
    ("scatter", operation("scatter_nd", (1, 4))),
    ("data-dependent", operation("one_hot", (1, 4))),
    ("data-dependent", operation("non_zero", (1, 4))),
    ("recurrent", operation("lstm", (1, 4))),
    ("recurrent", operation("gru", (1, 4))),
    ("control-flow", operation("while_loop", (1, 4))),
    ("logic", operation("logical_and", (1, 4))),
    ("trigonometry", operation("tan", (1, 4))),
    ("random", operation("random_normal", (1, 4))),
    ("sine", operation("cos", (1, 4))),
    ("topk", operation("topk", (1, 4))),
    ("gather", operation("gather", (1, 4))),
    ("image-sampling", operation("resize_bilinear", (1, 4))),
    ("nms", operation("non_maximum_suppression", (1, 4))),
    ("fused-attention", operation("scaled_dot_product_attention", (1, 3, 9, 8), (1, 3, 9, 8))),
    ("batched-attention", operation("softmax", (1, 3, 9, 9))),
    ("dynamic-shape", operation("add", (1, 0))),
    ("dilation", operation("conv", (1, 4), dilations=[2, 2])),
    ("pool-kernel", operation("max_pool", (1, 4), kernel_sizes=[14, 14])),
    ("pool-stride", operation("avg_pool", (1, 4), strides=[3, 3])),
    ("extent", operation("add", (1, 20000))),
    ("last-axis", operation("add", (1, 64, 512, 1))),
    ("transpose", operation("transpose", (4, 64))),
    ("large-mask", operation("add", (1, 64), y=-65504.0)),
]


@pytest.mark.parametrize(("rule", "subject"), CASES, ids=[f"{rule}-{op.op}" for rule, op in CASES])
def test_each_rule_speaks(rule: str, subject: Operation) -> None:
    found = lint([subject])
    assert rule in [finding.rule for finding in found]
    finding = next(finding for finding in found if finding.rule == rule)
    assert finding.source == "layer"
    assert finding.severity in SEVERITIES
    assert finding.url.startswith("https://")
    assert finding.why
    assert finding.title


def test_every_rule_is_data_with_a_check() -> None:
    assert len({rule.id for rule in rules()}) == len(rules())
    covered = {rule for rule, _ in CASES} | {"kernel"}
    for rule in rules():
        assert rule.check in _CHECKS
        assert rule.severity in SEVERITIES
        assert rule.fix
        assert rule.id in covered


@pytest.mark.parametrize(
    "subject",
    [
        operation("conv", (1, 64, 1, 197), dilations=[1, 1], strides=[1, 1]),
        operation("softmax", (1, 1, 197, 197)),
        operation("max_pool", (1, 64, 56, 56), kernel_sizes=[3, 3], strides=[2, 2]),
        operation("scaled_dot_product_attention", (1, 64, 512, 64), (1, 64, 512, 64)),
        operation("add", (1, 64, 1, 197), y=-10000.0),
        operation("layer_norm", (1, 192, 1, 197)),
        operation("add", (1, 64)),
    ],
    ids=lambda subject: subject.op,
)
def test_what_the_engine_takes_is_left_alone(subject: Operation) -> None:
    assert lint([subject]) == []


def test_a_wide_kernel() -> None:
    weight = Tensor("w", "fp16", (8, 8, 17, 17), True)
    subject = Operation(
        "op", "conv", "layer", (("weight", weight),), (Tensor("y", "fp16", (1, 8), False),), {}
    )
    assert [finding.rule for finding in lint([subject])] == ["kernel"]


def test_a_saved_package(tmp_path: Path) -> None:
    """Names lead back to layers, types are the saved ones, constants are no operations."""
    from edgec.runtime.engine import EngineDescription

    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="encoder.dense"),
        node("Transpose", ["h"], ["t"], name="encoder.turn", perm=[0, 2, 1]),
        node("Sin", ["t"], ["s"], name="encoder.wave"),
        node("ArgMax", ["s"], ["i"], name="head.pick", axis=1, keepdims=0),
    ]
    weights = {"w": np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)}
    model = make_model(nodes, {"x": ("float32", (1, 33, 32))}, {"i": ("int64", None)}, weights)
    lowered = lower(model, release("ios18"), half_inputs=True)
    save(lowered, tmp_path / "model.mlpackage", release("ios18"), "fp16")
    EngineDescription("coreml", "model.mlpackage", "fp16", 0, "", lowered.layers).write(tmp_path)
    program = operations(tmp_path)
    sources = {item.op: item.source for item in program}
    assert sources["linear"] == "encoder.dense"
    assert sources["sin"] == "encoder.wave"
    assert "const" not in sources
    assert next(item for item in program if item.op == "linear").outputs[0].dtype == "fp16"
    findings = lint(program)
    found = {(finding.rule, finding.source) for finding in findings}
    assert {("transpose", "encoder.turn"), ("sine", "encoder.wave"), ("int32", "head.pick")} <= found
    assert any(item.op == "reduce_argmax" for item in program if item.name in leaving(findings))
