"""Small modules through both exporters: every attention is found, whatever the exporter made of it."""

from __future__ import annotations

import io
import warnings
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgec.frontends.finish import to_dialect
from edgec.passes.decompose.attention import DecomposeAttention
from edgec.passes.decompose.plugins import DecomposePlugins
from edgec.passes.pipeline import default_pipeline

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

EXPORTS = ("dynamo 20", "dynamo 23", "torchscript 14", "torchscript 17")


class Fused(nn.Module):
    """Packed QKV, scaled_dot_product_attention with a boolean mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x, keep):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None, :])
        return self.out(x.transpose(1, 2).reshape(batch, tokens, 12))


class Windows(nn.Module):
    """Swin: cosine logits with a clamped scale, relative-position table and a shift mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.table = nn.Parameter(torch.randn(9, 2))
        self.scale = nn.Parameter(torch.ones(2, 1, 1) * 2)
        self.register_buffer("index", torch.randint(0, 9, (16,)))
        self.register_buffer("shift", torch.where(torch.rand(3, 4, 4) < 0.3, -100.0, 0.0))

    def forward(self, x, keep):
        q, k, v = self.qkv(x[:, :4]).reshape(6, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        logits = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
        logits = logits * torch.clamp(self.scale, max=4.6).exp()
        logits = logits + self.table[self.index].view(4, 4, 2).permute(2, 0, 1).unsqueeze(0)
        logits = logits.view(2, 3, 2, 4, 4) + self.shift.unsqueeze(1).unsqueeze(0)
        out = logits.view(6, 2, 4, 4).softmax(dim=-1) @ v
        return out.transpose(1, 2).reshape(6, 4, 8)


class Torch(nn.Module):
    """nn.MultiheadAttention with padding, then a grouped-query attention by repeat_interleave."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(12, 3, batch_first=True)
        self.q, self.k, self.v = nn.Linear(12, 24), nn.Linear(12, 8), nn.Linear(12, 8)

    def forward(self, x, keep):
        x = x + self.first(x, x, x, key_padding_mask=~keep, need_weights=False)[0]
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, 6, 4).transpose(1, 2)
        k, v = (layer(x).view(batch, tokens, 2, 4).transpose(1, 2) for layer in (self.k, self.v))
        k, v = (part.repeat_interleave(3, dim=1) for part in (k, v))
        logits = (q @ k.transpose(-1, -2) / 2).masked_fill(~keep[:, None, None], -1e4)
        return logits.softmax(-1, dtype=torch.float32) @ v


class Channels(nn.Module):
    """XCiT's attention over channels, then single-query class attention in Einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.q, self.kv = nn.Linear(12, 12), nn.Linear(12, 24)
        self.temperature = nn.Parameter(torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1))

    def forward(self, x, keep):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 3, 4).permute(2, 0, 3, 4, 1).unbind(0)
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        weights = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(dim=-1)
        x = x + (weights @ v).permute(0, 3, 1, 2).reshape(batch, tokens, 12)
        q = self.q(x[:, :1]).reshape(batch, 1, 3, 4)
        k, v = self.kv(x).reshape(batch, tokens, 2, 3, 4).unbind(2)
        weights = (torch.einsum("bihd,bjhd->bhij", q, k) * 0.5).softmax(dim=-1)
        return torch.einsum("bhij,bjhd->bihd", weights, v)


class Rotary(nn.Module):
    """Rotated patches and a class token that is not, as EVA does it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        angles = torch.rand(6, 2).repeat_interleave(2, -1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x):
        patches = x[:, :, 1:]
        turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], -1).reshape(patches.shape)
        return torch.cat([x[:, :, :1], patches * self.cos + turned * self.sin], dim=2)

    def forward(self, x, keep):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
        return out.transpose(1, 2).reshape(batch, tokens, 12)


EXPECTED = {
    Fused: {"Attention": 1},
    Windows: {"Attention": 1},
    Torch: {"Attention": 2},
    Channels: {"Attention": 1, "ChannelAttention": 1},
    Rotary: {"Attention": 1, "RotaryEmbedding": 2},
}


def export(module: nn.Module, how: str, arguments: tuple) -> bytes:
    exporter, opset = how.split()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            torch.onnx.export(module, arguments, dynamo=True, opset_version=int(opset), verbose=False).save(
                buffer
            )
        else:
            torch.onnx.export(module, arguments, buffer, dynamo=False, opset_version=int(opset))
    return buffer.getvalue()


@pytest.mark.parametrize("how", EXPORTS)
@pytest.mark.parametrize("build", EXPECTED)
def test_every_attention_of_an_export_is_found(build, how):
    torch.manual_seed(0)
    module = build().eval()
    width = 8 if build is Windows else 12
    x = torch.randn(6 if build is Windows else 2, 7, width)
    keep = torch.rand(x.shape[0], 7) < 0.6
    keep[:, 0] = True
    with torch.no_grad():
        expected = module(x, keep).numpy()
    model = ir.from_proto(onnx.load_from_string(export(module, how, (x, keep))))
    to_dialect(model, where="export")
    default_pipeline().run(model)
    counts = Counter(node.op_type for node in model.graph)
    assert {name: counts[name] for name in EXPECTED[build]} == EXPECTED[build]
    assert counts["Softmax"] == 0
    DecomposeAttention()(model)
    DecomposePlugins()(model)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        value.name: array for value, array in zip(model.graph.inputs, (x.numpy(), keep.numpy()), strict=False)
    }
    (actual,) = session.run(None, feeds)
    # fp32, one or two attentions deep: reordered sums of at most 24 terms.
    np.testing.assert_allclose(actual, expected, atol=1e-5)
