"""Signatures that OpenSSF's own tool takes, and its own that edgec takes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import model_signing
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from edgec.core import bundle as bundles
from edgec.core.bundle import IO, SIGNATURE, Bundle, InputsOutputs, sign
from edgec.core.errors import EdgecError, IntegrityError, RequestError

PEM, PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()


def write_pair(folder: Path, name: str = "key", private: object = None) -> tuple[Path, Path]:
    made = private or ec.generate_private_key(ec.SECP256R1())
    paths = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    paths[0].write_bytes(made.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN))  # type: ignore[attr-defined]
    public = made.public_key()  # type: ignore[attr-defined]
    paths[1].write_bytes(public.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return paths


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "small.x86.edgec"
    with bundles.writing(target) as scratch:
        for name in ("engine/model.onnx", "engine-b", "engine/deep/er.bin"):
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(name.encode())
        bundles.write_json(scratch / IO, InputsOutputs((), (), {}, ()).to_json())
        bundles.seal(scratch, {"samples": 0})
    return target


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_the_formats_own_tool_verifies_what_edgec_signs(
    path: Path, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    private, public = write_pair(tmp_path, private=ec.generate_private_key(curve))
    signature = sign(Bundle.open(path), private)
    verifying = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifying.verify(path, signature)
    Bundle.open(path, key=public)
    (path / "engine-b").write_bytes(b"other")
    with pytest.raises(ValueError, match="mismatch"):
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(path, signature)


def test_edgec_verifies_what_the_formats_own_tool_signs(path: Path, tmp_path: Path) -> None:
    private, public = write_pair(tmp_path)
    signing = model_signing.signing.Config().use_elliptic_key_signer(private_key=private)
    signing.set_hashing_config(model_signing.hashing.Config().set_ignored_paths(paths=[path / SIGNATURE]))
    signing.sign(path, path / SIGNATURE)
    Bundle.open(path, key=public)


def _forged(path: Path, change: Callable[[dict], None]) -> None:
    """Change the statement, and keep its signature."""
    fields = json.loads((path / SIGNATURE).read_text())
    statement = json.loads(base64.b64decode(fields["dsseEnvelope"]["payload"]))
    change(statement)
    fields["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (path / SIGNATURE).write_text(json.dumps(fields))


def _resealed(path: Path) -> None:
    kept = (path / SIGNATURE).read_bytes()
    (path / "engine" / "model.onnx").write_bytes(b"other")
    bundles.seal(path, {"samples": 0})
    (path / SIGNATURE).write_bytes(kept)


def _without_envelope(path: Path) -> None:
    (path / SIGNATURE).write_text('{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}')


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / SIGNATURE).unlink(), "not signed"),
        (lambda path: (path / SIGNATURE).write_text("{"), "no signature of the OpenSSF format"),
        (_without_envelope, "no signature of the OpenSSF format"),
        (lambda path: (path / "engine-b").write_bytes(b"other"), "engine-b: changed"),
        (lambda path: (path / "engine-b").unlink(), "engine-b: is missing"),
        (lambda path: (path / "more").write_bytes(b""), "more: is not part of the bundle"),
        (_resealed, r"engine/model\.onnx: is not what was signed"),
        (lambda path: _forged(path, lambda told: told.update(subject=[])), "or was changed"),
        (lambda path: _forged(path, lambda told: told["predicate"]["resources"].pop()), "or was changed"),
    ],
)
def test_what_is_not_as_it_was_signed_is_refused(
    path: Path, tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    private, public = write_pair(tmp_path)
    sign(Bundle.open(path), private)
    harm(path)
    with pytest.raises(IntegrityError, match=said):
        Bundle.open(path, key=public)


def test_a_signature_by_another_key_is_refused(path: Path, tmp_path: Path) -> None:
    private, _ = write_pair(tmp_path)
    _, other = write_pair(tmp_path, "other")
    sign(Bundle.open(path), private)
    with pytest.raises(IntegrityError, match=r"not made by the key of .*other\.pub\.pem"):
        Bundle.open(path, key=other)


def test_a_key_that_is_no_key_is_refused(path: Path, tmp_path: Path) -> None:
    private, public = write_pair(tmp_path)
    edwards, edwards_public = write_pair(tmp_path, "edwards", ed25519.Ed25519PrivateKey.generate())
    (tmp_path / "junk").write_bytes(b"junk")
    for key in (public, tmp_path / "junk", tmp_path / "none", tmp_path, edwards):
        with pytest.raises(RequestError):
            sign(Bundle.open(path), key)
    sign(Bundle.open(path), private)
    for key in (private, tmp_path / "junk", tmp_path / "none", tmp_path, edwards_public):
        with pytest.raises(RequestError):
            Bundle.open(path, key=key)


def test_a_key_with_a_password_needs_it(path: Path, tmp_path: Path) -> None:
    key = tmp_path / "locked.pem"
    locked = serialization.BestAvailableEncryption(b"open")
    made = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(made.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
    for password in (None, b"shut"):
        with pytest.raises(EdgecError):
            sign(Bundle.open(path), key, password)
    sign(Bundle.open(path), key, b"open")


def test_a_signature_travels_and_ends_with_a_change(path: Path, tmp_path: Path) -> None:
    private, public = write_pair(tmp_path)
    sign(Bundle.open(path), private)
    opened = Bundle.open(path)
    bundles.copy_bundle(opened, tmp_path / "copy")
    Bundle.open(tmp_path / "copy", key=public)
    packed = bundles.pack(path)
    unpacked = Bundle.open(packed, key=public)
    with pytest.raises(RequestError, match="zip file is not signed in place"):
        sign(unpacked, private)
    bundles.seal(path, {"samples": 0})
    assert not (path / SIGNATURE).exists()
