"""Train vit_digits: `python -m edgec.zoo.vit_digits.train`, some minutes on one core.

Everything is seeded. The held-out digits are read once, after the last step, to print the figure;
nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch.nn import functional

from edgec.zoo import weights
from edgec.zoo.vit import VisionTransformer
from edgec.zoo.vit_digits.data import Part, digits
from edgec.zoo.vit_digits.model import CONFIG, WEIGHTS

BATCH = 32
PEAK_RATE = 1e-3
WARMUP = 0.1


def distort(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate (to 11 degrees), scale, shear and shift (to a pixel) each image of a batch."""

    def drawn(low: float, high: float) -> torch.Tensor:
        return torch.empty(len(images)).uniform_(low, high, generator=generator)

    angle = drawn(-0.2, 0.2)
    scale_x, scale_y, shear = drawn(0.85, 1.15), drawn(0.85, 1.15), drawn(-0.15, 0.15)
    cos, sin = angle.cos(), angle.sin()
    # A shift of 0.25 in the sampling grid, which spans -1 to 1, is one pixel of eight.
    rows = [
        torch.stack([cos * scale_x, -sin + shear, drawn(-0.25, 0.25)], dim=1),
        torch.stack([sin, cos * scale_y, drawn(-0.2, 0.2)], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    # Background is -1 after normalisation; sampling pads with 0.
    return functional.grid_sample(images + 1.0, grid, align_corners=False) - 1.0


def accuracy(model: VisionTransformer, part: Part) -> tuple[int, int]:
    """Digits read rightly, and digits in all."""
    images, labels = digits(part)
    with torch.inference_mode():
        predicted = model(torch.from_numpy(images)).argmax(1).numpy()
    return int((predicted == labels).sum()), len(labels)


def train(epochs: int, seed: int) -> VisionTransformer:
    """Train from nothing.

    Args:
        epochs: passes over the training digits.
        seed: seeds the weights, the order and the distortions.
    """
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums in one order, whatever the machine's number of cores
    generator = torch.Generator().manual_seed(seed)
    array, target = digits("train")
    images, labels = torch.from_numpy(array), torch.from_numpy(target)
    model = VisionTransformer(CONFIG)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.05)
    steps_an_epoch = len(images) // BATCH
    steps = epochs * steps_an_epoch

    def rate(step: int) -> float:
        warm = WARMUP * steps
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / (steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: steps_an_epoch * BATCH].split(BATCH):
            logits = model(distort(images[chosen], generator))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}: loss {total / steps_an_epoch:.4f}", flush=True)
    return model.eval()


def main() -> None:
    """Train, write the weights, read them back and print the accuracy of what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    start = time.perf_counter()
    model = train(options.epochs, options.seed)
    weights.save(options.output, model.state_dict())
    model.load_state_dict(weights.load(options.output))
    parts: tuple[Part, ...] = ("train", "calibration", "held_out")
    for part in parts:
        right, count = accuracy(model, part)
        print(f"{part}: {right}/{count} = {100 * right / count:.2f} %")
    print(f"{time.perf_counter() - start:.0f} s, {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
