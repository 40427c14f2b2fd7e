"""Encoders of transformers on the real tokens of a batch: the same as padded, whatever the mask hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgec.core.evaluation import Evaluator
from edgec.core.progress import Silent
from edgec.frontends import load
from edgec.passes.manager import Pipeline
from edgec.passes.pipeline import default_pipeline
from edgec.targets import target_named
from edgec.targets.base import Candidate
from edgec.targets.x86.forms import PADDING_FREE
from edgec.targets.x86.pack_tokens import PackTokens

pytest.importorskip("transformers")
pytest.importorskip("openvino")

BATCH, LENGTH, WORDS = 3, 40, 300

SOURCE = '''
import torch, transformers

SMALL = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
WORDS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)


class Mean(torch.nn.Module):
    """The mean of the real tokens."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids, attention_mask):
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(tokens.dtype)
        return (tokens * real).sum(1) / real.sum(1)


def made(model):
    mask = torch.ones(3, 40, dtype=torch.int64)
    mask[1, 25:] = 0
    mask[2, 9:] = 0
    return Mean(model.eval()), {"input_ids": torch.randint(5, 300, (3, 40)), "attention_mask": mask}


def bert():
    return made(transformers.BertModel(transformers.BertConfig(**SMALL)))


def distilbert():
    return made(transformers.DistilBertModel(transformers.DistilBertConfig(
        vocab_size=300, dim=32, n_layers=2, n_heads=2, hidden_dim=48)))


def modernbert():
    config = {**SMALL, **WORDS, "num_hidden_layers": 3}
    return made(transformers.ModernBertModel(
        transformers.ModernBertConfig(**config, local_attention=12, max_position_embeddings=64)))


def mpnet():
    return made(transformers.MPNetModel(transformers.MPNetConfig(**SMALL)))
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("encoders") / "encoders.py"
    path.write_text(SOURCE)
    return path


def neutral(source: Path, name: str):  # type: ignore[no-untyped-def]
    graph = load(f"{source}:{name}", inputs=(), batch=None, seed=0, progress=Silent())
    default_pipeline().run(graph.model)
    return graph


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("bert", ["VarlenAttention"] * 2),
        ("distilbert", ["VarlenAttention"] * 2),
        # One layer of three sees everything, the others a window; rotary angles go with the tokens.
        ("modernbert", ["VarlenAttention", "VarlenWindowAttention", "VarlenWindowAttention"]),
    ],
)
def test_the_packed_encoder_computes_what_the_padded_one_does(source, tmp_path, name, ops) -> None:  # type: ignore[no-untyped-def]
    graph = neutral(source, name)
    target, candidate = target_named("x86:openvino"), Candidate("openvino", "fp32", PADDING_FREE)
    lowered = target.lower(graph, candidate)
    assert [node.op_type for node in lowered.model.graph if node.op_type.startswith("Varlen")] == ops
    target.build(lowered, candidate, tmp_path)
    engine = target.open(tmp_path)
    drawn = np.random.default_rng(1)
    try:
        with Evaluator(graph.model) as padded:
            for share in (0.2, 0.6, 1.0):
                # Holes, too: a window counts the places that are hidden.
                mask = (drawn.random((BATCH, LENGTH)) < share).astype(np.int64)
                mask[:, 3] = 1
                feeds = {"input_ids": drawn.integers(5, WORDS, (BATCH, LENGTH)), "attention_mask": mask}
                [found], [expected] = engine.run(feeds).values(), padded.run(feeds).values()
                np.testing.assert_allclose(found, expected, atol=2e-5 * expected.std())
    finally:
        engine.close()


def test_a_bias_for_each_pair_of_tokens_is_left_alone(source) -> None:  # type: ignore[no-untyped-def]
    graph = neutral(source, "mpnet")
    [report] = Pipeline([PackTokens()]).run(graph.model)
    assert report.matched == 0
    assert not any(node.op_type == "PackTokens" for node in graph.model.graph)


def test_a_window_that_is_not_one_is_left_alone(source) -> None:  # type: ignore[no-untyped-def]
    graph = neutral(source, "modernbert")
    for value in graph.model.graph.initializers.values():
        if value.shape is not None and list(value.shape) == [1, 1, LENGTH, LENGTH]:
            seen = np.array(value.const_value.numpy())
            seen[0, 0, 0, -1] = True
            value.const_value = ir.tensor(seen, name=value.name)
    [report] = Pipeline([PackTokens()]).run(graph.model)
    assert report.matched == 0
    assert any("padding mask" in miss.reason for miss in report.missed)
