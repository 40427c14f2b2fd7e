"""Checkpoints that are compiled by parts, and inputs in their units."""

import numpy as np
import onnx_ir as ir
import pytest

from edgec.core.errors import RequestError
from edgec.core.numerics import GATES, compare
from edgec.frontends import load
from edgec.frontends.reference import open_session

torch = pytest.importorskip("torch")

from edgec.frontends.torchvision_guard import prepare_torchvision  # noqa: E402

prepare_torchvision()
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
END, START = 1, 2


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=24,
        pad_token_id=0,
        eos_token_id=END,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
        init_std=1.0,
    )
    model = transformers.MarianMTModel(config).eval()
    folder = tmp_path_factory.mktemp("marian")
    model.save_pretrained(folder)
    return model, str(folder)


def opened(graph):
    session = open_session(ir.to_proto(graph.model).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def test_encoder_and_decoder_joined_by_a_loop_translate_as_the_whole_does(marian):
    model, folder = marian
    parts = [load(f"hf:{folder}:{part}", samples=2) for part in ("encoder", "decoder")]
    assert [part.source.name.rpartition("-")[2] for part in parts] == ["encoder", "decoder"]
    encoder, decoder = map(opened, parts)
    text = np.array([[7, 9, 30, 12, END]])
    ids, mask = np.zeros((1, 24), np.int64), np.zeros((1, 24), np.int64)
    ids[:, :5], mask[:, :5] = text, 1
    hidden = encoder({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    tokens = [START]
    while tokens[-1] != END and len(tokens) < 10:
        so_far = np.zeros((1, 24), np.int64)
        so_far[0, : len(tokens)] = tokens
        scores = decoder(
            {
                "decoder_input_ids": so_far,
                "encoder_hidden_states": hidden,
                "encoder_attention_mask": mask,
            }
        )["logits"]
        scores[..., 0] = -np.inf  # padding is no word
        tokens.append(int(scores[0, len(tokens) - 1].argmax()))
    own = model.generate(
        torch.from_numpy(text), do_sample=False, num_beams=1, max_length=10, bad_words_ids=[[0]]
    )
    assert own[0].tolist() == tokens


def test_the_folder_alone_says_which_parts_there_are(marian):
    with pytest.raises(RequestError) as refused:
        load(f"hf:{marian[1]}")
    assert f"hf:{marian[1]}:encoder and hf:{marian[1]}:decoder" in str(refused.value)


def test_what_is_no_encoder_decoder_has_no_such_part(tmp_path):
    config = transformers.BertConfig(**SIZES, vocab_size=30, max_position_embeddings=16)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="no decoder of its own"):
        load(f"hf:{tmp_path}:decoder")


def test_boxes_on_a_page_have_their_corners_in_order(tmp_path):
    torch.manual_seed(0)
    config = transformers.LayoutLMConfig(**SIZES, vocab_size=30, max_position_embeddings=16)
    transformers.LayoutLMForTokenClassification(config).save_pretrained(tmp_path)
    graph = load(f"hf:{tmp_path}")
    boxes = np.concatenate([feed["bbox"].reshape(-1, 4) for feed in graph.examples])
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert (boxes.min(), boxes.max()) == (0, 1000)
    run = opened(graph)
    assert GATES["fp32"].accepts(compare(graph.references, [run(feed) for feed in graph.examples]))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["depth_anything", "zoedepth"])
def test_depth_of_a_backbone_s_four_taps(tmp_path, kind):
    torch.manual_seed(0)
    taps = {"out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}
    sizes = {**SIZES, "num_hidden_layers": 4}
    neck = {
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16,
        "reassemble_factors": [4, 2, 1, 0.5],
    }
    if kind == "depth_anything":
        backbone = transformers.Dinov2Config(image_size=28, patch_size=7, **sizes, **taps)
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone, patch_size=7, reassemble_hidden_size=16, head_hidden_size=8, **neck
        )
        model = transformers.DepthAnythingForDepthEstimation(config)
    else:
        backbone = transformers.BeitConfig(
            image_size=64, use_relative_position_bias=True, use_absolute_position_embeddings=False,
            **sizes, **taps,
        )  # fmt: skip
        config = transformers.ZoeDepthConfig(
            backbone_config=backbone, bottleneck_features=16, num_relative_features=16, bin_embedding_dim=16,
            num_attractors=[2, 2, 2, 1], patch_transformer_hidden_size=16, **neck,
        )  # fmt: skip
        model = transformers.ZoeDepthForDepthEstimation(config)
    model.eval().save_pretrained(tmp_path)
    graph = load(f"hf:{tmp_path}")
    run = opened(graph)
    found = graph.expected.difference([run(feed) for feed in graph.examples], GATES["fp32"])
    assert GATES["fp32"].accepts(found)
