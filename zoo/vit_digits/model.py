"""vit_digits: a small vision transformer that reads 8x8 handwriting, one token a pixel."""

from __future__ import annotations

from pathlib import Path

from edgec.zoo import weights
from edgec.zoo.vit import VisionTransformer, VitConfig

CONFIG = VitConfig(image=8, patch=1, channels=1, classes=10, width=64, depth=6, heads=4, hidden=192)
WEIGHTS = Path(__file__).with_name("weights.npz")


def trained() -> VisionTransformer:
    """The model with its committed weights, in evaluation mode."""
    model = VisionTransformer(CONFIG)
    model.load_state_dict(weights.load(WEIGHTS))
    return model.eval()
