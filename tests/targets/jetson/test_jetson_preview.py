"""The preview: around what TensorRT-RTX lacks, and every refusal at once."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from jetson_graphs import drawn, model

import edgec
from edgec.core.errors import UnsupportedError
from edgec.targets.jetson import preview as previewing
from edgec.targets.jetson.aside import LACKING, STAND_IN, around, with_new_inputs
from edgec.targets.jetson.plan import ShapeProfile, ShapeRange
from edgec.targets.jetson.preview import has_fp32_products, preview
from edgec.targets.jetson.versions import dialects

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)

SUPPRESSED = """s (float[1, 40, 8] x) => (int64[n, 3] chosen, float[m, 3] y) {
    b = Relu (x) boxes = MatMul (b, wb) c = MatMul (x, wc) scores = Transpose <perm = [0, 2, 1]> (c)
    chosen = NonMaxSuppression (boxes, scores, most, half, half)
    f = Cast <to = 1> (chosen) y = Mul (f, two)
}"""
WEIGHTS = {
    "wb": drawn(8, 4),
    "wc": drawn(8, 3),
    "most": np.asarray([5]),
    "half": np.float32([0.5]),
    "two": np.float32(2),
}


def checked(built):
    onnx.checker.check_model(ir.to_proto(built), full_check=True)
    return built


def test_a_node_is_taken_out_and_what_it_reads_and_makes_become_edges():
    built = model(SUPPRESSED, WEIGHTS)
    part = checked(around(built, {"node_chosen"}))
    assert [node.name for node in built.graph if node.op_type == "NonMaxSuppression"] == ["node_chosen"]
    assert "NonMaxSuppression" not in {node.op_type for node in part.graph}
    assert {value.name for value in part.graph.outputs} == {"boxes", "scores", "y"}
    inputs = {value.name: value.shape for value in part.graph.inputs}
    assert tuple(inputs["chosen"]) == (STAND_IN, 3)
    assert around(built, ()) is built


def test_what_only_the_node_reads_and_makes_leaves_nothing():
    inputs = "float[1, 4, 8, 8] x, float[3, 4] r, int64[3] i"
    built = model(f"r ({inputs}) => (float[3, 4, 1, 1] y) {{ y = RoiAlign (x, r, i) }}")
    part = around(built, {"node_y"})
    assert not part.graph.num_nodes()
    assert not part.graph.inputs
    assert not part.graph.outputs


def test_open_sizes_of_new_inputs_are_those_of_the_models_own():
    built = model("p (float[N, 4] x) => (float[N, 4] y) { a = Relu (x) b = Tanh (a) y = Neg (b) }")
    part = around(built, {"node_b"})
    given = ShapeProfile({"x": ShapeRange((1, 4), (2, 4), (8, 4))})
    [found] = with_new_inputs(part, [given])
    assert found.inputs == {"x": given.inputs["x"], "b": ShapeRange((1, 4), (2, 4), (8, 4))}


def test_the_table_has_what_is_previewed_around():
    """Each op is granted by some version: what none takes is refused before any preview."""
    assert all(any(op in one.ops for one in dialects().values()) for op in LACKING)


@needs_rtx
@pytest.mark.parametrize("op", LACKING)
def test_tensorrt_rtx_still_lacks_them(op):
    """Where one no longer is refused, it needs no way around."""
    if op == "DeformConv":
        inputs = "float[1, 4, 8, 8] x, float[1, 18, 6, 6] o"
        text = f"d ({inputs}) => (float[1, 3, 6, 6] y) {{ y = DeformConv (x, w, o) }}"
        built = model(text, {"w": drawn(3, 4, 3, 3)})
    elif op == "NonZero":
        built = model("z (float[3, 4] x) => (int64[2, n] y) { y = NonZero (x) }")
    elif op == "RoiAlign":
        text = "r (float[1, 4, 8, 8] x, float[3, 4] r) => (float[3, 4, 1, 1] y) { y = RoiAlign (x, r, i) }"
        built = model(text, {"i": np.zeros(3, np.int64)})
    else:
        built = model(SUPPRESSED, WEIGHTS)
    with pytest.raises(UnsupportedError, match=op):
        preview(built, [86], target="jetson")
    assert list(preview(built, [86], target="jetson", lacking=LACKING).aside.values()) == [LACKING[op]]


@needs_rtx
def test_a_suppression_in_a_file_compiles_and_the_report_says_what_was_not_tried(tmp_path):
    onnx.save(ir.to_proto(model(SUPPRESSED, WEIGHTS)), tmp_path / "s.onnx")
    bundle = edgec.compile(
        str(tmp_path / "s.onnx"), target="jetson:orin-nano-8gb", output=tmp_path / "b.edgec"
    )
    record = json.loads((bundle.engine_folder / "preview.json").read_text())
    [(node, why)] = record["around"].items()
    assert node.startswith("NonMaxSuppression 'node_chosen' (layer ")
    assert why == LACKING["NonMaxSuppression"]
    assert record["layers"] > 0
    assert any(node in note and why in note for note in bundle.report()["model"]["notes"])


@needs_rtx
def test_every_refusal_is_listed_with_advice_that_helps():
    built = model(
        "d (float[3, 3] x) => (float z, float w, float[3, 3] v) "
        "{ y = Relu (x) z = Det (y) u = Neg (y) w = Det (u) v = Tanh (u) }"
    )
    with pytest.raises(UnsupportedError) as refused:
        preview(built, [86], target="jetson")
    assert {reason.partition(":")[0] for reason in refused.value.reasons} == {
        "Det 'node_z' (layer layers.z)",
        "Det 'node_w' (layer layers.w)",
    }
    assert "fp32" not in refused.value.fix
    assert "\n" not in str(refused.value)


def test_lines_that_name_no_node_are_left_out_beside_those_that_do():
    built = model("d (float[3] x) => (float[3] y) { y = Relu (x) }")
    noise = "CUDA initialization failure with error: 35. Please check your CUDA installation"
    found = previewing._builder_errors([noise, "no runners for node_y\n"], built)
    assert [line for _, line in found] == ["Relu 'node_y' (layer layers.y): no runners for node_y"]
    assert [line for _, line in previewing._builder_errors([noise], built)] == [noise]


@pytest.mark.parametrize(
    ("body", "has"),
    [
        ('y = Einsum <equation = "abc,acd->abd"> (x, x)', True),
        ("y = Relu (x)", False),
        ("u = Unsqueeze (x, first) v = Unsqueeze (u, first) y = Conv (v, k)", True),
        ("u = Unsqueeze (x, first) y = Conv (u, k2)", False),
    ],
)
def test_products_that_turing_lacks_are_seen(body, has):
    constants = {"first": np.asarray([0]), "k": drawn(2, 1, 1, 1, 1), "k2": drawn(2, 2, 1, 1)}
    used = {name: array for name, array in constants.items() if f", {name})" in body}
    assert has_fp32_products(model(f"t (float[2, 4, 4] x) => (float y) {{ {body} }}", used)) is has
