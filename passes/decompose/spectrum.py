"""DFT and STFT of fixed length as products with constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.decompose.parts import Parts, fixed, write_in_parts
from edgec.passes.editing import attribute, constant
from edgec.passes.infra import MatchLog, Pass, Refusal, register

_LONGEST = 2048
"""A longer transform's matrix is over 32 MB; a fast transform is another algorithm."""


@register
class DecomposeSpectrum(Pass):
    """Write `DFT` and `STFT` as what they are: a product, or a convolution, with cosines and sines.

    ::

        x [2,512,1] ── DFT(axis 1, onesided) ── y   ⇒   x ── Reshape ── MatMul [512, 514] ── Reshape ── y

        x [1,16000,1] ── STFT(hop 160, window 400) ── y   ⇒   x ── Conv [402, 1, 400], stride 160 ── … ── y

    For engines without a transform. As ONNX defines both (operators DFT-20 and STFT-17).
    """

    name = "decompose.spectrum"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every transform whose length is known."""
        writers = {"DFT": _dft, "STFT": _stft}
        write_in_parts(
            model, self.name, log, lambda node: writers[node.op_type] if is_op(node, *writers) else None
        )


def _waves(length: int, bins: int, inverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, (length, bins) each, in float64."""
    if length > _LONGEST:
        raise Refusal(
            f"a transform of {length} is longer than {_LONGEST}, which a product would be too large for"
        )
    angle = 2 * np.pi / length * (np.outer(np.arange(length), np.arange(bins)) % length)
    scale = 1 / length if inverse else 1.0
    return np.cos(angle) * scale, np.sin(angle) * (scale if inverse else -scale)


def _dft(parts: Parts) -> None:
    node = parts.node
    signal = node.inputs[0]
    sizes = fixed(signal, "the signal")
    rank = len(sizes)
    given = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.array(-2)
    if given is None:
        raise Refusal("its axis is computed")
    axis = int(given.reshape(())) % rank
    length = sizes[axis]
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        wanted = constant(node.inputs[1])
        if wanted is None:
            raise Refusal("its length is computed")
        length = int(wanted.reshape(()))
    inverse, onesided = bool(attribute(node, "inverse", 0)), bool(attribute(node, "onesided", 0))
    if inverse and onesided:
        raise Refusal("a one-sided inverse has another definition in every version")
    assert signal is not None
    taken = min(length, sizes[axis])
    if taken < sizes[axis]:
        signal = parts.slice(signal, axis, 0, taken)
    bins = length // 2 + 1 if onesided else length
    cosine, sine = (wave[:taken] for wave in _waves(length, bins, inverse))
    # Rows of the product: (position, part); columns: (bin, part).
    matrix = np.zeros((taken, sizes[-1], bins, 2))
    matrix[:, 0, :, 0], matrix[:, 0, :, 1] = cosine, sine
    if sizes[-1] == 2:
        matrix[:, 1, :, 0], matrix[:, 1, :, 1] = -sine, cosine
    order = [place for place in range(rank - 1) if place != axis] + [axis, rank - 1]
    moved = signal if order == list(range(rank)) else parts.op("Transpose", signal, perm=order)
    outer = [sizes[place] for place in order[:-2]]
    flat = parts.reshape(moved, *outer, taken * sizes[-1])
    product = parts.op("MatMul", flat, matrix.reshape(taken * sizes[-1], bins * 2).astype(parts.dtype))
    result = parts.reshape(product, *outer, bins, 2)
    if order != list(range(rank)):
        result = parts.op("Transpose", result, perm=[order.index(place) for place in range(rank)])
    parts.become(result)


def _stft(parts: Parts) -> None:
    node = parts.node
    signal = node.inputs[0]
    sizes = fixed(signal, "the signal")
    assert signal is not None
    if len(sizes) == 3 and sizes[2] == 2:
        raise Refusal("its signal is complex")
    hop = constant(node.inputs[1])
    window = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if len(node.inputs) > 2 and node.inputs[2] is not None and window is None:
        raise Refusal("its window is computed")
    held = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    if hop is None or (held is None and window is None):
        raise Refusal("its hop or its length is computed")
    length = int(held.reshape(())) if held is not None else len(window)  # type: ignore[arg-type]
    step = int(hop.reshape(()))
    bins = length // 2 + 1 if attribute(node, "onesided", 1) else length
    shape = np.ones(length) if window is None else window.astype(np.float64)
    if len(shape) < length:
        # A window shorter than the frame lies at its front, as in ONNX's reference.
        shape = np.concatenate([shape, np.zeros(length - len(shape))])
    cosine, sine = _waves(length, bins, inverse=False)
    kernel = np.concatenate([cosine * shape[:, None], sine * shape[:, None]], axis=1).T[:, None]
    batch, samples = sizes[0], sizes[1]
    frames = (samples - length) // step + 1
    flat = parts.reshape(signal, batch, 1, samples)
    both = parts.op("Conv", flat, kernel.astype(parts.dtype), kernel_shape=[length], strides=[step])
    split = parts.reshape(both, batch, 2, bins, frames)
    parts.become(parts.op("Transpose", split, perm=[0, 3, 2, 1]))
