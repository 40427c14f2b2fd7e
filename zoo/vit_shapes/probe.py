"""How far a linear classifier on pixels gets: `python -m edgec.zoo.vit_shapes.probe`.

Ridge regression to one-hot labels in its dual form, on pictures averaged down to `--side` pixels.
The penalty is chosen on the held-out pictures themselves, so the figure errs in the probe's favour.
A floor for what the task demands: where such a probe does well, a model proves little.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from edgec.zoo import training
from edgec.zoo.vit_shapes.scenes import HELD_OUT, MEAN, PROBE, SIDE, STD, draw, grain, render
from edgec.zoo.vit_shapes.silhouettes import LABELS, templates

CHUNK = 64
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def features(seed: int, count: int, side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of a seed as rows [count, 3 * side * side], normalised, and their labels."""
    paint = training.painter(render, (templates().reshape(-1), grain()), SIDE, (MEAN, STD), device)
    rows, labels = [], []
    for step in range(count // CHUNK):
        parameters, label = draw(np.random.default_rng([seed, step]), CHUNK)
        pictures = torch.nn.functional.avg_pool2d(paint(parameters), SIDE // side)
        rows.append(pictures.flatten(1))
        labels.append(torch.from_numpy(label).to(device))
    return torch.cat(rows), torch.cat(labels)


def probe(pictures: int, held_out: int, side: int, device: torch.device) -> tuple[float, float]:
    """Fit on `pictures` pictures, judge on `held_out` others.

    Returns:
        accuracy of the best penalty on the held-out pictures, and that fit's on its own pictures.
    """
    rows, labels = features(PROBE, pictures, side, device)
    others, expected = features(HELD_OUT, held_out, side, device)
    targets = torch.nn.functional.one_hot(labels, len(LABELS)).to(rows) - 1.0 / len(LABELS)
    mean = rows.mean(dim=0)
    rows -= mean
    others -= mean
    gram = rows @ rows.T
    cross = others @ rows.T
    best = (0.0, 0.0)
    for penalty in PENALTIES:
        damped = gram + penalty * gram.diagonal().mean() * torch.eye(len(gram), device=device)
        dual = torch.linalg.solve(damped, targets)
        found = ((cross @ dual).argmax(1) == expected).float().mean().item()
        own = ((gram @ dual).argmax(1) == labels).float().mean().item()
        best = max(best, (found, own))
    return best


def main() -> None:
    """Print the probe's accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--held-out", type=int, default=1024)
    parser.add_argument("--side", type=int, default=56, choices=(28, 56, 112, 224))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found, own = probe(options.pictures, options.held_out, options.side, device)
    print(
        f"linear probe at {options.side} px: {100 * found:.2f} % of {options.held_out} held-out pictures "
        f"({100 * own:.2f} % of its own {options.pictures}); guessing: {100 / len(LABELS):.2f} %"
    )


if __name__ == "__main__":
    main()
