"""A planted fault is found: the pass that made it, and the layer it is in."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from edgec.compiler import to_neutral
from edgec.core.dialect import ONNX_OPSET, SOURCE_KEY, is_op
from edgec.core.errors import NumericsError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, Source, tensor_spec
from edgec.core.numerics import GATES
from edgec.core.progress import Silent
from edgec.judging.bisection import first_bad_engine_layer, first_bad_pass
from edgec.judging.gates import check_neutral
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass
from edgec.passes.manager import Pipeline
from edgec.search.choice import choose
from edgec.targets.base import Candidate

BLOCKS = 3
WIDTH = 8


def make_graph(seed: int = 0) -> Graph:
    """Three blocks of LayerNormalization → MatMul → Tanh → Add, one source layer each op."""
    random = np.random.default_rng(seed)
    x = ir.Value(name="x", shape=ir.Shape([2, WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": ONNX_OPSET}, name="blocks")
    model = ir.Model(graph, ir_version=11)
    value = x
    for block in range(BLOCKS):

        def constant(array: np.ndarray, name: str, block: int = block) -> ir.Value:
            tensor = ir.tensor(array.astype(np.float32), name=f"blocks.{block}.{name}")
            held = ir.Value(
                name=tensor.name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            graph.register_initializer(held)
            return held

        steps = [
            ("norm", "LayerNormalization", lambda v, c=constant: [v, c(random.normal(size=WIDTH), "scale")]),
            ("fc", "MatMul", lambda v, c=constant: [v, c(random.normal(size=(WIDTH, WIDTH)), "weight")]),
            ("act", "Tanh", lambda v, c=constant: [v]),
            ("add", "Add", lambda v, c=constant, residual=value: [v, residual]),
        ]
        for layer, op_type, inputs in steps:
            node = ir.Node("", op_type, inputs(value), name=f"{op_type}_{block}")
            node.metadata_props[SOURCE_KEY] = f"blocks.{block}.{layer}"
            value = node.outputs[0]
            value.name = f"blocks.{block}.{layer}_out"
            value.shape, value.type = ir.Shape([2, WIDTH]), ir.TensorType(ir.DataType.FLOAT)
            graph.append(node)
    graph.outputs.append(value)
    examples = [{"x": random.normal(size=(2, WIDTH)).astype(np.float32)} for _ in range(2)]
    with Evaluator(model) as evaluator:
        references = [evaluator.run(feeds) for feeds in examples]
    return Graph(model, Source("blocks", "onnx", "blocks", ""), (tensor_spec(x),), examples, references)


class Harmless(Pass):
    name = "test.harmless"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        pass


class WrongEpsilon(Pass):
    """Replaces the second LayerNormalization by one with another epsilon."""

    name = "test.wrong_epsilon"
    epsilon: ClassVar[float] = 0.1

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        editor = Editor(model, self.name)
        node = [node for node in model.graph if is_op(node, "LayerNormalization")][1]
        new = editor.node("LayerNormalization", node.inputs, like=node, attributes={"epsilon": self.epsilon})
        editor.replace(node.outputs[0], new)
        editor.remove_dead()
        log.matched(node)


class Breaks(Pass):
    """Leaves a graph that no runtime takes."""

    name = "test.breaks"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        node = next(node for node in model.graph if is_op(node, "Tanh"))
        node.op_type = "NoSuchOp"
        log.matched(node)


def test_a_right_pipeline_has_no_blame() -> None:
    graph = make_graph()
    assert check_neutral(graph).passed
    assert first_bad_pass(graph, Pipeline([Harmless()])) is None


@pytest.mark.parametrize("passes", [[Harmless, WrongEpsilon], [WrongEpsilon, Harmless]])
def test_the_pass_and_the_layer_are_named(passes: list[type[Pass]]) -> None:
    blame = first_bad_pass(make_graph(), Pipeline([one() for one in passes]))
    assert blame is not None
    assert blame.pass_name == "test.wrong_epsilon"
    # The fused value has a new name, so the first shared one that differs is the product after it.
    assert blame.source.startswith("blocks.1.")


def test_a_fault_that_only_a_later_sample_shows_is_found() -> None:
    graph = make_graph()
    # Norms of zeros are zeros, whatever their epsilon.
    graph.examples[0] = {"x": np.zeros((2, WIDTH), np.float32)}
    with Evaluator(graph.model) as evaluator:
        graph.references[0] = evaluator.run(graph.examples[0])
    blame = first_bad_pass(graph, Pipeline([Harmless(), WrongEpsilon()]))
    assert blame is not None
    assert blame.pass_name == "test.wrong_epsilon"
    assert blame.source.startswith("blocks.1.")


def test_a_graph_that_no_longer_runs_is_the_pass_s_fault() -> None:
    blame = first_bad_pass(make_graph(), Pipeline([Harmless(), Breaks()]))
    assert blame is not None
    assert blame.pass_name == "test.breaks"


def test_a_graph_that_was_wrong_before_is_no_pass_s_fault() -> None:
    graph = make_graph()
    graph.references[0] = {name: array + 1 for name, array in graph.references[0].items()}
    blame = first_bad_pass(graph, Pipeline([Harmless()]))
    assert blame is not None
    assert blame.pass_name == ""
    assert "before any pass" in str(blame)


def test_the_driver_says_it_in_one_sentence() -> None:
    graph = make_graph()
    with pytest.raises(NumericsError, match=r"test\.wrong_epsilon breaks it first at layer 'blocks\.1\."):
        to_neutral(graph, Pipeline([WrongEpsilon()]), Silent())


def test_the_given_graph_is_left_as_it_was() -> None:
    graph = make_graph()
    before = [node.op_type for node in graph.model.graph]
    to_neutral(graph, Pipeline([Harmless()]), Silent())
    assert [node.op_type for node in graph.model.graph] == before
    assert check_neutral(graph).passed


FP32, FP16 = Candidate("sloppy", "fp32", "plain"), Candidate("sloppy", "fp16", "plain")


class Sloppy:
    """A target of ONNX Runtime's engines; in fp16 one product's weights come out a quarter too large."""

    name = "sloppy"
    runs_here = False

    def __init__(self, wrong: tuple[str, ...] = ("fp16",)) -> None:
        self.wrong = wrong
        self.order = [FP16, FP32]

    def candidates(self, graph, precision):
        return self.order

    def lower(self, graph, candidate):
        return graph.clone()

    def build(self, graph, candidate, folder: Path) -> None:
        if candidate.precision in self.wrong:
            weight = graph.model.graph.initializers["blocks.1.weight"]
            weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.25), name=weight.name)
        ir.save(graph.model, folder / "model.onnx")

    def open(self, folder: Path):
        return Evaluator(folder / "model.onnx")


def test_the_layer_that_an_engine_gets_wrong_is_named_with_what_helps() -> None:
    graph = make_graph()
    blame = first_bad_engine_layer(Sloppy(), graph, FP16, GATES["fp16"])
    assert (blame.source, blame.node) == ("blocks.1.fc", "MatMul_1")
    assert blame.scaled > GATES["fp16"].scaled
    assert blame.fix == "ask for --precision fp32, which keeps its gate here"


def test_no_advice_is_given_that_does_not_help() -> None:
    blame = first_bad_engine_layer(Sloppy(("fp16", "fp32")), make_graph(), FP16, GATES["fp16"])
    assert blame.source == "blocks.1.fc"
    assert blame.fix == ""


def test_a_broken_gate_names_the_layer_in_the_report_and_in_the_error(tmp_path: Path) -> None:
    graph = make_graph()
    choice = choose(Sloppy(), graph, "auto", tmp_path, Silent())
    assert choice.chosen.candidate == FP32
    [failed] = [trial for trial in choice.trials if trial.candidate == FP16]
    assert failed.gates[-1].to_json()["blame"]["source"] == "blocks.1.fc"
    assert "it goes wrong first at layer 'blocks.1.fc'" in failed.why
    only = Sloppy()
    only.order = [FP16]
    with pytest.raises(NumericsError, match=r"at layer 'blocks\.1\.fc'.*; ask for --precision fp32") as error:
        choose(only, graph, "fp16", tmp_path, Silent())
    assert error.value.details[0]["blame"]["node"] == "MatMul_1"


def test_leaving_a_pass_out_is_advised_where_it_helps() -> None:
    blame = first_bad_pass(make_graph(), Pipeline([Harmless(), WrongEpsilon()]))
    assert blame is not None
    assert blame.fix == "leave the pass out with --passes=-test.wrong_epsilon"
    twice = first_bad_pass(make_graph(), Pipeline([WrongEpsilon(), AlsoWrong()]))
    assert twice is not None
    assert twice.fix == ""


class AlsoWrong(WrongEpsilon):
    name = "test.also_wrong"
