"""`hf:DIR` of an encoder-decoder: an encoder that runs once, one step over caches, its own generations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.core.decoder import IDS, LOGITS, Cache
from edgec.core.errors import RequestError
from edgec.core.graph import Graph, TensorSpec
from edgec.core.progress import Progress, Silent
from edgec.frontends.decoders import caches_of, decoding_of, step_sizes
from edgec.frontends.examples import Drawing
from edgec.frontends.generations import Call, decoder_of
from edgec.frontends.quiet import quiet

if TYPE_CHECKING:
    import torch

SOURCE_TOKENS = "source_ids"
"""The tokens that an encoder reads, (1, source) int64; of sound, transformers' own `input_features`."""

_FEATURES = "input_features"

_SOURCE = 48
"""Tokens of the longest source that is drawn."""


def is_encoder_decoder(spec: str) -> bool:
    """Whether what the user names is a checkpoint folder of a whole encoder-decoder that generates."""
    scheme, _, folder = spec.partition(":")
    return scheme == "hf" and bool(_architecture(Path(folder)))


def _architecture(folder: Path) -> str:
    """The class of a whole encoder-decoder that generates; empty where the folder holds none."""
    try:
        known = json.loads((folder / "config.json").read_text("utf-8"))
        architecture = str(next(iter(known.get("architectures") or ()), ""))
        whole = bool(known.get("is_encoder_decoder", False))
    except (OSError, ValueError, AttributeError):
        return ""
    return architecture if whole and architecture.endswith(("ForConditionalGeneration", "MTModel")) else ""


def from_encoder_decoder(
    folder: str, *, seed: int = 0, samples: int = 3, progress: Progress | None = None
) -> Graph:
    """Load an encoder-decoder from a checkpoint folder, as an encoder and one step over caches.

    The encoder's graph goes from `source_ids` (1, source) or `input_features` to keys and values of every
    layer's attention over the source: they are computed once. The step reads them beside its own caches.
    There is no padding: a source is as long as it is.

    Args:
        folder: as `save_pretrained` writes it.
        seed: of drawn sources and prompts.
        samples: how many examples of a step to draw.
        progress: told about long steps.

    Raises:
        RequestError: the folder is no checkpoint that transformers reads, or its source or cache is of
            another kind.
        MissingExtraError: transformers is not installed.
        JobError: no exporter reproduces the model.
    """
    from edgec.frontends.transformers import load_checkpoint

    progress = progress or Silent()
    spec = f"hf:{folder}"
    model = load_checkpoint(folder, spec, progress, generates=_architecture(Path(folder)))
    import torch

    from edgec.frontends.torch import from_module

    source = _source(model, spec)
    example = _drawn(source, model, 0, np.random.default_rng(0))
    call = _call(model, source.name)
    with torch.no_grad(), quiet():
        start = torch.zeros(1, 3, dtype=torch.int64)
        cache = call(start, None, {source.name: torch.from_numpy(example)}).past_key_values
    caches = caches_of(getattr(cache, "self_attention_cache", None), "past", spec, 3)
    crosses = caches_of(getattr(cache, "cross_attention_cache", None), "cross", spec)
    decoding = decoding_of(model, source.name)
    tokens = source.semantics == "tokens"
    name = Path(folder).resolve().name
    common: dict[str, Any] = {
        "spec": spec,
        "name": name,
        "kind": "transformers",
        "weights": "from the checkpoint",
    }
    encoder = from_module(
        _encoder(model, call, source.name, crosses),
        (torch.from_numpy(example),),
        input_names=[source.name],
        semantics={source.name: source.semantics},
        drawings={source.name: Drawing(high=decoding.vocabulary)} if tokens else None,
        inputs=[f"{source.name}:1xsource=1..{_SOURCE}:int64"] if tokens else [],
        seed=seed,
        samples=samples,
        progress=progress,
        **common,
    )
    new, past = step_sizes(decoding.positions)
    length = f"source=1..{_SOURCE}" if tokens else str(cache.cross_attention_cache.layers[0].keys.shape[2])
    step = from_module(
        _step(model, caches),
        _step_example(cache, decoding.vocabulary),
        input_names=[IDS, *(cache.past for cache in (*caches, *crosses))],
        semantics={IDS: "tokens"},
        drawings={IDS: Drawing(high=decoding.vocabulary)},
        inputs=[
            f"{IDS}:1xnew=1..{new}:int64",
            *(f"{cache.past}:1x{cache.heads}xpast=1..{past}x{cache.width}:float32" for cache in caches),
            *(f"{cache.past}:1x{cache.heads}x{length}x{cache.width}:float32" for cache in crosses),
        ],
        seed=seed,
        samples=samples,
        progress=progress,
        **common,
    )
    progress.step("generating with the source")
    decoder = decoder_of(
        model,
        call,
        spec,
        decoding,
        caches,
        seed,
        encoder=encoder,
        crosses=crosses,
        source=source,
        draw=lambda index, random: _drawn(source, model, index, random),
    )
    return dataclasses.replace(step, decoder=decoder)


def _source(model: torch.nn.Module, spec: str) -> TensorSpec:
    config: Any = model.config
    reads = model.main_input_name
    if reads == "input_ids":
        return TensorSpec(SOURCE_TOKENS, (1, "source"), "int64", "tokens")
    if reads == _FEATURES and getattr(config, "num_mel_bins", None):
        # Whisper's first convolutions halve the frames.
        return TensorSpec(_FEATURES, (1, config.num_mel_bins, 2 * config.max_source_positions), "float32")
    raise RequestError(
        f"its encoder reads {reads!r}, and edgec takes encoders of tokens or of Whisper's features",
        where=spec,
        fix="write file.py:function that returns the encoder",
    )


def _drawn(source: TensorSpec, model: torch.nn.Module, index: int, random: np.random.Generator) -> np.ndarray:
    """A source: tokens of several lengths, one among them, or features as whisper scales them."""
    if source.semantics != "tokens":
        return random.standard_normal([int(size) for size in source.shape]).astype(np.float32)
    config: Any = model.config
    length = (_SOURCE // 2, 1, _SOURCE)[index % 3]
    return random.integers(0, config.vocab_size, (1, length))


def _call(model: torch.nn.Module, source: str) -> Call:
    reads = {"input_ids" if source == SOURCE_TOKENS else source: source}

    def call(ids: torch.Tensor, before: Any, feeds: Mapping[str, torch.Tensor]) -> Any:
        if before is None:
            given = {theirs: feeds[ours] for theirs, ours in reads.items()}
            return model(**given, decoder_input_ids=ids, use_cache=True)
        return model(
            encoder_outputs=(before.encoder_last_hidden_state,),
            decoder_input_ids=ids,
            past_key_values=before.past_key_values,
            use_cache=True,
        )

    return call


def _encoder(model: torch.nn.Module, call: Call, source: str, crosses: tuple[Cache, ...]) -> torch.nn.Module:
    """What the attention over the source keeps. It takes a step to make it, of which nothing else is left."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, read: torch.Tensor) -> dict[str, torch.Tensor]:
            found = call(torch.zeros(1, 1, dtype=torch.int64), None, {source: read})
            layers = found.past_key_values.cross_attention_cache.layers
            kept = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
            return {cache.past: tensor for cache, tensor in zip(crosses, kept, strict=True)}

    return Encoder().eval()


def _step(model: torch.nn.Module, caches: tuple[Cache, ...]) -> torch.nn.Module:
    """One step: new tokens, caches and what the encoder made in; scores and longer caches out."""
    import torch
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    config: Any = model.config

    def paired(tensors: tuple[torch.Tensor, ...]) -> Any:
        return DynamicCache(list(zip(tensors[::2], tensors[1::2], strict=True)))

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, *held: torch.Tensor) -> dict[str, torch.Tensor]:
            own, crosses = held[: len(caches)], held[len(caches) :]
            cache = EncoderDecoderCache(paired(own), paired(crosses))
            for layer in range(len(crosses) // 2):
                cache.is_updated[layer] = True
            # Nothing reads the encoder's output any more; only its length is asked for.
            hidden = torch.zeros(1, crosses[0].shape[2], config.d_model)
            found = self.model(
                encoder_outputs=(hidden,), decoder_input_ids=ids, past_key_values=cache, use_cache=True
            )
            layers: Any = cache.self_attention_cache.layers
            presents = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
            named = {kept.present: tensor for kept, tensor in zip(caches, presents, strict=True)}
            return {LOGITS: found.logits[:, -1:], **named}

    return Step().eval()


def _step_example(cache: Any, vocabulary: int) -> tuple[torch.Tensor, ...]:
    import torch

    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (1, 2), generator=random)
    layers = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    return (ids, *(tensor.clone() for layer in layers for tensor in (layer.keys, layer.values)))
