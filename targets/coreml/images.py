"""Image inputs: a phone's pixels in, the model's normalisation in the package.

A source that declares how a picture becomes its input (`Graph.preprocessing`) gets an input of Core ML's
type image. With raw bytes p, the source computes on x = (scale · p - mean_c) / std_c. Core ML's image
type has one number for all channels and a bias for each:

    image ─ · scale/s ─ + (-mean_c/s) ─ · s/std_c ─ model        s: the geometric mean of std_c
            └──────── image type ───┘   └ folded into the first convolutions, whose padding is zero before
                                          and after it; a multiplication where something else reads it
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgec.core.errors import JobError
from edgec.core.graph import Arrays, Graph, TensorSpec

BYTE = 1 / 255
"""What a byte is multiplied with where the source names no other scale."""

_LAYOUTS = {1: "GRAYSCALE", 3: "RGB"}


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """An input that is a picture in the package.

    Attributes:
        layout: `RGB` or `GRAYSCALE`.
        scale: what a byte is multiplied with before mean and std.
        mean: one number a channel.
        std: one number a channel.
    """

    layout: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The one number that stands for all channels' std."""
        return math.prod(self.std) ** (1 / len(self.std))

    @property
    def type_scale(self) -> float:
        """The image type's scale."""
        return self.scale / self.spread

    @property
    def type_bias(self) -> tuple[float, ...]:
        """The image type's bias, one number a channel."""
        return tuple(-mean / self.spread for mean in self.mean)

    @property
    def factors(self) -> np.ndarray:
        """What is left to multiply each channel with, fp32, shape (channels,)."""
        return np.array([self.spread / std for std in self.std], np.float32)

    def pixels(self, x: np.ndarray) -> np.ndarray:
        """The bytes behind a model's input (N, C, H, W), rounded and cut to 0..255, as fp32."""
        raw = (np.asarray(x, np.float64) * _channels(self.std) + _channels(self.mean)) / self.scale
        return np.clip(np.rint(raw), 0, 255).astype(np.float32)

    def values(self, pixels: np.ndarray) -> np.ndarray:
        """The model's input for bytes (N, C, H, W), fp32."""
        scaled = np.asarray(pixels, np.float64) * self.scale
        return ((scaled - _channels(self.mean)) / _channels(self.std)).astype(np.float32)


def _channels(numbers: tuple[float, ...]) -> np.ndarray:
    return np.array(numbers).reshape(-1, 1, 1)


def image_inputs(graph: Graph) -> dict[str, ImageInput]:
    """The inputs that can be pictures, by name: the source says how, and the batch is one."""
    found = {}
    for spec in graph.inputs:
        image = _image(spec, graph.preprocessing.get(spec.name, {}))
        if image is not None:
            found[spec.name] = image
    return found


def _image(spec: TensorSpec, declared: Mapping[str, object]) -> ImageInput | None:
    fits = spec.semantics == "image" and spec.dtype == "float32" and len(spec.shape) == 4 and spec.is_fixed
    if not fits or spec.shape[0] != 1 or declared.get("layout", "NCHW") != "NCHW":
        return None
    channels = spec.shape[1]
    mean, std = (_numbers(declared.get(key)) for key in ("mean", "std"))
    if channels not in _LAYOUTS or len(mean) != channels or len(std) != channels or min(std) <= 0:
        return None
    scale = declared.get("scale", BYTE)
    return ImageInput(_LAYOUTS[channels], float(scale), mean, std)  # type: ignore[arg-type]


def _numbers(values: object) -> tuple[float, ...]:
    return tuple(float(value) for value in values) if isinstance(values, (list, tuple)) else ()


def with_pixel_examples(graph: Graph, images: Mapping[str, ImageInput]) -> Graph:
    """The graph with examples that pictures can hold, and what the source computes on those.

    A drawn number lies between two bytes; the nearest byte's value is as good an example, and the source
    itself is run on it again. The package is then compared on inputs that both sides take exactly.

    Raises:
        JobError: the source cannot be run again.
    """
    if not images:
        return graph
    examples = [_rounded(feeds, images) for feeds in graph.examples]
    if all(_same(new, old) for new, old in zip(examples, graph.examples, strict=True)):
        return graph
    if graph.run_source is None:
        raise JobError(
            "the source cannot be run on whole pixels",
            fix="keep the tensor input: write :tensor behind the target",
        )
    return graph.with_examples(examples)


def _rounded(feeds: Arrays, images: Mapping[str, ImageInput]) -> Arrays:
    return {
        name: images[name].values(images[name].pixels(array)) if name in images else array
        for name, array in feeds.items()
    }


def _same(left: Arrays, right: Arrays) -> bool:
    return all(np.array_equal(left[name], right[name]) for name in left)


def fold_factors(model: ir.Model, name: str, image: ImageInput) -> None:
    """Multiply the channels of an input with `image.factors`, in place.

    Args:
        model: the model; edited.
        name: the input.
        image: what is folded.
    """
    value = next(item for item in model.graph.inputs if item.name == name)
    if np.allclose(image.factors, 1, rtol=1e-7):
        return
    readers = [use.node for use in value.uses()]
    if readers and all(_foldable(node, value) for node in readers) and not value.is_graph_output():
        for node in readers:
            _scale_weight(model, node, image.factors)
        return
    factors = image.factors.reshape(1, -1, 1, 1)
    constant = ir.Value(name=f"{name}_channel_factors", const_value=ir.tensor(factors))
    constant.shape, constant.dtype = ir.Shape(factors.shape), ir.DataType.FLOAT
    model.graph.register_initializer(constant)
    scaled = ir.node("Mul", [value, constant], name=f"{name}_channel_scale")
    scaled.outputs[0].name = f"{name}_scaled_by_channel"
    scaled.outputs[0].shape, scaled.outputs[0].dtype = value.shape, value.dtype
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, scaled.outputs[0])
    scaled.replace_input_with(0, value)
    model.graph.insert_before(model.graph[0], scaled)


def _foldable(node: ir.Node, value: ir.Value) -> bool:
    """A convolution that reads the value as its data and has constant weights of its own."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return False
    weight = node.inputs[1]
    groups = node.attributes.get_int("group", 1)
    constant = weight is not None and weight.const_value is not None and len(weight.uses()) == 1
    return constant and groups == 1 and node.inputs[0] is value


def _scale_weight(model: ir.Model, node: ir.Node, factors: np.ndarray) -> None:
    old = node.inputs[1]
    assert old is not None
    assert old.const_value is not None
    array = old.const_value.numpy()
    scaled = (array * factors.reshape(1, -1, *[1] * (array.ndim - 2))).astype(array.dtype)
    new = ir.Value(name=f"{old.name}_for_pixels", const_value=ir.tensor(scaled))
    new.shape, new.dtype = old.shape, old.dtype
    model.graph.register_initializer(new)
    node.replace_input_with(1, new)
