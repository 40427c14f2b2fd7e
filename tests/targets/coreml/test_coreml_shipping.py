"""The generated Swift: every input and output there, names escaped, and no syntax error in any file."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import numpy as np
import pytest
from coreml_graphs import make_model
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgec.core import quoting
from edgec.core.bundle import InputsOutputs
from edgec.core.graph import TensorSpec
from edgec.targets.coreml.shipping import names
from edgec.targets.coreml.shipping.swift import _environment, described

tree_sitter = pytest.importorskip("tree_sitter")
tree_sitter_swift = pytest.importorskip("tree_sitter_swift")

ODD = ["input.1", "class", "émission/ß", "2d", "a b", "a_b", "self", "features", 'quo"te\\', ""]


def parser():  # type: ignore[no-untyped-def]
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))


def faults(text: str) -> list[str]:
    """Where the parser found an error."""
    found: list[str] = []
    pending = [parser().parse(text.encode()).root_node]
    while pending:
        item = pending.pop()
        if item.type == "ERROR" or item.is_missing:
            found.append(f"line {item.start_point[0] + 1}: {item.text[:60]!r}")
        pending += item.children
    return found


class Message:
    """Stands for a protobuf message with these fields."""

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)

    def WhichOneof(self, _: str) -> str:  # noqa: N802 (protobuf's spelling)
        return next(name for name in self.__dict__ if name.endswith("Type"))


def array(name: str, shape: tuple[int, ...], kind: int = 65552) -> Message:
    return Message(name=name, type=Message(multiArrayType=Message(shape=shape, dataType=kind)))


def model(
    inputs: list[Message], outputs: list[Message], name: str = "odd model", version: int = 9
) -> Message:
    metadata = Message(shortDescription=name)
    return Message(
        specificationVersion=version, description=Message(metadata=metadata, input=inputs, output=outputs)
    )


def features(sources: list[str], results: list[str], states: int = 0) -> Message:
    def feature(index: int, source: str) -> Message:
        return Message(name=f"t{index}", source=source, shape=(1, 4), mil_shape=(1, 4))

    return Message(
        inputs=[feature(index, source) for index, source in enumerate(sources)],
        outputs=[feature(100 + index, source) for index, source in enumerate(results)],
        states=[None] * states,
    )


def rendered(values: dict, template: str = "Model.swift") -> str:
    return _environment().get_template(f"{template}.j2").render(values)


def odd_values(states: int = 0) -> dict:
    picture = Message(name="t0", type=Message(imageType=Message(width=32, height=24, colorSpace=20)))
    arrays = [array(f"t{index}", (1, 4), kind) for index, kind in enumerate([65568, 65552, 131104] * 3, 1)]
    results = [array(f"t{100 + index}", (1, 4)) for index in range(len(ODD))]
    results.append(Message(name="label", type=Message(stringType=1)))
    results.append(Message(name="probs", type=Message(dictionaryType=1)))
    io = InputsOutputs((), (), {"input.1": {"crop_pct": 0.9}}, tuple(ODD))
    return described(model([picture, *arrays], results), features(ODD, ODD, states), io, "model.mlpackage")


@pytest.mark.parametrize("states", [0, 2])
def test_odd_names_parse(states: int) -> None:
    values = odd_values(states)
    text = rendered(values)
    assert faults(text) == []
    for feature in (*values["inputs"], *values["outputs"]):
        assert f"{quoting.swift_string(feature.name)}" in text
        assert re.search(rf"public (var|let) {re.escape(feature.identifier)}: ", text)
    assert "public var `class`: MLMultiArray" in text
    assert "public var input1: CVPixelBuffer" in text
    assert ("makeState" in text) == bool(states)
    assert len({feature.identifier for feature in values["inputs"]}) == len(ODD)


@pytest.mark.parametrize("template", ["Package.swift", "EdgecMeasure.swift", "Tool.swift"])
def test_the_other_sources_parse(template: str) -> None:
    assert faults(rendered(odd_values(), template)) == []


def test_the_parser_would_notice() -> None:
    text = rendered(odd_values())
    assert faults(text.replace("public init(model: MLModel) {", "public init(model: MLModel) {{")) != []
    assert faults(text.replace('quo\\"te', 'quo"te')) != []


def test_a_tensor_input_is_normalised_as_declared() -> None:
    declared = {"x": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "size": [6, 5]}}
    spec = TensorSpec("x", (1, 3, 6, 5), "float32", "image")
    io = InputsOutputs((spec,), (), declared, ("a", "b", "c", "d"))
    values = described(
        model([array("t0", (1, 3, 6, 5))], [array("t100", (1, 4))]),
        features(["x"], ["scores"]),
        io,
        "m.mlpackage",
    )
    text = rendered(values)
    assert faults(text) == []
    assert "let mean: [Float] = [0.5, 0.4, 0.3]" in text
    assert "let deviation: [Float] = [0.2, 0.25, 0.3]" in text
    assert f"* {1 / 255!r}" in text
    assert "makeX(fromBytes bytes: [UInt8])" in text
    assert "func top(" in text
    assert "values[channel * pixels + pixel]" in text


@given(st.text(max_size=20))
def test_any_text_is_a_literal_and_a_comment(text: str) -> None:
    source = f"// {quoting.swift_comment(text)}\nlet x: String = {quoting.swift_string(text)}\n"
    assert source.count("\n") == 2
    # The parser knows no character beyond the text's own; lone quotes would end the literal.
    body = quoting.swift_string(text)[1:-1]
    assert re.fullmatch(r'(?:[^"\\\n\r]|\\.)*', body)


@given(st.lists(st.text(max_size=8), max_size=12))
def test_identifiers_are_valid_and_distinct(texts: list[str]) -> None:
    found = names.identifiers(texts)
    assert len(set(found)) == len(texts)
    allowed = set(string.ascii_letters + string.digits + "_")
    for text in found:
        bare = names.bare(text)
        assert set(bare) <= allowed
        assert not bare[0].isdigit()
        assert (text != bare) == (bare in names.KEYWORDS)


@given(st.text(max_size=12))
def test_module_names(text: str) -> None:
    found = names.module_name(text)
    assert re.fullmatch(r"[A-Z][A-Za-z0-9_]*", found)


def test_the_package_in_a_bundle(tmp_path: Path) -> None:
    """Written from a saved package: what it takes and gives, in its own words."""
    from edgec.core import bundle as bundles
    from edgec.runtime.engine import EngineDescription
    from edgec.targets.coreml.features import Features
    from edgec.targets.coreml.lowering.program import lower
    from edgec.targets.coreml.package import save
    from edgec.targets.coreml.shipping.swift import write
    from edgec.targets.coreml.versions import release

    weights = {"w": np.ones((4, 3), np.float32)}
    graph = make_model(
        [helper.make_node("MatMul", ["input.1", "w"], ["out/y"])],
        {"input.1": ("float32", (2, 4))},
        {"out/y": ("float32", (2, 3))},
        weights,
    )
    engine = tmp_path / bundles.ENGINE
    engine.mkdir()
    lowered = lower(graph, release("ios16"), half_inputs=True)
    save(lowered, engine / "model.mlpackage", release("ios16"), "fp16", description="my-model")
    Features.of(lowered).write(engine)
    EngineDescription("coreml", "model.mlpackage", "fp16", 0, "", lowered.layers).write(engine)
    specs = (TensorSpec("input.1", (2, 4), "float32"),), (TensorSpec("out/y", (2, 3), "float32"),)
    (tmp_path / bundles.IO).write_text(json.dumps(InputsOutputs(*specs, {}, ()).to_json()), encoding="utf-8")
    files = write(tmp_path)
    assert all(faults(file.read_text(encoding="utf-8")) == [] for file in files if file.suffix == ".swift")
    text = (tmp_path / "swift/Sources/MyModel/MyModel.swift").read_text(encoding="utf-8")
    assert '"input_1": MLFeatureValue(multiArray: input1)' in text
    assert 'featureValue(for: "out_y")' in text
    assert "dataType: .float16" in text
    manifest = (tmp_path / "swift/Package.swift").read_text(encoding="utf-8")
    assert '.iOS("16.0")' in manifest
    before = {file: file.read_bytes() for file in files}
    assert {file: file.read_bytes() for file in write(tmp_path)} == before
