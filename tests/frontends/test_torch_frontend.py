"""Modules become graphs that compute what the module does, by whichever exporter manages."""

import ctypes
import gc
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgec.compiler import load as load_source
from edgec.core.dialect import ONNX_OPSET, SOURCE_KEY
from edgec.core.errors import JobError, RequestError
from edgec.core.numerics import GATES, compare
from edgec.frontends.reference import open_session

torch = pytest.importorskip("torch")

from edgec.frontends import export as export_module  # noqa: E402
from edgec.frontends.torch import from_module  # noqa: E402


class Function(torch.nn.Module):
    """A module around a function."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def load(module, example, **options):
    torch.manual_seed(0)
    return from_module(module, example, spec="test.py:module", name="module", **options)


def assert_faithful(graph):
    assert graph.model.opset_imports[""] == ONNX_OPSET
    session = open_session(ir.to_proto(graph.model).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    found = [dict(zip(names, session.run(names, feed), strict=True)) for feed in graph.examples]
    assert GATES["fp32"].accepts(compare(graph.references, found))
    for feed, reference in zip(graph.examples, graph.references, strict=True):
        again = graph.run_source(feed)
        assert list(again) == list(reference)


def mlp():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4)).eval()


class TestOrdinary:
    @pytest.fixture(scope="class")
    def graph(self):
        return load(mlp(), torch.randn(2, 8))

    def test_it_is_faithful(self, graph):
        assert_faithful(graph)
        assert graph.source.exporter == "dynamo"
        assert "opset 23 reproduces the module" in graph.source.exporter_reason

    def test_nodes_have_the_users_layer_names(self, graph):
        assert {node.metadata_props[SOURCE_KEY] for node in graph.model.graph} == {"0", "1", "2"}
        assert "0.weight" in graph.model.graph.initializers

    def test_nothing_of_this_machine_is_in_it(self, graph):
        content = ir.to_proto(graph.model).SerializeToString()
        for trace in (b"/tmp", b".py", b"0x7", b"site-packages"):
            assert trace not in content

    def test_the_same_seed_gives_the_same_bytes(self, graph):
        torch.manual_seed(0)
        again = load(mlp(), torch.from_numpy(graph.examples[0]["input"]))
        assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(graph.model).SerializeToString()
        assert again.source.sha256 == graph.source.sha256

    def test_the_exported_file_lives_as_long_as_the_graph(self):
        graph = load(mlp(), torch.randn(1, 8))
        path = Path(graph.exported)
        copy = graph.clone()
        del graph
        assert path.is_file()
        del copy
        gc.collect()
        assert not path.exists()


def test_torchscript_takes_over_and_says_why():
    def branch(self, x):
        if float(x.abs().sum()) < 0:  # a tracer that follows values cannot decide this
            return x
        return self.softmax(self.fc(x))

    graph = load(
        Function(branch, fc=torch.nn.Linear(8, 8), softmax=torch.nn.Softmax(-1)).eval(), torch.randn(2, 8)
    )
    assert graph.source.exporter == "torchscript"
    assert "dynamo could not trace the module" in graph.source.exporter_reason
    assert "0x" not in graph.source.exporter_reason
    assert {"fc", "softmax"} <= {node.metadata_props[SOURCE_KEY] for node in graph.model.graph}
    assert_faithful(graph)


def test_an_export_that_computes_something_else_is_not_taken(monkeypatch):
    def wrong(call, program, opset, path):
        broken = Function(lambda self, x: x * 1.01)
        torch.onnx.export(
            broken,
            call.arguments,
            str(path),
            dynamo=False,
            input_names=["input"],
            output_names=list(call.outputs),
        )

    monkeypatch.setattr(export_module, "_dynamo", wrong)
    graph = load(torch.nn.Sequential(torch.nn.Identity()).eval(), torch.randn(2, 8))
    assert graph.source.exporter == "torchscript"
    assert graph.source.exporter_reason.count("computes something else") == 2


def test_where_no_exporter_manages_each_says_why(monkeypatch):
    def fail(*_):
        raise RuntimeError("no such op")

    monkeypatch.setattr(export_module, "_capture", fail)
    monkeypatch.setattr(export_module, "_torchscript", fail)
    with pytest.raises(JobError) as caught:
        load(mlp(), torch.randn(2, 8))
    for words in (
        "dynamo could not trace",
        "torchscript at opset 17",
        "torchscript at opset 20",
        "no such op",
    ):
        assert words in str(caught.value)
    assert caught.value.exit_status == 1


@pytest.mark.parametrize(
    ("shape", "mask"),
    [((5, 8), "rows"), ((4, 5, 8), "whole"), ((2, 3, 2, 5, 8), None), ((2, 3, 2, 5, 8), "whole")],
)
def test_attention_of_any_rank_stays_one_node(shape, mask):
    bias = torch.randn(5, 5) if mask == "rows" else torch.randn(*shape[:-2], 5, 5)

    def attend(self, x):
        return torch.nn.functional.scaled_dot_product_attention(
            x, x * 2, x + 1, attn_mask=None if mask is None else bias
        )

    graph = load(Function(attend).eval(), torch.randn(*shape))
    assert [node.op_type for node in graph.model.graph].count("Attention") == 1
    assert graph.source.exporter == "dynamo"
    assert_faithful(graph)


def test_attention_with_a_bias_computed_from_weights():
    # Under gradients torch captures strides that its own decomposition then contradicts.
    class Biased(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = torch.nn.Linear(8, 24)
            self.table = torch.nn.Parameter(torch.randn(36, 2))
            self.mlp = torch.nn.Linear(2, 2)

        def forward(self, x):
            q, k, v = self.qkv(x).reshape(1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            bias = self.mlp(self.table).view(6, 6, 2).permute(2, 0, 1).unsqueeze(0)
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            return found.transpose(1, 2).reshape(1, 6, 8)

    graph = load(Biased().eval(), torch.randn(1, 6, 8))
    assert graph.source.exporter == "dynamo"
    assert_faithful(graph)


class TestCalling:
    def test_dict_inputs_keep_their_names_and_nested_outputs_get_them(self):
        class Two(torch.nn.Module):
            def forward(self, left, right, scale=None):
                return {"sum": left + right, "parts": (left * 2, None, right), "none": None}

        graph = load(Two().eval(), {"right": torch.randn(2, 3), "left": torch.randn(2, 3), "scale": None})
        assert [spec.name for spec in graph.inputs] == ["right", "left"]
        assert [spec.name for spec in graph.outputs] == ["sum", "parts_0", "parts_2"]
        assert_faithful(graph)

    def test_a_positional_call_with_constants(self):
        class Scaled(torch.nn.Module):
            def forward(self, x, factor, y):
                return x * factor - y

        graph = load(Scaled().eval(), (torch.randn(2, 3), 3, torch.randn(2, 3)))
        assert [spec.name for spec in graph.inputs] == ["x", "y"]
        feed = graph.examples[0]
        np.testing.assert_allclose(graph.references[0]["output"], feed["x"] * 3 - feed["y"], rtol=1e-6)

    def test_an_output_never_takes_an_inputs_name(self):
        graph = load(Function(lambda self, x: {"x": x * 2}).eval(), torch.randn(2, 3))
        assert [spec.name for spec in graph.outputs] == ["x_out"]

    def test_a_scripted_module(self):
        graph = load(torch.jit.script(mlp()), torch.randn(2, 8))
        assert graph.source.exporter == "torchscript"
        assert_faithful(graph)

    def test_half_precision_is_widened_and_said(self):
        graph = load(mlp().half(), torch.randn(2, 8).half())
        assert graph.inputs[0].dtype == "float32"
        assert "widened to fp32" in graph.source.notes[0]

    def test_double_precision_is_rounded_and_held_against_what_it_computed_in_double(self):
        module = mlp().double()
        example = torch.randn(2, 8, dtype=torch.float64)
        exact = module(example.float().double()).detach().numpy()
        graph = load(module, example)
        assert graph.inputs[0].dtype == graph.outputs[0].dtype == "float32"
        assert "own outputs in float64" in graph.source.notes[0]
        assert np.array_equal(graph.references[0]["output"], exact.astype(np.float32))
        assert_faithful(graph)

    def test_a_table_in_double_that_is_cast_leaves_a_module_in_single_precision(self):
        module = Function(
            lambda self, x: self.fc(x + self.table.to(x.dtype)),
            fc=torch.nn.Linear(8, 8),
            table=torch.nn.Parameter(torch.linspace(0, 1, 8, dtype=torch.float64)),
        ).eval()
        graph = load(module, torch.randn(2, 8))
        with torch.no_grad():
            expected = module(torch.from_numpy(graph.examples[0]["x"])).numpy()
        assert np.array_equal(graph.references[0]["output"], expected)
        assert_faithful(graph)

    def test_a_module_that_needs_double_precision_is_refused(self):
        module = Function(lambda self, x: self.fc(x) + 1e9 - 1e9, fc=torch.nn.Linear(8, 8)).double().eval()
        with pytest.raises(JobError, match="computes in float64, and in float32 its output 'output' is"):
            load(module, torch.randn(2, 8, dtype=torch.float64))

    def test_an_input_that_nothing_reads_is_said_or_kept(self):
        class Ignores(torch.nn.Module):
            def forward(self, x, unused):
                return x + 1

        graph = load(Ignores().eval(), (torch.randn(2, 3), torch.randn(2, 3)))
        names = {spec.name for spec in graph.inputs}
        assert names == {"x", "unused"} or "does not read unused" in graph.source.notes[0]
        assert all(set(feed) == names for feed in graph.examples)


class TestOpenShapes:
    def test_named_dimensions_stay_open_and_are_tried_at_several_sizes(self):
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        graph = load(layer.eval(), torch.randn(1, 12, 16), inputs=["src:BxTx16"])
        assert graph.inputs[0].shape == ("B", "T", 16)
        assert graph.outputs[0].shape == ("B", "T", 16)
        assert len({feed["src"].shape for feed in graph.examples}) == 3
        assert_faithful(graph)

    def test_batch(self):
        graph = load(mlp(), torch.randn(1, 8), batch=3)
        assert graph.inputs[0].shape == (3, 8)
        assert graph.outputs[0].shape == (3, 4)

    def test_a_module_from_python_takes_the_same_options(self):
        graph = load_source(mlp(), torch.randn(1, 8), inputs=["input:Bx8"])
        assert graph.inputs[0].shape == ("B", 8)
        assert load_source(mlp(), torch.randn(1, 8), batch=3).inputs[0].shape == (3, 8)


class TestRefusals:
    def refusal(self, module, example, **options):
        with pytest.raises(RequestError) as caught:
            load(module, example, **options)
        return str(caught.value)

    def test_randomness_in_evaluation_mode(self):
        for module in (
            Function(lambda self, x: x + torch.rand_like(x)),
            Function(lambda self, x: torch.nn.functional.dropout(x, 0.5)).eval(),
        ):
            text = self.refusal(module, torch.randn(2, 8))
            assert "take the randomness out of forward" in text
            assert "module.eval()" not in text

    def test_training_mode_is_left_and_said(self):
        module = torch.nn.Sequential(
            torch.nn.Conv1d(2, 3, 1), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Dropout(0.5)
        )
        before = module[1].running_mean.clone()
        graph = load(module, torch.randn(2, 2, 5) + 3)
        assert "was in training mode" in graph.source.notes[0]
        torch.testing.assert_close(module[1].running_mean, before)
        assert_faithful(graph)

    def test_dropout_that_asks_for_the_mode_is_left_too(self):
        module = Function(lambda self, x: torch.nn.functional.dropout(x, 0.5, self.training))
        assert "was in training mode" in load(module, torch.randn(2, 8)).source.notes[0]

    def test_inputs_that_do_not_fit(self):
        assert "the module fails on inputs input 2x9" in self.refusal(mlp(), torch.randn(2, 9))

    def test_outputs_that_are_no_tensors(self):
        module = Function(lambda self, x: {"x": x, "name": "hello"}).eval()
        assert "returns a str in 'name'" in self.refusal(module, torch.randn(2))

    def test_no_outputs(self):
        assert "returns no tensor" in self.refusal(Function(lambda self, x: None).eval(), torch.randn(2))

    def test_no_example(self):
        assert "hold no tensor" in self.refusal(mlp(), ())

    def test_an_example_that_is_no_tensor(self):
        assert "is a ndarray" in self.refusal(mlp(), (np.zeros((2, 8)),))

    def test_nan_weights(self):
        module = mlp()
        with torch.no_grad():
            module[0].weight[0, 0] = float("nan")
        assert "NaN" in self.refusal(module, torch.randn(2, 8))

    def test_an_unknown_input(self):
        assert "no input 'imput'; did you mean input" in self.refusal(
            mlp(), torch.randn(2, 8), inputs=["imput:2x8"]
        )


def test_the_exporters_say_nothing(capfd):
    load(Function(lambda self, x: print("hello") or x.relu()).eval(), torch.randn(2, 8))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_what_a_library_prints_past_python_is_not_said(capfd):
    def speak(self, x):
        os.write(1, b"graph at exception")
        ctypes.CDLL(None).printf(b"held back by C")
        return x.relu()

    load(Function(speak).eval(), torch.randn(2, 8))
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_real_examples_have_drawn_ends_behind_them():
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(50, 8)

        def forward(self, input_ids, attention_mask):
            states = self.table(input_ids)
            scores = states @ states.transpose(1, 2)
            hidden = (1.0 - attention_mask[:, None, :].float()) * -1e4
            return (scores + hidden).softmax(-1) @ states

    def feed(seed):
        ids = np.random.default_rng(seed).integers(1, 9, (1, 12))
        return {"input_ids": ids, "attention_mask": np.ones((1, 12), np.int64)}

    examples = [feed(seed) for seed in range(2)]
    own = {name: torch.from_numpy(array) for name, array in examples[0].items()}
    graph = from_module(Masked().eval(), own, spec="zoo:masked", name="masked", examples=examples)
    for found, given in zip(graph.examples, examples, strict=False):
        assert all(np.array_equal(found[name], array) for name, array in given.items())
    ends = graph.examples[2:]
    assert max(int(feeds["input_ids"].max()) for feeds in ends) == 49
    masks = [feeds["attention_mask"][0] for feeds in ends]
    assert any(mask[0] == 1 and mask[-1] == 0 for mask in masks)
    assert any(mask[0] == 0 and mask[-1] == 1 for mask in masks)
    assert any(not mask.any() for mask in masks)
    said = {item.name: item.what for item in graph.drawn}
    assert said["attention_mask"] == "from zoo:masked and a mask with padding and holes, rows hidden whole"
