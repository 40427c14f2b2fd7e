"""The CUDA token kernels: equal to their definitions, and how fast.

In two steps, because the machine with the GPU need not have edgec installed::

    python benchmarks/token_merge_cuda.py prepare FOLDER   # here: compiles, draws 500 cases an op
    python FOLDER/token_merge_cuda.py run FOLDER           # there: needs torch and a GPU; writes its results
    cp FOLDER/token_merge_cuda.md benchmarks/results/      # what it printed, as a table

The cases are drawn small, with odd lengths, r of 0 and the maximum, ties, equal tokens and padding, and
their expected results are those of the function bodies in ONNX Runtime. The time is that of batch 8, 197
tokens, 384 channels, 6 heads of 64, r = 13, against the same steps in PyTorch, eager and as a CUDA graph.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np

CASES = 500
OPS = {"TokenMerge": "merge", "TokenMergeEnergy": "merge_energy", "TokenPrune": "prune"}
RESTORE = "TokenRestore"
MARGIN = 0.5


def draw(op_type: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Feeds and attributes of one case; metrics of small integers, whose products are exact."""
    protected = int(rng.integers(0, 4))
    free = int(rng.choice([2, 3, 4, 5, 7, 8, 16, 17, 33, 64, 99]))
    length = free + protected
    limit = free - 1 if op_type == "TokenPrune" else free // 2
    r = int(rng.choice([0, 1, limit // 2, limit]))
    batch, heads = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    depth, channels = int(rng.choice([1, 3, 8, 64, 65])), int(rng.choice([1, 5, 16, 40]))
    metric = rng.integers(-2, 3, (batch, heads, length, depth)).astype(np.float32)
    if rng.random() < 0.5:
        same = rng.integers(0, length, length // 2)
        metric[:, :, same] = metric[:, :, [int(rng.integers(0, length))]]
    feeds = {
        "tokens": rng.integers(-64, 65, (batch, length, channels)).astype(np.float32) / 16,
        "metric": metric,
        "sizes": rng.integers(0 if rng.random() < 0.5 else 1, 5, (batch, length, 1)).astype(np.float32),
    }
    attributes = {"r": r, "protected": protected}
    if op_type == "TokenPrune":
        feeds["score"] = rng.integers(-3, 4, (batch, length)).astype(np.float32)
        attributes["merge"] = int(rng.integers(0, 2))
    return feeds, attributes


def prepare(folder: Path) -> None:
    """Write the library, the cases with their expected results, and this file."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "plugins"))
    from bodies import run_body

    from edgec.plugins.infra import plugins
    from edgec.plugins.kernels import calls
    from edgec.plugins.kernels.cuda.build import cuda_library

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(cuda_library(plugins()["TokenMerge"].kernels["cuda"].path), folder / "token_reduction.so")
    shutil.copy(calls.__file__, folder / "calls.py")
    shutil.copy(__file__, folder / "token_merge_cuda.py")
    arrays: dict[str, np.ndarray] = {}
    meta = []
    for op_type in OPS:
        rng = np.random.default_rng(0)
        for _ in range(CASES):
            feeds, attributes = draw(op_type, rng)
            extra = {"margin": MARGIN} if op_type == "TokenMergeEnergy" else {}
            expected = run_body(op_type, feeds, **attributes, **extra)
            for name, array in feeds.items():
                arrays[f"{len(meta)}_{name}"] = array
            for index, array in enumerate(expected):
                arrays[f"{len(meta)}_expected{index}"] = array
            meta.append({"op": op_type, **attributes})
    rng = np.random.default_rng(1)
    for _ in range(CASES):
        kept, batch = int(rng.integers(1, 40)), int(rng.integers(1, 4))
        tokens = rng.normal(size=(batch, kept, int(rng.choice([1, 5, 16, 40])))).astype(np.float16)
        places = rng.integers(0, kept, (batch, int(rng.integers(1, 99)))).astype(np.int32)
        feeds = {"tokens": tokens.astype(np.float32), "assignment": places}
        arrays |= {f"{len(meta)}_{name}": array for name, array in feeds.items()}
        arrays[f"{len(meta)}_expected0"] = run_body(RESTORE, feeds)[0]
        meta.append({"op": RESTORE})
    np.savez_compressed(folder / "cases.npz", meta=json.dumps(meta), **arrays)
    print(f"{len(meta)} cases in {folder}")


class Kernels:
    """The library on torch tensors."""

    def __init__(self, folder: Path) -> None:
        import torch

        sys.path.insert(0, str(folder))
        self.torch = torch
        self.library = ctypes.CDLL(str(folder / "token_reduction.so"))

    def prepare(self, op_type: str, feeds: dict, attributes: dict):  # type: ignore[no-untyped-def]
        """A call, and its outputs, poisoned."""
        torch = self.torch
        tokens = feeds["tokens"]
        batch, length, channels = tokens.shape
        r = attributes["r"]
        merged = torch.full((batch, length - r, channels), float("nan"), dtype=tokens.dtype, device="cuda")
        sizes = torch.full((batch, length - r, 1), float("nan"), device="cuda")
        assignment = torch.full((batch, length), -1, dtype=torch.int32, device="cuda")
        order = ["tokens", *(["score"] if op_type == "TokenPrune" else []), "metric", "sizes"]
        values = {**attributes, **({"margin": MARGIN} if op_type == "TokenMergeEnergy" else {})}
        outputs = (merged, sizes, assignment)
        return self._call(op_type, [feeds[name] for name in order], outputs, values), outputs

    def restore(self, tokens, places):  # type: ignore[no-untyped-def]
        """`TokenRestore`."""
        (batch, _, channels), length = tokens.shape, places.shape[1]
        restored = self.torch.full((batch, length, channels), float("nan"), dtype=tokens.dtype, device="cuda")
        self._call(RESTORE, [tokens, places], [restored], {})()
        return restored

    def _call(self, op_type: str, inputs, outputs, attributes: dict):  # type: ignore[no-untyped-def]
        import calls

        torch = self.torch
        given, made = (
            calls.tensors([(each.data_ptr(), each.shape, str(each.dtype).split(".")[1]) for each in tensors])
            for tensors in (inputs, outputs)
        )
        values = calls.attributes(attributes)
        call = calls.CudaCall(given, made, values, len(attributes), None, None)
        entry, space = getattr(self.library, f"edgec_cuda_{op_type}"), None
        if op_type != RESTORE:
            asked = getattr(self.library, f"edgec_cuda_{op_type}_workspace")
            asked.restype = ctypes.c_int64
            space = torch.empty(asked(ctypes.byref(call)), dtype=torch.uint8, device="cuda")
            call.workspace = space.data_ptr()
        keep = (inputs, outputs, given, made, values, space)

        def run() -> None:
            call.stream = torch.cuda.current_stream().cuda_stream
            status = entry(ctypes.byref(call))
            if status:
                raise RuntimeError(f"{op_type} returned {status} ({tuple(keep[0][0].shape)} tokens)")

        return run


def check(kernels: Kernels, folder: Path) -> list[list[object]]:
    """Compare every case, in fp32 and fp16; a row an op and precision."""
    torch = kernels.torch
    stored = np.load(folder / "cases.npz")
    meta = json.loads(str(stored["meta"]))
    counts: dict[str, list[int]] = {}
    worst: dict[str, float] = {}
    for index, case in enumerate(meta):
        op_type = case["op"]
        attributes = {name: value for name, value in case.items() if name != "op"}
        if op_type == RESTORE:
            expected = stored[f"{index}_expected0"]
            tokens, places = (
                torch.from_numpy(stored[f"{index}_{name}"]).cuda() for name in ("tokens", "assignment")
            )
            for dtype in (torch.float32, torch.float16):
                restored = kernels.restore(tokens.to(dtype), places).float().cpu().numpy()
                tally = counts.setdefault(f"{RESTORE} {str(dtype).removeprefix('torch.')}", [0, 0])
                tally[0] += bool(np.array_equal(restored, expected))
                tally[1] += 1
            continue
        names = ["tokens", "metric", "sizes", *(["score"] if op_type == "TokenPrune" else [])]
        expected = [stored[f"{index}_expected{place}"] for place in range(3)]
        for dtype in (torch.float32, torch.float16):
            feeds = {name: torch.from_numpy(stored[f"{index}_{name}"]).cuda() for name in names}
            feeds["tokens"], feeds["metric"] = feeds["tokens"].to(dtype), feeds["metric"].to(dtype)
            call, outputs = kernels.prepare(op_type, feeds, attributes)
            call()
            merged, sizes, assignment = (output.float().cpu().numpy() for output in outputs)
            key = f"{op_type} {str(dtype).removeprefix('torch.')}"
            tally = counts.setdefault(key, [0, 0])
            tally[1] += 1
            same = np.array_equal(assignment, expected[2]) and np.array_equal(sizes, expected[1])
            if same:
                error = float(np.abs(merged - expected[0]).max(initial=0.0))
                worst[key] = max(worst.get(key, 0.0), error)
                # One rounding of values up to 4: 2^-10 in fp16; a few of fp32's otherwise.
                same = error <= (2.0e-3 if dtype == torch.float16 else 2.0e-6)
            tally[0] += same
    return [
        [key, f"{same} of {total}", f"{worst.get(key, 0.0):.1e}"] for key, (same, total) in counts.items()
    ]


def torch_merge(torch, tokens, metric, sizes, r: int):  # type: ignore[no-untyped-def]
    """The same steps in PyTorch, as ToMe's own code writes them, one protected token in front."""
    keys = metric.mean(1)[:, 1:]
    keys = keys / keys.norm(dim=-1, keepdim=True)
    scores = keys[:, 0::2] @ keys[:, 1::2].transpose(-1, -2)
    best, partner = scores.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)[..., None]
    gone, left = order[..., :r, :], order[..., r:, :].sort(dim=1)[0]
    host = partner[..., None].gather(dim=-2, index=gone)

    def merge(values):  # type: ignore[no-untyped-def]
        guard, source, target = values[:, :1], values[:, 1::2], values[:, 2::2]
        batch, _, width = source.shape
        kept = source.gather(dim=1, index=left.expand(batch, -1, width))
        moved = source.gather(dim=1, index=gone.expand(batch, -1, width))
        target = target.scatter_reduce(1, host.expand(batch, -1, width), moved, reduce="sum")
        return torch.cat([guard, kept, target], dim=1)

    merged, merged_sizes = merge(tokens * sizes), merge(sizes)
    return merged / merged_sizes, merged_sizes


def milliseconds(torch, call, repeats: int = 300, inner: int = 20) -> float:  # type: ignore[no-untyped-def]
    """Median time of one call, by device events around `inner` of them."""
    for _ in range(20):
        call()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(inner):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / inner)
    return statistics.median(times)


def graphed(torch, call):  # type: ignore[no-untyped-def]
    """The call as a CUDA graph, whose launches cost least."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def bench(kernels: Kernels) -> tuple[str, list[list[object]], list[list[object]]]:
    """The machine, times, and bytes against the copy bandwidth, at batch 8, 197 tokens, 384 channels."""
    torch = kernels.torch
    batch, length, channels, heads, depth, r = 8, 197, 384, 6, 64, 13
    big = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    other = torch.empty_like(big)
    seconds = milliseconds(torch, lambda: other.copy_(big), repeats=20, inner=3) / 1e3
    bandwidth = 2 * big.numel() / seconds
    machine = (
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, torch {torch.__version__}; a copy of "
        f"1 GiB on the device moves {bandwidth / 1e9:.0f} GB/s, read and written"
    )
    timed: list[list[object]] = []
    bytes_moved: list[list[object]] = []
    for dtype in (torch.float32, torch.float16):
        feeds = {
            "tokens": torch.randn(batch, length, channels, device="cuda", dtype=dtype),
            "metric": torch.randn(batch, heads, length, depth, device="cuda", dtype=dtype),
            "sizes": torch.ones(batch, length, 1, device="cuda"),
            "score": torch.rand(batch, length, device="cuda"),
        }
        width = 2 if dtype == torch.float16 else 4
        moved = batch * width * (length * channels + heads * length * depth + (length - r) * channels)
        moved += batch * 4 * (length + (length - r) + length)
        sizes = feeds["sizes"].to(dtype)

        def steps(feeds=feeds, sizes=sizes):  # type: ignore[no-untyped-def]
            return torch_merge(torch, feeds["tokens"], feeds["metric"], sizes, r)

        times = {
            "torch": milliseconds(torch, steps),
            "torch graph": milliseconds(torch, graphed(torch, steps)),
        }
        for op_type in OPS:
            call, _ = kernels.prepare(op_type, feeds, {"r": r, "protected": 1, "merge": 1})
            times[op_type] = milliseconds(torch, call)
            times[f"{op_type} graph"] = milliseconds(torch, graphed(torch, call))
        again = kernels.prepare("TokenMerge", feeds, {"r": r, "protected": 1})[0]
        times["TokenMerge again"] = milliseconds(torch, again)
        kind = str(dtype).removeprefix("torch.")
        timed += [[name, kind, f"{value * 1e3:.1f}"] for name, value in times.items()]
        merge, graph = times["TokenMerge"], times["TokenMerge graph"]
        timed.append(["torch / TokenMerge", kind, f"{times['torch'] / merge:.1f}x"])
        timed.append(["torch graph / TokenMerge graph", kind, f"{times['torch graph'] / graph:.1f}x"])
        rate = moved / graph * 1e3
        row = [
            kind,
            f"{moved / 1e6:.2f}",
            f"{rate / 1e9:.0f}",
            f"{bandwidth / 1e9:.0f}",
            f"{rate / bandwidth:.0%}",
        ]
        bytes_moved.append(row)
    return machine, timed, bytes_moved


def table(headers: list[str], rows: list[list[object]]) -> str:
    """A Markdown table: this file runs where edgec is not installed."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> None:
    step, folder = sys.argv[1], Path(sys.argv[2])
    if step == "prepare":
        prepare(folder)
        return
    kernels = Kernels(folder)
    equal = check(kernels, folder)
    machine, timed, bytes_moved = bench(kernels)
    moved = [
        "precision",
        "MB that TokenMerge must move",
        "GB/s in a graph",
        "copy GB/s",
        "of the copy bandwidth",
    ]
    text = "\n\n".join(
        [
            "# The CUDA token kernels",
            "Commands: `python benchmarks/token_merge_cuda.py prepare FOLDER`, then "
            "`python FOLDER/token_merge_cuda.py run FOLDER` on the machine with the GPU.",
            f"Machine: {machine}. Batch 8, 197 tokens, 384 channels, 6 heads of 64, r = 13, one protected "
            "token; random data; medians of 300 times 20 calls by device events.",
            "Drawn cases equal to the function body: assignment, sizes and restored tokens bit for bit, "
            "merged tokens to one rounding.",
            table(["op and precision", "equal", "largest difference"], equal),
            "Microseconds a call; `graph` is a replay of a CUDA graph.",
            table(["what", "precision", "µs"], timed),
            table(moved, bytes_moved),
        ]
    )
    print(text)
    (folder / "token_merge_cuda.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
