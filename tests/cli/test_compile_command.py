"""`edgec compile` from the command line to a bundle, and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import TOKENS, WIDTH, Command, block_model

import edgec as package
from edgec.core.bundle import Bundle


def test_compile_prints_the_contract_and_writes_a_bundle(
    edgec: Command, model_file: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "out.edgec"
    done = edgec("compile", model_file, "--target", "x86", "-o", bundle, "--json")
    assert done.status == 0, done.err
    fields = done.json
    assert fields["bundle"] == str(bundle)
    assert fields["target"] == "x86"
    assert fields["engine"] in ("ort", "openvino")
    assert fields["precision"] == "fp32"
    assert {"p50", "p90", "baseline_p50"} <= fields["latency_ms"].keys()
    assert {"max_abs", "cosine", "gate"} <= fields["numerics"].keys()
    assert fields["fusions"]["fuse.attention"]["matched"] == 1
    assert fields["numerics"]["scaled"] <= 1e-4
    assert {"accuracy", "tokens", "slim"} <= fields.keys()
    opened = Bundle.open(bundle)
    assert opened.manifest["engine"] == fields["engine"]


def test_without_json_it_speaks_to_a_person(edgec: Command, model_file: Path, tmp_path: Path) -> None:
    done = edgec("compile", model_file, "--target", "x86:ort", "-o", tmp_path / "o.edgec", "--zip")
    assert done.status == 0, done.err
    assert "engine    ort fp32" in done.out
    assert "attention 1" in done.out
    assert (tmp_path / "o.edgec.zip").is_file()


def test_the_bundle_computes_what_onnx_runtime_computes(shared_bundle: Path, tmp_path: Path) -> None:
    import onnxruntime

    source = onnxruntime.InferenceSession(str(shared_bundle.parent / "block.onnx"))
    random = np.random.default_rng(7)
    with package.load(shared_bundle) as session:
        for _ in range(5):
            feeds = {"x": random.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)}
            np.testing.assert_allclose(
                session.run(feeds)["logits"], source.run(None, feeds)[0], rtol=1e-4, atol=1e-5
            )


def test_the_same_request_gives_the_same_bytes(edgec: Command, model_file: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        folder = tmp_path / f"{name}.edgec"
        assert edgec("compile", model_file, "--target", "x86:ort", "-o", folder).status == 0
        made.append(Bundle.open(folder).manifest)
    files = [
        {path: digest for path, digest in manifest["files"].items() if not path.startswith("report")}
        for manifest in made
    ]
    if made[0]["form"] != made[1]["form"]:
        # Measuring may take the other of two equally fast forms; all else stays the same.
        files = [{path: digest for path, digest in one.items() if "engine/" not in path} for one in files]
    assert files[0] == files[1]


def test_a_pass_can_be_left_out(edgec: Command, model_file: Path, tmp_path: Path) -> None:
    arguments = ("compile", model_file, "--target", "x86:ort", "-o", tmp_path / "o.edgec", "--json")
    fields = edgec(*arguments, "--passes", "-fuse.attention").json
    assert "fuse.attention" not in fields["fusions"]
    assert fields["numerics"]["scaled"] <= 1e-4


def test_a_latency_that_cannot_be_reached_says_how_near_it_came(
    edgec: Command, model_file: Path, tmp_path: Path
) -> None:
    done = edgec(
        "compile", model_file, "--target", "x86", "--latency", "0.000001ms", "-o", tmp_path / "o.edgec"
    )
    assert done.status == 1
    assert "times the 1e-06 ms asked for" in done.err
    assert not (tmp_path / "o.edgec").exists()


def test_accuracy_is_measured_on_the_users_data(edgec: Command, model_file: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    data = tmp_path / "eval.npz"
    inputs = random.normal(size=(20, TOKENS, WIDTH)).astype(np.float32)
    np.savez(data, x=inputs, labels=random.integers(0, 5, 20))
    done = edgec(
        "compile", model_file, "--target", "x86:ort", "--eval-data", data, "--max-drop", "1%",
        "-o", tmp_path / "o.edgec", "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    accuracy = done.json["accuracy"]
    # Every second sample is what the search may look at; the others judge.
    assert accuracy["samples"] == 10
    assert accuracy["drop"] == pytest.approx(accuracy["source"] - accuracy["engine"])


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
@pytest.mark.parametrize("engines", [0, 3])
def test_a_stopped_compile_leaves_nothing(
    model_file: Path, tmp_path: Path, number: signal.Signals, said: str, engines: int
) -> None:
    folder, temporary = tmp_path / "out", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgec.cli.main", "compile", str(model_file), "--target", "x86", "-o",
         str(folder / "o.edgec")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    # Stop it while it holds its scratch folder, with the engines it has built so far.
    end = time.monotonic() + 120
    while (
        not (list(folder.iterdir()) and len(list(folder.glob(".*/new/*/engine.json"))) >= engines)
        and process.poll() is None
        and time.monotonic() < end
    ):
        time.sleep(0.01)
    # Twice, as `timeout` does.
    for _ in range(2 if number == signal.SIGTERM else 1):
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    # Once in some forty tries CPython ends an interrupted process by the signal itself, which a shell tells
    # as the same status.
    assert process.returncode in (128 + number, -number)
    *stages, last = error.splitlines()
    assert last == f"edgec: {said}; nothing half written is left"
    assert all(line.startswith("step ") for line in stages)
    assert list(folder.iterdir()) == []
    assert list(temporary.glob("edgec-*")) == []


def test_a_batch_can_be_asked_for(edgec: Command, tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    onnx.save(block_model(batch="batch"), path)
    done = edgec("compile", path, "--target", "x86:ort", "--batch", "3", "-o", tmp_path / "o.edgec", "--json")
    assert done.status == 0, done.err
    assert Bundle.open(tmp_path / "o.edgec").io.inputs[0].shape == (3, TOKENS, WIDTH)


def test_an_engine_for_other_machines_is_proved_here_and_not_measured(
    edgec: Command, model_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("coremltools")
    bundle = tmp_path / "o.edgec"
    done = edgec("compile", model_file, "--target", "coreml", "-o", bundle)
    assert done.status == 0, done.err
    assert "latency   not measured" in done.out
    assert "emulated: edgec's interpreter of the saved Core ML program" in done.out
    assert Bundle.open(bundle).report()["numerics"]["kind"] == "emulated"
    verified = edgec("verify", bundle, "--json").json
    assert verified["passed"] is True
    assert verified["kind"] == "emulated"
    assert "not run   the engine on its device" in edgec("verify", bundle).out
    refused = edgec("run", bundle)
    assert refused.status == 2
    assert "Apple" in refused.err


def test_an_engine_that_nothing_ran_is_not_verified(edgec: Command, model_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = tmp_path / "o.edgec"
    assert edgec("compile", model_file, "--target", "rtx:sm86", "-o", bundle).status == 0
    done = edgec("verify", bundle, "--json")
    assert done.status == 1
    assert done.json["passed"] is False
    assert done.json["kind"] == "emulated"
    assert done.json["not_run"] == ["engine/model.engine"]
    assert "engine/model.engine did not run here" in edgec("verify", bundle).err


def test_real_inputs_and_calibration_are_gated_on_and_said(
    edgec: Command, model_file: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    real = random.normal(size=(2, 1, TOKENS, WIDTH)).astype(np.float32)
    seen = random.normal(size=(8, TOKENS, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "real.npz", x=real)
    np.savez(tmp_path / "calib.npz", x=seen)
    options = ["--target", "x86:ort", "--precision", "fp32", "-o", tmp_path / "out.edgec", "--json"]
    files = ["--example", tmp_path / "real.npz", "--calib", tmp_path / "calib.npz"]
    done = edgec("compile", model_file, *options, *files)
    assert done.status == 0, done.err
    assert done.json["inputs_drawn"] == [{"name": "x", "what": "from real.npz, and from calib.npz"}]
    assert done.json["ranges_from"] == "calibration data calib.npz"
    samples = [feeds["x"] for feeds in Bundle.open(tmp_path / "out.edgec").samples()[0]]
    np.testing.assert_array_equal(np.stack(samples[:2]), real)
    assert len(samples) == 5
    np.testing.assert_array_equal(np.concatenate(samples[2:]), seen[[0, 4, 7]])


def test_a_wrong_example_is_one_sentence(edgec: Command, model_file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", y=np.zeros(3, np.float32))
    done = edgec("compile", model_file, "--target", "x86", "--example", tmp_path / "real.npz")
    assert done.status == 2
    assert "real.npz: has no array 'x', which the model takes" in done.err


BRANCHES = """<ir_version: 8, opset_import: ["": 17]> g (float[4, 8] x) => (float[4, 8] y)
<float zero = {0.0}, float least = {-1.0}>
{
  s = ReduceMean <keepdims = 0> (x)
  c = Greater (s, zero)
  a = Abs (s)
  n = Less (a, least)
  h = If (c) <
    then_branch = g1 () => (float[4, 8] p) { p = Exp (x) },
    else_branch = g2 () => (float[4, 8] q) { q = Tanh (x) }
  >
  y = If (n) <
    then_branch = g3 () => (float[4, 8] r) { r = Neg (h) },
    else_branch = g4 () => (float[4, 8] t) { t = Relu (h) }
  >
}"""


def test_branches_are_timed_and_a_side_never_taken_is_said(edgec: Command, tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(BRANCHES), tmp_path / "b.onnx")
    options = ["--target", "x86:ort", "--precision", "fp32", "-o", tmp_path / "b.edgec"]
    done = edgec("compile", tmp_path / "b.onnx", *options)
    assert done.status == 0, done.err
    assert "drawn     x N(0, 1)" in done.out
    assert "2 places that decide by values; never If:y then in" in done.out
    assert "2 ways measured" in done.out
    branches = Bundle.open(tmp_path / "b.edgec").report()["branches"]
    assert [site["missed"] for site in branches["sites"]] == [[], ["then"]]
    assert all(path["p50"] > 0 for path in branches["paths"])
