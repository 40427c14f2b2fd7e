"""Decoders of 125 M parameters with drawn weights: tokens a second and the first token, beside other engines.

    python benchmarks/decoders.py --folder DIR --prepare [--model gpt2|llama]
    python benchmarks/decoders.py --folder DIR [--model gpt2|llama] [--weights fp32|int8] [--minutes 4]

The first draws and compiles, and lets the source generate: that may take minutes on a busy machine. The
second measures what lies there. Prompts of 128 drawn tokens, 128 greedy ones behind each, batch 1. Every
engine generates for a prompt in turn (a block of some seconds each, the order rotating); what time remains
goes to edgec's tokens for the other prompts, so that all are compared with the source's. The peers:

- OpenVINO GenAI's `LLMPipeline`, on the very graph that edgec made (optimum's own export needs
  transformers 4), with the same weights; it needs `pip install openvino-genai`;
- ONNX Runtime on the exporter's file, its outputs bound to memory that the next step reads (IO binding); int8
  by `quantize_dynamic`;
- transformers, stepping its own DynamicCache; fp32 alone.

Whoever is left out is said.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tables import markdown, publish

PROMPT, NEW = 128, 128


class Peer(Protocol):
    """Something that generates greedily."""

    def tokens(self, prompt: np.ndarray) -> Iterator[int]:
        """The next tokens behind a prompt (1, tokens), without end."""


class Edgec:
    """A bundle's session."""

    def __init__(self, bundle: Path) -> None:
        import edgec

        self._session = edgec.load(bundle, check=False)

    def tokens(self, prompt: np.ndarray) -> Iterator[int]:
        """As `Peer` has it."""
        return self._session.stream(prompt, NEW, stop_tokens=[])


class GenAI:
    """`LLMPipeline`, which gives a token to a callback as it is chosen."""

    def __init__(self, bundle: Path, source: Path, folder: Path, settings: dict[str, str]) -> None:
        import openvino
        import openvino_genai
        from openvino import Type
        from openvino import opset13 as ops

        from edgec.core.decoder import SCORES_FROM
        from edgec.runtime.openvino_core import new_core

        model = new_core().read_model(bundle / "engine" / "model.xml")
        for port in model.inputs:
            if SCORES_FROM in port.get_names():
                # Scores of the last token, as the pipeline asks for.
                node = port.get_node()
                last = ops.constant(np.array([-1], np.int64))
                for reader in node.output(0).get_target_inputs():
                    reader.replace_source_output(last.output(0))
                model.remove_parameter(node)
        # The pipeline sets a mask whatever the model takes; nothing of the graph reads it.
        mask = ops.parameter([1, -1], Type.i64, name="attention_mask")
        mask.output(0).get_tensor().set_names({"attention_mask"})
        model.add_parameters([mask])
        folder.mkdir()
        openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
        shutil.copyfile(source / "config.json", folder / "config.json")
        self._pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", ATTENTION_BACKEND="SDPA", **settings)
        self._config = openvino_genai.GenerationConfig()
        self._config.max_new_tokens, self._config.ignore_eos, self._config.do_sample = NEW, True, False
        self._tensor = openvino.Tensor

    def times(self, prompt: np.ndarray) -> tuple[list[int], list[float]]:
        """The tokens, and when each was there in seconds, as the pipeline's own metrics have it."""
        begun = time.perf_counter()
        found = self._pipeline.generate(self._tensor(prompt), self._config)
        took = time.perf_counter() - begun
        first = found.perf_metrics.get_ttft().mean / 1e3
        step = (took - first) / (NEW - 1)
        return list(found.tokens[0]), [first + step * index for index in range(NEW)]


class Ort:
    """ONNX Runtime on one step, the caches handed on by IO binding."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._pasts = [item for item in self._session.get_inputs() if item.name != "input_ids"]
        self._outputs = [item.name for item in self._session.get_outputs()]

    def tokens(self, prompt: np.ndarray) -> Iterator[int]:
        """As `Peer` has it."""
        caches = [
            self._value(np.zeros([1, item.shape[1], 0, item.shape[3]], np.float32)) for item in self._pasts
        ]
        ids = prompt
        while True:
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("input_ids", self._value(ids))
            for item, cache in zip(self._pasts, caches, strict=True):
                binding.bind_ortvalue_input(item.name, cache)
            for name in self._outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            logits, *caches = binding.get_outputs()
            token = int(logits.numpy()[0, -1].argmax())
            yield token
            ids = np.array([[token]])


class Transformers:
    """The source, stepped through its own cache."""

    def __init__(self, folder: Path) -> None:
        from edgec.frontends.torchvision_guard import prepare_torchvision

        prepare_torchvision()
        import torch
        import transformers

        torch.set_num_threads(2)
        self._torch = torch
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    def tokens(self, prompt: np.ndarray) -> Iterator[int]:
        """As `Peer` has it."""
        torch = self._torch
        ids, cache = torch.from_numpy(prompt), None
        while True:
            with torch.inference_mode():
                found = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = found.past_key_values
            token = int(found.logits[0, -1].argmax())
            yield token
            ids = torch.tensor([[token]])


@dataclasses.dataclass
class Record:
    """What an engine did: by prompt, its tokens, the first token's seconds, and tokens a second behind it."""

    tokens: list[list[int]] = dataclasses.field(default_factory=list)
    first: list[float] = dataclasses.field(default_factory=list)
    rate: list[float] = dataclasses.field(default_factory=list)

    def add(self, tokens: list[int], times: list[float]) -> None:
        """Another generation: its tokens, and when each was there in seconds."""
        self.tokens.append(tokens)
        self.first.append(times[0])
        self.rate.append((len(times) - 1) / (times[-1] - times[0]))


def generate(peer: Any, prompt: np.ndarray) -> tuple[list[int], list[float]]:
    """What a peer generates, and when each token was there, in seconds."""
    if isinstance(peer, GenAI):
        return peer.times(prompt)
    begun = time.perf_counter()
    tokens, times = [], []
    for token in peer.tokens(prompt):
        tokens.append(token)
        times.append(time.perf_counter() - begun)
        if len(tokens) == NEW:
            break
    return tokens, times


def draw(kind: str, folder: Path) -> int:
    """Save a decoder with drawn weights; its vocabulary."""
    from edgec.frontends.torchvision_guard import prepare_torchvision

    prepare_torchvision()
    import torch
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    else:
        config = transformers.LlamaConfig(
            vocab_size=32000,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=4,
            max_position_embeddings=1024,
        )
        model = transformers.LlamaForCausalLM(config)
    model.eval().save_pretrained(folder)
    print(f"{kind}: {sum(item.numel() for item in model.parameters()) / 1e6:.0f} M parameters", flush=True)
    return int(model.config.vocab_size)


def prepare(kind: str, folder: Path, prompts: int) -> None:
    """Draw a decoder, compile it with both kinds of weights, and let it generate."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from edgec.compiler import compile_graph
    from edgec.frontends.decoders import from_decoder
    from edgec.request import Request

    folder.mkdir(parents=True)
    source = folder / "source"
    vocabulary = draw(kind, source)
    graph = from_decoder(str(source))
    assert graph.exported is not None
    shutil.copyfile(graph.exported, folder / "fp32.onnx")
    products = ["MatMul", "Gemm"]
    quantize_dynamic(
        folder / "fp32.onnx",
        folder / "int8.onnx",
        weight_type=QuantType.QInt8,
        op_types_to_quantize=products,
    )
    for weights in ("fp32", "int8"):
        compile_graph(graph, Request.checked("x86", folder / f"{weights}.edgec", weights))
    model = Transformers(source)
    found = [generate(model, prompt)[0] for prompt in prompts_of(vocabulary, prompts)]
    known = {"vocabulary": vocabulary, "tokens": found}
    (folder / "source.json").write_text(json.dumps(known), encoding="utf-8")


def prompts_of(vocabulary: int, count: int) -> list[np.ndarray]:
    """Prompts of drawn tokens, (1, PROMPT) each."""
    random = np.random.default_rng(0)
    return [random.integers(0, vocabulary, (1, PROMPT)) for _ in range(count)]


def peers_of(weights: str, folder: Path, scratch: Path) -> tuple[dict[str, Any], list[str]]:
    """All engines by name, and who is left out and why."""
    source, bundle = folder / "source", folder / f"{weights}.edgec"
    found: dict[str, Any] = {"edgec": Edgec(bundle)}
    left = []
    settings = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"} if weights == "fp32" else {}
    try:
        found["OpenVINO GenAI"] = GenAI(bundle, source, scratch / "genai", settings)
    except ImportError:
        left.append("OpenVINO GenAI is left out: `pip install openvino-genai`")
    found["ONNX Runtime, IO binding"] = Ort(folder / f"{weights}.onnx")
    if weights == "fp32":
        found["transformers"] = Transformers(source)
    else:
        left.append("transformers computes in fp32: it is the source, and no peer here")
    return found, left


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where what is prepared lies")
    parser.add_argument("--prepare", action="store_true", help="draw, compile and generate with the source")
    parser.add_argument("--model", choices=("gpt2", "llama"), default="gpt2")
    parser.add_argument("--weights", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=4.0, help="that measuring takes at most")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    folder = options.folder / options.model
    if options.prepare:
        prepare(options.model, folder, options.prompts)
        return
    known = json.loads((folder / "source.json").read_text("utf-8"))
    prompts, truth = prompts_of(known["vocabulary"], len(known["tokens"])), known["tokens"]
    with tempfile.TemporaryDirectory(prefix="edgec-decoders-") as scratch:
        peers, left = peers_of(options.weights, folder, Path(scratch))
        records = {name: Record() for name in peers}
        names = list(peers)
        for peer in peers.values():
            generate(peer, prompts[-1])
        longest = alone = 0.0
        shared = 0
        for index, prompt in enumerate(prompts):
            begun = time.monotonic()
            if begun + longest + alone * (len(prompts) - index) > end:
                break
            turn = index % len(names)
            for name in [*names[turn:], *names[:turn]]:
                start = time.monotonic()
                records[name].add(*generate(peers[name], prompt))
                if name == "edgec":
                    alone = max(alone, time.monotonic() - start)
            longest, shared = max(longest, time.monotonic() - begun), index + 1
        more = [generate(peers["edgec"], prompt)[0] for prompt in prompts[shared:]]
    report(options, records, left, truth, more)


def report(
    options: argparse.Namespace,
    records: dict[str, Record],
    left: list[str],
    truth: list[list[int]],
    more: list[list[int]],
) -> None:
    own = records["edgec"]
    rivals = [name for name in records if name != "edgec"]
    rows = []
    for name, record in records.items():
        pairs = list(zip([*record.tokens, *(more if name == "edgec" else ())], truth, strict=False))
        equal = sum(one == other for mine, its in pairs for one, other in zip(mine, its, strict=True))
        whole = sum(mine == its for mine, its in pairs)
        rows.append(
            [
                name,
                f"{statistics.median(record.rate):.1f}",
                f"{1e3 * statistics.median(record.first):.1f}",
                f"{ratio(own.rate, record.rate):.3f}",
                f"{ratio(own.first, record.first):.3f}",
                f"{whole} of {len(pairs)}",
                f"{equal / (NEW * len(pairs)):.2%}",
            ]
        )
    best = min(rivals, key=lambda name: ratio(own.rate, records[name].rate))
    quickest = min(rivals, key=lambda name: -ratio(own.first, records[name].first))
    heads = [
        *("engine", "tokens/s", "first token, ms", "edgec's tokens/s over it", "edgec's first token over it"),
        *("generations as the source's", "tokens as the source's"),
    ]
    body = markdown(heads, rows)
    body += (
        f"\n\n{len(own.rate)} prompts of {PROMPT} drawn tokens, {NEW} new ones each; medians over prompts, "
        f"ratios of the same prompt. Tokens a second: {ratio(own.rate, records[best].rate):.3f} of the best "
        f"peer's ({best}); first token: {ratio(own.first, records[quickest].first):.3f} of the quickest "
        f"peer's ({quickest})."
    )
    body += "".join(f"\n\n{line}." for line in left)
    publish(
        f"decoders_{options.model}_{options.weights}",
        f"Decoders: {options.model}, {options.weights} weights",
        body,
    )


def ratio(mine: list[float], its: list[float]) -> float:
    """The median of ratios prompt by prompt."""
    return statistics.median(one / other for one, other in zip(mine, its, strict=True))


if __name__ == "__main__":
    main()
