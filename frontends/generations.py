"""A source's own cached generations: what a decoder's engines are told, and what they are held to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.core.decoder import CONTINUATION, IDS, LOGITS, Cache, Decoder, Decoding
from edgec.core.errors import JobError
from edgec.core.graph import Arrays, DrawnInput, ExactSource, Graph, TensorSpec
from edgec.frontends.quiet import quiet

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("edgec.frontends")

PROMPT, STEPS = 32, 16
"""Tokens of the typical generation's prompt, and steps behind it."""

LONGEST = 1024
"""Tokens of the longest generation that is verified, where the model has positions for more."""

Call = Callable[["torch.Tensor", Any, "Mapping[str, torch.Tensor]"], Any]
"""New tokens, what the call before gave (None at first) and the source's inputs to an output of transformers,
with `logits` and `past_key_values`."""


def generation_sizes(positions: int) -> list[tuple[int, int]]:
    """Tokens of prompt and steps of each generation that is verified: a typical one, one that begins with a
    single token, and one that ends at the last position, or at `LONGEST`.
    """
    most = min(positions or LONGEST, LONGEST)
    prompt, steps = min(PROMPT, max(1, most // 2)), min(STEPS, max(0, most - most // 2))
    last = min(steps, most - 1)
    return [(prompt, steps), (1, min(steps, most - 1)), (most - last, last)]


def decoder_of(
    model: torch.nn.Module,
    call: Call,
    spec: str,
    decoding: Decoding,
    caches: tuple[Cache, ...],
    seed: int,
    *,
    encoder: Graph | None = None,
    crosses: tuple[Cache, ...] = (),
    source: TensorSpec | None = None,
    draw: Callable[[int, np.random.Generator], np.ndarray] | None = None,
) -> Decoder:
    """Generate with the source, and put what came of it together.

    Args:
        model: the source.
        call: one call of it.
        spec: what the user named.
        decoding: what may be generated.
        caches: what a step reads and gives back.
        seed: of drawn prompts.
        encoder: of an encoder-decoder, the graph from its source to `crosses`.
        crosses: the caches that stay as the encoder made them.
        source: what the encoder reads.
        draw: draws one for the generation of a number.

    Raises:
        JobError: the model computes scores that are not finite.
    """
    import torch

    from edgec.frontends.calling import bind
    from edgec.frontends.torch import ModuleSource

    random = np.random.default_rng(seed)
    feeds: list[Arrays] = []
    for index, (tokens, steps) in enumerate(generation_sizes(decoding.positions)):
        read = {} if source is None or draw is None else {source.name: draw(index, random)}
        prompt = random.integers(0, decoding.vocabulary, (1, tokens))
        feeds.append({**read, IDS: prompt, CONTINUATION: _greedy(call, prompt, steps, read)})
    example = {name: torch.from_numpy(array) for name, array in feeds[0].items()}
    generation = _generation(model, call)
    run = ModuleSource(generation, bind(generation, example, spec), spec)
    references = [run(feed) for feed in feeds]
    if not all(np.isfinite(found[LOGITS]).all() for found in references):
        raise JobError("the model computes scores that are not finite", where=spec, fix="check its weights")
    exact = None
    try:
        exact = ExactSource(run.in_float64, feeds[0])
    except Exception as error:  # whatever the module raises
        _logger.debug("the generation does not run in float64", exc_info=error)
    lengths = [f"{feed[IDS].shape[1]}+{feed[CONTINUATION].shape[1]}" for feed in feeds]
    what = f"0…{decoding.vocabulary - 1}" if source is None or source.semantics == "tokens" else "N(0, 1)"
    return Decoder(
        decoding=decoding,
        caches=caches,
        inputs=(
            *(() if source is None else (source,)),
            TensorSpec(IDS, (1, "tokens"), "int64", "tokens"),
            TensorSpec(CONTINUATION, (1, "steps"), "int64", "tokens"),
        ),
        outputs=(TensorSpec(LOGITS, (1, "steps_and_one", decoding.vocabulary), "float32"),),
        generations=feeds,
        references=references,
        run=run,
        run_exact=exact,
        drawn=(
            *(() if source is None else (DrawnInput(source.name, what),)),
            DrawnInput(IDS, f"prompts of 0…{decoding.vocabulary - 1}, {', '.join(lengths)} tokens"),
            DrawnInput(CONTINUATION, "the source's own greedy tokens"),
        ),
        encoder=encoder,
        crosses=crosses,
    )


def _generation(model: torch.nn.Module, call: Call) -> torch.nn.Module:
    """The source's own cached generation, told its tokens: scores behind the prompt and every step."""
    import torch

    class Generation(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **feeds: torch.Tensor) -> dict[str, torch.Tensor]:
            ids, following = feeds.pop(IDS), feeds.pop(CONTINUATION)
            found = call(ids, None, feeds)
            scores = [found.logits[:, -1:]]
            for step in range(following.shape[1]):
                found = call(following[:, step : step + 1], found, feeds)
                scores.append(found.logits[:, -1:])
            return {LOGITS: torch.cat(scores, dim=1)}

    return Generation().eval()


def _greedy(call: Call, prompt: np.ndarray, steps: int, source: Mapping[str, np.ndarray]) -> np.ndarray:
    """The source's own greedy tokens behind a prompt, (1, steps) int64, by its own cache."""
    import torch

    read = {name: torch.from_numpy(array) for name, array in source.items()}
    tokens: list[int] = []
    with torch.no_grad(), quiet():
        ids, found = torch.from_numpy(prompt), None
        for _ in range(steps):
            found = call(ids, found, read)
            tokens.append(int(found.logits[0, -1].argmax()))
            ids = torch.tensor([tokens[-1:]])
    return np.array(tokens, np.int64).reshape(1, steps)
