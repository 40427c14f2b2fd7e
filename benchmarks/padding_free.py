"""A padded batch against the same engine on its real tokens only.

    python benchmarks/padding_free.py [--precisions fp32,bf16]

MiniLM, batch 16 of at most 128 tokens, OpenVINO, in alternating blocks: lengths uniform in 8 … 128, and all
of 128. `off by` is the largest difference of the embeddings (of length 1) between the two.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
from tables import markdown, publish

from edgec.compiler import load, to_neutral
from edgec.core.graph import Arrays
from edgec.core.progress import Silent
from edgec.core.timing import measure
from edgec.passes.pipeline import default_pipeline
from edgec.targets.base import Candidate
from edgec.targets.x86.cpu import lacking
from edgec.targets.x86.forms import DECOMPOSED, PADDING_FREE
from edgec.targets.x86.target import X86

BATCH, LONGEST, SHORTEST = 16, 128, 8


def feeds_of(lengths: np.ndarray) -> Arrays:
    """Drawn words, right-padded."""
    drawn = np.random.default_rng(1)
    mask = (np.arange(LONGEST)[None] < lengths[:, None]).astype(np.int64)
    words = drawn.integers(1000, 28000, (BATCH, LONGEST))
    return {
        "input_ids": np.where(mask == 1, words, 0),
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", default="fp32,bf16")
    asked = parser.parse_args().precisions.split(",")
    # Without bf16 OpenVINO computes in fp32 and says nothing.
    skipped = {precision: why for precision in asked if (why := lacking("openvino", precision))}
    for why in skipped.values():
        print(f"not measured: {why}", file=sys.stderr)
    precisions = [precision for precision in asked if precision not in skipped]
    neutral = to_neutral(load("zoo:minilm", batch=BATCH), default_pipeline(), Silent()).graph
    target = X86("openvino")
    drawn = np.random.default_rng(0).integers(SHORTEST, LONGEST + 1, BATCH)
    batches = {
        f"uniform in {SHORTEST} … {LONGEST}": feeds_of(drawn),
        f"all {LONGEST}": feeds_of(np.full(BATCH, LONGEST)),
    }
    rows = []
    for precision in precisions:
        engines = {}
        with tempfile.TemporaryDirectory() as folder:
            for form in (DECOMPOSED, PADDING_FREE):
                candidate = Candidate("openvino", precision, form)
                home = Path(folder) / form.replace(" ", "-")
                home.mkdir()
                target.build(target.lower(neutral, candidate), candidate, home)
                engines[form] = target.open(home)
            for name, feeds in batches.items():
                calls = {form: functools.partial(engine.run, feeds) for form, engine in engines.items()}
                found = [next(iter(call().values())) for call in calls.values()]
                latencies = measure(calls, blocks=9)
                padded, packed = latencies[DECOMPOSED], latencies[PADDING_FREE]
                rows.append(
                    [
                        precision, name, f"{feeds['attention_mask'].mean():.0%}", f"{padded.p50:.1f}",
                        f"{packed.p50:.1f}", f"{packed.ratio_to(padded):.3f}", f"{packed.spread:.0%}",
                        f"{np.abs(found[0] - found[1]).max():.1e}",
                    ]
                )  # fmt: skip
            for engine in engines.values():
                engine.close()
    headers = [
        "precision",
        "lengths",
        "real tokens",
        "padded ms",
        "padding-free ms",
        "ratio",
        "spread",
        "off by",
    ]
    publish("padding_free", "MiniLM on the real tokens of a batch only, OpenVINO", markdown(headers, rows))


if __name__ == "__main__":
    main()
