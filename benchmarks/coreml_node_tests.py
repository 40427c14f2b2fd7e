"""ONNX's own node tests through the Core ML lowering and the checker of the saved package.

    python benchmarks/coreml_node_tests.py [--only SUBSTRING] [--write FILE]

A case counts as expressible when Core ML has its types and forms at all: float32, float16, int32,
int64 within int32 and bool (int8 and uint8 as values), no text, sequences, optionals or control flow,
fixed non-empty shapes of rank 5 at most, at least one input. What a case hands in as an input and
Core ML needs as a constant (axes, shapes, scales, pads) is frozen first.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.errors import EdgecError, UnsupportedError
from edgec.targets.coreml.checker.interpreter import Interpreter
from edgec.targets.coreml.checker.package import read
from edgec.targets.coreml.lowering.program import Lowered, lower
from edgec.targets.coreml.package import save
from edgec.targets.coreml.versions import release

NOTHING_LEFT = "nothing is left to compute"

_TYPES = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
}
_NEVER = {
    "Adagrad",
    "Adam",
    "Bernoulli",
    "BitCast",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Compress",
    "Gradient",
    "If",
    "ImageDecoder",
    "Loop",
    "Momentum",
    "Multinomial",
    "NonMaxSuppression",
    "NonZero",
    "OptionalGetElement",
    "OptionalHasElement",
    "RandomNormal",
    "RandomUniform",
    "RandomUniformLike",
    "Scan",
    "StringNormalizer",
    "TfIdfVectorizer",
    "Unique",
}
"""Ops whose output's size depends on the data, that draw numbers, branch, train, or work on bits or text."""


def inexpressible(case) -> str:
    """Why Core ML cannot express a case; empty where it can."""
    graph = case.model.graph
    for node in graph.node:
        if node.op_type in _NEVER:
            return f"op {node.op_type}"
        if node.domain not in ("", "ai.onnx"):
            return f"domain {node.domain}"
    for value in (*graph.input, *graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            return value.type.WhichOneof("value") or "untyped"
        kind = value.type.tensor_type.elem_type
        if kind not in _TYPES:
            return f"type {onnx.TensorProto.DataType.Name(kind)}"
        if len(value.type.tensor_type.shape.dim) > 5:
            return "rank over 5"
    for feeds, results in case.data_sets:
        for array in (*feeds, *results):
            if not isinstance(array, (np.ndarray, np.generic)):
                return "sequence"
            if array.size == 0:
                return "empty tensor"
            if array.dtype == np.int64 and np.abs(array.astype(float)).max() > 2**31 - 1:
                return "beyond int32"
    return "" if graph.input else "no inputs"


def run_case(case, folder: Path) -> str:
    """An empty string where the case passes, else the reason."""
    feeds, expected = case.data_sets[0]
    names = [value.name for value in case.model.graph.input]
    given = dict(zip(names, feeds, strict=False))
    lowered: Lowered | None = None
    reason = ""
    for freeze in ("nothing", "integers", "vectors", "all but the first"):
        model = frozen(case.model, given, freeze)
        if model is None:
            continue
        try:
            lowered = lower(ir.from_proto(model), release("ios18"))
            break
        except UnsupportedError as error:
            reason = "; ".join(error.reasons)
    if lowered is None:
        return reason or NOTHING_LEFT
    path = folder / "case.mlpackage"
    save(lowered, path, release("ios18"), "fp32")
    program = Interpreter(read(path))
    inputs = {
        feature.name: np.asarray(given[feature.source]).reshape(feature.mil_shape)
        for feature in lowered.inputs
    }
    results = program.run(inputs)
    found = [results[name] for name in program.outputs]
    wanted = [array for array, value in zip(expected, case.model.graph.output, strict=False) if value.name]
    for want, got, output in zip(wanted, found, lowered.outputs, strict=True):
        got = np.asarray(got).reshape(want.shape)
        tolerance = {"rtol": case.rtol or 1e-3, "atol": case.atol or 1e-7}
        if want.dtype == np.float16:
            tolerance = {"rtol": 5e-3, "atol": 2e-3}
        if not np.allclose(got.astype(np.float64), want.astype(np.float64), equal_nan=True, **tolerance):
            worst = np.abs(got.astype(float) - want.astype(float)).max()
            return f"output {output.source} differs by {worst:.3g}"
    return ""


def frozen(proto: onnx.ModelProto, given: dict[str, np.ndarray], what: str) -> onnx.ModelProto | None:
    """The model with fixed input shapes and some of its inputs made constant; None where none stays."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    kept = []
    for position, value in enumerate(model.graph.input):
        array = given.get(value.name)
        if array is None:
            continue
        constant = array.ndim <= 1 and (
            what == "vectors" or (what == "integers" and array.dtype.kind in "ib")
        )
        constant |= what == "all but the first" and position > 0
        if constant:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        else:
            kind = value.type.tensor_type.elem_type
            kept.append(onnx.helper.make_tensor_value_info(value.name, kind, list(array.shape)))
    if not kept:
        return None
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def op_of(case) -> str:
    """The op that a case is about."""
    nodes = case.model.graph.node
    if len(nodes) == 1:
        return nodes[0].op_type
    return "definitions of " + case.name.removeprefix("test_").split("_")[0]


def report(passed, total, outside, failures) -> str:
    """The table by op, in Markdown."""
    share = sum(passed.values()) / max(1, sum(total.values()))
    lines = [
        "# ONNX node tests through the Core ML target",
        "",
        "`python benchmarks/coreml_node_tests.py --write benchmarks/results/coreml_node_tests.md`",
        "",
        f"onnx {onnx.__version__}, coremltools 9.0; packages for iOS 18 in fp32, read back and interpreted.",
        "",
        f"{sum(passed.values())} of {sum(total.values())} expressible cases pass ({share:.1%}).",
        "",
        "| op | pass | of |",
        "|---|---|---|",
    ]
    lines += [f"| {op} | {passed[op]} | {total[op]} |" for op in sorted(total)]
    lines += ["", "Cases that fail, with the first words of the reason:", ""]
    lines += [f"- `{name}`: {reason[:160]}" for name, reason in sorted(failures.items())]
    lines += ["", "Cases that Core ML cannot express, by reason:", ""]
    lines += [f"- {reason}: {count}" for reason, count in sorted(outside.items())]
    return "\n".join(lines) + "\n"


def cases_of_onnx() -> list[Any]:
    """ONNX's own node tests, by name."""
    with np.errstate(all="ignore"):
        from onnx.backend.test.case.node import collect_testcases

        found = sorted(collect_testcases(None), key=lambda item: item.name)
    return [case for case in found if case.model is not None]


def judge(case: Any, folder: Path) -> str:
    """An empty string where the case passes, else the reason, whatever went wrong."""
    try:
        return run_case(case, folder)
    except EdgecError as error:
        return str(error)
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    passed: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    outside: collections.Counter[str] = collections.Counter()
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases_of_onnx():
            if options.only not in case.name:
                continue
            reason = inexpressible(case)
            if reason:
                outside[reason] += 1
                continue
            failure = judge(case, Path(folder))
            if failure == NOTHING_LEFT:
                outside["nothing is left once shapes are constants"] += 1
                continue
            total[op_of(case)] += 1
            if failure:
                failures[case.name] = failure
                print(f"{case.name}: {failure[:230]}", flush=True)
            else:
                passed[op_of(case)] += 1
    print(f"{sum(passed.values())} of {sum(total.values())} expressible cases pass")
    print(dict(outside))
    if options.write:
        options.write.write_text(report(passed, total, outside, failures), encoding="utf-8")


if __name__ == "__main__":
    main()
