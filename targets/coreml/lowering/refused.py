"""Ops that can have no lowering here, with the reason and what would help."""

from __future__ import annotations

from edgec.targets.coreml.lowering.table import REFUSED

_CONTROL = (
    "control flow is not lowered",
    "export the model with its loops unrolled and its branches decided",
)
_SEQUENCE = ("Core ML programs have no sequences or optionals", "keep tensors in the graph")
_TEXT = ("Core ML tensors hold no text", "tokenize before the model")
_RANDOM = ("it draws random numbers, so nothing can be verified", "export the model in evaluation mode")
_DATA = ("the size of its output depends on the data", "move it out of the model")
_TRAINING = ("it is a training step", "export the model in evaluation mode")

REFUSED["Scan"] = _CONTROL
REFUSED.update(
    dict.fromkeys(
        (
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "ConcatFromSequence",
            "SplitToSequence",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
        ),
        _SEQUENCE,
    )
)
REFUSED.update(
    dict.fromkeys(
        (
            "StringNormalizer",
            "StringConcat",
            "StringSplit",
            "RegexFullMatch",
            "TfIdfVectorizer",
            "LabelEncoder",
        ),
        _TEXT,
    )
)
REFUSED.update(
    dict.fromkeys(
        (
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        _RANDOM,
    )
)
REFUSED.update(dict.fromkeys(("NonZero", "Unique", "Compress", "NonMaxSuppression"), _DATA))
REFUSED.update(dict.fromkeys(("Adagrad", "Adam", "Momentum", "Gradient"), _TRAINING))
REFUSED.update(
    dict.fromkeys(
        ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift", "BitCast"),
        ("Core ML has no bit operations", "compute them outside the model"),
    )
)
