"""The package's inputs as coremltools names them: tensors, pictures, open sizes."""

from __future__ import annotations

from typing import Any

from edgec.core.errors import UnsupportedError
from edgec.core.graph import OpenSize
from edgec.targets.coreml.lowering.features import Feature
from edgec.targets.coreml.lowering.program import Lowered
from edgec.targets.coreml.versions import coremltools


def input_types(lowered: Lowered) -> list[Any] | None:
    """One coremltools type an input where any is a picture or has an open size; else None: all tensors.

    The bounds go into the package's description; inside the program an open size is a symbol, the same
    wherever its name comes again.
    """
    plain = all(feature.image is None and _is_fixed(feature) for feature in lowered.inputs)
    if plain:
        return None
    return [_type(feature, lowered.open_sizes) for feature in lowered.inputs]


def check_enumerated(inputs: list[Feature], open_sizes: dict[str, OpenSize], release: Any) -> None:
    """Refuse what a release cannot do with enumerated sizes.

    Raises:
        UnsupportedError: several inputs have them before iOS 18, or ranges and choices meet in one input,
            or two choices of different lengths do.
    """
    reasons = []
    listed = [item for item in inputs if any(_choices(item, open_sizes))]
    if len(listed) > 1 and not release.states:
        names = ", ".join(repr(item.source) for item in listed)
        reasons.append(f"inputs {names} all have a few sizes, and before iOS 18 only one input may")
    for item in listed:
        sizes = [open_sizes[size] for size in item.shape if isinstance(size, str)]
        if not all(size.choices for size in sizes):
            reasons.append(f"input {item.source!r} has a range and a few sizes at once")
    counts = {len(choices) for item in listed for choices in _choices(item, open_sizes)}
    if len(counts) > 1 and not reasons:
        reasons.append("its open sizes have different numbers of choices, and Core ML pairs them in order")
    if reasons:
        raise UnsupportedError(f"coreml:{release.name}", reasons, fix="give ranges instead (T=1..256)")


def _choices(feature: Feature, open_sizes: dict[str, OpenSize]) -> list[tuple[int, ...]]:
    return [open_sizes[size].choices for size in feature.shape if isinstance(size, str)]


def _is_fixed(feature: Feature) -> bool:
    return all(isinstance(size, int) for size in feature.shape)


def _type(feature: Feature, open_sizes: dict[str, OpenSize]) -> Any:
    ct = coremltools()
    if feature.image is not None:
        image = feature.image
        bias = list(image.type_bias)
        return ct.ImageType(
            name=feature.name,
            shape=feature.mil_shape,
            scale=image.type_scale,
            bias=bias if len(bias) > 1 else bias[0],
            color_layout=ct.colorlayout.RGB if image.layout == "RGB" else ct.colorlayout.GRAYSCALE,
            channel_first=True,
        )
    if any(_choices(feature, open_sizes)):
        return ct.TensorType(name=feature.name, shape=_enumerated(feature, open_sizes))
    shape = [_range(open_sizes[size]) if isinstance(size, str) else size for size in feature.mil_shape]
    return ct.TensorType(name=feature.name, shape=shape)


def _range(size: OpenSize) -> Any:
    return coremltools().RangeDim(lower_bound=size.low, upper_bound=size.high, default=size.low)


def _enumerated(feature: Feature, open_sizes: dict[str, OpenSize]) -> Any:
    """The choices of several open sizes go together, first with first."""
    count = len(next(choices for choices in _choices(feature, open_sizes) if choices))
    shapes = [
        [open_sizes[size].choices[index] if isinstance(size, str) else size for size in feature.mil_shape]
        for index in range(count)
    ]
    return coremltools().EnumeratedShapes(shapes=shapes, default=shapes[0])
