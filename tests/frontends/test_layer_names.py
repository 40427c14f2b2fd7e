"""Debug handles: the user's own layer names from what each exporter leaves behind."""

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from edgec.core.dialect import SOURCE_KEY
from edgec.frontends.layer_names import name_layers, torchscript_layer

MODULES = {
    "",
    "blocks",
    "blocks.0",
    "blocks.0.attn",
    "blocks.0.attn.qkv",
    "blocks.0.attn.drop",
    "layers.1",
    "layers.1.act",
    "act",
    "head",
}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("/blocks/blocks.0/attn/qkv/MatMul", "blocks.0.attn.qkv"),
        ("/blocks/blocks.0/attn/attn.drop/Identity", "blocks.0.attn.drop"),
        ("/source/blocks/blocks.0/attn/Softmax", "blocks.0.attn"),
        ("/layers.1/act/Relu_2", "layers.1.act"),
        ("/act_1/Relu", "act"),
        ("/head/Gemm", "head"),
        ("/Add_3", "Add_3"),
        ("/source/Add", "Add"),
    ],
)
def test_torchscript(name, layer):
    assert torchscript_layer(name, MODULES, "source") == layer


def model(*nodes):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]))


def layers(found):
    return [node.metadata_props[SOURCE_KEY] for node in found.graph]


def test_dynamo_scopes_and_nothing_else_stays():
    found = model(
        helper.make_node("Relu", ["x"], ["a"], name="node_a"),
        helper.make_node("Neg", ["a"], ["b"], name="node_b"),
        helper.make_node("Abs", ["b"], ["y"], name="node_c"),
    )
    for node, scopes in zip(
        found.graph, (["", "source", "source.act", "relu"], ["", "source", "neg"], ["", "abs_1"]), strict=True
    ):
        node.metadata_props["pkg.torch.onnx.name_scopes"] = str(scopes)
        node.metadata_props["pkg.torch.onnx.stack_trace"] = 'File "/home/me/model.py", line 1'
    name_layers(found, modules={"act"}, wrapper="source")
    assert layers(found) == ["act", "neg", "abs_1"]
    assert all(list(node.metadata_props) == [SOURCE_KEY] for node in found.graph)


def test_made_up_nodes_belong_to_whom_they_feed():
    found = model(
        helper.make_node("Identity", ["x"], ["a"], name="Identity_7"),
        helper.make_node("Relu", ["a"], ["b"], name="/head/Relu"),
        helper.make_node("Identity", ["b"], ["y"], name="Identity_8"),
    )
    name_layers(found, modules=MODULES)
    assert layers(found) == ["head", "head", "head"]


def test_files_keep_their_node_names_and_get_unique_ones():
    found = model(
        helper.make_node("Relu", ["x"], ["a"], name="act"),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"], name="act_1"),
    )
    name_layers(found)
    assert layers(found) == ["act", "act", "Relu:c", "act_1"]
    names = [node.name for node in found.graph]
    assert len(set(names)) == 4
    assert names[0] == "act"
    assert names[3] == "act_1"
