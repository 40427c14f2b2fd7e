"""Opening an ONNX file: what it is if it is none, and where its external data lies."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from edgec.core.errors import RequestError
from edgec.core.limits import limit, over
from edgec.frontends.bounds import check_size, check_tensor, nodes_of, stored_bytes


def read(path: Path) -> onnx.ModelProto:
    """Parse the file; weights in external files stay there, and were found to be there.

    Raises:
        RequestError: it is missing, or a directory, or empty, or damaged, or something else than ONNX,
            or its external data is missing or lies outside its folder.
    """
    _refuse_no_file(path)
    size = path.stat().st_size
    if size > limit("model_bytes"):
        raise over("model_bytes", f"the file has {size} bytes", where=str(path))
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise RequestError("the file is empty", where=str(path), fix="export the model again")
    found = _other_format(head)
    if found is not None:
        kind, fix = found
        raise RequestError(f"this is {kind}, not ONNX", where=str(path), fix=fix)
    model = onnx.ModelProto()
    try:
        with path.open("rb") as file:
            model.ParseFromString(file.read())
    except Exception as error:  # protobuf's own classes differ between its implementations
        if head[:1] == b"\x08" and _mentions_onnx(head):
            raise RequestError(
                "the file is damaged or cut off", where=str(path), fix="copy or export it again, whole"
            ) from error
        raise RequestError("this is not ONNX", where=str(path), fix=_EXPORT) from error
    if not model.HasField("graph") or not 1 <= model.ir_version <= 1000 or not model.opset_import:
        raise RequestError(
            "this is a protobuf of another kind, or a cut-off ONNX file", where=str(path), fix=_EXPORT
        )
    if not model.graph.output:
        raise RequestError("the graph has no output", where=str(path), fix="export the model again")
    try:
        check_size(model, str(path))
        for tensor in tensors(model):
            check_tensor(tensor, str(path))
        _check_references(model, path)
        _check_external_data(model, path)
    except UnicodeDecodeError as error:
        raise RequestError("a name in the file is no UTF-8 text", where=str(path), fix=_EXPORT) from error
    return model


_EXPORT = "give a file that torch.onnx.export, tf2onnx or another exporter wrote"


def _refuse_no_file(path: Path) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        # ONNX Runtime takes paths as UTF-8 only.
        raise RequestError("the file's name is no UTF-8 text", where=str(path), fix="rename it")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(f"no file can be there ({what})", where=str(path)[:200]) from error
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        if "saved_model.pb" in names:
            raise RequestError(
                "this is a TensorFlow SavedModel",
                where=str(path),
                fix=f"convert it: python -m tf2onnx.convert --saved-model {path} --output model.onnx",
            )
        if "config.json" in names:
            raise RequestError(
                "this is a directory", where=str(path), fix=f"write hf:{path} for a transformers checkpoint"
            )
        inside = [name for name in names if name.endswith(".onnx")]
        raise RequestError(
            "this is a directory",
            where=str(path),
            fix=f"did you mean {path / inside[0]}?" if inside else "name the ONNX file in it",
        )
    if not path.exists():
        folder = path.parent
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, [name for name in names if name.endswith(".onnx")], n=1)
        raise RequestError(
            "there is no such file",
            where=str(path),
            fix=f"did you mean {folder / near[0]}?" if near else None,
        )
    if not path.is_file():
        raise RequestError("this is no plain file", where=str(path), fix="name the ONNX file")
    if not os.access(path, os.R_OK):
        raise RequestError("the file cannot be read", where=str(path), fix="check its permissions")


def _other_format(head: bytes) -> tuple[str, str] | None:
    """What a file's first bytes say it is, and what to do with it; None where it may be ONNX."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "fetch the file itself: git lfs pull"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "convert it: python -m tf2onnx.convert --tflite"
    if head[4:8] == b"ORTM":
        return "a model in ONNX Runtime's own format", "give the ONNX file it was made from"
    if head.startswith(b"PK\x03\x04"):
        return (
            "a zip archive (a PyTorch checkpoint, a Keras model or an npz)",
            "write file.py:function to load a PyTorch module, or export it to ONNX",
        )
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "a Python pickle", "write file.py:function to load a PyTorch module, or export it to ONNX"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file (a Keras model)", "convert it with tf2onnx"
    if head.startswith(b"GGUF"):
        return "a GGUF file", "give the model it was made from"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        return "a compressed file", "unpack it first"
    if head[:4] in (b"ftrt", b"ptrt"):
        return "a TensorRT engine", "give the ONNX file it was built from"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "a safetensors file", "write hf:DIR for a transformers checkpoint, or timm:NAME@FILE"
    stripped = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if stripped.startswith((b"<?xml", b"<net")):
        return "an XML file (OpenVINO IR)", "give the ONNX file it was made from"
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 or byte >= 128 for byte in head) and _is_utf8(head):
        return "a text file", _EXPORT
    return None


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character cut off by the end of what was read
    return True


def _mentions_onnx(head: bytes) -> bool:
    """Whether the bytes look like the start of a ModelProto: a version, then a producer or a graph."""
    return len(head) > 2 and head[1] < 64 and head[2:3] in b"\x12\x1a\x22\x28\x32\x3a\x42"


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, its subgraphs and its functions: initializers and attributes."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _attribute_tensors(function.attribute_proto)
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            if sparse.HasField("values"):
                yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def _check_references(model: onnx.ModelProto, path: Path) -> None:
    """See that only a function's nodes take attributes from the function's call."""
    for node in nodes_of(model.graph.node):
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                raise RequestError(
                    f"node {node.name or node.op_type!r} takes its attribute {attribute.name!r} from a call "
                    "of a function, and is in none",
                    where=str(path),
                    fix="export the model again; this file is broken",
                )


def _check_external_data(model: onnx.ModelProto, path: Path) -> None:
    folder = path.absolute().parent
    real = folder.resolve()
    sizes: dict[str, int] = {}
    for tensor in tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        if location not in sizes:
            sizes[location] = _external_size(location, folder, real, tensor.name, path)
        try:
            wanted = stored_bytes(tensor)
            start, length = int(fields.get("offset", 0)), int(fields.get("length", wanted))
        except ValueError:
            start, length, wanted = -1, 0, 0
        if length != wanted:
            raise RequestError(
                f"the external data of {tensor.name!r} has {length} bytes, its shape and type {wanted}",
                where=str(path),
                fix="export the model again; this file is broken",
            )
        if start < 0 or length < 0 or start + length > sizes[location]:
            raise RequestError(
                f"the external data of {tensor.name!r} ends beyond {location}, which is damaged or cut off",
                where=str(path),
                fix="copy or export both files again, whole",
            )


def _external_size(location: str, folder: Path, real: Path, tensor: str, path: Path) -> int:
    outside = f"the external data of {tensor!r} points outside the model's folder, to {location!r}"
    keep = "export the model again with its data beside it"
    if not location:
        raise RequestError(f"the external data of {tensor!r} names no file", where=str(path), fix=keep)
    if "\0" in location:
        raise RequestError(
            f"the external data of {tensor!r} is in {location!r}, which no file can be called",
            where=str(path),
            fix=keep,
        )
    if Path(location).is_absolute() or ".." in location.replace("\\", "/").split("/"):
        raise RequestError(outside, where=str(path), fix=keep)
    file = folder / location
    try:
        is_inside = file.resolve().is_relative_to(real)
        is_file = file.is_file()
    except (OSError, RuntimeError):  # a name too long, or links that go round
        is_inside, is_file = True, False
    if not is_inside:
        raise RequestError(
            f"{outside}, a link", where=str(path), fix="put a copy of the data beside the model, not a link"
        )
    if not is_file:
        raise RequestError(
            f"its external data {location!r} is missing",
            where=str(path),
            fix=f"put {location} beside the model; both were written together",
        )
    return file.stat().st_size
