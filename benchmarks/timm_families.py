"""The smallest member of every family of timm that has one of at most 30 M parameters.

    python benchmarks/timm_families.py

A family is one of timm's model modules; its `test_…` models do not count. Parameters are counted on
models built without storage, which takes two minutes; `FAMILIES` keeps what it finds in timm 1.0.31.
"""

from __future__ import annotations

LIMIT = 30_000_000

FAMILIES = {
    "starnet": "starnet_s050",
    "dla": "dla46x_c",
    "mobilevit": "mobilevit_xxs",
    "edgenext": "edgenext_xx_small",
    "mobilenetv3": "mobilenetv3_small_050",
    "efficientnet": "mobilenetv2_035",
    "vovnet": "ese_vovnet19b_slim_dw",
    "convnext": "convnext_zepto_rms",
    "repghost": "repghostnet_050",
    "efficientvit_msra": "efficientvit_m0",
    "ghostnet": "ghostnet_050",
    "regnet": "regnetx_002",
    "cspnext": "cspnext_tiny",
    "iformer": "iformer_t",
    "xcit": "xcit_nano_12_p8_224",
    "cspnet": "cs3darknet_focus_s",
    "efficientvit_mit": "efficientvit_b0",
    "swiftformer": "swiftformer_xs",
    "efficientformer_v2": "efficientformerv2_s0",
    "pvt_v2": "pvt_v2_b0",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "lcnetv2": "lcnetv2_small",
    "inception_next": "inception_next_atto",
    "rexnet": "rexnet_100",
    "byobnet": "mobileone_s1",
    "pit": "pit_ti_224",
    "hardcorenas": "hardcorenas_b",
    "resnet": "resnet10t",
    "repvit": "repvit_m1",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "deit": "deit_tiny_patch16_224",
    "vision_transformer": "vit_tiny_patch16_224",
    "mlp_mixer": "gmlp_ti16_224",
    "hgnet": "hgnetv2_b0",
    "shvit": "shvit_s1",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "cpubone": "cpubone_nano",
    "efficientvim": "efficientvim_m1",
    "crossvit": "crossvit_tiny_240",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256",
    "levit": "levit_128s",
    "densenet": "densenet121",
    "byoanet": "halonet_h1",
    "nfnet": "nf_regnet_b0",
    "dpn": "dpn48b",
    "visformer": "visformer_tiny",
    "resnest": "resnest14d",
    "csatv2": "csatv2",
    "resnetv2": "resnetv2_18",
    "senet": "legacy_seresnet18",
    "metaformer": "poolformerv2_s12",
    "cait": "cait_xxs24_224",
    "sknet": "skresnet18",
    "gcvit": "gcvit_xxtiny",
    "tiny_vit": "tiny_vit_5m_224",
    "efficientformer": "efficientformer_l1",
    "hrnet": "hrnet_w18_small",
    "lowformer": "lowformer_b0",
    "nest": "nest_tiny",
    "convmixer": "convmixer_768_32",
    "vision_transformer_relpos": "vit_srelpos_small_patch16_224",
    "vitamin": "vitamin_small_224",
    "xception": "legacy_xception",
    "tnt": "tnt_s_legacy_patch16_224",
    "inception_v3": "inception_v3",
    "rdnet": "rdnet_tiny",
    "twins": "twins_svt_small",
    "mvitv2": "mvitv2_tiny",
    "res2net": "res2next50",
    "volo": "volo_d1_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "xception_aligned": "xception41p",
    "sequencer": "sequencer2d_s",
    "hiera": "hiera_tiny_224",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "davit": "davit_tiny",
    "focalnet": "focalnet_tiny_srf",
}


def count() -> dict[str, str]:
    """Count afresh: family → smallest member."""
    from edgec.frontends.torchvision_guard import require

    require("timm", "timm")
    import timm
    import torch

    found: dict[str, tuple[int, str]] = {}
    for family in timm.list_modules():
        for name in timm.list_models(module=family):
            if name.startswith("test_"):
                continue
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
            found[family] = min(found.get(family, (size, name)), (size, name))
    small = sorted((size, family, name) for family, (size, name) in found.items() if size <= LIMIT)
    return {family: name for size, family, name in small}


def main() -> None:
    found = count()
    for family, name in found.items():
        print(f'    "{family}": "{name}",')
    changed = sorted(set(found.items()) ^ set(FAMILIES.items()))
    print(f"{len(found)} families; " + (f"differs from what is kept: {changed}" if changed else "as kept"))


if __name__ == "__main__":
    main()
