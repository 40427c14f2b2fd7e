"""Class labels: a classifier's first output also comes out as a label and a probability for each class."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.targets.coreml.lowering.features import Feature

LABEL = "classLabel"
"""The output with the most probable class; `classLabel_probs` is the dictionary of all of them."""

PROBABILITIES = "class_probabilities"
"""The tensor behind the dictionary, inside the program."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """How a package names classes.

    Attributes:
        labels: one a class, in order, no two alike.
        output: the graph's output that scores the classes.
        tensor: the program's tensor with their probabilities.
    """

    labels: tuple[str, ...]
    output: str
    tensor: str = PROBABILITIES


def classifier_of(outputs: Sequence[Feature], labels: Sequence[str]) -> Classifier | None:
    """The classifier that labels make of a model; None where they do not fit its first output.

    Core ML classifies one sample at a time, so the output must be one row of scores.
    """
    if not labels or not outputs:
        return None
    first = outputs[0]
    if first.shape not in ((1, len(labels)), (len(labels),)) or first.mil_dtype == "int32":
        return None
    return Classifier(distinct(labels), first.source)


def distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels with the class number behind those that come twice: a dictionary keeps one of a kind."""
    counts = collections.Counter(labels)
    return tuple(label if counts[label] == 1 else f"{label} ({index})" for index, label in enumerate(labels))


def probabilities(builder: Any, graph: ir.Graph, scores: Any, classifier: Classifier) -> Any:
    """The MIL tensor of the probabilities: the output's softmax, or itself where it comes from one."""
    producer = graph.outputs[0].producer()
    if producer is not None and is_op(producer, "Softmax"):
        return builder.identity(x=scores, name=classifier.tensor)
    return builder.softmax(x=scores, axis=-1, name=classifier.tensor)
