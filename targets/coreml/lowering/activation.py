"""Activations; the softmax family."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.lowering.rank import softmaxed
from edgec.targets.coreml.lowering.site import (
    Folded,
    Operand,
    Refusal,
    Site,
    dtype_of,
    positive_axis,
    rank_of,
)
from edgec.targets.coreml.lowering.table import lowers

_PLAIN = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}


@lowers(*_PLAIN)
def plain(site: Site) -> Operand:
    """One op with the same meaning in MIL."""
    return site.in_float(_PLAIN[site.op], site.operand(0))


@lowers("Gelu")
def gelu(site: Site) -> Operand:
    """Exact or by tanh, as the node says (Hendrycks and Gimpel 2016)."""
    approximate = site.attribute("approximate", "none")
    modes = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}
    if approximate not in modes:
        raise Refusal(f"approximate={approximate!r} is not a GELU that ONNX defines")
    return site.emit("gelu", x=site.operand(0), mode=modes[approximate])


@lowers("Elu", "LeakyRelu", "ThresholdedRelu")
def with_alpha(site: Site) -> Operand:
    """One op with one number."""
    names = {
        "Elu": ("elu", 1.0),
        "LeakyRelu": ("leaky_relu", 0.01),
        "ThresholdedRelu": ("thresholded_relu", 1.0),
    }
    mil_op, default = names[site.op]
    x = site.operand(0)
    if mil_op == "thresholded_relu":
        # ONNX keeps x only where x > alpha; MIL also where they are equal.
        alpha = site.like(x, site.attribute("alpha", default))
        return site.select(cond=site.emit("greater", x=x, y=alpha), a=x, b=site.like(x, 0))
    return site.emit(mil_op, x=x, alpha=site.like(x, site.attribute("alpha", default)))


@lowers("Selu")
def selu(site: Site) -> Operand:
    """Gamma · elu(x, alpha) (Klambauer et al. 2017)."""
    x = site.operand(0)
    alpha = site.attribute("alpha", 1.6732632423543772848170429916717)
    gamma = site.attribute("gamma", 1.0507009873554804934193349852946)
    return site.emit("mul", x=site.emit("elu", x=x, alpha=site.like(x, alpha)), y=site.like(x, gamma))


@lowers("Celu")
def celu(site: Site) -> Operand:
    """max(x, 0) + alpha · (exp(min(x, 0) / alpha) - 1), that is alpha · elu(x / alpha)."""
    x = site.operand(0)
    alpha = site.attribute("alpha", 1.0)
    scaled = site.emit("elu", x=site.emit("mul", x=x, y=site.like(x, 1 / alpha)), alpha=site.like(x, 1.0))
    return site.emit("mul", x=scaled, y=site.like(x, alpha))


@lowers("PRelu")
def prelu(site: Site) -> Operand:
    """max(x, 0) + slope · min(x, 0), for any broadcast of the slope."""
    x, slope = site.operand(0), site.operand(1)
    zero = site.like(x, 0)
    positive = site.emit("maximum", x=x, y=zero)
    negative = site.emit("minimum", x=x, y=zero)
    return site.emit("add", x=positive, y=site.emit("mul", x=negative, y=slope))


@lowers("HardSigmoid")
def hard_sigmoid(site: Site) -> Operand:
    """min(max(alpha · x + beta, 0), 1)."""
    x = site.operand(0)
    alpha, beta = site.attribute("alpha", 0.2), site.attribute("beta", 0.5)
    return site.emit("sigmoid_hard", x=x, alpha=site.like(x, alpha), beta=site.like(x, beta))


@lowers("HardSwish")
def hard_swish(site: Site) -> Operand:
    """X · hard_sigmoid(x, 1/6, 1/2)."""
    x = site.operand(0)
    gate = site.emit("sigmoid_hard", x=x, alpha=site.like(x, 1 / 6), beta=site.like(x, 0.5))
    return site.emit("mul", x=x, y=gate)


@lowers("Mish")
def mish(site: Site) -> Operand:
    """X · tanh(softplus(x))."""
    x = site.operand(0)
    return site.emit("mul", x=x, y=site.emit("tanh", x=site.emit("softplus", x=x)))


@lowers("Swish")
def swish(site: Site) -> Operand:
    """X · sigmoid(alpha · x)."""
    x = site.operand(0)
    alpha = site.attribute("alpha", 1.0)
    if alpha == 1.0:
        return site.emit("silu", x=x)
    return site.emit("mul", x=x, y=site.emit("sigmoid", x=site.emit("mul", x=x, y=site.like(x, alpha))))


@lowers("Shrink")
def shrink(site: Site) -> Operand:
    """X + bias below -lambd, x - bias above lambd, 0 between."""
    x = site.operand(0)
    bias, lambd = site.attribute("bias", 0.0), site.attribute("lambd", 0.5)
    if dtype_of(x).kind != "f":
        raise Refusal("Shrink of integers is not lowered", "cast to float32")
    above = site.select(
        cond=site.emit("greater", x=x, y=site.like(x, lambd)),
        a=site.emit("sub", x=x, y=site.like(x, bias)),
        b=site.like(x, 0),
    )
    below = site.emit("less", x=x, y=site.like(x, -lambd))
    return site.select(cond=below, a=site.emit("add", x=x, y=site.like(x, bias)), b=above)


@lowers("Softmax")
def softmax(site: Site) -> Operand:
    """Over one axis."""
    view = site.raw(0)
    if isinstance(view, Folded):
        return softmaxed(site, view, positive_axis(int(site.attribute("axis", -1)), len(view.sizes)))
    return site.emit("softmax", x=site.operand(0), axis=_axis(site))


@lowers("LogSoftmax")
def log_softmax(site: Site) -> Operand:
    """X - m - log(sum(exp(x - m))) with m the largest x: the log of a softmax would lose its tail."""
    x, axis = site.operand(0), np.array([_axis(site)], np.int32)
    centred = site.emit("sub", x=x, y=site.emit("reduce_max", x=x, axes=axis, keep_dims=True))
    total = site.emit("reduce_sum", x=site.emit("exp", x=centred), axes=axis, keep_dims=True)
    return site.emit("sub", x=centred, y=site.emit("log", x=total, epsilon=site.like(x, 0)))


@lowers("Hardmax")
def hardmax(site: Site) -> Operand:
    """One at the first largest element of the axis, zero elsewhere."""
    x, axis = site.operand(0), _axis(site)
    if not isinstance(x.shape[axis], (int, np.integer)):
        raise Refusal("the axis of Hardmax has an open size")
    rank, size = rank_of(x), int(x.shape[axis])
    first = site.emit("reduce_argmax", x=x, axis=axis, keep_dims=True)
    places = np.arange(size, dtype=np.int32).reshape([size if at == axis else 1 for at in range(rank)])
    return site.cast(site.emit("equal", x=first, y=places), dtype_of(x))


def _axis(site: Site) -> int:
    return positive_axis(int(site.attribute("axis", -1)), rank_of(site.operand(0)))
