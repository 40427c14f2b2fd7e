"""Pictures sampled at places that are computed: GridSample, and the places of AffineGrid."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.lowering.site import Operand, Refusal, Site, rank_of, shape_of
from edgec.targets.coreml.lowering.table import lowers

_PADDINGS = {"zeros": "constant", "border": "border"}


@lowers("GridSample")
def grid_sample(site: Site) -> Operand:
    """`resample` at places in pixels: (g + 1) · (size - 1) / 2, or ((g + 1) · size - 1) / 2 without corners.

    MIL leaves open how its nearest place breaks ties: places are rounded to even in front of it, as in ONNX.

    Raises:
        Refusal: cubic, padding by reflection, or another rank than 4.
    """
    x, grid = site.operand(0), site.operand(1)
    if rank_of(x) != 4:
        raise Refusal(f"it samples tensors of rank {rank_of(x)}, and Core ML's resample takes 4")
    mode = str(site.attribute("mode", "linear")).replace("bilinear", "linear")
    if mode not in ("linear", "nearest"):
        raise Refusal(f"Core ML's resample has no mode {mode!r}", "export it with mode linear or nearest")
    padding = str(site.attribute("padding_mode", "zeros"))
    if padding not in _PADDINGS:
        fix = "export it with padding_mode zeros or border"
        raise Refusal(f"padding_mode {padding!r} is not lowered", fix)
    sizes = np.array(shape_of(x)[:1:-1], np.float32)
    reach = sizes - 1 if site.attribute("align_corners", 0) else sizes
    with site.full():
        scaled = site.emit("mul", x=grid, y=reach / 2)
        places = site.emit("add", x=scaled, y=(sizes - 1) / 2)
        if mode == "nearest":
            places = site.emit("round", x=places)
    return site.emit(
        "resample",
        x=x,
        coordinates=places,
        sampling_mode="bilinear" if mode == "linear" else "nearest",
        padding_mode=_PADDINGS[padding],
        padding_value=site.like(x, 0),
        coordinates_mode="unnormalized",
        align_corners=True,
    )


@lowers("AffineGrid")
def affine_grid(site: Site) -> Operand:
    """The places of every pixel, a constant, times theta: (1, pixels, n + 1) · (B, n, n + 1)ᵀ.

    Raises:
        Refusal: an axis of one pixel, aligned by its corners.
    """
    theta = site.operand(0)
    size = [int(one) for one in site.constant(1, "the size of the grid")]
    corners = bool(site.attribute("align_corners", 0))
    axes = []
    for length in size[2:]:
        steps = np.arange(length, dtype=np.float64)
        if corners and length == 1:
            # ONNX Runtime puts it at 1, torch at 0.
            raise Refusal("one pixel along an axis has no two corners", "export it with align_corners=0")
        axes.append(steps / (length - 1) * 2 - 1 if corners else (2 * steps + 1) / length - 1)
    # The last axis of the picture is the first coordinate.
    places = [axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")][::-1]
    base = np.stack([*places, np.ones_like(places[0])], -1).astype(np.float32)
    batch = shape_of(theta)[0]
    result = site.matmul(np.broadcast_to(base, (batch, *base.shape)), theta, transpose_y=True)
    return site.reshape(result, (batch, *size[2:], len(size) - 2))
