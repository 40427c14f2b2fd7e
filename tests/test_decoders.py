"""A causal language model from a folder to a bundle that generates what the source generates."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import edgec
import edgec.runtime.session
from edgec.cli.main import app
from edgec.core.errors import JobError, NumericsError, RequestError
from edgec.core.graph import Graph
from edgec.decoders import check_decoder_request, greedy_of
from edgec.frontends.decoders import is_decoder
from edgec.frontends.generations import generation_sizes
from edgec.packaging.cpp_sources import write_sources
from edgec.request import Request
from edgec.targets.base import Candidate

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")

from edgec.frontends.torchvision_guard import prepare_torchvision  # noqa: E402

prepare_torchvision()
transformers = pytest.importorskip("transformers")

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}


def saved(kind, options, folder):
    torch.manual_seed(0)
    head = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, head)(getattr(transformers, f"{kind}Config")(**options)).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama") / "llama"
    return saved("Llama", SIZES, folder), folder


@pytest.fixture(scope="module")
def bundle(llama):
    _, folder = llama
    return edgec.compile(f"hf:{folder}", output=folder.parent / "llama.edgec")


def generated(model, prompt, steps):
    """What the source itself generates, by its own cache."""
    found = model.generate(
        torch.tensor([prompt]), max_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return found[0, len(prompt) :].tolist()


def test_the_bundle_generates_what_the_source_generates(llama, bundle):
    with edgec.load(bundle.path) as session:
        for seed, length in enumerate((1, 7, 30)):
            prompt = np.random.default_rng(seed).integers(0, VOCABULARY, length).tolist()
            steps = 40 - length + 1
            assert session.generate(prompt, steps, stop_tokens=[]).tolist() == generated(
                llama[0], prompt, steps
            )


def test_what_is_told_of_it(bundle):
    report = bundle.report()
    steps = report["greedy"]["steps"]
    assert report["greedy"]["equal"] == steps == 17 + 17 + 17
    assert (report["precision"], report["form"]) == ("fp32", "stateful")
    feeds, expected = bundle.samples()
    assert [feed["input_ids"].shape[1] for feed in feeds] == [20, 1, 24]
    # The longest reaches the last position, and the source's rounding is known at every step.
    assert feeds[2]["input_ids"].size + feeds[2]["continuation"].size == 40
    assert expected.exact
    assert np.abs(expected.exact[0]["logits"] - expected.references[0]["logits"]).max() > 0
    # What follows a prompt is what the source's scores say.
    for feed, reference in zip(feeds, expected.references, strict=True):
        assert np.argmax(reference["logits"][0, :-1], -1).tolist() == feed["continuation"][0].tolist()


def test_on_the_command_line(bundle, tmp_path):
    run = CliRunner().invoke
    words = ["run", str(bundle.path), "--generate", "--ids", "5,6,7", "--max-new-tokens", "6", "--json"]
    found = json.loads(run(app, [*words, "--output", str(tmp_path / "out.npz")]).stdout)
    assert found["prompt"] == [5, 6, 7]
    assert len(found["tokens"]) == 6
    assert found["tokens_per_second"] > 0
    assert np.load(tmp_path / "out.npz")["tokens"].tolist() == found["tokens"]
    plain = run(app, words[:-1])
    assert plain.stdout.split("\n")[0].split() == [str(token) for token in found["tokens"]]
    refused = run(app, [*words, "--stop", "60"])
    assert isinstance(refused.exception, RequestError)
    assert "there is no stop token 60" in str(refused.exception)
    verified = json.loads(run(app, ["verify", str(bundle.path), "--json"]).stdout)
    assert verified["greedy"]["equal"] == verified["greedy"]["steps"] == 51
    assert verified["greedy"]["alone"] == verified["greedy"]["generations"] == 3


def test_verify_refuses_generations_that_leave_the_source_s(bundle, monkeypatch):
    generate = edgec.runtime.session.Session.generate

    def other(session, ids, most, **options):
        tokens = generate(session, ids, most, **options)
        tokens[-1] = (tokens[-1] + 1) % VOCABULARY
        return tokens

    monkeypatch.setattr(edgec.runtime.session.Session, "generate", other)
    found = CliRunner().invoke(app, ["verify", str(bundle.path)])
    assert isinstance(found.exception, NumericsError)
    assert "51 of 51 greedy tokens as the source's; 0 of 3 generations by themselves" in str(found.exception)


def test_the_page_s_commands(bundle, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "decoders.md").read_text("utf-8")
    monkeypatch.chdir(bundle.path.parent)
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert 1 <= len(names["tokens"]) <= 8 >= len(names["drawn"])
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    # The first is what the bundle was made by.
    compiled, *rest = commands.splitlines()
    assert compiled == "edgec compile hf:llama --target x86 -o llama.edgec"
    for command in rest:
        assert CliRunner().invoke(app, command.split()[1:]).exit_code == 0


def test_the_cpp_runtime_steps_none(bundle, tmp_path):
    with pytest.raises(JobError, match="steps no decoders"):
        write_sources(bundle, tmp_path / "cpp")


def test_which_folders_are_decoders(llama, tmp_path):
    assert is_decoder(f"hf:{llama[1]}")
    config = {"architectures": ["BertModel"], "model_type": "bert"}
    for text in (json.dumps(config), "[]", "{"):
        (tmp_path / "config.json").write_text(text)
        assert not is_decoder(f"hf:{tmp_path}")
    assert not is_decoder(f"hf:{tmp_path / 'none'}")
    assert not is_decoder("zoo:minilm")


def test_options_that_say_something_of_inputs_are_refused():
    with pytest.raises(RequestError, match="--batch is not for decoders"):
        check_decoder_request(Request.checked("x86"), {"--batch": 2})
    with pytest.raises(RequestError, match="--tokens is not for decoders"):
        check_decoder_request(Request.checked("x86", tokens="r=2"), {"--batch": None})
    check_decoder_request(Request.checked("x86"), {"--batch": None, "--input": ()})


def test_a_cache_of_another_layout_is_named(tmp_path):
    options = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    saved("Mamba", options, tmp_path)
    with pytest.raises(RequestError) as caught:
        edgec.compile(f"hf:{tmp_path}", output=tmp_path / "out.edgec")
    assert "keys and values of shape (1, heads, tokens, width) of every layer" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_verified_generations_reach_the_last_position():
    assert generation_sizes(40) == [(20, 16), (1, 16), (24, 16)]
    assert generation_sizes(1024) == [(32, 16), (1, 16), (1008, 16)]
    assert generation_sizes(0)[2] == generation_sizes(32768)[2] == (1008, 16)
    assert generation_sizes(2) == [(1, 1), (1, 1), (1, 1)]


class Tried:
    def __init__(self, precision, scheme=""):
        self.candidate = Candidate("openvino", precision, "stateful", scheme=scheme)


def test_an_engine_that_chooses_other_tokens_is_refused():
    logits = np.eye(4, dtype=np.float32)[None]
    graph = Graph(None, None, (), [{}], [{"logits": logits}])  # type: ignore[arg-type]
    others = {"logits": np.roll(logits, 1, -1)}
    assert greedy_of(graph, lambda _: {"logits": logits}, Tried("fp32"), None).others == 0
    with pytest.raises(NumericsError, match="0 of 4 greedy tokens"):
        greedy_of(graph, lambda _: others, Tried("fp32"), None)
    assert greedy_of(graph, lambda _: others, Tried("int8", "weights"), None).others == 4
    with pytest.raises(NumericsError, match=r"more than --max-drop 0\.5 allows"):
        greedy_of(graph, lambda _: others, Tried("int8", "weights"), 0.5)


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("kind", "options"), [("GPT2", GPT2), ("Qwen2", SIZES)])
def test_other_families_and_precisions(tmp_path, kind, options, precision):
    model = saved(kind, options, tmp_path / "source")
    found = edgec.compile(f"hf:{tmp_path / 'source'}", precision=precision, output=tmp_path / "out.edgec")
    assert found.manifest["precision"] == precision
    if precision == "fp32":
        with edgec.load(found.path) as session:
            prompt = [3, 1, 4]
            assert session.generate(prompt, 30, stop_tokens=[]).tolist() == generated(model, prompt, 30)
