"""vit_patterns: the same pictures everywhere, harder ones are harder, and the weights are not perfect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec import zoo
from edgec.zoo.vit_patterns import scenes as generator
from edgec.zoo.vit_shapes.scenes import grain
from edgec.zoo.vit_shapes.silhouettes import SILHOUETTES, templates

FOLDER = Path(zoo.__file__).parent / "vit_patterns"


def test_a_class_is_a_silhouette_and_a_fill() -> None:
    assert len(generator.LABELS) == len(SILHOUETTES) * len(generator.FILLS) == len(set(generator.LABELS))
    parameters, labels = generator.draw(np.random.default_rng(3), 40)
    for sample, label in enumerate(labels):
        shape = list(SILHOUETTES)[parameters["template"][sample, generator.CLUTTERS]]
        fill = generator.FILLS[parameters["fill"][sample, generator.CLUTTERS]]
        assert generator.LABELS[label] == f"{fill} {shape}"


def test_a_picture_is_its_seeds_and_indexs_alone() -> None:
    first, label = generator.scene(5, 17)
    again, same = generator.scene(5, 17)
    assert first.dtype == np.uint8
    assert first.shape == (3, generator.SIDE, generator.SIDE)
    assert first.tobytes() == again.tobytes()
    assert label == same
    assert first.tobytes() != generator.scene(5, 18)[0].tobytes()
    assert first.tobytes() != generator.scene(6, 17)[0].tobytes()


def test_each_fill_looks_different() -> None:
    parameters, _ = generator.draw(np.random.default_rng(1), 1, (0.0, 0.0))
    parameters["grain"][:] = 0.0
    steps = np.arange(generator.SIDE, dtype=np.float32)
    pictures = []
    for fill in range(len(generator.FILLS)):
        parameters["fill"][:, generator.CLUTTERS] = fill
        pictures.append(generator.render(parameters, (templates().reshape(-1), grain()), steps))
    for one in range(len(pictures)):
        for other in range(one):
            assert (np.abs(pictures[one] - pictures[other]) > 10).mean() > 0.01


def test_torch_renders_what_numpy_renders() -> None:
    torch = pytest.importorskip("torch")
    parameters, _ = generator.draw(np.random.default_rng(0), 3)
    steps = np.arange(generator.SIDE, dtype=np.float32)
    flat = templates().reshape(-1)
    expected = generator.render(parameters, (flat, grain()), steps)
    found = generator.render(
        {name: torch.from_numpy(array) for name, array in parameters.items()},
        (torch.from_numpy(flat), torch.from_numpy(grain())),
        torch.from_numpy(steps),
        torch,
    ).numpy()
    assert expected.dtype == found.dtype == np.float32
    assert np.abs(expected - found).max() <= 1
    assert (expected != found).mean() < 1e-4


def test_harder_scenes_are_paler_and_noisier() -> None:
    easy, _ = generator.draw(np.random.default_rng(2), 200, (0.0, 0.1))
    hard, _ = generator.draw(np.random.default_rng(2), 200, (0.9, 1.0))
    middle = generator.CLUTTERS
    assert hard["radius"][:, middle].mean() < 0.7 * easy["radius"][:, middle].mean()
    assert hard["depth"].mean() < 0.5 * easy["depth"].mean()
    assert hard["grain"].mean() > 3 * easy["grain"].mean()


def test_the_weights_name_most_held_out_pictures_and_not_all() -> None:
    torch = pytest.importorskip("torch")
    from edgec.zoo.vit_patterns.model import trained

    data = zoo.evaluation("vit_patterns", count=128)
    calibration = zoo.calibration("vit_patterns", count=2)
    assert data is not None
    assert calibration is not None
    with torch.inference_mode():
        logits = trained()(torch.from_numpy(data.inputs["image"])).numpy()
    # 93.9 % of 8192; of 128 that is 120, with a standard deviation of 3.
    assert 0.86 <= data.score(logits)["accuracy"] < 1.0
    assert not np.isclose(calibration.inputs["image"], data.inputs["image"][:2]).all(axis=(1, 2, 3)).any()


def test_the_weights_are_small() -> None:
    assert (FOLDER / "weights.npz").stat().st_size < 10_000_000
