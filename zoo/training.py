"""How the vision transformers of drawn pictures are trained on a GPU: every step sees fresh ones."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Parameters = dict[str, Any]
Draw = Callable[[np.random.Generator, int], tuple[Parameters, np.ndarray]]
Render = Callable[..., Any]


def painter(
    render: Render,
    tables: tuple[np.ndarray, np.ndarray],
    side: int,
    scale: tuple[float, float],
    device: torch.device,
) -> Callable[[Parameters], torch.Tensor]:
    """A function from drawn parameters to normalised pictures on `device`.

    Args:
        render: pixels 0 to 255 from parameters, tables, the steps of a side and `numpy` or `torch`.
        tables: what `render` looks up.
        side: of a picture, in pixels.
        scale: mean and standard deviation that pixels of 0 to 1 are normalised by.
        device: where to paint.
    """
    mean, deviation = scale
    steps = np.arange(side, dtype=np.float32)
    if device.type == "cpu":
        return lambda parameters: torch.from_numpy(
            (render(parameters, tables, steps) / np.float32(255.0) - np.float32(mean)) / np.float32(deviation)
        )
    on_device = tuple(torch.from_numpy(table).to(device) for table in tables)
    pixels = torch.from_numpy(steps).to(device)

    @torch.compile(dynamic=False)
    def paint(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return (render(parameters, on_device, pixels, torch) / 255.0 - mean) / deviation

    return lambda parameters: paint(
        {name: torch.from_numpy(array).to(device) for name, array in parameters.items()}
    )


def drawn_ahead(
    draw: Draw, seed: int, steps: int, batch: int, workers: int = 1
) -> Iterator[tuple[Parameters, np.ndarray]]:
    """Parameters and labels of each step, drawn by threads some steps ahead; in order for any `workers`."""
    ahead: list[queue.Queue[tuple[Parameters, np.ndarray]]] = [
        queue.Queue(maxsize=4) for _ in range(min(workers, steps))
    ]

    def work(worker: int) -> None:
        for step in range(worker, steps, len(ahead)):
            ahead[worker].put(draw(np.random.default_rng([seed, step]), batch))

    for worker in range(len(ahead)):
        threading.Thread(target=work, args=(worker,), daemon=True).start()
    for step in range(steps):
        yield ahead[step % len(ahead)].get()


def optimise(
    model: nn.Module,
    pictures: Iterator[tuple[Parameters, np.ndarray]],
    paint: Callable[[Parameters], torch.Tensor],
    *,
    steps: int,
    peak_rate: float,
    seconds: float | None = None,
    teacher: nn.Module | None = None,
) -> None:
    """Train a classifier in place, in bfloat16 where it lies on a GPU, and leave it in evaluation mode.

    AdamW; the rate rises over a short warm-up and then falls linearly to zero.

    Args:
        model: maps pictures to logits.
        pictures: parameters and labels of each step.
        paint: parameters to pictures.
        steps: optimiser steps.
        peak_rate: learning rate after the warm-up.
        seconds: ends sooner after so long; the rate then falls with the time spent, not with the steps.
        teacher: a model whose logits to follow in place of labels (Hinton et al., "Distilling the Knowledge
            in a Neural Network", 2015; temperature 1).
    """
    device = next(model.parameters()).device
    torch.set_float32_matmul_precision("high")
    on_gpu = device.type == "cuda"
    forward = torch.compile(model, dynamic=False) if on_gpu else model
    told = torch.compile(teacher.eval(), dynamic=False) if on_gpu and teacher is not None else teacher
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    plain = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=peak_rate, betas=(0.9, 0.98), fused=on_gpu)
    warm = min(300, steps // 5 + 1)
    right = torch.zeros((), device=device)
    total = torch.zeros((), device=device)
    report = max(1, steps // 20)
    start = time.perf_counter()
    for step, (parameters, classes) in enumerate(pictures):
        left = (steps - step) / (steps - warm + 1)
        if seconds is not None:
            left = min(left, 1.0 - (time.perf_counter() - start) / seconds)
            if left <= 0.0:
                break
        for group in optimiser.param_groups:
            group["lr"] = peak_rate * min((step + 1) / warm, left)
        images = paint(parameters)
        labels = torch.from_numpy(classes).to(device)
        lower = torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext()
        with lower:
            logits = forward(images)
            if told is None:
                loss = functional.cross_entropy(logits.float(), labels)
            else:
                with torch.no_grad():
                    target = told(images).float().softmax(1)
                loss = functional.cross_entropy(logits.float(), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        total += loss.detach()
        right += (logits.argmax(1) == labels).float().mean()
        if (step + 1) % report == 0:
            spent = time.perf_counter() - start
            print(
                f"step {step + 1}: loss {total.item() / report:.4f}, accuracy on fresh pictures "
                f"{100 * right.item() / report:.2f} %, {(step + 1) * len(classes) / spent:.0f} pictures/s",
                flush=True,
            )
            total.zero_()
            right.zero_()
    model.eval()


def accuracy(
    model: nn.Module,
    scenes: Callable[[int, int, int], tuple[np.ndarray, np.ndarray]],
    seed: int,
    count: int,
    workers: int,
) -> float:
    """Share of pictures 0 to `count` of a seed that `model` names, in float32.

    Args:
        model: maps pictures to logits.
        scenes: normalised pictures and labels of a seed, a start and a count; a function of a module.
        seed: of the pictures.
        count: how many.
        workers: processes that draw.
    """
    torch.set_float32_matmul_precision("highest")
    device = next(model.parameters()).device
    chunk = 64
    starts = range(0, count, chunk)
    sizes = [min(chunk, count - start) for start in starts]
    right = 0
    # A fresh start of each worker: forking a process that holds a GPU and threads may hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool, torch.inference_mode():
        for pictures, labels in pool.map(scenes, [seed] * len(sizes), starts, sizes):
            predicted = model(torch.from_numpy(pictures).to(device)).argmax(1).cpu().numpy()
            right += int((predicted == labels).sum())
    return right / count
