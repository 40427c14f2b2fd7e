"""What a checkpoint's model takes: token ids, pictures, sound, pages with boxes, prompts, in their units."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.core.errors import RequestError
from edgec.core.graph import Semantics
from edgec.frontends.examples import Drawing

if TYPE_CHECKING:
    import torch

DEFAULT_TOKENS = 128
"""Sequence length where the user gives none and the model takes as many."""

PAGE = 1000
"""Places on a page go from 0 to this (Xu et al., LayoutLM, 2020)."""

_TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_PICTURE = 224
"""A picture's side where neither the model nor its preprocessor says one."""

_SECONDS = 1
"""Sound of so many seconds, of raw samples."""

_RATE = 16_000
"""Samples a second where the checkpoint says none."""


@dataclasses.dataclass
class Takes:
    """The inputs of a model.

    Attributes:
        arguments: an example of each, by name.
        drawings: how to draw those that have a range.
        semantics: what they mean.
        tokens: those whose shape is that of the token ids.
        notes: what the user should read.
    """

    arguments: dict[str, torch.Tensor]
    drawings: dict[str, Drawing] = dataclasses.field(default_factory=dict)
    semantics: dict[str, Semantics] = dataclasses.field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Takes) -> None:
        """Take the other's inputs too."""
        self.arguments |= other.arguments
        self.drawings |= other.drawings
        self.semantics |= other.semantics
        self.tokens += other.tokens
        self.notes += other.notes


def takes_of(model: torch.nn.Module, folder: Path, spec: str) -> Takes:
    """The inputs of a model of transformers.

    Args:
        model: the model.
        folder: the checkpoint's folder, whose preprocessor says sizes.
        spec: what the user named.

    Raises:
        RequestError: it takes something that edgec cannot draw.
    """
    main: Any = model.main_input_name
    config: Any = model.config
    parameters = inspect.signature(model.forward).parameters
    if main == "input_ids":
        takes = _tokens(model, spec)
        if "bbox" in parameters:
            takes.add(_boxes(takes))
        if "pixel_values" in parameters and hasattr(config, "vision_config"):
            takes.add(_pictures(config.vision_config, folder))
        elif "pixel_values" in parameters and getattr(config, "visual_embed", False):
            takes.add(_pictures(config, folder))
        return takes
    if main == "pixel_values":
        takes = _pictures(config, folder)
        if "input_points" in parameters:
            takes.add(_points(takes))
        elif "input_ids" in parameters and hasattr(config, "text_config"):
            takes.add(_tokens(model, spec))
        return takes
    if main in ("input_values", "input_features"):
        return _sound(main, config, folder)
    raise RequestError(
        f"{type(model).__name__} takes {main!r}, which edgec does not know how to draw",
        where=spec,
        fix="write file.py:function with your own example inputs",
    )


def _tokens(model: torch.nn.Module, spec: str) -> Takes:
    config: Any = model.config
    if getattr(config.get_text_config(), "vocab_size", None) is None:
        raise RequestError(
            "its config.json names no vocab_size, so edgec does not know which token ids there are",
            where=spec,
            fix="write file.py:function with your own example inputs",
        )
    arguments, drawings = token_inputs(model)
    kinds: dict[str, Semantics] = {
        "input_ids": "tokens",
        "attention_mask": "mask",
        "token_type_ids": "unknown",
    }
    return Takes(arguments, drawings, {name: kinds[name] for name in arguments}, tuple(arguments))


def token_inputs(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Drawing]]:
    """Ids, mask and segments of as many tokens as the model has positions for, up to `DEFAULT_TOKENS`."""
    import torch

    whole: Any = model.config
    config = whole.get_text_config()
    parameters = inspect.signature(model.forward).parameters
    limits = (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions"))
    limit = next((limit for limit in limits if limit and limit > 0), None)  # XLNet's is -1: there is none
    pad = getattr(config, "pad_token_id", None)
    # RoBERTa numbers positions from behind the padding token's id.
    reserved = pad + 1 if pad is not None and _reserves_padding(model) else 0
    usable = limit - reserved if limit else DEFAULT_TOKENS
    shape = (1, min(DEFAULT_TOKENS, usable))
    takes = [
        name
        for name in _TOKEN_INPUTS
        if name in parameters and (name != "token_type_ids" or getattr(config, "type_vocab_size", 0) > 1)
    ]
    drawings = {
        "input_ids": Drawing(high=config.vocab_size, pad=pad, padded_by="attention_mask"),
        "attention_mask": Drawing("mask"),
        "token_type_ids": Drawing("segments", high=getattr(config, "type_vocab_size", 2)),
    }
    return (
        {name: torch.zeros(shape, dtype=torch.int64) for name in takes},
        {name: drawings.get(name, Drawing()) for name in takes},
    )


def _reserves_padding(model: torch.nn.Module) -> bool:
    """Whether the position table keeps a row for padding, as RoBERTa's does."""
    return any(
        name.endswith("position_embeddings") and getattr(layer, "padding_idx", None) is not None
        for name, layer in model.named_modules()
    )


def _boxes(tokens: Takes) -> Takes:
    """Where each token stands on its page: left, top, right, bottom."""
    import torch

    shape = (*tokens.arguments["input_ids"].shape, 4)
    return Takes(
        {"bbox": torch.zeros(shape, dtype=torch.int64)},
        {"bbox": Drawing("boxes", high=PAGE + 1)},
        {"bbox": "unknown"},
    )


def _pictures(config: Any, folder: Path) -> Takes:
    import torch

    height, width = _picture_size(config, folder)
    channels = getattr(config, "num_channels", None) or 3
    return Takes({"pixel_values": torch.zeros(1, channels, height, width)}, {}, {"pixel_values": "image"})


def _picture_size(config: Any, folder: Path) -> tuple[int, int]:
    """What the model is made for, else what its preprocessor makes."""
    vision = getattr(config, "vision_config", None) or getattr(config, "encoder", None)
    # LayoutLMv3 calls it its input's size.
    names = (config, "image_size"), (vision, "image_size"), (config, "input_size")
    size = next((found for where, name in names if (found := getattr(where, name, None))), None)
    if isinstance(size, (tuple, list)):
        return int(size[0]), int(size[1])
    if size:
        return int(size), int(size)
    known = preprocessor(folder)
    for made in (known.get("crop_size"), known.get("size")):
        if isinstance(made, dict) and made.get("height") and made.get("width"):
            return int(made["height"]), int(made["width"])
        if isinstance(made, dict) and made.get("shortest_edge"):
            return int(made["shortest_edge"]), int(made["shortest_edge"])
        if isinstance(made, int):
            return made, made
    return _PICTURE, _PICTURE


def _points(pictures: Takes) -> Takes:
    """A prompt of one point in the picture's pixels, and whether it is in the object."""
    import torch

    side = max(pictures.arguments["pixel_values"].shape[-2:])
    return Takes(
        {
            "input_points": torch.full((1, 1, 1, 2), side / 2),
            "input_labels": torch.ones((1, 1, 1), dtype=torch.int64),
        },
        {
            "input_points": Drawing(high=side - 1, uniform=True),
            "input_labels": Drawing("choices", like=np.array([1, 0])),
        },
        {"input_points": "unknown", "input_labels": "unknown"},
    )


def _sound(name: str, config: Any, folder: Path) -> Takes:
    """Raw samples of a second, or as many frames of a spectrum as the model has places for."""
    import torch

    known = preprocessor(folder)
    bins = next(
        (getattr(config, key) for key in ("num_mel_bins", "feature_size") if hasattr(config, key)), None
    )
    if name == "input_values" and not bins:
        rate = int(known.get("sampling_rate", _RATE))
        return Takes(
            {name: torch.zeros(1, rate * _SECONDS)}, {name: Drawing("sound", high=1.0)}, {name: "features"}
        )
    places = getattr(config, "max_source_positions", None)
    frames = getattr(config, "max_length", None) if name == "input_values" else None
    if name == "input_features" and places:
        # Whisper's encoder halves the frames and has a place for each that is left.
        return Takes({name: torch.zeros(1, bins or 80, 2 * places)}, {}, {name: "features"})
    if name == "input_features":
        wide = getattr(config, "feature_projection_input_dim", None) or bins or 80
        return Takes({name: torch.zeros(1, 100, wide)}, {}, {name: "features"})
    return Takes({name: torch.zeros(1, frames or 1024, bins or 128)}, {}, {name: "features"})


def preprocessor(folder: Path) -> dict[str, Any]:
    """What the checkpoint's preprocessor is set to; empty where it says nothing."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        try:
            known = json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(known, dict):
            inner = known.get("image_processor") or known.get("feature_extractor")
            return inner if isinstance(inner, dict) else known
    return {}
