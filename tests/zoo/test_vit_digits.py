"""vit_digits: the committed weights reach the committed figure on digits that training never saw."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgec import zoo

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")

FOLDER = Path(zoo.__file__).parent / "vit_digits"


def test_the_parts_share_no_image_and_leave_none_out() -> None:
    from edgec.zoo.vit_digits.data import SHARES, members

    target = datasets.load_digits().target
    parts = [members(part, target) for part in SHARES]
    assert sorted(np.concatenate(parts)) == list(range(len(target)))
    for part in parts:
        share = np.bincount(target[part]) / len(part)
        assert np.abs(share - 0.1).max() < 0.01


def test_no_held_out_digit_was_trained_on() -> None:
    from edgec.zoo.vit_digits.data import digits

    held_out = zoo.evaluation("vit_digits")
    assert held_out is not None
    seen = {image.tobytes() for part in ("train", "calibration") for image in digits(part)[0]}
    assert not any(image.tobytes() in seen for image in held_out.inputs["image"])


def test_the_committed_figure_is_the_models() -> None:
    from edgec.zoo.vit_digits.model import trained

    data = zoo.evaluation("vit_digits")
    assert data is not None
    with torch.inference_mode():
        logits = trained()(torch.from_numpy(data.inputs["image"])).numpy()
    accuracy = data.score(logits)["accuracy"]
    right, count = map(int, re.findall(r"held_out: (\d+)/(\d+)", (FOLDER / "README.md").read_text())[0])
    assert count == data.samples
    # A digit on the edge may fall to the other side under another machine's sums.
    assert abs(round(accuracy * count) - right) <= 1
    assert accuracy >= 0.97


def test_the_weights_are_small() -> None:
    assert (FOLDER / "weights.npz").stat().st_size < 1_000_000


def test_training_is_deterministic() -> None:
    from edgec.zoo.vit_digits.train import BATCH, distort

    images = torch.linspace(-1, 1, BATCH * 64).reshape(BATCH, 1, 8, 8)
    one, other = (distort(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.allclose(one, images, atol=0.1)
    assert one.min() >= -1.0 - 1e-5
    assert one.max() <= 1.0 + 1e-5


def test_the_graph_reads_its_examples() -> None:
    graph = zoo.load("vit_digits", batch=2, samples=2)
    assert graph.source.kind == "zoo"
    assert graph.labels == tuple("0123456789")
    assert [spec.shape for spec in graph.inputs] == [(2, 1, 8, 8)]
    data = zoo.calibration("vit_digits", count=4)
    assert data is not None
    assert np.array_equal(np.concatenate([feed["image"] for feed in graph.examples]), data.inputs["image"])
    read = np.concatenate([reference["output"] for reference in graph.references]).argmax(axis=1)
    assert (read == data.labels).sum() >= 3
