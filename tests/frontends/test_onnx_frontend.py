"""ONNX files become graphs: any opset, weights outside, subgraphs, functions, open shapes."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.core.dialect import ONNX_OPSET, SOURCE_KEY
from edgec.core.errors import RequestError
from edgec.core.numerics import GATES, compare
from edgec.frontends import load
from edgec.frontends.reference import open_session
from edgec.judging.gates import check_neutral

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(path, nodes, inputs, outputs, weights=(), *, opset=17, **kwargs):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in inputs],
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in outputs],
        initializer=[numpy_helper.from_array(array, name) for name, array in weights],
    )
    functions = kwargs.pop("functions", [])
    imports = [helper.make_opsetid("", opset), *kwargs.pop("imports", [])]
    model = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)
    onnx.save(model, path, **kwargs)
    return str(path)


def mlp(path, *, batch=2, opset=17, **kwargs):
    return save(
        path,
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="layer1"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("ReduceMean", ["r"], ["y"], axes=[1], keepdims=0, name="pool"),
        ],
        [("x", F, [batch, 4, 8])],
        [("y", F, [batch, 16])],
        [("w", drawn(8, 16))],
        opset=opset,
        **kwargs,
    )


def assert_faithful(graph):
    """The graph in edgec's dialect computes what the untouched file did."""
    assert graph.model.opset_imports[""] == ONNX_OPSET
    folder = Path(graph.exported).absolute().parent
    session = open_session(ir.to_proto(graph.model).SerializeToString(), folder=folder)
    names = [output.name for output in session.get_outputs()]
    found = [dict(zip(names, session.run(names, feed), strict=True)) for feed in graph.examples]
    assert GATES["fp32"].accepts(compare(graph.references, found))
    assert all(node.metadata_props[SOURCE_KEY] for node in graph.model.graph.all_nodes())
    node_names = [node.name for node in graph.model.graph.all_nodes()]
    assert len(set(node_names)) == len(node_names)
    assert all(name for name in node_names)


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 16, 17])
def test_a_small_file_of_any_opset(tmp_path, opset):
    path = mlp(tmp_path / "m.onnx", opset=opset)
    graph = load(path)
    assert_faithful(graph)
    assert graph.source.kind == "onnx"
    assert graph.source.name == "m"
    assert graph.source.exporter == "none"
    assert graph.exported == path
    assert [node.metadata_props[SOURCE_KEY] for node in graph.model.graph] == ["layer1", "Relu:r", "pool"]
    assert graph.outputs[0].shape == (2, 16)
    feeds = graph.examples
    assert len(feeds) == 3
    assert all(feed["x"].any() for feed in feeds)
    assert not np.array_equal(feeds[0]["x"], feeds[1]["x"])
    np.testing.assert_array_equal(graph.run_source(feeds[1])["y"], graph.references[1]["y"])


class TestTorchExports:
    """The same attention block through both exporters and the opsets that users have."""

    @pytest.fixture(scope="class")
    def module(self):
        torch = pytest.importorskip("torch")

        class Block(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.qkv = torch.nn.Linear(16, 48)
                self.norm = torch.nn.LayerNorm(16)
                self.act = torch.nn.GELU()

            def forward(self, x):
                b, n, c = x.shape
                q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
                weights = ((q * 8**-0.5) @ k.transpose(-2, -1)).softmax(-1)
                left, right = self.act((weights @ v).transpose(1, 2).reshape(b, n, c)).chunk(2, -1)
                return x + torch.cat([right, left], -1).mean(1, keepdim=True)

        torch.manual_seed(0)
        return Block().eval()

    @pytest.mark.parametrize(
        ("dynamo", "opset"),
        [(False, 11), (False, 13), (False, 17), (False, 20), (True, 18), (True, 20), (True, 23)],
    )
    def test_export(self, module, tmp_path, dynamo, opset):
        import torch

        from edgec.frontends.quiet import quiet

        path = tmp_path / "block.onnx"
        example = torch.randn(1, 5, 16)
        with quiet():
            torch.onnx.export(module, (example,), path, dynamo=dynamo, opset_version=opset, verbose=False)
        graph = load(str(path))
        assert_faithful(graph)
        (name,) = graph.references[0]
        feed = torch.from_numpy(graph.examples[0][graph.inputs[0].name])
        with torch.no_grad():
            own = module(feed).numpy()
        np.testing.assert_allclose(graph.references[0][name], own, atol=1e-5)


def test_external_weights_stay_mapped_and_outside(tmp_path):
    path = tmp_path / "m.onnx"
    mlp(path, save_as_external_data=True, location="m.data", size_threshold=0)
    graph = load(str(path))
    (tensor,) = [value.const_value for name, value in graph.model.graph.initializers.items() if name == "w"]
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), drawn(8, 16))


def test_hash_is_of_structure_and_weights_not_of_the_file(tmp_path):
    inside = load(mlp(tmp_path / "inside.onnx")).source.sha256
    mlp(tmp_path / "out.onnx", save_as_external_data=True, location="o.data", size_threshold=0)
    assert load(str(tmp_path / "out.onnx")).source.sha256 == inside
    model = onnx.load(tmp_path / "inside.onnx")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(drawn(8, 16, seed=1), "w"))
    onnx.save(model, tmp_path / "other.onnx")
    assert load(str(tmp_path / "other.onnx")).source.sha256 != inside


def test_same_seed_same_bytes(tmp_path):
    path = mlp(tmp_path / "m.onnx")
    first, second, other = load(path), load(path), load(path, seed=1)
    assert ir.to_proto(first.model).SerializeToString() == ir.to_proto(second.model).SerializeToString()
    assert first.source == second.source
    np.testing.assert_array_equal(first.examples[0]["x"], second.examples[0]["x"])
    assert not np.array_equal(first.examples[0]["x"], other.examples[0]["x"])
    assert str(tmp_path) not in str(ir.to_proto(first.model))


def test_initializers_that_are_inputs_are_weights(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", F, [2, 3]), ("w", F, [3, 4])],
        [("y", F, [2, 4])],
        [("w", drawn(3, 4))],
    )
    graph = load(path)
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert_faithful(graph)


def test_quantised_graph_passes_through(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], axis=1),
            helper.make_node("MatMul", ["d", "w"], ["y"]),
        ],
        [("x", F, [2, 3])],
        [("y", F, [2, 4])],
        [
            ("s", np.float32(0.05)),
            ("z", np.uint8(128)),
            ("wq", np.arange(12, dtype=np.int8).reshape(3, 4)),
            ("ws", np.abs(drawn(4)) + 0.1),
            ("wz", np.zeros(4, np.int8)),
        ],
        opset=13,
    )
    graph = load(path)
    assert [node.op_type for node in graph.model.graph] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "MatMul",
    ]
    assert_faithful(graph)


def test_loop_survives(tmp_path):
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond_in"], ["cond_out"]),
            helper.make_node("Add", ["state", "x"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", I64, []),
            helper.make_tensor_value_info("cond_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", F, [2]),
        ],
        [
            helper.make_tensor_value_info("cond_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", F, [2]),
        ],
    )
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Loop", ["n", "c", "x"], ["y"], body=body)],
        [("x", F, [2])],
        [("y", F, [2])],
        [("n", np.array(3, np.int64)), ("c", np.array(True))],
        opset=13,
    )
    graph = load(path)
    assert_faithful(graph)
    np.testing.assert_allclose(graph.references[0]["y"], 4 * graph.examples[0]["x"], rtol=1e-6)


def test_functions_are_inlined(tmp_path):
    square = helper.make_function(
        "my",
        "Square",
        ["a"],
        ["b"],
        [helper.make_node("Mul", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Square", ["x"], ["y"], domain="my")],
        [("x", F, [3])],
        [("y", F, [3])],
        functions=[square],
        imports=[helper.make_opsetid("my", 1)],
    )
    graph = load(path)
    assert [node.op_type for node in graph.model.graph] == ["Mul"]
    assert not graph.model.functions
    assert_faithful(graph)


def test_token_ids_stay_inside_the_vocabulary_and_masks_pad(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Gather", ["table", "input_ids"], ["e"]),
            helper.make_node("Cast", ["attention_mask"], ["m"], to=F),
            helper.make_node("Unsqueeze", ["m", "last"], ["u"]),
            helper.make_node("Mul", ["e", "u"], ["y"]),
        ],
        [("input_ids", I64, [2, 12]), ("attention_mask", I64, [2, 12])],
        [("y", F, [2, 12, 4])],
        [("table", drawn(7, 4)), ("last", np.array([2], np.int64))],
    )
    graph = load(path, samples=5)
    assert {spec.name: spec.semantics for spec in graph.inputs} == {
        "input_ids": "tokens",
        "attention_mask": "mask",
    }
    ids = np.concatenate([feed["input_ids"] for feed in graph.examples])
    assert ids.min() >= 0
    assert ids.max() == 6
    masks = [feed["attention_mask"] for feed in graph.examples]
    assert any((mask == 0).any() for mask in masks)
    assert masks[0].all()
    assert not masks[3][1].any()


class TestOpenShapes:
    def test_a_size_is_asked_for_with_the_words_to_write(self, tmp_path):
        path = mlp(tmp_path / "m.onnx", batch="batch")
        with pytest.raises(
            RequestError, match=r"'x' \(batchx4x8\) is open; add --batch 1, or --input x:1x4x8:float32"
        ):
            load(path)

    def test_batch(self, tmp_path):
        graph = load(mlp(tmp_path / "m.onnx", batch="batch"), batch=3)
        assert graph.inputs[0].shape == (3, 4, 8)
        assert graph.outputs[0].shape == (3, 16)
        assert_faithful(graph)

    def test_input(self, tmp_path):
        graph = load(mlp(tmp_path / "m.onnx", batch="batch"), inputs=["x:5x4x8:float32"])
        assert graph.inputs[0].shape == (5, 4, 8)

    def test_left_open_by_name(self, tmp_path):
        graph = load(mlp(tmp_path / "m.onnx", batch="batch"), inputs=["x:Nx4x8"])
        assert graph.inputs[0].shape == ("N", 4, 8)
        assert graph.outputs[0].shape[1] == 16
        assert not graph.outputs[0].is_fixed
        assert len({feed["x"].shape for feed in graph.examples}) > 1
        assert_faithful(graph)

    @pytest.mark.parametrize(
        ("inputs", "batch", "words"),
        [
            (["x:2x4x9"], None, "dimension 2 of input 'x' is 8 in the file, not 9"),
            (["x:2x4"], None, "'x' has 3 dimensions, not 2"),
            (["x:2x4x8:int64"], None, "takes float32, not int64"),
            (["xx:2x4x8"], None, "no input 'xx'; did you mean x"),
            (["x:2x4x8:flot32"], None, "did you mean float32"),
            (["x:2x0x8"], None, "'0' is not a size"),
            (["x"], None, "write NAME:SHAPE"),
            (["x:2x4x8", "x:2x4x8"], None, "given twice"),
            ([], 7, "fixed batch 2, not 7"),
            ([], 0, "batch of 0"),
        ],
    )
    def test_what_does_not_fit_is_said(self, tmp_path, inputs, batch, words):
        with pytest.raises(RequestError) as caught:
            load(mlp(tmp_path / "m.onnx"), inputs=inputs, batch=batch)
        assert words in str(caught.value)
        assert caught.value.exit_status == 2


@pytest.mark.full
def test_weights_beyond_two_gigabytes(tmp_path):
    rows = 560_000  # x 1024 floats: 2.3 GB, a sparse file on disk
    path = tmp_path / "m.onnx"
    save(
        path,
        [
            helper.make_node("Gather", ["table", "input_ids"], ["e"]),
            helper.make_node("MatMul", ["e", "w"], ["y"]),
        ],
        [("input_ids", I64, [1, 4])],
        [("y", F, [1, 4, 8])],
        [("w", drawn(1024, 8))],
        opset=13,
    )
    model = onnx.load(path)
    table = model.graph.initializer.add(name="table", data_type=F, dims=[rows, 1024])
    table.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "table.bin", "offset": "0", "length": str(rows * 4096)}.items():
        table.external_data.add(key=key, value=value)
    onnx.save(model, path)
    with (tmp_path / "table.bin").open("wb") as file:
        file.write(drawn(64, 1024).tobytes())
        file.truncate(rows * 4096)
    graph = load(str(path))
    assert graph.references[0]["y"].shape == (1, 4, 8)
    assert isinstance(graph.model.graph.initializers["table"].const_value, ir.ExternalTensor)


@pytest.mark.parametrize(
    ("op", "weights", "attributes"),
    [
        ("GlobalLpPool", [], {}),
        ("MaxRoiPool", [("r", np.array([[0, 0, 0, 4, 4]], np.float32))], {"pooled_shape": [2, 2]}),
        (
            "RoiAlign",
            [("r", np.array([[0, 0, 4, 4]], np.float32)), ("b", np.array([0]))],
            {"output_height": 2, "output_width": 2},
        ),
    ],
)
def test_ops_that_onnxruntime_has_in_older_opsets_only_are_checked_all_the_same(
    tmp_path, op, weights, attributes
):
    node = helper.make_node(op, ["x", *(name for name, _ in weights)], ["y"], **attributes)
    size = 1 if op == "GlobalLpPool" else 2
    graph = load(
        save(tmp_path / "m.onnx", [node], [("x", F, [1, 4, 8, 8])], [("y", F, [1, 4, size, size])], weights)
    )
    assert graph.source.notes == ()
    assert check_neutral(graph).passed


def test_pixels_fill_their_range_and_places_stay_in_theirs(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Cast", ["pixels"], ["p"], to=F),
            helper.make_node("Cast", ["places"], ["i"], to=I64),
            helper.make_node("GatherElements", ["p", "i"], ["g"], axis=1),
            helper.make_node("Cast", ["sound"], ["s"], to=F),
            helper.make_node("Add", ["g", "s"], ["y"]),
        ],
        [
            ("pixels", TensorProto.UINT8, [8, 64]),
            ("places", TensorProto.UINT8, [8, 64]),
            ("sound", TensorProto.INT16, [8, 64]),
        ],
        [("y", F, [8, 64])],
    )
    graph = load(path)
    first = graph.examples[0]
    assert first["pixels"].max() > 200
    assert first["places"].max() == 3
    assert first["sound"].min() < -20_000
    assert_faithful(graph)


def _logarithm(tmp_path, body: str):
    text = f'<ir_version: 9, opset_import: ["": 20]> g (float[2, 16] x) => (float[2, 16] y) {{ {body} }}'
    path = tmp_path / "log.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return str(path)


def test_a_file_for_positive_inputs_is_checked_on_positive_inputs(tmp_path):
    graph = load(_logarithm(tmp_path, "y = Log (x)"))
    assert all(np.isfinite(outputs["y"]).all() for outputs in graph.references)
    assert all((feeds["x"] > 0).all() and np.unique(feeds["x"]).size > 8 for feeds in graph.examples)
    assert "drawn from 0 to 1" in " ".join(graph.source.notes)


@pytest.mark.parametrize("body", ["a = Sub (x, x) y = Div (a, a)", "a = Sub (x, x) y = Log (a)"])
def test_a_file_that_computes_no_numbers_is_refused(tmp_path, body):
    with pytest.raises(RequestError, match="no finite numbers in output 'y'"):
        load(_logarithm(tmp_path, body))
