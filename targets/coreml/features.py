"""`features.json`: how the tensors of the graph are called and typed in the package."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from edgec.core.errors import IntegrityError
from edgec.targets.coreml.lowering.program import Feature

FEATURES = "features.json"


def write_features(folder: Path, inputs: Sequence[Feature], outputs: Sequence[Feature]) -> None:
    """Write them beside the package."""
    fields = {
        "inputs": [dataclasses.asdict(feature) for feature in inputs],
        "outputs": [dataclasses.asdict(feature) for feature in outputs],
    }
    text = json.dumps(fields, indent=1, sort_keys=True)
    (folder / FEATURES).write_text(text + "\n", encoding="utf-8")


def read_features(folder: Path) -> tuple[list[Feature], list[Feature]]:
    """Read what `write_features` wrote.

    Raises:
        IntegrityError: the file is missing or malformed.
    """
    path = folder / FEATURES
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        inputs, outputs = ([_feature(item) for item in fields[key]] for key in ("inputs", "outputs"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"the package's features cannot be read ({error})", where=str(path), fix="compile the model again"
        ) from error
    return inputs, outputs


def _feature(fields: dict) -> Feature:  # type: ignore[type-arg]
    return Feature(**{**fields, "shape": tuple(fields["shape"]), "mil_shape": tuple(fields["mil_shape"])})
