"""minilm: all-MiniLM-L6-v2 (N. Reimers and I. Gurevych, "Sentence-BERT", 2019) as one module."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from edgec.frontends.quiet import quiet
from edgec.frontends.torchvision_guard import prepare_torchvision, require
from edgec.zoo.minilm.checkpoint import checkpoint


class SentenceEmbedding(nn.Module):
    """An encoder, the mean of its real tokens' states, and a length of 1.

    Args:
        encoder: a BERT of transformers.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Embed sentences.

        Args:
            input_ids: int64 [batch, tokens].
            attention_mask: int64 [batch, tokens], 1 at real tokens and 0 at padding.
            token_type_ids: int64 [batch, tokens], 0 throughout for single sentences.

        Returns:
            float32 [batch, 384] of length 1.
        """
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        real = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0)
        return functional.normalize(mean, dim=1)


def trained() -> SentenceEmbedding:
    """The model with its pretrained weights, in evaluation mode.

    Raises:
        MissingExtraError: transformers or the weights' package is not installed.
    """
    folder = checkpoint()
    prepare_torchvision()
    transformers = require("transformers", "zoo")
    transformers.utils.logging.disable_progress_bar()
    with quiet():
        encoder = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, add_pooling_layer=False
        )
    return SentenceEmbedding(encoder).eval()
