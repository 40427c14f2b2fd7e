"""The engines of a decoder on x86: one form, by OpenVINO, whose caches are the engine's own state."""

from __future__ import annotations

import importlib.util

from edgec.core.errors import JobError, MissingExtraError, RequestError, UnsupportedError
from edgec.core.graph import Graph
from edgec.targets.base import Candidate
from edgec.targets.x86.accepts import OPENVINO, obstacles
from edgec.targets.x86.cpu import lacking, require_bf16
from edgec.targets.x86.quantize_openvino import WEIGHTS

STATEFUL = "stateful"
"""Prompt and step in one graph, caches kept inside."""

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
    if wanted in ("fp32", "bf16"):
        return [Candidate("openvino", wanted, STATEFUL)]
    if wanted == "int8":
        rests = [rest for rest in ("bf16", "fp32") if rest == "fp32" or not lacking("openvino", rest)]
        return [Candidate("openvino", "int8", STATEFUL, rest=rest, scheme=WEIGHTS) for rest in rests]
    raise JobError(f"--precision {wanted} is not available for decoders on x86", fix="use fp32, bf16 or int8")


def encoder_of(candidate: Candidate) -> Candidate:
    """How the encoder beside a step is built: in what the step computes in."""
    # `DECOMPOSED` of `forms`, which reads this module.
    return Candidate("openvino", candidate.rest or candidate.precision, "decomposed")


def settings(candidate: Candidate) -> dict[str, str]:
    """How OpenVINO is to keep caches and multiply: as the candidate says, not in 8 bits by itself.

    Threads are not pinned: the parts of a step are so short that a thread which is bound to a core where
    something else runs holds up all of them, thousands of times a second.
    """
    return {
        "ENABLE_CPU_PINNING": "NO",
        "KV_CACHE_PRECISION": _PLUGIN[candidate.rest or candidate.precision],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
