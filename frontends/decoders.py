"""`hf:DIR` of a causal language model: one step of it over caches, and its own cached generations."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.core.decoder import IDS, LOGITS, Cache, Decoding
from edgec.core.errors import RequestError
from edgec.core.graph import Graph
from edgec.core.progress import Progress, Silent
from edgec.frontends.examples import Drawing
from edgec.frontends.generations import Call, decoder_of
from edgec.frontends.quiet import first_line, quiet

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("edgec.frontends")

_CAUSAL = ("ForCausalLM", "LMHeadModel")

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
    model = load_checkpoint(folder, spec, progress, generates="AutoModelForCausalLM")
    from edgec.frontends.torch import from_module

    layout = _layout(model, spec)
    decoding = decoding_of(model)
    new, past = step_sizes(decoding.positions)
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
    decoder = decoder_of(model, _call(model), spec, decoding, layout, seed)
    return dataclasses.replace(graph, decoder=decoder)


def _call(model: torch.nn.Module) -> Call:
    def call(ids: torch.Tensor, before: Any, _: Mapping[str, torch.Tensor]) -> Any:
        cache = None if before is None else before.past_key_values
        return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    return call


def decoding_of(model: torch.nn.Module, source: str = "") -> Decoding:
    """What a model may generate, as its configuration tells.

    Args:
        model: the model.
        source: of an encoder-decoder, the name of what the encoder reads.
    """
    whole: Any = model.config
    config = whole.get_text_config()
    # An encoder-decoder's n_positions are no table (T5 has relative positions).
    keys = ("max_target_positions", "max_position_embeddings", *(() if source else ("n_positions",)))
    limits = (getattr(config, key, None) for key in keys)
    positions = next((limit for limit in limits if limit and limit > 0), 0)
    generation: Any = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    ends = getattr(config, "eos_token_id", None) if ends is None else ends
    stops = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    # A configuration keeps its class's own stop token where the vocabulary is smaller than that.
    known = tuple(token for token in stops if 0 <= token < config.vocab_size)
    return Decoding(config.vocab_size, positions, known, source)


def step_sizes(positions: int) -> tuple[int, int]:
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

    tokens = 3
    try:
        with torch.no_grad(), quiet():
            cache = model(input_ids=torch.zeros(1, tokens, dtype=torch.int64), use_cache=True)[
                "past_key_values"
            ]
    except Exception as error:
        _logger.debug("no cache", exc_info=error)
        raise RequestError(
            f"a call with use_cache gives no past_key_values ({first_line(error)}), and {_WANTED}",
            where=spec,
            fix=_REWRITE,
        ) from error
    return caches_of(cache, "past", spec, tokens)


_WANTED = "edgec takes keys and values of shape (1, heads, tokens, width) of every layer"
_REWRITE = "write file.py:function with a module whose caches are such inputs and outputs"


def caches_of(cache: Any, name: str, spec: str, tokens: int | None = None) -> tuple[Cache, ...]:
    """The caches of every layer, as transformers holds them.

    Args:
        cache: what a call of the model gave.
        name: how the graph's inputs begin.
        spec: what the user named.
        tokens: how many it must hold.

    Raises:
        RequestError: it keeps something else than keys and values that grow by layer.
    """
    layers = getattr(cache, "layers", None)
    kinds = sorted({type(layer).__name__ for layer in layers or ()})
    unknown = [kind for kind in kinds if kind not in ("DynamicLayer", "DynamicSlidingWindowLayer")]
    if not layers or unknown:
        said = f"{type(cache).__name__} of {', '.join(unknown)}" if unknown else type(cache).__name__
        raise RequestError(f"its cache is a {said}, and {_WANTED}", where=spec, fix=_REWRITE)
    found = []
    for index, layer in enumerate(layers):
        for what, tensor in (("key", layer.keys), ("value", layer.values)):
            shape = None if tensor is None else tuple(tensor.shape)
            if shape is None or len(shape) != 4 or shape[0] != 1 or shape[2] != (tokens or shape[2]):
                raise RequestError(
                    f"the {what}s of layer {index} are cached as {shape}, and {_WANTED}",
                    where=spec,
                    fix=_REWRITE,
                )
            found.append(
                Cache(f"{name}_{what}_{index}", f"present_{what}_{index}", int(shape[1]), int(shape[3]))
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
            layers: Any = cache.layers
            pairs = [(layer.keys, layer.values) for layer in layers]
            presents = [tensor for pair in pairs for tensor in pair]
            named = {kept.present: tensor for kept, tensor in zip(layout, presents, strict=True)}
            return {LOGITS: found.logits, **named}

    return Step().eval()
