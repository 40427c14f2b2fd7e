"""The Swift package of a bundle: a typed wrapper, and tools that measure the model on an Apple device."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from edgec.core import bundle as bundles
from edgec.core import quoting
from edgec.core.bundle import InputsOutputs
from edgec.runtime.engine import EngineDescription
from edgec.targets.coreml.checker.package import read
from edgec.targets.coreml.features import Features
from edgec.targets.coreml.shipping import names
from edgec.version import __version__

FOLDER = "swift"
_TEMPLATES = Path(__file__).parent / "templates"

_SYSTEMS = {7: ("16.0", "13.0"), 8: ("17.0", "14.0"), 9: ("18.0", "15.0")}
"""Specification version → the oldest iOS and macOS that read it."""

_ARRAYS = {65568: ("float32", "Float"), 65552: ("float16", "Float"), 131104: ("int32", "Int32")}
_ARRAYS[65600] = ("double", "Double")
"""Core ML's number of an array's type → its name in `MLMultiArrayDataType`, and the Swift type to fill it."""

_GRAYSCALE = 10
"""Core ML's number of the colour space of one channel."""

_CROP = "crop it to {:.0%} of its shorter side first, as the model was trained"


@dataclasses.dataclass(frozen=True)
class Given:
    """One input as the templates need it.

    Attributes:
        name: its name in the package.
        source: its name in the model.
        identifier: its name in Swift.
        maker: the Swift function that makes one.
        doc: shape and type, one clause.
        image: whether it is a picture.
        shape: its default shape; empty for a picture.
        dataType: its case of `MLMultiArrayDataType`.
        scalar: the Swift type of its numbers.
        width: pixels, where it is a picture or is made from one.
        height: likewise.
        format: the pixel format of a picture.
        crop: what to do to a picture first.
        scale: what a byte is multiplied with, as a literal.
        mean: one literal a channel; empty where the numbers are taken as they are.
        std: likewise.
        channels: bytes a pixel.
    """

    name: str
    source: str
    identifier: str
    maker: str
    doc: str
    image: bool = False
    shape: str = ""
    dataType: str = ""  # noqa: N815 (Swift's spelling)
    scalar: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    crop: str = ""
    scale: str = "1.0"
    mean: str = ""
    std: str = ""
    channels: int = 0

    @property
    def type(self) -> str:
        """Its Swift type."""
        return "CVPixelBuffer" if self.image else "MLMultiArray"


@dataclasses.dataclass(frozen=True)
class Result:
    """One output as the templates need it.

    Attributes:
        name: its name in the package.
        source: its name in the model.
        identifier: its name in Swift.
        local: a name for a local variable.
        doc: shape and type, one clause.
        kind: `array`, `text` or `dictionary`.
    """

    name: str
    source: str
    identifier: str
    local: str
    doc: str
    kind: str

    @property
    def type(self) -> str:
        """Its Swift type."""
        return {"array": "MLMultiArray", "text": "String", "dictionary": "[String: Double]"}[self.kind]


def write(bundle: Path) -> list[Path]:
    """Write the Swift package into a bundle that has its engine and its `io.json`.

    Returns:
        the files, in order.

    Raises:
        IntegrityError: the package or what describes it cannot be read.
    """
    folder = bundle / bundles.ENGINE
    description = EngineDescription.read(folder)
    package = read(folder / description.model)
    features = Features.read(folder)
    fields = json.loads((bundle / bundles.IO).read_text(encoding="utf-8"))
    values = described(package.model, features, InputsOutputs.from_json(fields), description.model)
    module = values["module"]
    files = {
        "Package.swift": "Package.swift",
        "README.md": "README.md",
        "measure.sh": "measure.sh",
        "add-model.sh": "add-model.sh",
        f"Sources/{module}/{module}.swift": "Model.swift",
        f"Sources/{module}/Resources/README.txt": "Resources.txt",
        "Sources/EdgecMeasure/EdgecMeasure.swift": "EdgecMeasure.swift",
        "Sources/edgec-measure/Tool.swift": "Tool.swift",
    }
    written = []
    for name, template in files.items():
        path = bundle / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_environment().get_template(f"{template}.j2").render(values), encoding="utf-8")
        written.append(path)
    return written


def described(model: Any, features: Features, io: InputsOutputs, package: str) -> dict[str, Any]:
    """What the templates need of a model: the package's own description, in the model's own names.

    Args:
        model: the package's `Model` message.
        features: how its tensors are called and typed.
        io: the bundle's `io.json`.
        package: the package's file name.
    """
    name = model.description.metadata.shortDescription or "model"
    ios, macos = _SYSTEMS.get(model.specificationVersion, _SYSTEMS[9])
    inputs = _inputs(model, features, io)
    outputs = _outputs(model, features)
    dictionary = next((output.identifier for output in outputs if output.kind == "dictionary"), "")
    scored = next((output for output in outputs if output.kind == "array"), None)
    scores = scored.identifier if scored is not None and _scores(features, io) else ""
    return {
        "version": __version__,
        "model": name,
        "module": names.module_name(name),
        "package": package,
        "ios": ios,
        "macos": macos,
        "inputs": inputs,
        "outputs": outputs,
        "labels": list(io.labels),
        "probabilities": dictionary,
        "scores": "" if dictionary else scores,
        "stateful": bool(features.states),
    }


def _scores(features: Features, io: InputsOutputs) -> bool:
    """Whether the first output has a score for each label."""
    sizes = [size for size in features.outputs[0].shape if size != 1] if features.outputs else []
    return bool(io.labels) and sizes == [len(io.labels)]


def _inputs(model: Any, features: Features, io: InputsOutputs) -> list[Given]:
    known = {feature.name: feature for feature in features.inputs}
    described = list(model.description.input)
    made = names.identifiers(
        known[item.name].source if item.name in known else item.name for item in described
    )
    found = []
    for item, swift in zip(described, made, strict=True):
        source = known[item.name].source if item.name in known else item.name
        declared = io.preprocessing.get(source, {})
        bare = names.bare(swift)
        given = {"name": item.name, "source": source, "identifier": swift}
        given["maker"] = f"make{bare[0].upper()}{bare[1:]}"
        if item.type.WhichOneof("Type") == "imageType":
            found.append(Given(**given, **_picture(item.type.imageType, declared)))
        else:
            found.append(Given(**given, **_array(item.type.multiArrayType, declared)))
    return found


def _picture(kind: Any, declared: Mapping[str, Any]) -> dict[str, Any]:
    gray = kind.colorSpace == _GRAYSCALE
    share = declared.get("crop_pct")
    crop = f"; {_CROP.format(share)}" if isinstance(share, (int, float)) and share < 1 else ""
    return {
        "image": True,
        "doc": f"a picture of {kind.width} × {kind.height}, {'one channel' if gray else 'colour'}",
        "width": kind.width,
        "height": kind.height,
        "format": "kCVPixelFormatType_OneComponent8" if gray else "kCVPixelFormatType_32BGRA",
        "crop": crop,
    }


def _array(kind: Any, declared: Mapping[str, Any]) -> dict[str, Any]:
    shape = [int(size) for size in kind.shape]
    data_type, scalar = _ARRAYS.get(int(kind.dataType), _ARRAYS[65568])
    fields: dict[str, Any] = {
        "doc": f"{data_type}, {' × '.join(map(str, shape)) or 'one number'}",
        "shape": f"[{', '.join(map(str, shape))}]",
        "dataType": f".{data_type}",
        "scalar": scalar,
    }
    mean, std = declared.get("mean"), declared.get("std")
    planes = scalar == "Float" and len(shape) == 4 and shape[0] == 1
    normalised = isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std)
    if planes and normalised and len(mean) == shape[1]:
        fields |= {
            "channels": shape[1],
            "height": shape[2],
            "width": shape[3],
            "mean": f"[{', '.join(map(names.literal, mean))}]",
            "std": f"[{', '.join(map(names.literal, std))}]",
            "scale": names.literal(float(declared.get("scale", 1 / 255))),
        }
    return fields


def _outputs(model: Any, features: Features) -> list[Result]:
    known = {feature.name: feature for feature in features.outputs}
    described = list(model.description.output)
    made = names.identifiers(
        known[item.name].source if item.name in known else item.name for item in described
    )
    found = []
    for item, swift in zip(described, made, strict=True):
        source = known[item.name].source if item.name in known else item.name
        kind = item.type.WhichOneof("Type")
        if kind == "stringType":
            shown, doc = "text", "the most probable class"
        elif kind == "dictionaryType":
            shown, doc = "dictionary", "a probability for each class"
        else:
            feature = known.get(item.name)
            shape = feature.mil_shape if feature is not None else tuple(item.type.multiArrayType.shape)
            data_type, _ = _ARRAYS.get(int(item.type.multiArrayType.dataType), _ARRAYS[65568])
            shown, doc = "array", f"{data_type}, {' × '.join(map(str, shape))}"
        bare = names.bare(swift)
        found.append(Result(item.name, source, swift, f"found{bare[0].upper()}{bare[1:]}", doc, shown))
    return found


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        string=quoting.swift_string,
        comment=quoting.swift_comment,
        cell=quoting.markdown_cell,
        shell=quoting.shell_word,
    )
    return environment
