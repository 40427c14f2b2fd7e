"""What slimming is worth with five minutes of distillation: vit_patterns cut, healed, trained and measured.

    python benchmarks/slim_distilled.py cut [--plan PLAN]             # on the CPU, some minutes
    python benchmarks/slim_distilled.py train [--seconds 240]         # on a GPU; needs torch and zoo.training
    python benchmarks/slim_distilled.py measure                       # on the quiet CPU

`cut` gives the module of a plan by `edgec.slim.slimmed`, on 256 calibration pictures. `train` lets it follow
the whole module's logits on pictures drawn on the GPU, none of them twice. `measure` compiles both in fp32,
times them in alternating blocks of one run, and scores them on held-out pictures. What lies between the
steps is kept in the cache folder, or in the folder that --folder names.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from edgec.zoo import training
from edgec.zoo.vit_patterns.model import trained
from edgec.zoo.vit_patterns.scenes import HELD_OUT, MEAN, SIDE, STD, TRAINING, draw, render, scenes
from edgec.zoo.vit_shapes.scenes import grain
from edgec.zoo.vit_shapes.silhouettes import templates

PLAN = "mlp=0.375+heads=0.5"
FITTED = 256
BLOCKS = 15
PICTURES = 4096


def cut(folder: Path, plan: str) -> None:
    """Write the healed module of a plan."""
    from edgec import zoo
    from edgec.slim import slimmed

    drawn = zoo.calibration("vit_patterns", count=FITTED)
    assert drawn is not None
    pictures = torch.from_numpy(drawn.inputs["image"])
    student = slimmed(trained(), pictures[:1], plan, pictures)
    torch.save((plan, student), folder / "cut.pt")


def train(folder: Path, seconds: float, batch: int, rate: float, seed: int) -> None:
    """Let the cut module follow the whole one's logits, and write it."""
    plan, student = torch.load(folder / "cut.pt", weights_only=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    paint = training.painter(render, (templates().reshape(-1), grain()), SIDE, (MEAN, STD), device)
    steps = 10_000
    pictures = training.drawn_ahead(draw, TRAINING + 1, steps, batch, workers=4)
    student = student.to(device).train()
    training.optimise(
        student, pictures, paint, steps=steps, peak_rate=rate, seconds=seconds, teacher=trained().to(device)
    )
    torch.save((plan, seconds, student.cpu()), folder / "trained.pt")


def measure(folder: Path) -> None:
    """Compile, time, score and publish."""
    from tables import markdown, publish

    from edgec.compiler import compile_graph
    from edgec.core.progress import Silent
    from edgec.core.timing import measure as timed
    from edgec.frontends.torch import from_module
    from edgec.request import Request
    from edgec.runtime.session import Session, load

    plan, seconds, student = torch.load(folder / "trained.pt", weights_only=False)
    _, healed = torch.load(folder / "cut.pt", weights_only=False)
    modules = {"whole": trained(), "cut and healed": healed, "cut, healed and distilled": student}
    example = torch.from_numpy(scenes(HELD_OUT, 0, 1)[0])
    pictures, labels = scenes(HELD_OUT, 0, PICTURES)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        sessions: dict[str, Session] = {}
        for name, module in modules.items():
            request = Request.checked("x86", Path(scratch) / name.replace(" ", "-"), precision="fp32")
            graph = from_module(module.eval(), (example,), spec=name, name="vit", progress=Silent())
            bundle = compile_graph(graph, request)
            sessions[name] = load(bundle.path)
        calls = {
            name: functools.partial(s.run, {s.inputs[0].name: example.numpy()})
            for name, s in sessions.items()
        }
        found = timed(calls, blocks=BLOCKS)
        right = {name: _right(session, pictures, labels) for name, session in sessions.items()}
    for name in modules:
        lost = right["whole"].astype(float) - right[name]
        rows.append([
            name, "" if name == "whole" else plan, f"{found[name].p50:.2f}",
            f"{found[name].ratio_to(found['whole']):.3f}", f"{right[name].mean():.2%}",
            f"{lost.mean():.2%}", f"{lost.std() / np.sqrt(len(lost)):.2%}",
        ])  # fmt: skip
    headers = [
        "network",
        "plan",
        "ms",
        "of the whole's time",
        f"right of {PICTURES} held out",
        "drop",
        "± of it",
    ]
    said = f"Distilled for {seconds:g} s on one GPU, {FITTED} pictures fitted to.\n\n"
    publish("slim_distilled", "Slimming with distillation: vit_patterns", said + markdown(headers, rows))


def _right(session: object, pictures: np.ndarray, labels: np.ndarray) -> np.ndarray:
    name = session.inputs[0].name
    found = [next(iter(session.run({name: picture[None]}).values())) for picture in pictures]
    return np.concatenate(found).argmax(1) == labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("step", choices=("cut", "train", "measure"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--plan", default=PLAN)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = asked.folder
    if folder is None:
        from edgec.devices.host import cache_folder

        folder = cache_folder() / "slim_distilled"
    folder.mkdir(parents=True, exist_ok=True)
    if asked.step == "cut":
        cut(folder, asked.plan)
    elif asked.step == "train":
        train(folder, asked.seconds, asked.batch, asked.rate, asked.seed)
    else:
        measure(folder)


if __name__ == "__main__":
    sys.exit(main())
