"""Train vit_patterns on a GPU: `python -m edgec.zoo.vit_patterns.train`.

Every step sees fresh pictures, drawn on the GPU from (TRAINING, step). The last lines printed are
the accuracy of the weights as written, on held-out pictures that numpy drew, by their hardness too.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch

from edgec.zoo import training, weights
from edgec.zoo.vit import VisionTransformer
from edgec.zoo.vit_patterns.model import CONFIG, WEIGHTS
from edgec.zoo.vit_patterns.scenes import HELD_OUT, MEAN, SIDE, STD, TRAINING, draw, render, scenes
from edgec.zoo.vit_shapes.scenes import grain
from edgec.zoo.vit_shapes.silhouettes import templates


def train(
    steps: int, batch: int, peak_rate: float, seconds: float, seed: int, device: torch.device
) -> VisionTransformer:
    """Train from nothing, in bfloat16 where `device` is a GPU.

    Args:
        steps: optimiser steps at most.
        batch: pictures a step.
        peak_rate: learning rate after the warm-up; it then falls linearly to zero.
        seconds: time to train at most, after which the rate is zero.
        seed: seeds the weights; the pictures come from `TRAINING`.
        device: where to train.
    """
    torch.manual_seed(seed)
    model = VisionTransformer(CONFIG).to(device)
    paint = training.painter(render, (templates().reshape(-1), grain()), SIDE, (MEAN, STD), device)
    pictures = training.drawn_ahead(draw, TRAINING, steps, batch, workers=4)
    training.optimise(model, pictures, paint, steps=steps, peak_rate=peak_rate, seconds=seconds)
    return model


def main() -> None:
    """Train, write the weights, read them back and print the accuracy of what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("-o", "--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = train(options.steps, options.batch, options.rate, options.seconds, options.seed, device)
    weights.save(options.output, model.state_dict())
    model.load_state_dict(weights.load(options.output))
    share = training.accuracy(model, scenes, HELD_OUT, options.held_out, options.workers)
    print(f"held-out: {100 * share:.2f} % of {options.held_out}", flush=True)
    count = options.held_out // 8
    for fifth in range(5):
        drawn = functools.partial(scenes, hardness=(fifth / 5, (fifth + 1) / 5))
        share = training.accuracy(model, drawn, HELD_OUT, count, options.workers)
        print(
            f"hardness {fifth / 5:.1f} to {(fifth + 1) / 5:.1f}: {100 * share:.2f} % of {count}", flush=True
        )
    print(f"{options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
