"""Drives TensorRT plugin classes from Python as TensorRT does; needs numpy and the compiled harness alone."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

FLOAT, HALF, INT8, INT32, INT64 = 0, 1, 2, 3, 8
"""`nvinfer1::DataType`."""

LINEAR, CHW2 = 0, 1
"""`nvinfer1::TensorFormat`."""

TYPES = {"float32": FLOAT, "float16": HALF, "int32": INT32, "int64": INT64}
NAMESPACE = "ai.edgec"


class _Field(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("is_float", ctypes.c_int32),
        ("whole", ctypes.c_int32),
        ("real", ctypes.c_float),
    ]


class Tensor(ctypes.Structure):
    """What TensorRT tells of a tensor."""

    _fields_ = [
        ("rank", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("format", ctypes.c_int32),
        ("size", ctypes.c_int64 * 8),
        ("largest", ctypes.c_int64 * 8),
        ("data", ctypes.c_void_p),
    ]

    @classmethod
    def of(cls, shape, kind: int, *, data: int = 0, largest=None, form: int = LINEAR) -> Tensor:  # type: ignore[no-untyped-def]
        """A tensor of a shape and type; `largest` are a profile's largest sizes."""
        sizes = (ctypes.c_int64 * 8)(*shape)
        return cls(len(shape), kind, form, sizes, (ctypes.c_int64 * 8)(*(largest or shape)), data)


class PluginError(Exception):
    """A plugin refused something; the text is what was logged."""


class Harness:
    """One TensorRT version's plugins.

    Args:
        folder: has `harness.so` and the libraries.
    """

    def __init__(self, folder: Path) -> None:
        # The libraries are linked to their own harness, so that several versions may live in one process.
        self._library = ctypes.CDLL(str(folder / "harness.so"))
        for name in ("harness_said", "harness_creators"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self._library.harness_create.restype = ctypes.c_void_p
        self._library.harness_workspace.restype = ctypes.c_int64
        self.plugins = [ctypes.CDLL(str(path)) for path in sorted(folder.glob("libedgec*.so"))]

    def creators(self) -> set[str]:
        """All registered creators as `namespace::name version`."""
        return set(self._library.harness_creators().decode().split("\n")) - {""}

    def said(self) -> str:
        """What was logged since the last call."""
        return self._library.harness_said().decode()

    def create(
        self, op_type: str, attributes: dict | None = None, layer: str = "/layer", space: str = NAMESPACE
    ):  # type: ignore[no-untyped-def]
        """The plugin that the ONNX parser makes of a node.

        Raises:
            PluginError: it makes none.
        """
        attributes = attributes or {}
        fields = (_Field * max(1, len(attributes)))()
        for place, (name, value) in enumerate(attributes.items()):
            real = isinstance(value, float)
            fields[place] = _Field(name.encode(), real, 0 if real else value, value if real else 0.0)
        made = self._library.harness_create(
            op_type.encode(), space.encode(), layer.encode(), fields, len(attributes)
        )
        if not made:
            raise PluginError(self.said())
        return Plugin(self, self._library, made)


class Plugin:
    """A plugin in a network."""

    def __init__(self, harness: Harness, library: ctypes.CDLL, handle: int) -> None:
        self._harness, self._library, self._handle = harness, library, ctypes.c_void_p(handle)

    def __enter__(self) -> Plugin:
        return self

    def __exit__(self, *_) -> None:  # type: ignore[no-untyped-def]
        self._library.harness_delete(self._handle)

    def infer(self, inputs: list[Tensor]) -> list[Tensor]:
        """Types and shapes of the outputs."""
        outputs = (Tensor * self._library.harness_outputs(self._handle))()
        status = self._library.harness_infer(self._handle, self._array(inputs), len(inputs), outputs)
        self._raise(status)
        return list(outputs)

    def supports(self, place: int, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
        """Whether the tensor at a place, outputs counted behind inputs, may be as described."""
        both = self._array([*inputs, *outputs])
        return bool(self._library.harness_supports(self._handle, place, both, len(inputs), len(outputs)))

    def workspace(self, inputs: list[Tensor]) -> int:
        """Bytes for inputs of at most their `largest` sizes."""
        return self._library.harness_workspace(self._handle, self._array(inputs), len(inputs))

    def run(self, arrays: list[np.ndarray], *, largest=None) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
        """Build an engine of the plugin alone, save and load it, and run it once.

        Args:
            arrays: the inputs; their dtypes are the tensors'.
            largest: largest shapes of the profile, as the arrays' where None.

        Raises:
            PluginError: a step failed.
        """
        arrays = [np.ascontiguousarray(array) for array in arrays]
        inputs = [
            Tensor.of(
                array.shape,
                TYPES[array.dtype.name],
                data=array.ctypes.data,
                largest=None if largest is None else largest[place],
            )
            for place, array in enumerate(arrays)
        ]
        outputs = self.infer(inputs)
        kinds = {kind: np.dtype(name) for name, kind in TYPES.items()}
        results = [np.empty(tuple(one.size[: one.rank]), kinds[one.type]) for one in outputs]
        for one, array in zip(outputs, results, strict=True):
            one.data = array.ctypes.data
        for place in range(len(inputs) + len(outputs)):
            if not self.supports(place, inputs, outputs):
                raise PluginError(f"type or format at {place} is not supported")
        status = self._library.harness_run(
            self._handle, self._array(inputs), len(inputs), self._array(outputs), len(outputs)
        )
        self._raise(status)
        return results

    def _raise(self, status: int) -> None:
        said = self._harness.said()
        if status or said:
            raise PluginError(said)

    @staticmethod
    def _array(tensors: list[Tensor]):  # type: ignore[no-untyped-def]
        return (Tensor * len(tensors))(*tensors)
