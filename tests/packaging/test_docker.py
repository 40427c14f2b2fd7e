"""`edgec package --docker`.

No image is built here: the Dockerfile is linted, and the context is laid out as the image would have it and
its entrypoint run there, on a simulated device for a Jetson.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from jetson_bundle import SIMULATION, cuda_folder, write_bundle
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from edgec.cli.main import run
from edgec.core.bundle import Bundle, read_arrays, write_arrays
from edgec.packaging.docker import write_context
from edgec.targets.jetson.docker.images import images_for, known

SCRIPTS = str(Path(sys.executable).parent)
JETPACKS = {"8.5": "5.1.2", "10.3": "6.2", "10.13": "7.0", "10.16": "7.2"}


def jetson(folder: Path, tensorrt: str = "10.3", **changes: object) -> Bundle:
    path = write_bundle(folder, tensorrt=tensorrt, jetpack=JETPACKS[tensorrt], **changes)
    return Bundle.open(path)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", dockerfile.read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]  # type: ignore[misc]


def lint(dockerfile: Path) -> None:
    """hadolint, where it is installed."""
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=SCRIPTS)
    if tool is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [tool, "--failure-threshold", "info", str(dockerfile)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def check_structure(context: Path) -> None:
    """Multi-stage, nothing runs as root, everything copied is there, one health check."""
    found = instructions(context / "Dockerfile")
    words = [word for word, _ in found]
    assert words.count("FROM") == 2
    last = max(index for index, word in enumerate(words) if word == "FROM")
    final = found[last:]
    users = [rest for word, rest in final if word == "USER"]
    assert users == ["10001"]
    after_user = final[[word for word, _ in final].index("USER") :]
    assert not {"RUN", "COPY"} & {word for word, _ in after_user}
    assert [word for word, _ in final].count("HEALTHCHECK") == 1
    for word, rest in found:
        assert word != "ADD"
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (context / source).exists(), source


@pytest.fixture(params=list(JETPACKS))
def jetson_context(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    bundle = jetson(tmp_path / "small.jetson.edgec", request.param)
    return request.param, write_context(bundle, tmp_path / "context")


def test_a_jetson_context_is_sound(jetson_context: tuple[str, Path]) -> None:
    tensorrt, context = jetson_context
    lint(context / "Dockerfile")
    check_structure(context)
    text = (context / "Dockerfile").read_text()
    images = images_for(tensorrt)
    assert f"ARG RUN_IMAGE={images.run}" in text
    assert f"ARG BUILD_IMAGE={images.build}" in text
    assert "VOLUME /var/lib/edgec" in text
    assert all(source in text for source in images.sources)
    assert images.confirmed in text
    Bundle.open(context / "bundle")  # every byte as sealed


def test_plugins_are_compiled_for_the_device(tmp_path: Path) -> None:
    folder = tmp_path / "b.edgec"
    (folder / "plugins").mkdir(parents=True)
    (folder / "plugins" / "CMakeLists.txt").write_text("project(plugins)\n")
    context = write_context(jetson(folder), tmp_path / "context")
    lint(context / "Dockerfile")
    check_structure(context)
    assert "-DCMAKE_CUDA_ARCHITECTURES=87" in (context / "Dockerfile").read_text()


def test_a_name_with_a_line_break_is_no_instruction(tmp_path: Path) -> None:
    bundle = jetson(tmp_path / "b.edgec")
    bundle.manifest["model"]["name"] = "m\nUSER root"
    context = write_context(bundle, tmp_path / "context")
    assert ("USER", "root") not in instructions(context / "Dockerfile")


def test_the_x86_context_is_sound(x86_bundle: Path, tmp_path: Path) -> None:
    context = write_context(Bundle.open(x86_bundle), tmp_path / "context")
    lint(context / "Dockerfile")
    check_structure(context)
    requirements = (context / "requirements.txt").read_text()
    for package in ("onnxruntime", "numpy", "starlette", "uvicorn"):
        assert re.search(rf"^{package}==\d", requirements, re.MULTILINE), package
    assert len(list((context / "wheels").glob("edgec_runtime-*.whl"))) == 1


def test_the_printed_command_names_the_context(
    x86_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = tmp_path / "my context"
    assert run(["package", str(x86_bundle), "--docker", "-o", str(context)], debug=False) == 0
    folder, build, start = capsys.readouterr().out.splitlines()
    assert folder == str(context)
    assert build == f"docker build -t small_x86 '{context}'"
    assert start.startswith("docker run ")


def test_every_image_has_a_source() -> None:
    assert [images.tensorrt for images in known()] == list(JETPACKS)
    assert all(images.sources and images.run.startswith("nvcr.io/") for images in known())
    assert all(images.confirmed and "\n" not in images.confirmed for images in known())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def served(context: Path, port: int, environment: dict[str, str]) -> Iterator[str]:
    """Start the entrypoint as the image does; its address once it is healthy."""
    command = ["/bin/sh", str(context / "entrypoint.sh")]
    process = subprocess.Popen(
        [*command, "serve"], cwd=context, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while subprocess.run([*command, "health"], env=environment, capture_output=True).returncode != 0:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def post(address: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with triton.InferenceServerClient(address.removeprefix("http://"), network_timeout=30) as client:
        asked = []
        for name, array in arrays.items():
            asked.append(triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
            asked[-1].set_data_from_numpy(array)
        answer = client.infer("small", asked)
        return {entry["name"]: answer.as_numpy(entry["name"]) for entry in answer.get_response()["outputs"]}


def check_service(address: str, bundle: Bundle, asked_before: int = 0) -> None:
    feeds, expected = bundle.samples()
    for feed, reference in zip(feeds, expected.references, strict=True):
        np.testing.assert_allclose(post(address, feed)["y"], reference["y"], rtol=1e-4, atol=1e-4)
    with pytest.raises(InferenceServerException, match="x") as refused:
        post(address, {"wrong": np.zeros(3, np.float32)})
    assert refused.value.status() == "400"
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
        counted = f'edgec_requests_total{{model="small",status="200"}} {float(len(feeds) + asked_before)}'
        assert counted in answer.read().decode()


def test_a_jetson_image_builds_its_engine_once_and_serves(tmp_path: Path) -> None:
    bundle = jetson(tmp_path / "small.jetson.edgec")
    context = write_context(bundle, tmp_path / "context")
    state, port = tmp_path / "volume" / "state", free_port()
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(
            [str(SIMULATION / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": str(SIMULATION),  # stands for the image's own TensorRT
        "LD_LIBRARY_PATH": str(cuda_folder()),
        "EDGEC_SIMULATED_GPU": "Orin:8.7",
        "EDGEC_BUNDLE": str(context / "bundle"),
        "EDGEC_STATE": str(state),
        "EDGEC_PORT": str(port),
    }
    with served(context, port, environment) as address:
        check_service(address, bundle)
    built = (state / "model.engine").stat().st_mtime_ns
    with served(context, port, environment):
        pass
    assert (state / "model.engine").stat().st_mtime_ns == built
    # The image's other commands, and a device that does not fit.
    command = ["/bin/sh", str(context / "entrypoint.sh")]
    done = subprocess.run([*command, "verify", "--json"], env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout)["passed"]
    environment["EDGEC_SIMULATED_TENSORRT"] = "8.5.2"
    done = subprocess.run([*command, "serve"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "TensorRT 8.5.2" in done.stderr


def test_an_x86_image_serves_with_the_runtime_alone(x86_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(x86_bundle)
    context = write_context(bundle, tmp_path / "context")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, *map(str, (context / "wheels").glob("*.whl"))], check=True)
    port = free_port()
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([SCRIPTS, os.environ["PATH"]]),
        "PYTHONPATH": str(site),
        "EDGEC_BUNDLE": str(context / "bundle"),
        "EDGEC_PORT": str(port),
    }
    code = "import edgec_runtime as e, sys; print(e.__file__); assert 'onnx_ir' not in sys.modules"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    with served(context, port, environment) as address:
        check_service(address, bundle, asked_before=1)  # by the health check
        # A server that answers, and wrongly, is not healthy.
        other = tmp_path / "other"
        shutil.copytree(context / "bundle", other)
        sample = other / "samples" / "0.outputs.npz"
        write_arrays(sample, {name: array + 1 for name, array in read_arrays(sample).items()})
        command = ["/bin/sh", str(context / "entrypoint.sh"), "health"]
        wrong = {**environment, "EDGEC_BUNDLE": str(other)}
        done = subprocess.run(command, env=wrong, capture_output=True, text=True)
        assert done.returncode == 1
        assert "the answer to the bundle's own sample is" in done.stderr
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the server does not answer" in done.stderr


def test_bad_requests_are_refused_and_leave_nothing(
    x86_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "note.txt").write_text("mine")
    assert run(["package", str(x86_bundle), "--docker", "-o", str(kept)], debug=False) == 2
    assert [path.name for path in kept.iterdir()] == ["note.txt"]
    assert run(["package", str(x86_bundle), "--docker", "-o", str(tmp_path / "no" / "x")], debug=False) == 2
    assert run(["package", str(x86_bundle)], debug=False) == 2
    assert run(["package", str(x86_bundle), "--docker", "--wheel"], debug=False) == 2
    unknown = jetson(tmp_path / "b.edgec")
    plan = unknown.path / "engine" / "plan.json"
    plan.write_text(plan.read_text().replace('"10.3"', '"9.9"'))
    from edgec.core.errors import JobError

    with pytest.raises(JobError, match=r"TensorRT 9\.9"):
        write_context(unknown, tmp_path / "context")
    assert not [path for path in tmp_path.iterdir() if "context" in path.name]
    assert "--docker, --wheel" in capsys.readouterr().err
