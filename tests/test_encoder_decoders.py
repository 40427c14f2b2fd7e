"""An encoder-decoder from a folder to a bundle that generates what the source generates."""

import numpy as np
import pytest
from typer.testing import CliRunner

import edgec
from edgec.cli.main import app
from edgec.core.errors import RequestError
from edgec.frontends.encoder_decoders import from_encoder_decoder, is_encoder_decoder

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")

from edgec.frontends.torchvision_guard import prepare_torchvision  # noqa: E402

prepare_torchvision()
transformers = pytest.importorskip("transformers")

VOCABULARY = 60
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
    "initializer_factor": 3.0,
}
WHISPER = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "init_std": 0.3,
}


def saved(kind, options, folder):
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")
    model = model(getattr(transformers, f"{kind}Config")(**options)).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    model = saved("T5", T5, folder / "source")
    return model, edgec.compile(f"hf:{folder / 'source'}", output=folder / "t5.edgec")


def generated(model, prompt, steps, **source):
    """The source's own greedy tokens behind a prompt, by its own cache."""
    tokens, ids, found = [], torch.tensor([prompt]), None
    with torch.no_grad():
        for _ in range(steps):
            if found is None:
                found = model(**source, decoder_input_ids=ids, use_cache=True)
            else:
                found = model(
                    encoder_outputs=(found.encoder_last_hidden_state,),
                    decoder_input_ids=ids,
                    past_key_values=found.past_key_values,
                    use_cache=True,
                )
            tokens.append(int(found.logits[0, -1].argmax()))
            ids = torch.tensor([tokens[-1:]])
    return tokens


def test_the_bundle_generates_what_the_source_generates(t5):
    model, bundle = t5
    random = np.random.default_rng(0)
    seen = set()
    with edgec.load(bundle.path) as session:
        sources = [random.integers(0, VOCABULARY, (1, length)) for length in (1, 9, 40)]
        wanted = [generated(model, [0], 20, input_ids=torch.from_numpy(source)) for source in sources]
        for source, tokens in zip(sources, wanted, strict=True):
            assert session.generate([0], 20, source=source, stop_tokens=[]).tolist() == tokens
            seen |= set(tokens)
        # Two at once each attend to their own source.
        streams = [session.stream([0], 20, source=source, stop_tokens=[]) for source in sources[1:]]
        assert [list(pair) for pair in zip(*zip(*streams, strict=True), strict=True)] == wanted[1:]
    assert len(seen) > 5


def test_what_is_told_of_it(t5):
    report = t5[1].report()
    assert [spec["name"] for spec in report["model"]["inputs"]] == ["source_ids", "input_ids", "continuation"]
    assert report["greedy"]["equal"] == report["greedy"]["steps"] == 51
    lengths = [feed["source_ids"].shape[1] for feed in t5[1].samples()[0]]
    assert sorted(lengths) == [1, 24, 48]


def test_on_the_command_line(t5, tmp_path):
    source = np.arange(7)[None]
    np.savez(tmp_path / "source.npz", source_ids=source)
    words = ["run", str(t5[1].path), "--generate", "--ids", "0", "--max-new-tokens", "5"]
    found = CliRunner().invoke(app, [*words, "--input", str(tmp_path / "source.npz")])
    wanted = generated(t5[0], [0], 5, input_ids=torch.from_numpy(source))
    assert [int(token) for token in found.stdout.split("\n")[0].split()] == wanted


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "generates from a source, and none is given"),
        (np.zeros((1, 3), np.float32), "the model takes int64"),
        (np.zeros((2, 3), np.int64), "has shape"),
        (np.zeros((1, 0), np.int64), "the source has no tokens"),
        (np.array([[VOCABULARY]]), f"the source holds the token {VOCABULARY}"),
    ],
)
def test_sources_that_are_none(t5, source, said):
    with edgec.load(t5[1].path, check=False) as session, pytest.raises(RequestError) as caught:
        session.stream([0], 3, source=source)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_something_else_is_named(tmp_path):
    options = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "vocab_size": 20,
        "num_mel_bins": None,
    }
    sizes = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8}
    torch.manual_seed(0)
    config = transformers.Speech2TextConfig(
        **{**options, **sizes, "decoder_ffn_dim": 8, "input_feat_per_channel": 8},
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    transformers.Speech2TextForConditionalGeneration(config).save_pretrained(tmp_path)
    assert is_encoder_decoder(f"hf:{tmp_path}")
    with pytest.raises(RequestError, match="its encoder reads 'input_features'"):
        from_encoder_decoder(str(tmp_path))


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_whisper(tmp_path, precision):
    model = saved("Whisper", WHISPER, tmp_path / "source")
    bundle = edgec.compile(
        f"hf:{tmp_path / 'source'}", precision=precision, output=tmp_path / "whisper.edgec"
    )
    assert bundle.manifest["precision"] == precision
    if precision == "fp32":
        features = np.random.default_rng(3).standard_normal((1, 8, 40)).astype(np.float32)
        wanted = generated(model, [1, 5], 30, input_features=torch.from_numpy(features))
        with edgec.load(bundle.path) as session:
            assert session.generate([1, 5], 30, source=features, stop_tokens=[]).tolist() == wanted
