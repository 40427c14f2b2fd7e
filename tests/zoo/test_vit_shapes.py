"""vit_shapes: the generator draws the same pictures everywhere, and the weights read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgec import zoo
from edgec.zoo.vit_shapes import scenes as generator
from edgec.zoo.vit_shapes.silhouettes import CLUTTER, LABELS, SILHOUETTES, TEXELS, templates

FOLDER = Path(zoo.__file__).parent / "vit_shapes"


def test_there_are_enough_classes_and_each_differs() -> None:
    assert len(LABELS) >= 20
    inside = templates() < 0
    assert inside.shape == (len(SILHOUETTES) + len(CLUTTER), TEXELS, TEXELS)
    for one in range(len(LABELS)):
        assert not inside[one, [0, -1]].any()
        assert not inside[one, :, [0, -1]].any()
        for other in range(one):
            common = (inside[one] & inside[other]).sum() / (inside[one] | inside[other]).sum()
            assert common < 0.92, f"{LABELS[one]} and {LABELS[other]}"


def test_a_picture_is_its_seeds_and_indexs_alone() -> None:
    first, label = generator.scene(5, 17)
    again, same = generator.scene(5, 17)
    assert first.dtype == np.uint8
    assert first.shape == (3, 224, 224)
    assert first.tobytes() == again.tobytes()
    assert label == same
    assert first.tobytes() != generator.scene(5, 18)[0].tobytes()
    assert first.tobytes() != generator.scene(6, 17)[0].tobytes()
    code = (
        "import hashlib; from edgec.zoo.vit_shapes.scenes import scene; "
        "print(hashlib.sha256(scene(5, 17)[0].tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import hashlib

    assert done.stdout.strip() == hashlib.sha256(first.tobytes()).hexdigest()


def test_the_held_out_pictures_are_those_of_the_committed_figure() -> None:
    # Means, not a hash: another machine's cosine may move a rare pixel by one of 255 steps.
    pictures = [generator.scene(generator.HELD_OUT, index) for index in range(4)]
    means = [float(picture.mean()) for picture, _ in pictures]
    assert means == pytest.approx([144.2, 126.4, 121.7, 156.9], abs=0.1)
    assert [LABELS[label] for _, label in pictures] == ["arrow", "ell", "aitch", "heart"]


def test_the_parts_are_drawn_apart() -> None:
    seeds = (generator.TRAINING, generator.HELD_OUT, generator.CALIBRATION, generator.PROBE)
    assert len(set(seeds)) == len(seeds)
    held_out, calibration = zoo.evaluation("vit_shapes", count=3), zoo.calibration("vit_shapes", count=3)
    assert held_out is not None
    assert calibration is not None
    assert not np.isclose(held_out.inputs["image"], calibration.inputs["image"]).all(axis=(1, 2, 3)).any()


def test_torch_renders_what_numpy_renders() -> None:
    torch = pytest.importorskip("torch")
    parameters, _ = generator.draw(np.random.default_rng(0), 3)
    steps = np.arange(generator.SIDE, dtype=np.float32)
    flat, grain = templates().reshape(-1), generator.grain()
    expected = generator.render(parameters, (flat, grain), steps)
    found = generator.render(
        {name: torch.from_numpy(array) for name, array in parameters.items()},
        (torch.from_numpy(flat), torch.from_numpy(grain)),
        torch.from_numpy(steps),
        torch,
    ).numpy()
    assert expected.dtype == found.dtype == np.float32
    assert np.abs(expected - found).max() <= 1
    assert (expected != found).mean() < 1e-4


def test_neighbouring_background_patches_look_alike() -> None:
    # What token merging lives on: most patches are nearly their neighbour's.
    pictures, _ = generator.scenes(9, 0, 4)
    patches = pictures.reshape(4, 3, 14, 16, 14, 16).mean(axis=(3, 5))
    steps = np.abs(np.diff(patches, axis=3)).mean(axis=1)
    assert np.median(steps) < 0.25 * patches.std()


def test_the_weights_name_held_out_pictures() -> None:
    torch = pytest.importorskip("torch")
    from edgec.zoo.vit_shapes.model import CONFIG, trained

    assert CONFIG.tokens == 197
    assert CONFIG.depth >= 12
    data = zoo.evaluation("vit_shapes", count=48)
    assert data is not None
    with torch.inference_mode():
        logits = trained()(torch.from_numpy(data.inputs["image"])).numpy()
    assert data.score(logits)["accuracy"] >= 0.95


def test_the_weights_are_small() -> None:
    assert (FOLDER / "weights.npz").stat().st_size < 12_000_000


def test_a_linear_probe_on_pixels_hardly_beats_guessing() -> None:
    torch = pytest.importorskip("torch")
    from edgec.zoo.vit_shapes.probe import probe

    found, own = probe(128, 64, 28, torch.device("cpu"))
    assert found < 0.2
    assert own > found
