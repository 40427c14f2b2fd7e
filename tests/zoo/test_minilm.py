"""minilm: real sentences, tokenised by the checkpoint's own tokenizer, embedded by its own weights."""

from __future__ import annotations

import numpy as np
import pytest

from edgec import zoo
from edgec.zoo.minilm.data import LENGTH, graded_pairs, tokenise

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def embed():
    from edgec.zoo.minilm.model import trained

    model = trained()

    def run(texts: list[str]) -> np.ndarray:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in tokenise(texts).items()}).numpy()

    return run


def test_the_parts_share_no_sentence() -> None:
    grades, held_out = graded_pairs("held_out")
    others, calibration = graded_pairs("calibration")
    assert len(held_out) == 2 * len(grades) == 64
    assert len(calibration) == 2 * len(others) == 32
    assert len({*held_out, *calibration}) == 96
    for part in (grades, others):
        assert set(part) == {0, 1, 2, 3, 4, 5}


def test_tokens_are_as_the_model_takes_them() -> None:
    data = zoo.evaluation("minilm")
    assert data is not None
    assert {name: (array.dtype, array.shape) for name, array in data.inputs.items()} == {
        name: (np.dtype(np.int64), (64, LENGTH)) for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    lengths = data.inputs["attention_mask"].sum(axis=1)
    assert lengths.min() < 20
    assert lengths.max() > 70
    assert lengths.max() <= LENGTH
    assert (data.inputs["input_ids"][:, 0] == 101).all()  # [CLS]
    assert (data.inputs["input_ids"][data.inputs["attention_mask"] == 0] == 0).all()  # [PAD]


def test_paraphrases_lie_closer_than_unrelated_sentences(embed) -> None:
    data = zoo.evaluation("minilm")
    assert data is not None
    assert data.grades is not None
    _, texts = graded_pairs("held_out")
    rows = embed(texts)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    likeness = (rows[0::2] * rows[1::2]).sum(axis=1)
    assert likeness[data.grades == 5].min() > likeness[data.grades == 0].max() + 0.2
    scores = data.score(rows, rows)
    assert scores["ranking"] == pytest.approx(1.0)
    assert scores["graded"] > 0.9


def test_padding_changes_nothing(embed) -> None:
    from edgec.zoo.minilm.model import trained

    text = "She repaired the broken clock with a tiny screwdriver."
    feeds = tokenise([text])
    length = int(feeds["attention_mask"].sum())
    with torch.inference_mode():
        short = trained()(**{name: torch.from_numpy(array[:, :length]) for name, array in feeds.items()})
    assert np.abs(short.numpy() - embed([text])).max() < 1e-5
