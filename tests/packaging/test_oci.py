"""`edgec package --oci` and `--modelpack`: archives that registries and container engines take."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from edgec.cli.main import run
from edgec.core.bundle import Bundle
from edgec.core.errors import RequestError
from edgec.packaging import oci_image
from edgec.packaging.oci_image import write_image
from edgec.packaging.oci_layout import CONFIG, INDEX, LAYER, MANIFEST, Blobs

FULL = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}


def opened(archive: Path, folder: Path) -> tuple[Path, dict]:
    """An archive's blobs, every one as its digest says, and its manifest."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    for blob in (folder / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    index = json.loads((folder / "index.json").read_text())
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    [entry] = index["manifests"]
    return folder, json.loads(blob_of(folder, entry).read_text())


def blob_of(folder: Path, descriptor: dict) -> Path:
    path = folder / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")
    assert path.stat().st_size == descriptor["size"]
    return path


def test_an_artifact_gives_the_bundle_back(x86_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.tar"
    assert run(["package", str(x86_bundle), "--modelpack", "-o", str(out)], debug=False) == 0
    folder, manifest = opened(out, tmp_path / "layout")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    back = tmp_path / "back.edgec"
    kinds = {}
    for layer in manifest["layers"]:
        path = back / layer["annotations"]["org.cncf.model.filepath"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(blob_of(folder, layer), path)
        kinds[path.relative_to(back).as_posix()] = layer["mediaType"].removeprefix(
            "application/vnd.cncf.model."
        )
    assert Bundle.open(back).manifest == Bundle.open(x86_bundle).manifest
    assert kinds["engine/model.onnx"] == "weight.v1.raw"
    assert kinds["manifest.json"] == "weight.config.v1.raw"
    assert kinds["report.html"] == "doc.v1.raw"
    config = json.loads(blob_of(folder, manifest["config"]).read_text())
    assert config["descriptor"]["name"] == "small"
    assert config["modelfs"] == {
        "type": "layers",
        "diffIds": [layer["digest"] for layer in manifest["layers"]],
    }


def plain_base(path: Path, **changes: object) -> Path:
    """An image of one file, behind an index of two architectures."""
    blobs, packed = Blobs(), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("etc/base"), io.BytesIO())
    layer = blobs.add(LAYER, packed.getvalue())
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin", "PYTHON_VERSION=3.12.4", "PYTHONPATH=/old"], "Cmd": ["python3"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        **changes,
    }
    manifest = {"schemaVersion": 2, "config": blobs.add_json(CONFIG, config), "layers": [layer]}
    images = [
        {
            "mediaType": MANIFEST,
            "digest": "sha256:" + "0" * 64,
            "size": 1,
            "platform": {"architecture": "s390x"},
        },
        {**blobs.add_json(MANIFEST, manifest), "platform": {"architecture": "amd64"}},
    ]
    blobs.write(path, blobs.add_json(INDEX, {"schemaVersion": 2, "manifests": images}), "base")
    return path


@pytest.fixture
def without_pip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip would have installed is one file; the Pythons that were asked for."""
    asked: list[str] = []

    def install(bundle: Bundle, folder: Path, machine: str, python: str) -> None:
        folder.mkdir(parents=True)
        (folder / "package.py").write_text("")
        asked.append(python)

    monkeypatch.setattr(oci_image, "_install", install)
    return asked


def test_an_image_is_its_base_and_two_layers(
    x86_bundle: Path, tmp_path: Path, without_pip: list[str]
) -> None:
    base = plain_base(tmp_path / "base.tar")
    write_image(Bundle.open(x86_bundle), base, tmp_path / "a.tar")
    assert without_pip == ["3.12"]
    folder, manifest = opened(tmp_path / "a.tar", tmp_path / "layout")
    config = json.loads(blob_of(folder, manifest["config"]).read_text())
    assert config["config"]["User"] == "10001"
    assert config["config"]["Env"] == [
        "PATH=/usr/bin",
        "PYTHON_VERSION=3.12.4",
        "PYTHONPATH=/opt/edgec/site",
    ]
    assert config["config"]["Healthcheck"]["Test"][-2:] == ["health", "/opt/edgec/bundle"]
    root = tmp_path / "root"
    for layer, diff in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        with tarfile.open(blob_of(folder, layer)) as archive:
            assert {(entry.uid, entry.mtime) for entry in archive} == {(0, 0)}
            archive.extractall(root, filter="tar")
            archive.fileobj.seek(0)  # type: ignore[union-attr]
            assert f"sha256:{hashlib.sha256(archive.fileobj.read()).hexdigest()}" == diff  # type: ignore[union-attr]
    assert (root / "etc" / "base").is_file()
    assert (root / "opt" / "edgec" / "site" / "package.py").is_file()
    Bundle.open(root / "opt" / "edgec" / "bundle")
    write_image(Bundle.open(x86_bundle), base, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_base_that_is_none_is_refused(x86_bundle: Path, tmp_path: Path, without_pip: list[str]) -> None:
    bundle, out = Bundle.open(x86_bundle), tmp_path / "m.tar"
    (tmp_path / "text.tar").write_text("no archive")
    with pytest.raises(RequestError, match="no archive of an image"):
        write_image(bundle, tmp_path / "text.tar", out)
    with pytest.raises(RequestError, match="is for riscv"):
        write_image(bundle, plain_base(tmp_path / "riscv.tar", architecture="riscv"), out)
    content = bytearray(plain_base(tmp_path / "base.tar").read_bytes())
    place = content.index(b"PYTHON_VERSION")
    content[place] ^= 1
    (tmp_path / "damaged.tar").write_bytes(content)
    with pytest.raises(RequestError, match="is damaged"):
        write_image(bundle, tmp_path / "damaged.tar", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no OCI layout"):
        write_image(bundle, tmp_path / "empty", out)
    assert run(["package", str(x86_bundle), "--oci"], debug=False) == 2
    assert not out.exists()


@contextmanager
def container(image: Path) -> Iterator[str]:
    """A working container of an image; its name."""
    environment = {**os.environ, **FULL}
    made = subprocess.run(
        ["buildah", "from", "-q", f"oci-archive:{image}"], env=environment, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    name = made.stdout.split()[-1]
    try:
        yield name
    finally:
        subprocess.run(["buildah", "rm", name], env=environment, capture_output=True, check=True)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian with Python as an OCI archive."""
    folder, environment = tmp_path_factory.mktemp("debian"), {**os.environ, **FULL}
    command = [
        "debootstrap",
        "--variant=minbase",
        "--include=python3,python3-venv",
        "bookworm",
        str(folder / "root"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    working = subprocess.run(["buildah", "from", "scratch"], env=environment, capture_output=True, text=True)
    name = working.stdout.strip()
    base = folder / "base.tar"
    for words in (
        ["copy", name, str(folder / "root"), "/"],
        ["commit", name, f"oci-archive:{base}"],
        ["rm", name],
    ):
        subprocess.run(["buildah", *words], env=environment, check=True, capture_output=True)
    return base


@pytest.mark.full
@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("buildah", "debootstrap"))),
    reason="needs root, buildah and debootstrap, and reaches Debian's and Python's packages",
)
def test_the_image_starts_and_answers(x86_bundle: Path, debian: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(x86_bundle)
    write_image(bundle, debian, tmp_path / "m.tar")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    environment = {**os.environ, **FULL}
    with container(tmp_path / "m.tar") as name:
        config = json.loads(
            subprocess.run(
                ["buildah", "inspect", "--type", "container", "--format", "{{json .OCIv1.Config}}", name],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        entrypoint = [port if word == "8000" else word for word in config["Entrypoint"]]
        inside = ["buildah", "run", "--user", config["User"], name, "--"]
        server = subprocess.Popen([*inside, *entrypoint], env=environment, stderr=subprocess.DEVNULL)
        try:
            health = [*inside, "python3", "-B", "-m", "edgec_runtime", "health", "/opt/edgec/bundle"]
            health += ["--address", f"http://127.0.0.1:{port}"]
            deadline = time.monotonic() + 120
            while subprocess.run(health, env=environment, capture_output=True).returncode != 0:
                assert server.poll() is None
                assert time.monotonic() < deadline
            feeds, expected = bundle.samples()
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                [(input_name, array)] = feeds[0].items()
                asked = triton.InferInput(input_name, list(array.shape), "FP32")
                asked.set_data_from_numpy(array)
                answer = client.infer("small", [asked]).as_numpy("y")
            np.testing.assert_allclose(answer, expected.references[0]["y"], rtol=1e-4, atol=1e-4)
            user = subprocess.run([*inside, "id", "-u"], env=environment, capture_output=True, text=True)
            assert user.stdout.strip() == "10001"
        finally:
            server.terminate()
            server.wait(30)
