"""The releases a package can be built for, and what each of them can do, as data."""

from __future__ import annotations

import dataclasses

from edgec.core.errors import MissingExtraError, RequestError


@dataclasses.dataclass(frozen=True)
class Release:
    """One deployment target of Core ML.

    Attributes:
        name: `ios16`, `ios17`, `ios18` or `ios26`.
        specification: the version of the model format that it reads.
        fused_attention: `scaled_dot_product_attention` exists.
        states: `read_state` and `write_state` exist.
        quantize_ops: `quantize` and `dequantize` exist on activations.
        blockwise_weights: weights can be int4 per block, and 6-bit palettes can be grouped by channel.
        macos: the macOS release with the same runtime.
    """

    name: str
    specification: int
    fused_attention: bool
    states: bool
    quantize_ops: bool
    blockwise_weights: bool
    macos: str

    @property
    def coremltools_target(self):  # type: ignore[no-untyped-def]
        """The release as coremltools names it."""
        return getattr(coremltools().target, self.name.replace("ios", "iOS"))


RELEASES: dict[str, Release] = {
    "ios16": Release("ios16", 7, False, False, False, False, "macOS 13"),
    "ios17": Release("ios17", 8, False, False, True, False, "macOS 14"),
    "ios18": Release("ios18", 9, True, True, True, True, "macOS 15"),
    "ios26": Release("ios26", 10, True, True, True, True, "macOS 26"),
}

DEFAULT_RELEASE = "ios18"


def release(name: str) -> Release:
    """The release of that name.

    Raises:
        RequestError: there is none.
    """
    if name not in RELEASES:
        raise RequestError(f"Core ML has no release {name!r} here", fix=f"choose from {', '.join(RELEASES)}")
    return RELEASES[name]


def coremltools():  # type: ignore[no-untyped-def]
    """The coremltools package, without its warnings about what only a Mac has.

    Raises:
        MissingExtraError: it is not installed.
    """
    import logging
    import warnings

    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import coremltools as package
    except ImportError as error:
        raise MissingExtraError("coremltools", "coreml") from error
    finally:
        logger.setLevel(level)
    return package
