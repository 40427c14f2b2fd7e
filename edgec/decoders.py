"""What a compile does for decoders alone: which options they take, and whose tokens their engines choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgec.core.errors import NumericsError, RequestError
from edgec.core.graph import Arrays, Graph
from edgec.core.greedy import Greedy, compare_greedy
from edgec.core.numerics import GATES
from edgec.request import Request
from edgec.search.trials import Trial

Run = Callable[[Mapping[str, np.ndarray]], Arrays]


def decoder_loader(model: object) -> Callable[..., Graph] | None:
    """What loads a model as a decoder, of its folder; None where it is none."""
    from edgec.frontends.decoders import from_decoder, is_decoder
    from edgec.frontends.encoder_decoders import from_encoder_decoder, is_encoder_decoder

    if not isinstance(model, str):
        return None
    if is_decoder(model):
        return from_decoder
    return from_encoder_decoder if is_encoder_decoder(model) else None


def check_decoder_request(request: Request, given: Mapping[str, Any]) -> None:
    """See that what is asked is to be had for a decoder.

    Args:
        request: what is asked.
        given: options that say something of inputs; those that were not given are empty.

    Raises:
        RequestError: something is not.
    """
    taken = {f"--{axis}": text for axis, text in request.takes_away.items()}
    for option, value in {**taken, **given}.items():
        if value:
            raise RequestError(
                f"{option} is not for decoders: their prompts have open sizes and are drawn",
                fix=f"leave out {option}",
            )


def greedy_of(graph: Graph, run: Run, trial: Trial, max_drop: float | None) -> Greedy:
    """The tokens that an engine chooses in the source's own generations.

    Args:
        graph: the decoder's graph, by generations.
        run: runs the engine on a generation.
        trial: the engine.
        max_drop: the largest share of tokens that may be others; None where nothing bounds it.

    Raises:
        NumericsError: an exact engine chooses others that are no near ties, or a lossy one more than allowed.
    """
    candidate = trial.candidate
    gate = GATES["bf16" if candidate.is_lossy else candidate.precision]
    found = compare_greedy(graph.references, [run(feeds) for feeds in graph.examples], gate.scaled)
    if candidate.precision == "fp32" and found.others:
        raise NumericsError(f"{candidate.name} chooses {found}", fix="report this model: fp32 is to be exact")
    if max_drop is not None and found.others > max_drop * found.steps:
        raise NumericsError(
            f"{candidate.name} chooses {found}: more than --max-drop {max_drop:g} allows",
            fix="allow more, or take a higher --precision",
        )
    return found
