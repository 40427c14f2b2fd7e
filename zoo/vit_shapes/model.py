"""vit_shapes: a vision transformer of DeiT-tiny's size that names silhouettes among clutter."""

from __future__ import annotations

from pathlib import Path

from edgec.zoo import weights
from edgec.zoo.vit import VisionTransformer, VitConfig
from edgec.zoo.vit_shapes.scenes import SIDE
from edgec.zoo.vit_shapes.silhouettes import LABELS

CONFIG = VitConfig(
    image=SIDE, patch=16, channels=3, classes=len(LABELS), width=192, depth=12, heads=3, hidden=768
)
WEIGHTS = Path(__file__).with_name("weights.npz")


def trained() -> VisionTransformer:
    """The model with its committed weights, in evaluation mode."""
    model = VisionTransformer(CONFIG)
    model.load_state_dict(weights.load(WEIGHTS))
    return model.eval()
