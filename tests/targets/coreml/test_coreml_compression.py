"""Weights in fewer bits, and the smallest form within a budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of
from onnx import helper

from edgec.core.errors import JobError, NumericsError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.numerics import compare
from edgec.core.progress import Silent
from edgec.judging.accuracy import EvaluationData
from edgec.judging.budget import Budget, Judge
from edgec.search.axes.weight_bits import smallest
from edgec.search.choice import choose
from edgec.targets import target_named
from edgec.targets.coreml.compression import FORMS, compress, form_named, forms
from edgec.targets.coreml.engine import CheckedPackage
from edgec.targets.coreml.target import MODEL
from edgec.targets.coreml.versions import RELEASES

WIDTH = 64


def model() -> ir.Model:
    rng = np.random.default_rng(8)
    weights = {name: (rng.normal(size=(WIDTH, WIDTH)) / 8).astype(np.float32) for name in ("a", "b", "c")}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"]),
        helper.make_node("Gelu", ["xa"], ["g"]),
        helper.make_node("MatMul", ["g", "b"], ["gb"]),
        helper.make_node("Tanh", ["gb"], ["t"]),
        helper.make_node("MatMul", ["t", "c"], ["y"]),
    ]
    shape = (1, WIDTH)
    return make_model(nodes, {"x": ("float32", shape)}, {"y": ("float32", shape)}, weights)


@pytest.fixture(scope="module")
def graph() -> Graph:
    rng = np.random.default_rng(1)
    built = model()
    run = Evaluator(built).run
    examples = [{"x": rng.normal(size=(1, WIDTH)).astype(np.float32)} for _ in range(2)]
    specs = (TensorSpec("x", (1, WIDTH), "float32"),)
    source = Source("m.onnx", "onnx", "m", "0")
    return Graph(built, source, specs, examples, [run(feeds) for feeds in examples], run_source=run)


@pytest.fixture(scope="module")
def exact(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    target = target_named("coreml")
    [candidate] = target.candidates(graph, "fp16")
    target.build(target.lower(graph, candidate), candidate, folder)
    return folder


def budget(graph: Graph, drop: float) -> Budget:
    rng = np.random.default_rng(2)
    data = EvaluationData("drawn", {"x": rng.normal(size=(12, WIDTH)).astype(np.float32)}, None)
    return Budget(drop, Judge(graph, data), Judge(graph, data))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.precision}, {form.scheme}")
def test_every_form_is_read_back_and_smaller(graph: Graph, exact: Path, tmp_path: Path, form) -> None:  # type: ignore[no-untyped-def]
    target = target_named("coreml")
    candidate = next(
        item
        for item in target.compressed_candidates(graph, form.precision)  # type: ignore[attr-defined]
        if item.scheme == form.scheme
    )
    target.compress(exact, candidate, tmp_path)  # type: ignore[attr-defined]
    package = CheckedPackage(tmp_path)
    assert package.description.precision == form.precision
    assert sum(op.startswith("constexpr") for op in ops_of(package.interpreter)) >= 3
    found = compare(graph.references, [package.run(feeds) for feeds in graph.examples])
    # A weight's rounding is half a step of 2**bits over some four standard deviations, even in it: a twelfth
    # of a step's square. Three layers add theirs, and the gelu between them loses half of the spread.
    assert found.rms < 2 * 3**0.5 * 4 / 12**0.5 * 2 ** -int(form.bits) + 0.01
    weights = {
        folder: sum(f.stat().st_size for f in folder.rglob("weight.bin")) for folder in (exact, tmp_path)
    }
    assert weights[tmp_path] < weights[exact] * (form.bits + 3) / 16


def test_the_same_form_makes_the_same_bytes(exact: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        compress(
            exact / MODEL, form_named("palette6", "one palette a weight"), tmp_path / f"{name}.mlpackage"
        )
    one, two = (
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (tmp_path / "one.mlpackage", tmp_path / "two.mlpackage")
    )
    assert one == two


def test_forms_by_release() -> None:
    assert [form.precision for form in forms(RELEASES["ios16"], "auto")] == ["palette4", "palette6", "int8"]
    assert [form.precision for form in forms(RELEASES["ios18"], "int4")] == ["int4"]
    with pytest.raises(JobError, match="int4 weights need iOS 18"):
        forms(RELEASES["ios17"], "int4")


def test_a_wide_budget_takes_the_smallest_and_lists_all(graph: Graph, tmp_path: Path) -> None:
    choice = choose(target_named("coreml"), graph, "auto", tmp_path, Silent(), budget(graph, 0.5))
    assert choice.search is not None
    sizes = {entry["name"]: entry["bytes"] for entry in choice.search["sizes"]}
    assert len(sizes) == 1 + len(FORMS)
    assert sizes[choice.chosen.candidate.name] == min(sizes.values())
    assert choice.chosen.passed
    assert choice.chosen.folder.is_dir()
    assert sum(folder.is_dir() for folder in tmp_path.iterdir()) == 1


def test_a_budget_between_takes_a_form_between(graph: Graph, tmp_path: Path) -> None:
    choice = smallest(target_named("coreml"), graph, "auto", budget(graph, 2e-3), tmp_path, Silent())  # type: ignore[arg-type]
    assert choice.chosen.candidate.precision in ("palette6", "int8")
    assert choice.search is not None
    refused = [
        entry for entry in choice.search["sizes"] if entry["drop"] is not None and entry["drop"] > 2e-3
    ]
    assert refused
    assert all("is allowed" in entry["why"] for entry in refused)


def test_no_budget_keeps_the_exact_package(graph: Graph, tmp_path: Path) -> None:
    choice = smallest(target_named("coreml"), graph, "auto", budget(graph, 0.0), tmp_path, Silent())  # type: ignore[arg-type]
    assert choice.chosen.candidate.precision == "fp16"
    (tmp_path / "again").mkdir()
    with pytest.raises(NumericsError, match="no int8 engine keeps the budget"):
        smallest(target_named("coreml"), graph, "int8", budget(graph, 0.0), tmp_path / "again", Silent())  # type: ignore[arg-type]
