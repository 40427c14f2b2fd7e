"""A report with every section, of the size that a small vision transformer gives."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest


def _gate(stage: str, scaled: float, bound: float = 1e-4) -> dict[str, Any]:
    return {
        "stage": stage,
        "max_abs": scaled * 1.02,
        "scaled": scaled,
        "rms": scaled / 3,
        "cosine": 1 - scaled * scaled,
        "output": "logits",
        "rounding": 1e-7,
        "beyond": scaled,
        "beyond_rms": scaled / 3,
        "slice_rms": scaled,
        "unequal": 0.0,
        "near_ties": 0,
        "gate": {
            "scaled": bound,
            "rms": bound / 3,
            "slice_rms": 10 * bound,
            "unequal": 0.0,
            "why": f"rounding argues for {bound}",
        },
        "passed": scaled <= bound,
        "samples": 3,
        "rounded_inputs": False,
        "blame": None,
    }


def _entry(name: str, role: str, p50: float | None, why: str, baseline: float = 17.2) -> dict[str, Any]:
    engine, precision, *rest = [*name.removeprefix("plain ").split(" "), "fp32"]
    drawn = random.Random(name)
    blocks = [] if p50 is None else [p50 * drawn.uniform(0.97, 1.05) for _ in range(7)]
    return {
        "name": name,
        "role": role,
        "engine": engine,
        "precision": precision,
        "form": rest[0].strip("()") if len(rest) > 1 else "exporter's graph",
        "p50": p50,
        "p90": None if p50 is None else p50 * 1.09,
        "spread": None if p50 is None else (max(blocks) - min(blocks)) / p50,
        "blocks": blocks,
        "interval": None if p50 is None else [min(blocks), max(blocks)],
        "ratio_to_best_baseline": None if p50 is None else p50 / baseline,
        "ratio_interval": None if p50 is None else [0.97 * p50 / baseline, 1.03 * p50 / baseline],
        "verdict": None if p50 in (None, baseline) else "faster" if p50 < baseline else "slower",
        "passed": p50 is not None,
        "why": why,
    }


def _layers() -> list[dict[str, Any]]:
    drawn = random.Random(3)
    layers = [("patch_embed.proj", "Convolution", 312.0), ("pos_embed", "Add", 9.0)]
    for block in range(12):
        layers += [
            (f"blocks.{block}.norm1", "MVN", 24.0),
            (f"blocks.{block}.attn.qkv", "FullyConnected", 268.0),
            (f"blocks.{block}.attn", "ScaledDotProductAttention", 152.0),
            (f"blocks.{block}.attn.proj", "FullyConnected", 94.0),
            (f"blocks.{block}.mlp.fc1", "FullyConnected", 318.0),
            (f"blocks.{block}.mlp.fc2", "FullyConnected", 331.0),
        ]
    layers += [("norm", "MVN", 22.0), ("head", "FullyConnected", 41.0)]
    return [
        {
            "layer": f"__module.{source}/aten::op_{index}",
            "source": source,
            "op": op,
            "microseconds": time * drawn.uniform(0.9, 1.15),
        }
        for index, (source, op, time) in enumerate(layers)
    ]


def _passes() -> list[dict[str, Any]]:
    blocks = [f"blocks.{index}" for index in range(12)]
    steps = [
        ("canonicalize.constants", ["pos_embed"] * 3, [], 409, 362),
        ("canonicalize.dead", [], [], 362, 362),
        ("canonicalize.shapes", [], [], 362, 362),
        ("fuse.layer_norm", [f"{block}.norm1" for block in blocks] + ["norm"], [], 362, 318),
        ("fuse.gelu", [f"{block}.mlp.act" for block in blocks], [], 318, 258),
        (
            "fuse.attention",
            [f"{block}.attn" for block in blocks[:11]],
            [
                {
                    "node": "/blocks.3/attn/Softmax",
                    "source": "blocks.3.attn",
                    "reason": "the probabilities have a second consumer, /blocks.3/attn/ReduceMean",
                }
            ],
            258,
            170,
        ),
        ("fuse.linear", [f"{block}.mlp.fc1" for block in blocks], [], 170, 122),
    ]
    return [
        {
            "name": name,
            "matched": len(sites),
            "sites": sites,
            "missed": missed,
            "nodes_before": before,
            "nodes_after": after,
        }
        for name, sites, missed, before, after in steps
    ]


@pytest.fixture
def sample_report() -> dict[str, Any]:
    """A whole report: five candidates, three peers, 76 layers, one near miss, one prediction."""
    return build_sample()


def build_sample() -> dict[str, Any]:
    entries = [
        _entry("openvino fp32 (sdpa)", "chosen", 12.1, "the fastest that keeps its gate"),
        _entry("openvino fp32 (decomposed)", "candidate", 14.9, "1.23 times the chosen engine's latency"),
        _entry("ort fp32 (decomposed)", "candidate", 17.6, "1.45 times the chosen engine's latency"),
        _entry("ort fp32 (native)", "candidate", 29.8, "2.46 times the chosen engine's latency"),
        _entry(
            "ort fp32 (contrib)", "candidate", None, "failed its gate: off by 3.1e-3 of the output's spread"
        ),
        _entry("plain openvino", "baseline", 17.2, "what a user would otherwise run"),
        _entry("plain ort", "baseline", 20.5, "what a user would otherwise run"),
        _entry("plain torch", "baseline", 29.4, "what a user would otherwise run"),
    ]
    files = ["engine/engine.json", "engine/model.bin", "engine/model.xml", "io.json", "samples/0.inputs.npz"]
    return {
        "schema": 1,
        "edgec": "0.1.0",
        "command": "edgec compile timm:deit_tiny_patch16_224 --target x86 --eval-data flowers.npz",
        "created": "2026-11-22T18:40:12+00:00",
        "model": {
            "spec": "timm:deit_tiny_patch16_224",
            "kind": "timm",
            "name": "deit_tiny_patch16_224",
            "sha256": hashlib.sha256(b"deit").hexdigest(),
            "exporter": "dynamo",
            "exporter_reason": "verified against the module's own outputs, off by 1.4e-6 of their spread",
            "weights": "random, drawn from seed 0",
            "notes": ["The weights are random: the numerics and latencies hold, the accuracy means nothing."],
            "parameters": 5_717_416,
            "macs": 1_258_000_000,
            "inputs": [
                {"name": "image", "shape": [1, 3, 224, 224], "dtype": "float32", "semantics": "image"}
            ],
            "outputs": [{"name": "logits", "shape": [1, 1000], "dtype": "float32", "semantics": "unknown"}],
        },
        "target": "x86",
        "device": {
            "name": "AMD EPYC, 2 cores",
            "model": "AMD EPYC",
            "architecture": "x86_64",
            "physical_cores": 2,
            "logical_cores": 2,
            "usable_cores": 2,
            "isa": ["avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni"],
            "caches": [{"level": 3, "kind": "unified", "kib": 32768, "shared_by": 2}],
            "memory_gb": 25.28,
        },
        "engine": "openvino",
        "precision": "fp32",
        "form": "sdpa",
        "seed": 0,
        "inputs_drawn": [{"name": "image", "what": "N(0, 1)"}],
        "ranges_from": "drawn inputs",
        "branches": None,
        "numerics": {
            "kind": "measured",
            "ran": "the engine itself",
            "gates": [_gate("neutral graph", 1.4e-6), _gate("openvino fp32 (sdpa)", 3.1e-6)],
        },
        "latency": {
            "measured": True,
            "device": "AMD EPYC, 2 cores",
            "blocks": 7,
            "entries": entries,
            "predicted": [
                {
                    "name": "tensorrt fp16",
                    "device": "jetson-orin-nano-8gb",
                    "p50": 3.4,
                    "why": "roofline of the profile's bandwidth and fp16 rate",
                }
            ],
        },
        "accuracy": {
            "kind": "measured",
            "metric": "top-1 accuracy",
            "source": 0.9778,
            "engine": 0.975,
            "drop": 0.0028,
            "samples": 360,
            "data": "flowers.npz",
        },
        "layers": _layers(),
        "passes": _passes(),
        "attention": [
            {
                "source": f"blocks.{index}.attn",
                "kind": "attention",
                "heads": 3,
                "queries": 197,
                "keys": 197,
                "head_size": 64,
                "masked": False,
            }
            for index in range(11)
        ],
        "fallbacks": [],
        "known_wrong": [],
        "tokens": None,
        "slim": None,
        "tools": {"onnx": "1.23.0", "onnxruntime": "1.32.0", "openvino": "2026.4.1", "torch": "2.13.0"},
        "files": {name: hashlib.sha256(name.encode()).hexdigest() for name in files},
    }


@pytest.fixture
def sample_tokens() -> dict[str, Any]:
    """Token reduction as a search leaves it: a frontier of three, one look that failed and one that held."""

    def point(name: str, ratio: float, score: float, *, chosen: bool = False) -> dict[str, Any]:
        return {
            "name": name,
            "settings": {} if name == "none" else {"tokens": name},
            "ratio": ratio,
            "p50": 12.1 * ratio,
            "score": score,
            "drop": 0.98 - score,
            "error": 0.002,
            "damage": (1 - ratio) / 50,
            "chosen": chosen,
        }

    sites = [
        {
            "site": index,
            "layer": f"blocks.{index}.attn",
            "r": r,
            "before": 197,
            "after": 197 - r,
            "protected": 1,
        }
        for index, r in enumerate((0, 0, 98, 0))
    ]
    return {
        "asked": "auto",
        "name": "prune:2:98",
        "method": "prune",
        "meaning": "the least attended tokens are averaged into the most alike others",
        "schedule": "2:98",
        "before": 197,
        "after": 99,
        "sites": sites,
        "refused": [{"node": "n", "source": "blocks.4.attn", "reason": "it is windowed"}],
        "work": 0.58,
        "baseline": {"engine": "openvino", "precision": "fp32", "form": "sdpa", "p50": 12.1, "ratio": 0.61},
        "frontier": [
            point("prune:2:118", 0.52, 0.955),
            point("prune:2:98", 0.61, 0.978, chosen=True),
            point("none", 1.0, 0.98),
        ],
        "methods": [{"method": "prune", "ratio": 0.8, "damage": 1e-4}],
        "searched_on": {
            "data": "flowers.npz, searched",
            "samples": 256,
            "metric": "top-1 accuracy",
            "engine": "openvino fp32 (sdpa)",
            "engines_built": 30,
            "seconds": 81.0,
        },
        "held_out": {
            "data": "flowers.npz, held out",
            "samples": 512,
            "looks": [
                {"name": "prune:2:118", "drop": 0.031, "kept": False, "milliseconds": 6.3},
                {"name": "prune:2:98", "drop": 0.002, "kept": True, "milliseconds": 7.4},
            ],
        },
        "agreement": {"cosine": 0.998, "samples": 3, "output": "logits"},
        "padding": {"longest": 72, "of": 128, "cosine": 0.93, "least": 0.88, "samples": 32},
        "gated": True,
    }


@pytest.fixture
def sample_slim(sample_tokens: dict[str, Any]) -> dict[str, Any]:
    """Slimming as a search leaves it, together with tokens."""
    shared = ("work", "baseline", "searched_on", "held_out", "agreement", "gated")
    name = "mlp:blocks.2.mlp=192"
    both = {"slim": name, "tokens": "prune:2:98"}
    first = {**sample_tokens["frontier"][0], "name": f"slim {name}, tokens prune:2:98", "settings": both}
    return {
        "asked": "auto",
        "name": name,
        "units": [
            {"unit": f"mlp:{layer}", "kind": "mlp", "layer": layer, "size": 768, "kept": kept}
            for layer, kept in (("blocks.0.mlp", 768), ("blocks.1.mlp", 768), ("blocks.2.mlp", 192))
        ],
        "refused": [{"node": "n", "source": "head.fc", "reason": "it makes an output of the graph"}],
        "kinds": [{"setting": "mlp=0.5", "ratio": 0.8, "degradation": 1e-4}],
        "frontier": [first, *sample_tokens["frontier"][1:]],
        "padding": None,
        **{key: sample_tokens[key] for key in shared},
    }
