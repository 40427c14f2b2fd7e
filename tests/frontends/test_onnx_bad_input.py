"""Each malformed file gets one sentence that names what is wrong and what to do."""

import contextlib
import pickle
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.core.errors import RequestError
from edgec.frontends import load

F = TensorProto.FLOAT


def refusal(path, **options):
    with pytest.raises(RequestError) as caught:
        load(str(path), **options)
    assert caught.value.exit_status == 2
    text = str(caught.value)
    assert "\n" not in text
    return text


def build(nodes, *, weights=(), inputs=(("x", F, [2, 4]),), outputs=(("y", F, [2, 4]),), imports=(("", 17),)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in inputs],
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in outputs],
        initializer=[numpy_helper.from_array(array, name) for name, array in weights],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in imports],
        ir_version=8,
    )


def saved(tmp_path, *args, **kwargs):
    path = tmp_path / "m.onnx"
    path.write_bytes(build(*args, **kwargs).SerializeToString())
    return path


def matmul(tmp_path, weight):
    return saved(
        tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], weights=[("w", weight)]
    )


GOOD = np.eye(4, dtype=np.float32)


class TestFiles:
    def test_missing(self, tmp_path):
        matmul(tmp_path, GOOD)
        assert "there is no such file; did you mean" in refusal(tmp_path / "n.onnx")
        assert refusal(tmp_path / "other" / "z.onnx").endswith("there is no such file")

    def test_a_word_that_is_no_model(self):
        assert "name a model as file.onnx" in refusal("resnet50")

    def test_directory(self, tmp_path):
        matmul(tmp_path, GOOD)
        assert "this is a directory; did you mean" in refusal(tmp_path)

    def test_saved_model(self, tmp_path):
        (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
        assert "TensorFlow SavedModel; convert it: python -m tf2onnx" in refusal(tmp_path)

    def test_checkpoint_folder(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        assert f"write hf:{tmp_path}" in refusal(tmp_path)

    def test_empty(self, tmp_path):
        path = tmp_path / "m.onnx"
        path.touch()
        assert "the file is empty" in refusal(path)

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
    def test_cut_off(self, tmp_path, share):
        path = matmul(tmp_path, GOOD)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        assert "cut off" in refusal(path) or "cut-off" in refusal(path)

    @pytest.mark.parametrize("byte", range(0, 200, 7))
    def test_a_flipped_byte_never_shows_anything_but_a_refusal(self, tmp_path, byte):
        path = matmul(tmp_path, GOOD)
        content = bytearray(path.read_bytes())
        content[byte % len(content)] ^= 0x5A
        path.write_bytes(content)
        with contextlib.suppress(RequestError):
            load(str(path))

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"hello, this is a text\n" * 20, "a text file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "git lfs pull"),
            (pickle.dumps({"a": 1}), "a Python pickle"),
            (b"\x1c\x00\x00\x00TFL3" + bytes(64), "a TensorFlow Lite model"),
            (b"\x1c\x00\x00\x00ORTM" + bytes(64), "ONNX Runtime's own format"),
            (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
            (b"GGUF" + bytes(64), "a GGUF file"),
            (b"<?xml version='1.0'?><net></net>", "an XML file"),
            ((20).to_bytes(8, "little") + b'{"w":{}}' + bytes(64), "a safetensors file"),
            (b"\x1f\x8b" + bytes(64), "unpack it first"),
            (bytes(range(256)) * 4, "not ONNX"),
        ],
    )
    def test_something_else(self, tmp_path, content, words):
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        assert words in refusal(path)

    def test_a_zip(self, tmp_path):
        path = tmp_path / "m.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", "x")
        assert "a zip archive (a PyTorch checkpoint" in refusal(path)

    def test_a_protobuf_of_another_kind(self, tmp_path):
        path = tmp_path / "m.onnx"
        path.write_bytes(numpy_helper.from_array(GOOD, "w").SerializeToString())
        assert "another kind" in refusal(path) or "not ONNX" in refusal(path)


class TestExternalData:
    @pytest.fixture
    def path(self, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], weights=[("w", GOOD)])
        onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        return folder / "m.onnx"

    def redirect(self, path, **fields):
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            entry.value = fields.get(entry.key, entry.value)
        path.write_bytes(model.SerializeToString())
        return path

    def test_whole(self, path):
        assert load(str(path)).outputs[0].shape == (2, 4)

    def test_missing(self, path):
        (path.parent / "m.data").unlink()
        assert "external data 'm.data' is missing; put m.data beside the model" in refusal(path)

    def test_cut_off(self, path):
        (path.parent / "m.data").write_bytes(b"1234")
        assert "ends beyond m.data" in refusal(path)

    def test_negative_offset(self, path):
        assert "ends beyond m.data" in refusal(self.redirect(path, offset="-8"))

    @pytest.mark.parametrize("location", ["../secret", "a/../../secret", "..\\secret"])
    def test_traversal(self, path, location):
        (path.parent.parent / "secret").write_bytes(GOOD.tobytes())
        assert "points outside the model's folder" in refusal(self.redirect(path, location=location))

    def test_absolute(self, path):
        secret = path.parent.parent / "secret"
        secret.write_bytes(GOOD.tobytes())
        assert "points outside the model's folder" in refusal(self.redirect(path, location=str(secret)))

    def test_link(self, path):
        secret = path.parent.parent / "secret"
        secret.write_bytes(GOOD.tobytes())
        (path.parent / "link").symlink_to(secret)
        assert "a link; put a copy" in refusal(self.redirect(path, location="link"))


class TestGraphs:
    def test_cycle(self, tmp_path):
        nodes = [
            helper.make_node("Add", ["x", "b"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name="second"),
            helper.make_node("Neg", ["b"], ["y"], name="third"),
        ]
        text = refusal(saved(tmp_path, nodes))
        assert "cycle" in text
        assert "first" in text
        assert "second" in text
        assert "third" not in text

    def test_dangling_input(self, tmp_path):
        text = refusal(saved(tmp_path, [helper.make_node("Add", ["x", "ghost"], ["y"], name="add")]))
        assert "'add' (Add) reads 'ghost', which nothing makes" in text

    def test_dangling_output(self, tmp_path):
        text = refusal(saved(tmp_path, [helper.make_node("Relu", ["x"], ["z"])]))
        assert "nothing makes the output 'y'" in text

    @pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
    def test_random_ops(self, tmp_path, op):
        text = refusal(saved(tmp_path, [helper.make_node(op, ["x"], ["y"], name="noise")]))
        assert f"node 'noise' ({op}) draws random numbers" in text

    def test_unknown_op(self, tmp_path):
        text = refusal(saved(tmp_path, [helper.make_node("Rellu", ["x"], ["y"], name="act")]))
        assert "'act' (Rellu) is no op of ONNX opset 17; did you mean Relu" in text

    def test_op_of_a_later_opset(self, tmp_path):
        text = refusal(saved(tmp_path, [helper.make_node("Gelu", ["x"], ["y"], name="act")]))
        assert "needs opset 20" in text

    def test_unknown_domain(self, tmp_path):
        node = helper.make_node("Magic", ["x"], ["y"], domain="acme", name="act")
        text = refusal(saved(tmp_path, [node], imports=[("", 17), ("acme", 1)]))
        assert "'act' (Magic) is of the unknown domain 'acme'" in text

    def test_contrib_op(self, tmp_path):
        node = helper.make_node("FusedGelu", ["x"], ["y"], domain="com.microsoft")
        text = refusal(saved(tmp_path, [node], imports=[("", 17), ("com.microsoft", 1)]))
        assert "only ONNX Runtime knows" in text

    def test_an_lstm_in_8_bits_says_what_it_is(self, tmp_path):
        node = helper.make_node("DynamicQuantizeLSTM", ["x"], ["y"], domain="com.microsoft", name="rnn")
        text = refusal(saved(tmp_path, [node], imports=[("", 17), ("com.microsoft", 1)]))
        assert "'rnn' (DynamicQuantizeLSTM) rounds its state to 8 bits at every step" in text
        assert "op_types_to_quantize" in text

    def test_future_opset(self, tmp_path):
        text = refusal(saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], imports=[("", 99)]))
        assert "opset 99" in text

    def test_shapes_that_do_not_fit(self, tmp_path):
        assert "ONNX Runtime cannot run the file" in refusal(matmul(tmp_path, np.eye(5, dtype=np.float32)))

    def test_no_output(self, tmp_path):
        assert "no output" in refusal(saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], outputs=()))

    @pytest.mark.parametrize("dtype", [TensorProto.STRING, TensorProto.BFLOAT16])
    def test_inputs_that_cannot_be_fed(self, tmp_path, dtype):
        node = helper.make_node("Cast", ["x"], ["y"], to=F)
        assert "which edgec cannot feed" in refusal(saved(tmp_path, [node], inputs=[("x", dtype, [2, 4])]))

    def test_sequence_input(self, tmp_path):
        model = build([helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)])
        model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", F, [2, 4]))
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        assert "input 'x' is a sequence" in refusal(path)

    def test_input_without_a_shape(self, tmp_path):
        model = build([helper.make_node("Relu", ["x"], ["y"])])
        model.graph.input[0].type.tensor_type.ClearField("shape")
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        assert "add --input x:SHAPE:float32" in refusal(path)
        assert load(str(path), inputs=["x:2x4"]).outputs[0].shape == (2, 4)


class TestWeights:
    def test_nan(self, tmp_path):
        weight = GOOD.copy()
        weight[2, 3] = np.nan
        assert "the weight 'w' holds NaN" in refusal(matmul(tmp_path, weight))

    def test_infinity_in_a_product(self, tmp_path):
        weight = GOOD.copy()
        weight[0, 0] = np.inf
        assert "the weight 'w' holds infinity" in refusal(matmul(tmp_path, weight))

    @pytest.mark.parametrize("value", [-np.inf, -3.4e38])
    def test_a_mask_of_minus_infinity_is_meant(self, tmp_path, value):
        mask = np.triu(np.full((2, 4), value, np.float32), 1)
        nodes = [
            helper.make_node("Add", ["x", "mask"], ["a"]),
            helper.make_node("Softmax", ["a"], ["y"], axis=-1),
        ]
        assert load(str(saved(tmp_path, nodes, weights=[("mask", mask)])))
