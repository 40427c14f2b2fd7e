"""Attention fused, counted, from both exporters and from opsets 13, 17, 20 and 23 alike.

    python benchmarks/fusion_counts.py

Expected is the number of attention modules that the torch module calls, from the zoo's catalogue.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tables import markdown, publish

from edgec import zoo
from edgec.compiler import load, to_neutral
from edgec.core.progress import Silent
from edgec.passes.pipeline import default_pipeline

NAMES = ("deit_tiny", "swin_tiny", "mobilevit_s", "beit_base", "minilm", "crossvit_tiny")
FILES = (("torchscript", 13), ("torchscript", 17), ("dynamo", 20), ("dynamo", 23))


def export(name: str, exporter: str, opset: int, path: Path) -> None:
    """Write one ONNX file of a zoo model's module."""
    import torch

    module, arguments = zoo.module(name)
    torch.onnx.export(
        module, arguments, str(path), dynamo=exporter == "dynamo", opset_version=opset, external_data=False,
        verbose=False,
    )  # fmt: skip


def main() -> None:
    rows = []
    for name in NAMES:
        row: list[object] = [name, zoo.entry(name).attention]
        for exporter, opset in FILES:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name}.onnx"
                export(name, exporter, opset, path)
                graph = load(str(path))
                neutral = to_neutral(graph, default_pipeline(), Silent())
                [report] = [report for report in neutral.reports if report.name == "fuse.attention"]
                row.append(f"{report.matched} (off by {neutral.gate.difference.scaled:.0e})")
        rows.append(row)
    headers = ["model", "attentions", *(f"{exporter} {opset}" for exporter, opset in FILES)]
    publish("fusion_counts", "Attention fused, by exporter and opset", markdown(headers, rows))


if __name__ == "__main__":
    main()
