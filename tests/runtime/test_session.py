from __future__ import annotations

import builtins
import subprocess
import sys

import numpy as np
import pytest

from edgec.core.errors import IntegrityError, MissingExtraError, RequestError
from edgec.runtime.engine import EngineDescription
from edgec.runtime.engines import open_engine
from edgec.runtime.session import load


def expected(constants, feeds):
    product = feeds["x"].astype(np.float32) @ constants["w"] + constants["b"]
    return {"y": np.maximum(product, 0), "n": feeds["ids"] + 1}


def feeds(batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((batch, 4)).astype(np.float32), "ids": np.arange(batch)}


def check(results, wanted):
    assert list(results) == ["y", "n"]
    np.testing.assert_allclose(results["y"], wanted["y"], atol=1e-6)
    np.testing.assert_array_equal(results["n"], wanted["n"])
    assert results["y"].dtype == np.float32
    assert results["n"].dtype == np.int64


def test_a_session_runs(bundle):
    path, constants = bundle
    with load(path) as session:
        assert [spec.name for spec in session.inputs] == ["x", "ids"]
        assert [spec.name for spec in session.outputs] == ["y", "n"]
        assert session.manifest["samples"] == 0
        check(session.run(feeds()), expected(constants, feeds()))


def test_a_later_run_leaves_earlier_results_alone(bundle):
    path, constants = bundle
    with load(path) as session:
        first = session.run(feeds(seed=1))
        session.run(feeds(seed=2))
        check(first, expected(constants, feeds(seed=1)))


def test_feeds_are_not_written_to_and_need_no_layout(bundle):
    path, constants = bundle
    given = feeds()
    fed = {"x": np.asfortranarray(given["x"]), "ids": given["ids"][::-1]}
    for array in fed.values():
        array.flags.writeable = False
    with load(path) as session:
        check(session.run(fed), expected(constants, fed))
    np.testing.assert_array_equal(fed["x"], given["x"])


def test_floats_and_fitting_integers_are_converted(bundle):
    path, constants = bundle
    given = feeds()
    fed = {"x": given["x"].astype(np.float64), "ids": given["ids"].astype(np.uint8)}
    with load(path) as session:
        check(session.run(fed), expected(constants, given))
        check(
            session.run({"x": given["x"], "ids": given["ids"].astype(np.int32)}), expected(constants, given)
        )


WRONG = {
    "missing": (lambda f: {"x": f["x"]}, "no array for input 'ids'"),
    "unknown": (lambda f: {**f, "z": f["x"]}, "no input 'z'"),
    "renamed": (lambda f: {"x": f["x"], "idz": f["ids"]}, "no array for input 'ids' and .* no input 'idz'"),
    "rank": (lambda f: {**f, "x": f["x"][0]}, r"'x' has shape \[4\], the model takes \[2, 4\]"),
    "size": (lambda f: {**f, "x": f["x"][:1]}, r"shape \[1, 4\]"),
    "kind": (lambda f: {**f, "x": f["x"].astype(np.int32)}, "'x' is int32, the model takes float32"),
    "float ids": (lambda f: {**f, "ids": f["ids"].astype(np.float32)}, "'ids' is float32"),
    "too large": (lambda f: {**f, "ids": np.asarray([0, 2**63], np.uint64)}, "int64 cannot hold"),
    "text": (lambda f: {**f, "x": np.asarray([["a"] * 4] * 2)}, "'x' is <U1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_feeds_get_one_clear_message(bundle, case):
    path, _ = bundle
    change, message = WRONG[case]
    with load(path) as session, pytest.raises(RequestError, match=message):
        session.run(change(feeds()))


def test_an_open_batch_takes_any_size(open_bundle):
    path, constants = open_bundle
    with load(path) as session:
        for batch in (1, 3, 2):
            check(session.run(feeds(batch)), expected(constants, feeds(batch)))
        with pytest.raises(RequestError, match="batch"):
            session.run({"x": feeds(2)["x"], "ids": feeds(3)["ids"]})


def test_layers_are_timed_under_the_users_names(bundle):
    path, _ = bundle
    with load(path) as session:
        times = session.profile(feeds(), runs=3)
    assert "head.fc" in {layer.source for layer in times}
    assert all(layer.microseconds >= 0 for layer in times)


def test_a_closed_session_says_so(bundle):
    path, _ = bundle
    session = load(path)
    session.close()
    session.close()
    with pytest.raises(RequestError, match="closed"):
        session.run(feeds())


def test_a_changed_byte_is_found(bundle):
    path, _ = bundle
    model = next(file for file in (path / "engine").iterdir() if file.suffix in (".onnx", ".bin"))
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(IntegrityError, match=model.name):
        load(path)


def test_a_model_that_is_no_model_is_told_without_a_traceback(bundle):
    path, _ = bundle
    engine = path / "engine"
    (engine / EngineDescription.read(engine).model).write_bytes(b"not a model")
    with pytest.raises(IntegrityError, match="cannot open it"):
        load(path, check=False)


def test_an_engine_of_another_machine_is_named(tmp_path):
    EngineDescription("tensorrt", "model.plan", "fp16", 0, "native", {}).write(tmp_path)
    with pytest.raises(RequestError, match="run on its Jetson"):
        open_engine(tmp_path)


def test_an_unknown_engine_is_named(tmp_path):
    EngineDescription("abacus", "model.beads", "fp16", 0, "native", {}).write(tmp_path)
    with pytest.raises(IntegrityError, match="abacus"):
        open_engine(tmp_path)


def test_a_missing_openvino_names_the_extra(tmp_path, monkeypatch):
    EngineDescription("openvino", "model.xml", "fp32", 0, "decomposed", {}).write(tmp_path)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"edgec\[openvino\]"):
        open_engine(tmp_path)


def test_the_runtime_needs_neither_torch_nor_the_compiler():
    code = (
        "import sys, edgec.runtime.session, edgec.runtime.engine_ort, edgec.runtime.engine_openvino;"
        "found = [m for m in ('torch', 'onnxruntime', 'openvino', 'edgec.passes', 'edgec.targets')"
        " if m in sys.modules]; sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_session_is_called_mapped_and_awaited(bundle):
    import asyncio

    path, _ = bundle
    rng = np.random.default_rng(5)
    batches = [{"x": rng.standard_normal((2, 4), np.float32), "ids": rng.integers(0, 9, 2)} for _ in range(5)]
    with load(path) as session:
        expected = [session.run(feeds) for feeds in batches]
        called = session(batches[0]["x"], ids=batches[0]["ids"])
        mapped = list(session.map(iter(batches)))

        async def together():
            return await asyncio.gather(*map(session.run_async, batches))

        for found in ([called, *expected[1:]], mapped, asyncio.run(together())):
            for outputs, reference in zip(found, expected, strict=True):
                for name in reference:
                    np.testing.assert_array_equal(outputs[name], reference[name])
        with pytest.raises(RequestError, match="more than the model's 2 inputs"):
            session(1, 2, 3)
        with pytest.raises(RequestError, match="'x' is given twice"):
            session(batches[0]["x"], x=batches[0]["x"])
        text = repr(session)
        assert "small.x86.edgec" in text
        assert "x: float32 [2, 4], ids: int64 [2] -> y: float32 [2, 3], n: int64 [2]" in text
        assert "<td>int64</td>" in session._repr_html_()


def test_a_map_that_is_left_draws_no_further(bundle):
    path, _ = bundle
    drawn = []

    def batches():
        for index in range(100):
            drawn.append(index)
            yield {"x": np.zeros((2, 4), np.float32), "ids": np.arange(2)}

    with load(path) as session:
        for _ in session.map(batches()):
            break
    assert len(drawn) == 2
