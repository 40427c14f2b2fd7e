"""A bundle's signature, in the OpenSSF model-signing format, by an elliptic-curve key.

`model.sig` is a Sigstore bundle (media type v0.3) with a DSSE envelope; in it is an in-toto statement that
lists every file of the bundle with its sha256. Any tool of the format checks it, and edgec checks theirs:

    model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key key.pub.pem

Sources: github.com/sigstore/model-transparency, docs/model_signing_format.md; for the envelope,
github.com/secure-systems-lab/dsse, protocol.md. Only the package `cryptography` is needed, and only where a
signature is made or demanded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.core.errors import IntegrityError, MissingExtraError, RequestError
from edgec.core.json_file import read_object

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"

_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""The hash that goes with a curve, by the format; other curves it does not have."""

_DO_NOT_RUN = "do not run this bundle; get it again from whoever signed it"


def sign(files: Mapping[str, str], name: str, key: Path, password: bytes | None = None) -> bytes:
    """The signature of a set of files.

    Args:
        files: sha256 in hex by the file's name, relative and with slashes.
        name: the model's name.
        key: a private key in PEM, of the curve P-256, P-384 or P-521.
        password: what the key is encrypted with.

    Returns:
        the content of `model.sig`.

    Raises:
        RequestError: the key is none, or of another kind.
        MissingExtraError: `cryptography` is not installed.
    """
    serialization, hashes, ec = _cryptography()
    private = _loaded(key, lambda data: serialization.load_pem_private_key(data, password), "private")
    _check_kind(private, key, ec.EllipticCurvePrivateKey)
    payload = json.dumps(_statement(files, name), separators=(",", ":")).encode()
    made = private.sign(_encoded(payload), ec.ECDSA(getattr(hashes, _HASHES[private.curve.name])()))
    fields = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": _hint(private.public_key(), serialization)},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(made).decode(), "keyid": ""}],
        },
    }
    return (json.dumps(fields, indent=1) + "\n").encode()


def check(signature: Path, files: Mapping[str, str], key: Path) -> None:
    """See that a key signed exactly these files.

    Args:
        signature: `model.sig`.
        files: sha256 in hex by name, as the files are.
        key: the public key in PEM.

    Raises:
        IntegrityError: there is no signature, it is malformed or another key's, or it is of other files.
        RequestError: the key is none, or of another kind.
        MissingExtraError: `cryptography` is not installed.
    """
    serialization, hashes, ec = _cryptography()
    public = _loaded(key, serialization.load_pem_public_key, "public")
    _check_kind(public, key, ec.EllipticCurvePublicKey)
    if not signature.is_file():
        raise IntegrityError(
            "the bundle is not signed", where=str(signature.parent), fix="sign it with edgec sign"
        )
    payload, made = _envelope(signature)
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(made, _encoded(payload), ec.ECDSA(getattr(hashes, _HASHES[public.curve.name])()))
    except InvalidSignature:
        raise IntegrityError(
            f"it was not made by the key of {key}, or was changed", where=str(signature), fix=_DO_NOT_RUN
        ) from None
    signed = _signed_files(payload, signature)
    for name in sorted({*files, *signed}):
        if name not in signed:
            raise IntegrityError("is not signed", where=str(signature.parent / name), fix=_DO_NOT_RUN)
        if files.get(name) != signed[name]:
            what = "is signed and missing" if name not in files else "is not what was signed"
            raise IntegrityError(what, where=str(signature.parent / name), fix=_DO_NOT_RUN)


def _statement(files: Mapping[str, str], name: str) -> dict[str, Any]:
    entries = sorted(files.items(), key=lambda entry: entry[0].split("/"))
    whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in entries)).hexdigest()
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ["model.sig"],
            },
            "resources": [
                {"name": file, "algorithm": "sha256", "digest": digest} for file, digest in entries
            ],
        },
    }


def _envelope(path: Path) -> tuple[bytes, bytes]:
    """The statement and its signature, as bytes."""
    try:
        fields = read_object(path)
        envelope = fields["dsseEnvelope"]
        if fields["mediaType"] != _MEDIA_TYPE or envelope["payloadType"] != _PAYLOAD_TYPE:
            raise ValueError("of another format")
        [made] = envelope["signatures"]
        return base64.b64decode(envelope["payload"], validate=True), base64.b64decode(
            made["sig"], validate=True
        )
    except (OSError, ValueError, LookupError, TypeError, binascii.Error) as error:
        raise _malformed(path) from error


def _signed_files(payload: bytes, path: Path) -> dict[str, str]:
    """The files that the statement lists, by name."""
    try:
        fields = json.loads(payload)
        predicate = fields["predicate"]
        method, kind = predicate["serialization"]["method"], predicate["serialization"]["hash_type"]
        if (fields["_type"], fields["predicateType"]) != (_STATEMENT, _PREDICATE):
            raise ValueError("of another format")
        if (method, kind) != ("files", "sha256"):
            raise ValueError("files hashed in another way")
        files = {str(entry["name"]): str(entry["digest"]) for entry in predicate["resources"]}
        if len(files) != len(predicate["resources"]):
            raise ValueError("a file twice")
        return files
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _malformed(path) from error


def _malformed(path: Path) -> IntegrityError:
    return IntegrityError("is no signature of the OpenSSF format", where=str(path), fix=_DO_NOT_RUN)


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _hint(public: Any, serialization: Any) -> str:
    """The format's name of a key: the sha256 of its PEM."""
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise MissingExtraError("cryptography", "sign") from error
    return serialization, hashes, ec


def _loaded(path: Path, load: Any, kind: str) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"cannot be read ({error.strerror})", where=str(path), fix=f"name a {kind} key in PEM"
        ) from error
    try:
        return load(data)
    except (ValueError, TypeError) as error:
        # cryptography: TypeError for a password too many or too few, ValueError for a wrong one or no key.
        what = "needs a password, or has none" if isinstance(error, TypeError) else f"is no {kind} key in PEM"
        if "password" in str(error).lower() and isinstance(error, ValueError):
            what = "has another password"
        raise RequestError(what, where=str(path), fix=_MAKE_KEY) from error
    except Exception as error:
        raise RequestError(f"is no {kind} key that is known", where=str(path), fix=_MAKE_KEY) from error


_MAKE_KEY = (
    "make a pair: openssl ecparam -name prime256v1 -genkey -noout -out key.pem && "
    "openssl ec -in key.pem -pubout -out key.pub.pem"
)


def _check_kind(key: Any, path: Path, kind: type) -> None:
    curve = getattr(key, "curve", None) if isinstance(key, kind) else None
    if curve is None or curve.name not in _HASHES:
        raise RequestError(
            "the format takes keys of the curves P-256, P-384 and P-521", where=str(path), fix=_MAKE_KEY
        )
