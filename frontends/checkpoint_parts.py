"""What of a checkpoint is compiled: all of it, an encoder or a decoder, a tower for text or for pictures.

An encoder-decoder runs its encoder once and its decoder at every step, so they are two engines. What joins
them is the caller's loop: the encoder's output goes into the decoder with the tokens so far, filled up to the
decoder's length, and the scores at the last of them say the next.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.core.errors import RequestError
from edgec.frontends.checkpoint_inputs import DEFAULT_TOKENS, Takes, takes_of
from edgec.frontends.examples import Drawing
from edgec.frontends.quiet import first_line

if TYPE_CHECKING:
    import torch

PARTS = ("encoder", "decoder", "text", "vision")

_DECODED = 64
"""Tokens that a decoder takes where the user does not say."""

_FIELDS = ("logits", "pred_boxes", "pred_masks", "masks_queries_logits", "class_queries_logits", "iou_scores")
"""What a detector or segmenter answers; the rest of what it returns are its layers' own predictions."""


@dataclasses.dataclass
class Part:
    """A module, and what it takes.

    Attributes:
        module: what is traced.
        takes: its inputs.
    """

    module: torch.nn.Module
    takes: Takes


def parted(folder: str) -> tuple[str, str]:
    """`DIR:encoder` as the folder and the part; a folder alone has none."""
    path, _, part = folder.rpartition(":")
    return (path, part) if part in PARTS and path and not Path(folder).exists() else (folder, "")


def part_of(model: torch.nn.Module, part: str, folder: Path, spec: str) -> Part:
    """A part of a model, or all of it.

    Raises:
        RequestError: the model has no such part, or is only compiled by parts.
    """
    config: Any = model.config
    if part in ("text", "vision"):
        return _tower(model, part, folder, spec)
    if part and not _generates(model):
        raise RequestError(
            f"{type(model).__name__} is no encoder-decoder, so it has no {part} of its own",
            where=spec,
            fix="name the folder alone",
        )
    if part == "encoder":
        return _encoder(model, folder, spec)
    if part == "decoder":
        return _decoder(model, folder, spec)
    if _generates(model):
        bare = f"hf:{folder}"
        raise RequestError(
            f"{config.model_type} is an encoder-decoder, whose encoder runs once and whose decoder runs at "
            "every token, so here each is an engine",
            where=spec,
            fix=f"compile {bare}:encoder and {bare}:decoder; docs/models.md shows the loop that joins them",
        )
    return Part(_answers(model), takes_of(model, folder, spec))


def _generates(model: torch.nn.Module) -> bool:
    """Whether it is an encoder-decoder that makes a sequence; DETR and its kind answer in one pass."""
    config: Any = model.config
    if not getattr(config, "is_encoder_decoder", False) or type(model).__name__.endswith("EncoderModel"):
        return False
    return "decoder_input_ids" in inspect.signature(model.forward).parameters and not type(
        model
    ).__name__.endswith(("ForSequenceClassification", "ForQuestionAnswering"))


def _answers(model: torch.nn.Module) -> torch.nn.Module:
    """The model, of a detector or segmenter with its answers alone."""
    name = type(model).__name__
    if not any(word in name for word in ("Detection", "Segmentation", "SamModel")):
        return model
    return _fields(model, _FIELDS)


def _fields(model: torch.nn.Module, names: tuple[str, ...]) -> torch.nn.Module:
    """The model, returning those of the named fields that it has."""
    import torch

    class Answers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            answer = self.model(**tensors)
            kept = {name: answer[name] for name in names if answer.get(name) is not None}
            return kept or dict(answer)

    return Answers().eval()


def _encoder(model: torch.nn.Module, folder: Path, spec: str) -> Part:
    encoder: Any = model.get_encoder()  # type: ignore[operator]
    return Part(_fields(encoder, ("last_hidden_state",)), _encoder_takes(model, encoder, folder, spec))


def _encoder_takes(model: torch.nn.Module, encoder: Any, folder: Path, spec: str) -> Takes:
    takes = takes_of(model, folder, spec)
    known = inspect.signature(encoder.forward).parameters
    kept = {name: tensor for name, tensor in takes.arguments.items() if name in known}
    return dataclasses.replace(takes, arguments=kept, tokens=tuple(n for n in takes.tokens if n in kept))


def _decoder(model: torch.nn.Module, folder: Path, spec: str) -> Part:
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    encoder: Any = model.get_encoder()  # type: ignore[operator]
    takes = _encoder_takes(model, encoder, folder, spec)
    try:
        with torch.no_grad():
            hidden = encoder(**_typical(takes))[0]
    except Exception as error:
        raise RequestError(
            f"its encoder does not run ({first_line(error)})", where=spec, fix="check the checkpoint"
        ) from error
    masked = (
        "attention_mask" in takes.arguments
        and "attention_mask" in inspect.signature(model.forward).parameters
    )
    whole_config: Any = model.config
    config: Any = whole_config.get_text_config(decoder=True)
    limits = (
        getattr(config, key, None)
        for key in ("max_target_positions", "max_position_embeddings", "n_positions")
    )
    length = min(_DECODED, *(limit for limit in limits if limit and limit > 0), DEFAULT_TOKENS)
    whole = model

    class Decoder(torch.nn.Module):
        """One step over all tokens so far: scores of what follows each."""

        def __init__(self) -> None:
            super().__init__()
            self.model = whole

        def forward(
            self,
            decoder_input_ids: torch.Tensor,
            encoder_hidden_states: torch.Tensor,
            encoder_attention_mask: torch.Tensor | None = None,
        ) -> dict[str, torch.Tensor]:
            more = {} if encoder_attention_mask is None else {"attention_mask": encoder_attention_mask}
            answer = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
                decoder_input_ids=decoder_input_ids,
                use_cache=False,
                **more,
            )
            return {"logits": answer["logits"]} if "logits" in answer else {"last_hidden_state": answer[0]}

    arguments = {
        "decoder_input_ids": torch.zeros((1, length), dtype=torch.int64),
        "encoder_hidden_states": hidden,
    }
    drawings = {"decoder_input_ids": Drawing(high=config.vocab_size)}
    semantics: dict[str, Any] = {"decoder_input_ids": "tokens", "encoder_hidden_states": "features"}
    if masked:
        arguments["encoder_attention_mask"] = torch.ones(hidden.shape[:2], dtype=torch.int64)
        drawings["encoder_attention_mask"] = Drawing("mask")
        semantics["encoder_attention_mask"] = "mask"
    return Part(Decoder().eval(), Takes(arguments, drawings, semantics))


def _typical(takes: Takes) -> dict[str, torch.Tensor]:
    """A call of an encoder whose output shows how far its numbers reach."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def drawn(name: str, tensor: torch.Tensor) -> torch.Tensor:
        drawing = takes.drawings.get(name, Drawing())
        if takes.semantics.get(name) == "mask":
            return torch.ones_like(tensor)
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator)
        return torch.randint(0, int(drawing.high), tensor.shape, generator=generator)

    return {name: drawn(name, tensor) for name, tensor in takes.arguments.items()}


def _tower(model: torch.nn.Module, part: str, folder: Path, spec: str) -> Part:
    """One side of a model of text and pictures, with its projection: what is compared between the two."""
    import torch

    name = "get_text_features" if part == "text" else "get_image_features"
    features: Any = getattr(model, name, None)
    if features is None:
        raise RequestError(
            f"{type(model).__name__} has no tower for {'text' if part == 'text' else 'pictures'}",
            where=spec,
            fix="name the folder alone",
        )
    takes = takes_of(model, folder, spec)
    known = inspect.signature(features).parameters
    kept = {key: tensor for key, tensor in takes.arguments.items() if key in known}

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            found = getattr(self.model, name)(**tensors)
            pooled = found if isinstance(found, torch.Tensor) else found["pooler_output"]
            return {"features": pooled}

    tokens = tuple(key for key in takes.tokens if key in kept)
    return Part(Tower().eval(), dataclasses.replace(takes, arguments=kept, tokens=tokens))
