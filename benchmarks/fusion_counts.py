"""Attention fused, counted, from both exporters and from opsets 13, 17, 20 and 23 alike.

    python benchmarks/fusion_counts.py

Expected is the number of attention modules that the torch module calls, from the zoo's catalogue.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tables import markdown, publish

from edgec import zoo
from edgec.compiler import load, to_neutral
from edgec.core.progress import Silent
from edgec.passes.pipeline import default_pipeline

NAMES = ("deit_tiny", "swin_tiny", "mobilevit_s", "beit_base", "minilm", "crossvit_tiny")
FILES = (("torchscript", 13), ("torchscript", 17), ("dynamo", 20), ("dynamo", 23))


SDPA_OPSET = 14
"""The first opset at which the TorchScript exporter writes `scaled_dot_product_attention`."""


def export(name: str, exporter: str, opset: int, path: Path) -> None:
    """Write one ONNX file of a zoo model's module."""
    import torch

    module, arguments = zoo.module(name)
    with torch.no_grad(), spelled_out() if opset < SDPA_OPSET else contextlib.nullcontext():
        torch.onnx.export(
            module, arguments, str(path), dynamo=exporter == "dynamo", opset_version=opset,
            external_data=False, verbose=False,
        )  # fmt: skip


@contextlib.contextmanager
def spelled_out() -> Iterator[None]:
    """Let torch compute attention by its definition: a product, a softmax and a product."""
    import torch.nn.functional

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):  # type: ignore[no-untyped-def]
        assert not dropout_p
        assert not is_causal
        logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            logits = logits + attn_mask
        return logits.softmax(-1) @ value

    original = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = original


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
