"""Smaller weights: linear int8 and int4, and palettes, by `coremltools.optimize.coreml`.

Weights are stored in fewer bits and the device unpacks them; activations stay fp16. Nothing is trained:
scales and palettes come from the weights alone, and what they cost is measured on data.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgec.core.errors import JobError
from edgec.targets.coreml.package import quiet, write
from edgec.targets.coreml.versions import Release, coremltools

BLOCK = 32
"""Weights that share one int4 scale: coremltools' own choice, 4.5 bits a weight with the fp16 scales."""

GROUP = 16
"""Output channels that share one palette of 4 bits, where the release can group them."""


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to store weights.

    Attributes:
        precision: its name on the command line and in reports.
        scheme: how, in words.
        bits: about how many a weight takes.
        grouped: whether it needs weights by block or palettes by group (iOS 18).
        apply: makes coremltools' compressed model.
    """

    precision: str
    scheme: str
    bits: float
    grouped: bool
    apply: Callable[[Any], Any]


def _palette(bits: int, group: int | None = None) -> Callable[[Any], Any]:
    def apply(model: Any) -> Any:
        from coremltools.optimize import coreml as optimize

        grouping = {} if group is None else {"granularity": "per_grouped_channel", "group_size": group}
        config = optimize.OpPalettizerConfig(mode="kmeans", nbits=bits, **grouping)
        return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=config))

    return apply


def _linear(dtype: str, block: int | None = None) -> Callable[[Any], Any]:
    def apply(model: Any) -> Any:
        from coremltools.optimize import coreml as optimize

        blocks = {} if block is None else {"granularity": "per_block", "block_size": block}
        config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype=dtype, **blocks)
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=config))

    return apply


FORMS: tuple[Form, ...] = (
    Form("palette4", "one palette a weight", 4.0, False, _palette(4)),
    Form("palette4", f"a palette for {GROUP} channels", 4.1, True, _palette(4, GROUP)),
    Form("int4", f"a scale for {BLOCK} weights", 4.5, True, _linear("int4", BLOCK)),
    Form("palette6", "one palette a weight", 6.0, False, _palette(6)),
    Form("int8", "a scale for each channel", 8.0, False, _linear("int8")),
)
"""Every form, smallest first."""


def forms(release: Release, precision: str) -> list[Form]:
    """The forms that a release reads, smallest first; all of them for `auto`.

    Raises:
        JobError: the release does not read the precision.
    """
    readable = [form for form in FORMS if release.blockwise_weights or not form.grouped]
    found = [form for form in readable if precision in ("auto", form.precision)]
    if not found:
        raise JobError(f"{precision} weights need iOS 18", fix="build for coreml:ios18, or use int8")
    return found


def form_named(precision: str, scheme: str) -> Form:
    """The form of a candidate."""
    return next(form for form in FORMS if (form.precision, form.scheme) == (precision, scheme))


def compress(package: Path, form: Form, path: Path) -> None:
    """Write a package with the weights of another stored in a form.

    Args:
        package: a package of full weights; left as it is.
        form: how to store them.
        path: where the new package goes.

    Raises:
        JobError: coremltools cannot compress it.
    """
    ct = coremltools()
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            model = form.apply(ct.models.MLModel(str(package), skip_model_load=True))
    except Exception as error:  # whatever its passes raise
        words = " ".join(str(error).split())[:300]
        raise JobError(f"coremltools could not store the weights as {form.precision} ({words})") from error
    write(model, path)


def package_bytes(folder: Path) -> int:
    """What a package takes on disk."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
