"""From a zoo name to a module, and to a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.core.graph import Arrays, Graph, Semantics
from edgec.core.progress import Progress, Silent
from edgec.zoo.catalogue import Entry, entry

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A model of this room: its module and what belongs to its inputs."""

    module: torch.nn.Module
    feeds: Arrays
    semantics: dict[str, Semantics]
    preprocessing: dict[str, dict[str, object]]
    labels: tuple[str, ...]


def module(name: str, seed: int = 0) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A model as a torch module in evaluation mode, and example inputs of batch 1 in the order of `forward`.

    Weights of timm models are drawn from `seed`, never fetched.

    Raises:
        RequestError: the zoo has no such model.
        MissingExtraError: a package of the extra `zoo` is not installed.
    """
    known = entry(name)
    if known.timm_name is not None:
        return _drawn(known.timm_name, seed)
    trained = _trained(known, 1)
    import torch

    return trained.module, tuple(torch.from_numpy(array[:1].copy()) for array in trained.feeds.values())


def load(
    name: str,
    *,
    example: str | Path | None = None,
    batch: int | None = None,
    seed: int = 0,
    samples: int = 3,
    progress: Progress | None = None,
) -> Graph:
    """Load a model of the zoo as a graph.

    Models with data of their own take their first examples from the calibration data, in order; drawn ends
    of masks and ids come behind.

    Args:
        name: its name in the zoo.
        example: an npz file of real inputs, which become the graph's first samples.
        batch: size of the batch, 1 where not given.
        seed: of drawn inputs and weights.
        samples: how many example inputs.
        progress: told about long steps.

    Raises:
        RequestError: the zoo has no such model.
        MissingExtraError: a package of the extra `zoo` is not installed.
        JobError: no exporter reproduces the model.
    """
    known = entry(name)
    progress = progress or Silent()
    spec = f"zoo:{name}"
    if known.timm_name is not None:
        from edgec.frontends.timm import from_timm

        return from_timm(
            known.timm_name,
            spec=spec,
            kind="zoo",
            example=example,
            batch=batch,
            seed=seed,
            samples=samples,
            progress=progress,
        )
    progress.step("importing torch")
    size = batch or 1
    trained = _trained(known, samples * size)
    import torch

    from edgec.frontends.torch import from_module

    return from_module(
        trained.module,
        {key: torch.from_numpy(array[:1].copy()) for key, array in trained.feeds.items()},
        spec=spec,
        name=name,
        kind="zoo",
        semantics=trained.semantics,
        examples=_batches(trained.feeds, samples, size),
        example=example,
        preprocessing=trained.preprocessing,
        labels=trained.labels,
        weights=known.weights,
        batch=batch,
        seed=seed,
        samples=samples,
        progress=progress,
    )


def _batches(feeds: Arrays, samples: int, size: int) -> Sequence[Arrays]:
    """`samples` feeds of `size` rows each; rows come again where there are too few."""
    available = len(next(iter(feeds.values())))
    rows = np.arange(samples * size) % available
    return [
        {key: array[rows[sample * size : (sample + 1) * size]] for key, array in feeds.items()}
        for sample in range(samples)
    ]


def _drawn(timm_name: str, seed: int) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    from edgec.frontends.torchvision_guard import prepare_torchvision, require

    require("torch", "zoo")
    prepare_torchvision()
    require("timm", "zoo")
    import timm
    import torch

    from edgec.frontends.draw_weights import draw_weights
    from edgec.frontends.quiet import quiet

    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        model: Any = timm.create_model(timm_name).eval()
        images = torch.randn(2, *model.pretrained_cfg["input_size"])
        others = torch.randn(6, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        draw_weights(model, seed, lambda: model(images), lambda: model(others))
    return model, (images[:1].clone(),)


def _trained(known: Entry, count: int) -> _Trained:
    """Build a model of this room, with at most `count` rows of calibration data as feeds."""
    from edgec.frontends.torchvision_guard import require

    require("torch", "zoo")
    from edgec.zoo.evaluation import calibration

    data = calibration(known.name, count=count)
    assert data is not None  # every model of this room has data
    feeds = {key: array[:count] for key, array in data.inputs.items()}
    if known.name == "minilm":
        from edgec.zoo.minilm import data as minilm_data
        from edgec.zoo.minilm import model as minilm_model

        meanings: dict[str, Semantics] = {"input_ids": "tokens", "attention_mask": "mask"}
        tokenizer: dict[str, object] = {"tokenizer": "tokenizer.json", "length": minilm_data.LENGTH}
        return _Trained(minilm_model.trained(), feeds, meanings, {"input_ids": tokenizer}, ())
    if known.name == "vit_digits":
        from edgec.zoo.vit_digits import data as digits
        from edgec.zoo.vit_digits import model as digits_model

        scaled = {
            "layout": "NCHW",
            "size": [8, 8],
            "scale": 1 / 16,
            "mean": [digits.MEAN],
            "std": [digits.STD],
        }
        labels = tuple(str(digit) for digit in range(10))
        return _Trained(digits_model.trained(), feeds, {"image": "image"}, {"image": scaled}, labels)
    if known.name == "vit_patterns":
        from edgec.zoo.vit_patterns import model as patterns_model
        from edgec.zoo.vit_patterns import scenes as patterns

        scaled = _scaled(patterns.SIDE, patterns.MEAN, patterns.STD)
        return _Trained(
            patterns_model.trained(), feeds, {"image": "image"}, {"image": scaled}, patterns.LABELS
        )
    from edgec.zoo.vit_shapes import model as shapes_model
    from edgec.zoo.vit_shapes import scenes
    from edgec.zoo.vit_shapes.silhouettes import LABELS

    scaled = _scaled(scenes.SIDE, scenes.MEAN, scenes.STD)
    return _Trained(shapes_model.trained(), feeds, {"image": "image"}, {"image": scaled}, LABELS)


def _scaled(side: int, mean: float, std: float) -> dict[str, object]:
    """How a square picture becomes an input."""
    return {
        "layout": "NCHW",
        "size": [side, side],
        "scale": 1 / 255,
        "mean": [mean] * 3,
        "std": [std] * 3,
    }
