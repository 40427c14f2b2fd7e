"""`features.json`: how the tensors of the graph are called and typed in the package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from edgec.core.errors import IntegrityError
from edgec.core.graph import OpenSize
from edgec.core.json_file import read_object
from edgec.targets.coreml.images import ImageInput
from edgec.targets.coreml.lowering.classes import Classifier
from edgec.targets.coreml.lowering.features import Feature
from edgec.targets.coreml.lowering.program import Lowered
from edgec.targets.coreml.lowering.states import State

FEATURES = "features.json"


@dataclasses.dataclass(frozen=True)
class Features:
    """What a package takes and gives.

    Attributes:
        inputs: in the graph's order.
        outputs: in the graph's order; a classifier's label and dictionary are not among them.
        open_sizes: what the open dimensions of the inputs may be, by name.
        classifier: the class labels; None where the package has none.
        states: what the package keeps between calls.
    """

    inputs: list[Feature]
    outputs: list[Feature]
    open_sizes: dict[str, OpenSize]
    classifier: Classifier | None
    states: list[State]

    @classmethod
    def of(cls, lowered: Lowered) -> Features:
        """Those of a program."""
        return cls(lowered.inputs, lowered.outputs, lowered.open_sizes, lowered.classifier, lowered.states)

    def write(self, folder: Path) -> None:
        """Write them beside the package."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        (folder / FEATURES).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Features:
        """Read what `write` wrote.

        Raises:
            IntegrityError: the file is missing or malformed.
        """
        path = folder / FEATURES
        try:
            fields = read_object(path)
            inputs, outputs = ([_feature(item) for item in fields[key]] for key in ("inputs", "outputs"))
            sizes = {
                name: OpenSize(**{**size, "choices": tuple(size["choices"])})
                for name, size in fields["open_sizes"].items()
            }
            named = fields["classifier"]
            classifier = named and Classifier(**{**named, "labels": tuple(named["labels"])})
            states = [State(**{**item, "shape": tuple(item["shape"])}) for item in fields["states"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"the package's features cannot be read ({error})",
                where=str(path),
                fix="compile the model again",
            ) from error
        return cls(inputs, outputs, sizes, classifier, states)


def _feature(fields: dict[str, Any]) -> Feature:
    image = fields["image"]
    if image is not None:
        image = ImageInput(**{**image, "mean": tuple(image["mean"]), "std": tuple(image["std"])})
    shapes = {key: tuple(fields[key]) for key in ("shape", "mil_shape")}
    return Feature(**{**fields, **shapes, "image": image})
