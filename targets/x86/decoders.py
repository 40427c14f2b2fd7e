"""The engines of a decoder on x86: one form, by OpenVINO, whose caches are the engine's own state."""

from __future__ import annotations

import importlib.util

from edgec.core.errors import JobError, MissingExtraError, RequestError, UnsupportedError
from edgec.core.graph import Graph
from edgec.targets.base import Candidate
from edgec.targets.x86.accepts import OPENVINO, obstacles
from edgec.targets.x86.cpu import lacking, require_bf16, sums_in_16_bits
from edgec.targets.x86.quantize_openvino import LARGE, ROUNDED, WEIGHTS

STATEFUL = "stateful"
"""Prompt and step in one graph, caches kept inside."""

DRAFTED = "stateful, drafted"
"""`STATEFUL`, with the same network in 8 bits beside it that guesses the tokens which the step then checks,
several at once: all tokens are the step's own."""

STEPS = (STATEFUL, DRAFTED)
"""The forms of a step."""

_PLUGIN = {"fp32": "f32", "bf16": "bf16"}


def candidates(graph: Graph, precision: str, asked: str | None) -> list[Candidate]:
    """What is built of a decoder's step, in the precision asked for; `auto` is fp32.

    Args:
        graph: the neutral graph, by generations.
        precision: as asked.
        asked: the engine that the user named; None for any.

    Raises:
        RequestError: that engine keeps no caches.
        UnsupportedError: OpenVINO does not take the graph; lists all reasons.
        MissingExtraError: OpenVINO is not installed.
        JobError: the precision is not available here.
    """
    if asked == "ort":
        raise RequestError(
            "x86:ort keeps no caches of a decoder between its steps", fix="use --target x86:openvino"
        )
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError("openvino", "openvino")
    if reasons := obstacles(graph.model, OPENVINO):
        raise UnsupportedError("x86", reasons, fix="rewrite these layers in ops that an engine has")
    wanted = "fp32" if precision == "auto" else precision
    if wanted == "bf16":
        require_bf16()
    if wanted == "fp32" and _is_drafted(graph):
        return [Candidate("openvino", wanted, DRAFTED)]
    if wanted in ("fp32", "bf16"):
        return [Candidate("openvino", wanted, STATEFUL)]
    if wanted == "int8":
        rests = [rest for rest in ("bf16", "fp32") if rest == "fp32" or not lacking("openvino", rest)]
        found = [Candidate("openvino", "int8", STATEFUL, rest=rest, scheme=WEIGHTS) for rest in rests]
        return found if sums_in_16_bits() else [draft_of(), *found]
    raise JobError(f"--precision {wanted} is not available for decoders on x86", fix="use fp32, bf16 or int8")


def _is_drafted(graph: Graph) -> bool:
    """Whether reading weights is what takes a step's time: several tokens at once then cost hardly more."""
    from edgec.targets.x86.order import largest_weight  # which reads this module

    decoder = graph.decoder
    return (
        decoder is not None
        and decoder.encoder is None
        and not sums_in_16_bits()
        and importlib.util.find_spec("nncf") is not None
        and largest_weight(graph) >= LARGE
    )


def draft_of() -> Candidate:
    """How what guesses is built."""
    return Candidate("openvino", "int8", STATEFUL, rest="fp32", scheme=ROUNDED)


def encoder_of(candidate: Candidate) -> Candidate:
    """How the encoder beside a step is built: in what the step computes in."""
    # `DECOMPOSED` of `forms`, which reads this module.
    return Candidate("openvino", candidate.rest or candidate.precision, "decomposed")


def settings(candidate: Candidate) -> dict[str, str]:
    """How OpenVINO is to keep caches and multiply: as the candidate says, in 8 bits only where it does.

    Threads are not pinned: the parts of a step are so short that a thread which is bound to a core where
    something else runs holds up all of them, thousands of times a second.
    """
    return {
        "ENABLE_CPU_PINNING": "NO",
        "KV_CACHE_PRECISION": _PLUGIN[candidate.rest or candidate.precision],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "64" if candidate.scheme == ROUNDED else "0",
    }
