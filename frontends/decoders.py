"""`hf:DIR` of a causal language model: one step of it over caches, and its own cached generations."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.core.decoder import CONTINUATION, IDS, LOGITS, Cache, Decoder, Decoding
from edgec.core.errors import JobError, RequestError
from edgec.core.graph import DrawnInput, ExactSource, Graph, TensorSpec
from edgec.core.progress import Progress, Silent
from edgec.frontends.examples import Drawing
from edgec.frontends.quiet import first_line, quiet

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("edgec.frontends")

_CAUSAL = ("ForCausalLM", "LMHeadModel")

PROMPT, STEPS = 32, 16
"""Tokens of the typical generation's prompt, and steps behind it."""

LONGEST = 1024
"""Tokens of the longest generation that is verified, where the model has positions for more."""

_NEW, _PAST = 24, 40
"""Sizes up to which one step is verified by itself, before any engine is built."""


def is_decoder(spec: str) -> bool:
    """Whether what the user names is a checkpoint folder of a causal language model."""
    scheme, _, folder = spec.partition(":")
    if scheme != "hf":
        return False
    try:
        known = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        architecture = next(iter(known.get("architectures") or ()), "")
    except (OSError, ValueError, AttributeError):
        return False
    return str(architecture).endswith(_CAUSAL) and not known.get("is_encoder_decoder", False)


def from_decoder(folder: str, *, seed: int = 0, samples: int = 3, progress: Progress | None = None) -> Graph:
    """Load a causal language model from a checkpoint folder, as one step over its caches.

    The step takes `input_ids` (1, new) and keys and values of every layer, (1, heads, past, width), and
    gives the scores of the next token and the caches with the new tokens behind. `past` may be 0: prompt and
    step are one graph with one set of weights. Beside it come the source's own greedy generations, stepped
    through its own cache.

    Args:
        folder: as `save_pretrained` writes it.
        seed: of drawn prompts.
        samples: how many examples of a step to draw.
        progress: told about long steps.

    Raises:
        RequestError: the folder is no checkpoint that transformers reads, or its cache is no such one.
        MissingExtraError: transformers is not installed.
        JobError: no exporter reproduces the model.
    """
    from edgec.frontends.transformers import load_checkpoint

    progress = progress or Silent()
    spec = f"hf:{folder}"
    model = load_checkpoint(folder, spec, progress, causal=True)
    from edgec.frontends.torch import from_module

    layout = _layout(model, spec)
    decoding = _decoding(model)
    new, past = _sizes(decoding.positions)
    graph = from_module(
        _step(model, layout),
        _example(layout, decoding.vocabulary),
        spec=spec,
        name=Path(folder).resolve().name,
        kind="transformers",
        input_names=[IDS, *(cache.past for cache in layout)],
        semantics={IDS: "tokens"},
        drawings={IDS: Drawing(high=decoding.vocabulary)},
        weights="from the checkpoint",
        inputs=[
            f"{IDS}:1xnew=1..{new}:int64",
            *(f"{cache.past}:1x{cache.heads}xpast=1..{past}x{cache.width}:float32" for cache in layout),
        ],
        seed=seed,
        samples=samples,
        progress=progress,
    )
    progress.step("generating with the source")
    return dataclasses.replace(graph, decoder=_decoder(model, spec, decoding, layout, seed))


def _decoding(model: torch.nn.Module) -> Decoding:
    whole: Any = model.config
    config = whole.get_text_config()
    limits = (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions"))
    positions = next((limit for limit in limits if limit and limit > 0), 0)
    generation: Any = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    ends = getattr(config, "eos_token_id", None) if ends is None else ends
    stops = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    # A configuration keeps its class's own stop token where the vocabulary is smaller than that.
    known = tuple(token for token in stops if 0 <= token < config.vocab_size)
    return Decoding(config.vocab_size, positions, known)


def _sizes(positions: int) -> tuple[int, int]:
    """The most new and past tokens of a step's examples."""
    if not positions:
        return _NEW, _PAST
    new = max(2, min(_NEW, positions // 3))
    return new, max(2, min(_PAST, positions - new))


def _layout(model: torch.nn.Module, spec: str) -> tuple[Cache, ...]:
    """The model's caches, as a call of it shows them.

    Raises:
        RequestError: it keeps something else than keys and values that grow by layer.
    """
    import torch

    wanted = "edgec takes keys and values of shape (1, heads, tokens, width) of every layer"
    fix = "write file.py:function with a module whose caches are such inputs and outputs"
    tokens = 3
    try:
        with torch.no_grad(), quiet():
            cache = model(input_ids=torch.zeros(1, tokens, dtype=torch.int64), use_cache=True)[
                "past_key_values"
            ]
    except Exception as error:
        _logger.debug("no cache", exc_info=error)
        raise RequestError(
            f"a call with use_cache gives no past_key_values ({first_line(error)}), and {wanted}",
            where=spec,
            fix=fix,
        ) from error
    layers = getattr(cache, "layers", None)
    kinds = sorted({type(layer).__name__ for layer in layers or ()})
    unknown = [kind for kind in kinds if kind not in ("DynamicLayer", "DynamicSlidingWindowLayer")]
    if not layers or unknown:
        said = f"{type(cache).__name__} of {', '.join(unknown)}" if unknown else type(cache).__name__
        raise RequestError(f"its cache is a {said}, and {wanted}", where=spec, fix=fix)
    found = []
    for index, layer in enumerate(layers):
        for what, tensor in (("key", layer.keys), ("value", layer.values)):
            shape = None if tensor is None else tuple(tensor.shape)
            if shape is None or len(shape) != 4 or shape[0] != 1 or shape[2] != tokens:
                raise RequestError(
                    f"the {what}s of layer {index} are cached as {shape}, and {wanted}", where=spec, fix=fix
                )
            found.append(
                Cache(f"past_{what}_{index}", f"present_{what}_{index}", int(shape[1]), int(shape[3]))
            )
    return tuple(found)


def _example(layout: Sequence[Cache], vocabulary: int) -> tuple[torch.Tensor, ...]:
    import torch

    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (1, 3), generator=random)
    return (ids, *(torch.randn(1, cache.heads, 5, cache.width, generator=random) for cache in layout))


def _step(model: torch.nn.Module, layout: Sequence[Cache]) -> torch.nn.Module:
    """One step: new tokens and caches in, scores and caches out."""
    import torch
    from transformers.cache_utils import DynamicCache

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, *past: torch.Tensor) -> dict[str, torch.Tensor]:
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            found = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            pairs = [(layer.keys, layer.values) for layer in cache.layers]
            presents = [tensor for pair in pairs for tensor in pair]
            named = {kept.present: tensor for kept, tensor in zip(layout, presents, strict=True)}
            return {LOGITS: found.logits, **named}

    return Step().eval()


def _generation(model: torch.nn.Module) -> torch.nn.Module:
    """The source's own cached generation, told its tokens: scores behind the prompt and every step."""
    import torch

    class Generation(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, continuation: torch.Tensor) -> dict[str, torch.Tensor]:
            found = self.model(input_ids=input_ids, use_cache=True, logits_to_keep=1)
            scores = [found.logits]
            for step in range(continuation.shape[1]):
                found = self.model(
                    input_ids=continuation[:, step : step + 1],
                    past_key_values=found.past_key_values,
                    use_cache=True,
                    logits_to_keep=1,
                )
                scores.append(found.logits)
            return {LOGITS: torch.cat(scores, dim=1)}

    return Generation().eval()


def _decoder(
    model: torch.nn.Module, spec: str, decoding: Decoding, layout: tuple[Cache, ...], seed: int
) -> Decoder:
    import torch

    from edgec.frontends.calling import bind
    from edgec.frontends.torch import ModuleSource

    example = {IDS: torch.zeros(1, 1, dtype=torch.int64), CONTINUATION: torch.zeros(1, 1, dtype=torch.int64)}
    generation = _generation(model)
    source = ModuleSource(generation, bind(generation, example, spec), spec)
    random = np.random.default_rng(seed)
    feeds = []
    for tokens, steps in generation_sizes(decoding.positions):
        prompt = random.integers(0, decoding.vocabulary, (1, tokens))
        feeds.append({IDS: prompt, CONTINUATION: _greedy(model, prompt, steps)})
    references = [source(feed) for feed in feeds]
    if not all(np.isfinite(found[LOGITS]).all() for found in references):
        raise JobError("the model computes scores that are not finite", where=spec, fix="check its weights")
    exact = None
    try:
        exact = ExactSource(source.in_float64, feeds[0])
    except Exception as error:  # whatever the module raises
        _logger.debug("the generation does not run in float64", exc_info=error)
    lengths = [f"{feed[IDS].shape[1]}+{feed[CONTINUATION].shape[1]}" for feed in feeds]
    return Decoder(
        decoding=decoding,
        caches=layout,
        inputs=(
            TensorSpec(IDS, (1, "tokens"), "int64", "tokens"),
            TensorSpec(CONTINUATION, (1, "steps"), "int64", "tokens"),
        ),
        outputs=(TensorSpec(LOGITS, (1, "steps_and_one", decoding.vocabulary), "float32"),),
        generations=feeds,
        references=references,
        run=source,
        run_exact=exact,
        drawn=(
            DrawnInput(IDS, f"prompts of 0…{decoding.vocabulary - 1}, {', '.join(lengths)} tokens"),
            DrawnInput(CONTINUATION, "the source's own greedy tokens"),
        ),
    )


def generation_sizes(positions: int) -> list[tuple[int, int]]:
    """Tokens of prompt and steps of each generation that is verified: a typical one, one that begins with a
    single token, and one that ends at the last position, or at `LONGEST`.
    """
    most = min(positions or LONGEST, LONGEST)
    prompt, steps = min(PROMPT, max(1, most // 2)), min(STEPS, max(0, most - most // 2))
    last = min(steps, most - 1)
    return [(prompt, steps), (1, min(steps, most - 1)), (most - last, last)]


def _greedy(model: torch.nn.Module, prompt: np.ndarray, steps: int) -> np.ndarray:
    """The source's own greedy tokens behind a prompt, (1, steps) int64, by its own cache."""
    import torch

    tokens: list[int] = []
    with torch.no_grad(), quiet():
        ids, cache = torch.from_numpy(prompt), None
        for _ in range(steps):
            found: Any = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = found.past_key_values
            tokens.append(int(found.logits[0, -1].argmax()))
            ids = torch.tensor([tokens[-1:]])
    return np.array(tokens, np.int64).reshape(1, steps)
