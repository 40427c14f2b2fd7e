"""What is found in networks that others wrote: small random members of many families."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from edgec.frontends.torch import from_module  # noqa: E402
from edgec.frontends.torchvision_guard import prepare_torchvision  # noqa: E402
from edgec.passes.infra import MatchLog  # noqa: E402
from edgec.passes.pipeline import default_pipeline  # noqa: E402
from edgec.passes.tokens.sites import find_sites  # noqa: E402

prepare_torchvision()

PAIRS = "a value for each pair of tokens"
CROSS = "queries attend to"
FULL = pytest.mark.full


def timm_made(name: str, size: int = 64, **more: object) -> Callable[[], tuple]:
    def make() -> tuple:
        timm = pytest.importorskip("timm")
        small = {"img_size": size, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 10, **more}
        given = {key: value for key, value in small.items() if value is not None}
        return timm.create_model(name, pretrained=False, **given), {"x": torch.randn(1, 3, size, size)}

    return make


def hf_made(kind: str, **more: object) -> Callable[[], tuple]:
    def make() -> tuple:
        transformers = pytest.importorskip("transformers")
        width = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
        vision = "image_size" in more
        sizes = {} if vision else {"vocab_size": 100, "max_position_embeddings": 66}
        if kind == "DistilBert":
            width = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}
        config = getattr(transformers, f"{kind}Config")(**width, **sizes, **more)
        model = getattr(transformers, f"{kind}Model")(config)
        if vision:
            side = int(more["image_size"])  # type: ignore[call-overload]
            return model, {"pixel_values": torch.randn(1, 3, side, side)}
        ids = torch.randint(3, 99, (1, 24))
        return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return make


# name: how it is made, its sites, protected tokens of each, words of a reason for what is left alone
FOUND = {
    "bert": (hf_made("Bert"), 3, 1, None),
    "dinov2 with registers": (timm_made("vit_small_patch14_reg4_dinov2", 56), 2, 5, CROSS),
    "parallel scaled": (timm_made("vit_base_patch16_xp_224"), 2, 1, CROSS),
    "clip text": (hf_made("CLIPText"), 0, None, PAIRS),
    "swin": (
        timm_made(
            "swin_tiny_patch4_window7_224", 56, depth=None, depths=(1, 1), embed_dim=24, num_heads=(2, 2)
        ),
        0,
        None,
        PAIRS,
    ),
    "bert, eager": (hf_made("Bert", attn_implementation="eager"), 3, 1, None),
    "distilbert": (hf_made("DistilBert"), 3, 0, None),
    "roberta": (hf_made("Roberta"), 3, 1, None),
    "modernbert": (
        hf_made(
            "ModernBert",
            pad_token_id=0,
            cls_token_id=1,
            sep_token_id=2,
            bos_token_id=1,
            eos_token_id=2,
            global_attn_every_n_layers=2,
            local_attention=8,
        ),
        1,
        0,
        PAIRS,
    ),
    "mpnet": (hf_made("MPNet"), 0, None, PAIRS),
    "transformers dinov2 with registers": (
        hf_made("Dinov2WithRegisters", image_size=56, patch_size=14),
        3,
        5,
        None,
    ),
    "cait": (timm_made("cait_xxs24_224", num_heads=4), 0, None, "not recognised as one"),
    "beit": (timm_made("beit_base_patch16_224"), 0, None, PAIRS),
    "deit distilled": (timm_made("deit_tiny_distilled_patch16_224"), 2, 2, CROSS),
    "eva02": (timm_made("eva02_tiny_patch14_224", 56), 3, 1, None),
    "dinov3": (timm_made("vit_small_patch16_dinov3"), 3, 5, None),
    "layer scale": (timm_made("deit3_small_patch16_224"), 2, 1, CROSS),
    "relative positions": (timm_made("vit_relpos_small_patch16_224"), 0, None, PAIRS),
    "siglip": (timm_made("vit_base_patch16_siglip_224"), 3, 0, CROSS),
    "parallel, one projection": (
        timm_made("vit_pwee_patch16_reg1_gap_256"),
        2,
        1,
        "nothing behind it gets cheaper",
    ),
    "xcit": (timm_made("xcit_nano_12_p16_224", num_heads=4), 0, None, "attends over channels"),
    "poolformer": (
        timm_made("poolformer_s12", img_size=None, depth=None, embed_dim=None, num_heads=None),
        0,
        None,
        "mixed by pooling",
    ),
    "convnext": (
        timm_made("convnext_atto", img_size=None, depth=None, embed_dim=None, num_heads=None),
        0,
        None,
        "mixed by a convolution",
    ),
}
FIRST = ("bert", "dinov2 with registers", "parallel scaled", "clip text", "swin")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FIRST else FULL) for name in FOUND])
def test_sites_and_reasons(name: str) -> None:
    make, sites, protected, words = FOUND[name]
    torch.manual_seed(0)
    module, feeds = make()
    for parameter in module.parameters():
        if not parameter.any():  # biases of relative positions start at zero, and zeros fold away
            torch.nn.init.normal_(parameter, std=0.1)
    graph = from_module(module.eval(), feeds, spec=name, name=name, samples=1)
    default_pipeline().run(graph.model)
    log = MatchLog()
    found = find_sites(graph.model, log)
    assert len(found) == sites, [miss.reason for miss in log.misses]
    assert {site.protected for site in found} == ({protected} if sites else set())
    reasons = [miss.reason for miss in log.misses]
    assert words is None or any(words in reason for reason in reasons), reasons
