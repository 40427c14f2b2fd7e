"""Train vit_shapes on a GPU: `python -m edgec.zoo.vit_shapes.train`.

Every step sees fresh pictures, drawn on the GPU from (TRAINING, step). The last lines printed are
the accuracy of the weights as written, on held-out pictures that numpy drew.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from edgec.zoo import weights
from edgec.zoo.vit import VisionTransformer
from edgec.zoo.vit_shapes.model import CONFIG, WEIGHTS
from edgec.zoo.vit_shapes.scenes import (
    HELD_OUT,
    MEAN,
    SIDE,
    STD,
    TRAINING,
    Parameters,
    draw,
    grain,
    render,
    scenes,
)
from edgec.zoo.vit_shapes.silhouettes import templates


def painter(device: torch.device) -> Callable[[Parameters], torch.Tensor]:
    """A function from drawn parameters to normalised pictures on `device`."""
    flat = templates().reshape(-1)
    steps = np.arange(SIDE, dtype=np.float32)
    if device.type == "cpu":
        return lambda parameters: torch.from_numpy(
            (render(parameters, (flat, grain()), steps) / np.float32(255.0) - np.float32(MEAN))
            / np.float32(STD)
        )
    tables = (torch.from_numpy(flat).to(device), torch.from_numpy(grain()).to(device))
    pixels = torch.from_numpy(steps).to(device)

    @torch.compile(dynamic=False)
    def paint(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return (render(parameters, tables, pixels, torch) / 255.0 - MEAN) / STD

    return lambda parameters: paint(
        {name: torch.from_numpy(array).to(device) for name, array in parameters.items()}
    )


def drawn_ahead(seed: int, steps: int, batch: int) -> Iterator[tuple[Parameters, np.ndarray]]:
    """Parameters and labels of each step, drawn by a thread some steps ahead."""
    ahead: queue.Queue[tuple[Parameters, np.ndarray]] = queue.Queue(maxsize=4)

    def work() -> None:
        for step in range(steps):
            ahead.put(draw(np.random.default_rng([seed, step]), batch))

    threading.Thread(target=work, daemon=True).start()
    for _ in range(steps):
        yield ahead.get()


def train(steps: int, batch: int, peak_rate: float, seed: int, device: torch.device) -> VisionTransformer:
    """Train from nothing, in bfloat16 where `device` is a GPU.

    Args:
        steps: optimiser steps.
        batch: pictures a step.
        peak_rate: learning rate after the warm-up; it then falls linearly to zero.
        seed: seeds the weights; the pictures come from `TRAINING`.
        device: where to train.
    """
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    model = VisionTransformer(CONFIG).to(device)
    on_gpu = device.type == "cuda"
    forward = torch.compile(model, dynamic=False) if on_gpu else model
    paint = painter(device)
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    plain = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=peak_rate, betas=(0.9, 0.98), fused=on_gpu)
    warm = min(300, steps // 5 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (steps - step) / (steps - warm + 1))
    )
    right = torch.zeros((), device=device)
    total = torch.zeros((), device=device)
    report = max(1, steps // 20)
    start = time.perf_counter()
    for step, (parameters, classes) in enumerate(drawn_ahead(TRAINING, steps, batch), start=1):
        pictures = paint(parameters)
        labels = torch.from_numpy(classes).to(device)
        lower = torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext()
        with lower:
            logits = forward(pictures)
            loss = functional.cross_entropy(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.detach()
        right += (logits.argmax(1) == labels).float().mean()
        if step % report == 0:
            seconds = time.perf_counter() - start
            print(
                f"step {step}: loss {total.item() / report:.4f}, accuracy on fresh pictures "
                f"{100 * right.item() / report:.2f} %, {step * batch / seconds:.0f} pictures/s",
                flush=True,
            )
            total.zero_()
            right.zero_()
    return model.eval()


def accuracy(model: VisionTransformer, count: int, workers: int) -> float:
    """Share of the first `count` held-out pictures that `model` names, in float32."""
    torch.set_float32_matmul_precision("highest")
    device = next(model.parameters()).device
    chunk = 64
    starts = range(0, count, chunk)
    sizes = [min(chunk, count - start) for start in starts]
    right = 0
    # A fresh start of each worker: forking a process that holds a GPU and threads may hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool, torch.inference_mode():
        for pictures, labels in pool.map(scenes, [HELD_OUT] * len(sizes), starts, sizes):
            predicted = model(torch.from_numpy(pictures).to(device)).argmax(1).cpu().numpy()
            right += int((predicted == labels).sum())
    return right / count


def main() -> None:
    """Train, write the weights, read them back and print the accuracy of what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("-o", "--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = train(options.steps, options.batch, options.rate, options.seed, device)
    weights.save(options.output, model.state_dict())
    model.load_state_dict(weights.load(options.output))
    share = accuracy(model, options.held_out, options.workers)
    print(f"held-out: {100 * share:.2f} % of {options.held_out}")
    print(f"{options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
