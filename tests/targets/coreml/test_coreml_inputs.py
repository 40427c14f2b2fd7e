"""Picture inputs and class labels of Core ML packages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgec.core.errors import IntegrityError, RequestError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.numerics import compare
from edgec.targets import target_named
from edgec.targets.coreml.engine import CheckedPackage
from edgec.targets.coreml.features import Features
from edgec.targets.coreml.images import ImageInput, fold_factors, image_inputs, with_pixel_examples
from edgec.targets.coreml.lowering.classes import distinct

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LABELS = ("tench", "crane", "cock", "crane", "hen")


def classifier(first: str = "Conv", channels: int = 3, softmax: bool = False) -> ir.Model:
    rng = np.random.default_rng(3)
    weights = {
        "w": rng.normal(size=(6, channels, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(6 if first == "Conv" else channels, 5)).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    seen = "x"
    nodes = []
    if first == "Conv":
        nodes.append(helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]))
        seen = "c"
    else:
        nodes.append(helper.make_node("Tanh", ["x"], ["c"]))
        seen = "c"
        del weights["w"]
    nodes += [
        helper.make_node("ReduceMean", [seen, "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["scores" if softmax else "logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["logits"]))
    return make_model(
        nodes, {"x": ("float32", (1, channels, 8, 8))}, {"logits": ("float32", (1, 5))}, weights
    )


def graph_of(model: ir.Model, channels: int = 3, **fields: Any) -> Graph:
    rng = np.random.default_rng(11)
    shape = (1, channels, 8, 8)
    run = Evaluator(model).run
    examples = [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(3)]
    graph = Graph(
        model,
        Source("m.onnx", "onnx", "m", "0"),
        (TensorSpec("x", shape, "float32", "image"),),
        examples,
        [run(feeds) for feeds in examples],
        run_source=run,
        preprocessing={"x": {"layout": "NCHW", "mean": MEAN[:channels], "std": STD[:channels]}},
        labels=LABELS,
    )
    return dataclasses.replace(graph, **fields)


def build(graph: Graph, folder: Path, words: str = "ios18", precision: str = "fp32") -> CheckedPackage:
    target = target_named(f"coreml:{words}")
    [candidate] = target.candidates(graph, precision)
    target.build(target.lower(graph, candidate), candidate, folder)
    return CheckedPackage(folder)


def description(package: CheckedPackage) -> Any:
    return package.interpreter.package.model.description


def difference(graph: Graph, package: CheckedPackage) -> float:
    return compare(graph.references, [package.run(feeds) for feeds in graph.examples]).scaled


@pytest.mark.parametrize("first", ["Conv", "Tanh"])
@pytest.mark.parametrize("release", ["ios16", "ios18"])
def test_a_declared_picture_becomes_an_image_type(tmp_path: Path, first: str, release: str) -> None:
    target = target_named(f"coreml:{release}")
    graph = target.prepared(graph_of(classifier(first)))
    package = build(graph, tmp_path, release)
    kind = description(package).input[0].type
    assert kind.WhichOneof("Type") == "imageType"
    assert (kind.imageType.width, kind.imageType.height) == (8, 8)
    assert difference(graph, package) < 1e-5
    # The factors of the channels cost an op only where no convolution can take them.
    assert ops_of(package.interpreter).count("mul") == (1 if first == "Conv" else 2)


def test_one_channel_is_a_grey_picture(tmp_path: Path) -> None:
    graph = target_named("coreml").prepared(graph_of(classifier(channels=1), channels=1))
    package = build(graph, tmp_path)
    colour = description(package).input[0].type.imageType
    assert colour.ColorSpace.Name(colour.colorSpace) == "GRAYSCALE"
    assert difference(graph, package) < 1e-5


def test_half_precision_keeps_the_picture(tmp_path: Path) -> None:
    graph = target_named("coreml").prepared(graph_of(classifier()))
    assert difference(graph, build(graph, tmp_path, precision="fp16")) < 5e-3


def test_a_wrong_normalisation_is_caught(tmp_path: Path) -> None:
    graph = target_named("coreml").prepared(graph_of(classifier()))
    swapped = {"x": {"layout": "NCHW", "mean": MEAN, "std": STD[::-1]}}
    wrong = build(dataclasses.replace(graph, preprocessing=swapped), tmp_path)
    # What the package believes of the pixels is not what the source was fed.
    shown = ImageInput("RGB", 1 / 255, tuple(MEAN), tuple(STD))
    feeds = [{wrong.features.inputs[0].name: shown.pixels(feeds["x"])} for feeds in graph.examples]
    found = [{"logits": wrong.interpreter.run(feed)["logits"]} for feed in feeds]
    assert compare(graph.references, found).scaled > 1e-3


def test_examples_become_whole_pixels_and_the_source_runs_again() -> None:
    graph = graph_of(classifier())
    images = image_inputs(graph)
    rounded = with_pixel_examples(graph, images)
    for feeds, expected in zip(rounded.examples, rounded.references, strict=True):
        pixels = images["x"].pixels(feeds["x"])
        assert np.array_equal(pixels, np.rint(pixels))
        np.testing.assert_array_equal(images["x"].values(pixels), feeds["x"])
        np.testing.assert_array_equal(graph.run_source(feeds)["logits"], expected["logits"])  # type: ignore[misc]
    assert with_pixel_examples(rounded, images) is rounded


@settings(max_examples=40, deadline=None)
@given(
    mean=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    std=st.lists(st.floats(0.05, 2), min_size=3, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_the_type_and_the_factors_are_the_normalisation(
    mean: list[float], std: list[float], seed: int
) -> None:
    image = ImageInput("RGB", 1 / 255, tuple(mean), tuple(std))
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 3, 4, 5)).astype(np.float32)
    typed = pixels * image.type_scale + np.array(image.type_bias).reshape(1, 3, 1, 1)
    folded = typed * image.factors.reshape(1, 3, 1, 1)
    np.testing.assert_allclose(folded, image.values(pixels), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(image.pixels(image.values(pixels)), pixels)


def test_factors_leave_the_given_weights_alone() -> None:
    model = classifier()
    before = model.graph.initializers["w"].const_value.numpy().copy()  # type: ignore[union-attr]
    copy = model.clone()
    fold_factors(copy, "x", ImageInput("RGB", 1 / 255, tuple(MEAN), tuple(STD)))
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), before)  # type: ignore[union-attr]
    assert [node.op_type for node in copy.graph] == [node.op_type for node in model.graph]


def _other_layout(graph: Graph) -> Graph:
    return dataclasses.replace(graph, preprocessing={"x": {**graph.preprocessing["x"], "layout": "NHWC"}})


def _without_std(graph: Graph) -> Graph:
    return dataclasses.replace(graph, preprocessing={"x": {"mean": MEAN}})


def _no_image(graph: Graph) -> Graph:
    return dataclasses.replace(graph, inputs=(TensorSpec("x", (1, 3, 8, 8), "float32", "features"),))


@pytest.mark.parametrize("change", [_other_layout, _without_std, _no_image])
def test_what_is_not_declared_stays_a_tensor(tmp_path: Path, change: Callable[[Graph], Graph]) -> None:
    graph = change(graph_of(classifier()))
    assert target_named("coreml").prepared(graph) is graph
    package = build(graph, tmp_path)
    assert description(package).input[0].type.WhichOneof("Type") == "multiArrayType"


def test_the_word_tensor_keeps_tensors(tmp_path: Path) -> None:
    graph = graph_of(classifier())
    assert target_named("coreml:ios18:tensor").prepared(graph) is graph
    package = build(graph, tmp_path, "ios18:tensor")
    assert description(package).input[0].type.WhichOneof("Type") == "multiArrayType"
    assert not description(package).predictedFeatureName
    assert difference(graph, package) < 1e-5


@pytest.mark.parametrize("softmax", [False, True])
def test_labels_make_a_classifier_that_keeps_its_scores(tmp_path: Path, softmax: bool) -> None:
    graph = target_named("coreml").prepared(graph_of(classifier(softmax=softmax)))
    package = build(graph, tmp_path)
    told = description(package)
    assert told.predictedFeatureName == "classLabel"
    assert told.predictedProbabilitiesName == "classLabel_probs"
    assert ops_of(package.interpreter).count("softmax") == 1
    feeds = graph.examples[0]
    results = package.interpreter.run({"x": package.features.inputs[0].image.pixels(feeds["x"])})  # type: ignore[union-attr]
    expected = graph.references[0]["logits"].astype(np.float64).ravel()
    chances = expected if softmax else np.exp(expected) / np.exp(expected).sum()
    found = [results["classLabel_probs"][label] for label in distinct(LABELS)]
    np.testing.assert_allclose(found, chances, rtol=1e-4, atol=1e-6)
    assert results["classLabel"] == distinct(LABELS)[int(expected.argmax())]
    assert difference(graph, package) < 1e-5


def test_labels_that_come_twice_get_their_number() -> None:
    assert distinct(LABELS) == ("tench", "crane (1)", "cock", "crane (3)", "hen")


def test_labels_of_another_number_are_left_out(tmp_path: Path) -> None:
    graph = graph_of(classifier(), labels=LABELS[:4])
    package = build(target_named("coreml").prepared(graph), tmp_path)
    assert package.features.classifier is None


def test_a_label_that_is_not_the_best_scores_is_refused(tmp_path: Path) -> None:
    graph = target_named("coreml").prepared(graph_of(classifier()))
    package = build(graph, tmp_path)
    features = package.features
    assert features.classifier is not None
    turned = dataclasses.replace(features.classifier, labels=features.classifier.labels[::-1])
    dataclasses.replace(features, classifier=turned).write(tmp_path)
    with pytest.raises(IntegrityError, match="best score"):
        CheckedPackage(tmp_path).run(graph.examples[0])


def test_features_come_back_as_they_were_written(tmp_path: Path) -> None:
    package = build(target_named("coreml").prepared(graph_of(classifier())), tmp_path)
    assert Features.read(tmp_path) == package.features
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(IntegrityError, match="features cannot be read"):
        Features.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("coreml:ios19", "no release or word 'ios19'"),
        ("coreml:ios18:tensors", "did you mean tensor"),
        ("coreml:tensor:ios18", "no release or word 'ios18'"),
        ("coreml:tensor:tensor", "given twice"),
    ],
)
def test_words_that_mean_nothing_are_refused(name: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        target_named(name)
