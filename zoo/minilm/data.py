"""Sentences for minilm: pairs whose likeness a person graded, written for this purpose.

`held_out.txt` and `calibration.txt` hold a pair a line, `grade<tab>one<tab>other`: 5 says the same,
4 nearly, 3 the same event with other details, 2 the same subject, 1 a distant link, 0 nothing in
common. Most are sentences; every fourth is a passage that fills much of the 128 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Literal

import numpy as np

from edgec.core.errors import MissingExtraError
from edgec.core.graph import Arrays
from edgec.zoo.minilm.checkpoint import checkpoint

LENGTH = 128
"""Tokens of an input; shorter texts are padded, longer ones cut."""


def graded_pairs(part: Literal["calibration", "held_out"]) -> tuple[np.ndarray, list[str]]:
    """The pairs of a part.

    Returns:
        grades float64 [pairs], and the texts, two a pair: pair i is texts 2i and 2i + 1.
    """
    lines = resources.files("edgec.zoo.minilm").joinpath(f"{part}.txt").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line]
    return np.array([float(grade) for grade, _, _ in rows]), [text for _, *pair in rows for text in pair]


def tokenise(texts: Sequence[str]) -> Arrays:
    """Texts as the model takes them, by the checkpoint's own tokenizer.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids`, each int64 [texts, LENGTH].

    Raises:
        MissingExtraError: tokenizers (it comes with transformers) or the checkpoint is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError("tokenizers", "zoo") from error
    tokenizer = Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    encoded = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([row.ids for row in encoded], dtype=np.int64),
        "attention_mask": np.array([row.attention_mask for row in encoded], dtype=np.int64),
        "token_type_ids": np.array([row.type_ids for row in encoded], dtype=np.int64),
    }
