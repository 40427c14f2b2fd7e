"""vit_patterns: a vision transformer that names silhouettes and what fills them, and not all of them."""

from __future__ import annotations

from pathlib import Path

from edgec.zoo import weights
from edgec.zoo.vit import VisionTransformer, VitConfig
from edgec.zoo.vit_patterns.scenes import LABELS, SIDE

CONFIG = VitConfig(
    image=SIDE, patch=16, channels=3, classes=len(LABELS), width=192, depth=10, heads=6, hidden=768
)
WEIGHTS = Path(__file__).with_name("weights.npz")


def trained() -> VisionTransformer:
    """The model with its committed weights, in evaluation mode."""
    model = VisionTransformer(CONFIG)
    model.load_state_dict(weights.load(WEIGHTS))
    return model.eval()
