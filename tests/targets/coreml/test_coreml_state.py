"""A decoder's cache as states of the package."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of
from onnx import helper

from edgec.core.errors import JobError, RequestError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, Source, tensor_spec
from edgec.core.numerics import GATES, compare
from edgec.targets import target_named
from edgec.targets.coreml.caches import STEPS, find_caches
from edgec.targets.coreml.engine import CheckedPackage

B, H, P, D = 1, 2, 5, 4
WIDTH = H * D


def _weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    names = dict.fromkeys(("wq", "wk", "wv", "wo"), (WIDTH, WIDTH))
    weights = {name: rng.normal(size=shape) / 2 for name, shape in names.items()}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    weights["heads"] = np.array([B, 1, H, D])
    weights["flat"] = np.array([B, 1, WIDTH])
    weights["behind"] = np.array([1])
    weights["scale"] = np.array(D**-0.5, np.float32)
    return weights


def _head(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}_flat"]),
        helper.make_node("Reshape", [f"{name}_flat", "heads"], [f"{name}_apart"]),
        helper.make_node("Transpose", [f"{name}_apart"], [f"{name}_new"], perm=[0, 2, 1, 3]),
    ]


def _attention(key: str, value: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Transpose", [key], ["key_t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q_new", "key_t"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"]),
        helper.make_node("MatMul", ["p", value], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["mixed_t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed_t", "flat"], ["joined"]),
        helper.make_node("MatMul", ["joined", "wo"], ["y"]),
    ]


def decoder(kind: str, length: int | str = P) -> ir.Model:
    """One layer of attention with its cache outside: `grow`, `fused`, `slide`, `scatter`, `places`."""
    rng = np.random.default_rng(5)
    weights = _weights(rng)
    nodes = [*_head("q"), *_head("k"), *_head("v")]
    columns: int | str = P if kind in ("slide", "scatter", "places") else "S" if length == "P" else P + 1
    inputs: dict[str, tuple[str, tuple[int | str, ...]]] = {
        "x": ("float32", (B, 1, WIDTH)),
        "mask": ("float32", (B, 1, 1, columns)),
    }
    cache = (B, H, length, D)
    if kind in ("scatter", "places"):
        inputs["at"] = ("int64", (1,))
    if kind == "places":
        cache = (B, length, H, D)
    inputs |= {"past_k": ("float32", cache), "past_v": ("float32", cache)}
    for name in ("k", "v"):
        past, new, present = f"past_{name}", f"{name}_new", f"present_{name}"
        if kind == "grow":
            nodes.append(helper.make_node("Concat", [past, new], [present], axis=-2))
        elif kind == "slide":
            weights |= {"one": np.array([1]), "end": np.array([P]), "two": np.array([2])}
            nodes.append(helper.make_node("Slice", [past, "one", "end", "two"], [f"{past}_rest"]))
            nodes.append(helper.make_node("Concat", [f"{past}_rest", new], [present], axis=2))
        elif kind in ("scatter", "places"):
            # As torch exports index_copy: the axis comes first, then rows are put at places.
            front = [2, 0, 1, 3] if kind == "scatter" else [1, 0, 2, 3]
            back = [1, 2, 0, 3] if kind == "scatter" else [1, 0, 2, 3]
            nodes += [
                helper.make_node("Transpose", [past], [f"{past}_t"], perm=front),
                helper.make_node("Transpose", [new], [f"{new}_t"], perm=[2, 0, 1, 3]),
                helper.make_node("Unsqueeze", ["at", "behind"], [f"{name}_at"]),
                helper.make_node("ScatterND", [f"{past}_t", f"{name}_at", f"{new}_t"], [f"{name}_put"]),
                helper.make_node("Transpose", [f"{name}_put"], [present], perm=back),
            ]
    if kind == "fused":
        given = ["q_new", "k_new", "v_new", "mask", "past_k", "past_v"]
        nodes += [
            helper.make_node("Attention", given, ["mixed", "present_k", "present_v"]),
            *_attention("k_new", "v_new")[6:],
        ]
    elif kind == "places":
        nodes += [
            helper.make_node("Transpose", [f"present_{name}"], [f"seen_{name}"], perm=[0, 2, 1, 3])
            for name in ("k", "v")
        ]
        nodes += _attention("seen_k", "seen_v")
    else:
        nodes += _attention("present_k", "present_v")
    shapes = (B, H, columns, D) if kind in ("grow", "fused") else cache
    outputs = {
        "y": ("float32", (B, 1, WIDTH)),
        "present_k": ("float32", shapes),
        "present_v": ("float32", shapes),
    }
    return make_model(nodes, inputs, outputs, weights)


def graph_of(model: ir.Model, samples: int = 2) -> Graph:
    rng = np.random.default_rng(9)
    run = Evaluator(model).run
    specs = tuple(tensor_spec(value) for value in model.graph.inputs)
    examples = []
    for sample in range(samples):
        feeds: dict[str, np.ndarray] = {}
        for spec in specs:
            if spec.dtype == "int64":
                feeds[spec.name] = np.array([sample])
            else:
                sizes = tuple(size if isinstance(size, int) else 5 for size in spec.shape)
                feeds[spec.name] = rng.normal(size=sizes).astype(np.float32)
        examples.append(feeds)
    references = [run(feeds) for feeds in examples]
    return Graph(model, Source("m.onnx", "onnx", "m", "0"), specs, examples, references, run_source=run)


def build(graph: Graph, folder: Path, words: str = "ios18", precision: str = "fp32") -> CheckedPackage:
    target = target_named(f"coreml:{words}")
    [candidate] = target.candidates(graph, precision)
    target.build(target.lower(graph, candidate), candidate, folder)
    return CheckedPackage(folder)


def difference(graph: Graph, package: CheckedPackage) -> float:
    return compare(graph.references, [package.run(feeds) for feeds in graph.examples]).scaled


KINDS = ("grow", "fused", "slide", "scatter", "places")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_cache_is_kept_from_call_to_call(tmp_path: Path, kind: str, precision: str) -> None:
    graph = target_named("coreml").prepared(graph_of(decoder(kind)))
    assert len(graph.examples) == STEPS
    assert set(graph.references[0]) == {"y"}
    package = build(graph, tmp_path, precision=precision)
    told = package.interpreter.package.model.description
    assert [item.name for item in told.state] == ["past_k", "past_v"]
    assert not {"past_k", "past_v"} & {item.name for item in told.input}
    assert [item.name for item in told.output] == ["y"]
    assert ops_of(package.interpreter).count("write_state") == 2
    # A cache holds fp16, and the samples say so: in fp32 the two sides compute on the same numbers.
    assert difference(graph, package) < (GATES["fp32"].scaled if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_without_memory_the_steps_differ(tmp_path: Path, kind: str) -> None:
    graph = target_named("coreml").prepared(graph_of(decoder(kind)))
    package = build(graph, tmp_path)
    found = []
    for feeds in graph.examples:
        package.interpreter.reset()
        found.append(package.run(feeds))
    assert compare(graph.references[1:], found[1:]).scaled > 1e-2


def test_empty_caches_begin_anew(tmp_path: Path) -> None:
    graph = target_named("coreml").prepared(graph_of(decoder("grow")))
    package = build(graph, tmp_path)
    assert difference(graph, package) < 1e-5
    assert difference(graph, package) < 1e-5


def test_steps_feed_the_source_its_own_newest_part() -> None:
    graph = graph_of(decoder("grow"))
    steps = target_named("coreml").prepared(graph)
    assert not steps.examples[0]["past_k"].any()
    for before, after in zip(steps.examples, steps.examples[1:], strict=False):
        present = graph.run_source(before)["present_k"]  # type: ignore[misc]
        np.testing.assert_allclose(after["past_k"], present[:, :, 1:], atol=2e-3)
        np.testing.assert_array_equal(after["past_k"], after["past_k"].astype(np.float16))


def test_places_count_on() -> None:
    steps = target_named("coreml").prepared(graph_of(decoder("scatter")))
    assert [int(feeds["at"][0]) for feeds in steps.examples] == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("words", ["ios17", "ios18:stateless"])
def test_without_states_the_cache_is_fed(tmp_path: Path, words: str) -> None:
    graph = graph_of(decoder("grow"))
    assert target_named(f"coreml:{words}").prepared(graph) is graph
    package = build(graph, tmp_path, words)
    assert not package.features.states
    assert difference(graph, package) < 1e-5


def test_an_open_length_is_refused_with_advice() -> None:
    model = decoder("grow", "P")
    assert [cache.past for cache in find_caches(model)] == ["past_k", "past_v"]
    graph = dataclasses.replace(graph_of(decoder("grow")), model=model)
    with pytest.raises(JobError, match=r"'past_k' \(1x2xPx4\) has the open size P.*--input past_k:SHAPE"):
        target_named("coreml").prepared(graph)


def _joined(second: str) -> ir.Model:
    nodes = [
        helper.make_node("Tanh", ["a" if second == "other" else "x"], [second]),
        helper.make_node("Concat", ["x", second], ["present"], axis=1),
        helper.make_node("Sigmoid", ["present"], ["y"]),
    ]
    inputs = {"x": ("float32", (1, 3, 4)), "a": ("float32", (1, 2, 4))}
    return make_model(nodes, inputs, {"y": ("float32", None), "present": ("float32", None)})


def test_what_is_no_cache_is_left_alone() -> None:
    assert [cache.past for cache in find_caches(_joined("other"))] == ["x"]
    assert find_caches(_joined("made")) == []  # what is joined is made of the past itself
    hidden = _joined("other")
    hidden.graph.outputs.pop(1)
    assert find_caches(hidden) == []  # the present does not come out
    unread = _joined("other")
    unread.graph.outputs.pop(0)
    unread.graph.remove(unread.graph[2], safe=True)
    assert find_caches(unread) == []  # the model does not read what it gives back


def test_a_written_part_that_is_not_the_newest_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgec.targets.coreml.lowering import states

    right = states.update

    def oldest(builder: Any, variable: Any, state: Any, present: Any) -> None:
        turned = builder.reverse(x=present, axes=np.array([2], np.int32))
        right(builder, variable, state, turned)

    monkeypatch.setattr("edgec.targets.coreml.lowering.program.update", oldest)
    graph = target_named("coreml").prepared(graph_of(decoder("grow")))
    assert difference(graph, build(graph, tmp_path)) > 1e-2


def test_every_thread_has_states_of_its_own(tmp_path: Path) -> None:
    graph = target_named("coreml").prepared(graph_of(decoder("grow")))
    package = build(graph, tmp_path)
    turn = threading.Barrier(4)
    far: list[float] = []

    def converse() -> None:
        found = []
        for feeds in graph.examples:
            turn.wait()  # every thread takes the same step before any takes the next
            found.append(package.run(feeds))
        far.append(compare(graph.references, found).scaled)

    threads = [threading.Thread(target=converse) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(far) == 4
    assert max(far) < 1e-5
    package.close()
    with pytest.raises(RequestError, match="closed"):
        package.run(graph.examples[0])
