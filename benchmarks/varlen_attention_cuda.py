"""The CUDA kernel of VarlenAttention: equal to its definition, and how fast.

In two steps, because the machine with the GPU need not have edgec installed::

    python benchmarks/varlen_attention_cuda.py prepare FOLDER   # here: compiles, draws 500 cases
    python FOLDER/varlen_attention_cuda.py run FOLDER           # there: needs torch and a GPU

`run` writes FOLDER/varlen_attention_cuda.md. The cases have drawn lengths (0, 1, odd ones, tile sizes and
their neighbours), heads and depths; expected results are the function body's in ONNX Runtime in
fp32, on inputs that fp16 holds. Times are those of 16 sequences of at most 512 tokens, 12 heads of 64:
lengths uniform with a mean of half the maximum, and all of the maximum. The peer is PyTorch's
`scaled_dot_product_attention` on the padded batch: with the mask of real tokens that its result needs, and,
faster and wrong where lengths differ, without it (cuDNN's kernel for Hopper's own matrix unit, and
FlashAttention-2, which like the kernel here uses the instructions that a Jetson has too). Blocks alternate.
"""

from __future__ import annotations

import ctypes
import functools
import json
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np

CASES = 500
LENGTHS = (0, 1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 65, 129)


def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Feeds of one case; logits of a few units, and sometimes of hundreds."""
    lengths = rng.choice(LENGTHS, size=int(rng.integers(1, 4)))
    if not lengths.sum():
        lengths[0] = 3
    heads, depth = int(rng.integers(1, 3)), int(rng.choice([8, 16, 24, 32, 40, 64, 72, 128]))
    spread = 8.0 if rng.random() < 0.2 else 1.0
    feeds = {
        name: (spread * rng.normal(size=(lengths.sum(), heads, depth))).astype(np.float16)
        for name in ("query", "key", "value")
    }
    feeds["cu_seqlens"] = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return feeds


def prepare(folder: Path) -> None:
    """Write the library, the cases with their expected results, and this file."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "plugins"))
    from bodies import run_body

    from edgec.plugins.infra import plugins
    from edgec.plugins.kernels import calls
    from edgec.plugins.kernels.cuda.build import cuda_library

    folder.mkdir(parents=True, exist_ok=True)
    kernel = plugins()["VarlenAttention"].kernels["cuda"]
    shutil.copy(cuda_library(kernel.path), folder / "varlen_attention.so")
    shutil.copy(calls.__file__, folder / "calls.py")
    shutil.copy(__file__, folder / Path(__file__).name)
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for index in range(CASES):
        feeds = draw(rng)
        wide = {name: feeds[name].astype(np.float32) for name in ("query", "key", "value")}
        [arrays[str(index)]] = run_body("VarlenAttention", {**wide, "cu_seqlens": feeds["cu_seqlens"]})
    np.savez_compressed(folder / "varlen_cases.npz", **arrays)
    print(f"{CASES} cases in {folder}")


class Kernel:
    """The library on torch tensors."""

    def __init__(self, library: Path) -> None:
        import torch

        sys.path.insert(0, str(library.parent))
        self.torch = torch
        self.entry = ctypes.CDLL(str(library)).edgec_cuda_VarlenAttention

    def prepare(self, query, key, value, cu_seqlens, longest: int):  # type: ignore[no-untyped-def]
        """A call, and its output, poisoned; tensors are (tokens, heads, depth)."""
        import calls

        inputs = [each.contiguous() for each in (query, key, value, cu_seqlens)]
        output = self.torch.full_like(inputs[0], float("nan"))
        given, made = (
            calls.tensors([(each.data_ptr(), each.shape, str(each.dtype).split(".")[1]) for each in tensors])
            for tensors in (inputs, [output])
        )
        values = calls.attributes({"scale": 0.0, "max_length": longest})
        call = calls.CudaCall(given, made, values, 2, None, None)
        keep = (inputs, output, given, made, values)

        def run() -> None:
            call.stream = self.torch.cuda.current_stream().cuda_stream
            status = self.entry(ctypes.byref(call))
            if status or not keep:
                raise RuntimeError(f"the kernel returned {status}")

        return run, output


def check(kernel: Kernel, folder: Path) -> list[str]:
    """Compare every case."""
    torch = kernel.torch
    stored = np.load(folder / "varlen_cases.npz")
    same, worst = 0, 0.0
    rng = np.random.default_rng(0)
    for index in range(CASES):
        feeds = draw(rng)
        parts = [torch.from_numpy(feeds[name]).cuda() for name in ("query", "key", "value")]
        ends = feeds["cu_seqlens"]
        call, output = kernel.prepare(*parts, torch.from_numpy(ends).cuda(), int(np.diff(ends).max()))
        call()
        expected = stored[str(index)]
        scale = max(float(np.abs(feeds["value"].astype(np.float32)).max()), 1.0)
        error = float(np.abs(output.float().cpu().numpy() - expected).max(initial=0.0)) / scale
        # Weights and results are rounded to fp16, 2^-11 each, and sums of weighted values to fp32.
        same += error <= 2.0e-3
        worst = max(worst, error) if error == error else float("nan")
    line = f"| {same} of {CASES} | {worst:.1e} |"
    print(line)
    return [line]


def alternate(torch, calls: dict, blocks: int = 25, inner: int = 40) -> dict[str, list[float]]:  # type: ignore[no-untyped-def]
    """Microseconds a call in alternating blocks, as replays of CUDA graphs."""
    graphs = {name: graphed(torch, call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(blocks):
        for name, replay in graphs.items():
            for _ in range(5):
                replay()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(inner):
                replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / inner * 1e3)
    return times


def graphed(torch, call):  # type: ignore[no-untyped-def]
    """The call as a CUDA graph: the time of the kernels, not of launching from Python."""
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


def bench(kernel: Kernel) -> list[str]:
    """Times against padded attention."""
    torch = kernel.torch
    from torch.nn.attention import SDPBackend
    from torch.nn.functional import scaled_dot_product_attention

    sequences, longest, heads, depth = 16, 512, 12, 64
    rng = np.random.default_rng(0)
    drawn = rng.integers(1, longest, sequences)
    drawn = np.clip(np.round(drawn * (longest / 2) / drawn.mean()), 1, longest).astype(int)
    drawn[drawn.argmax()] = longest
    rows = []
    for kind, lengths in (("mean of half", drawn), ("all equal", np.full(sequences, longest))):
        ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device="cuda")
        padded = [
            torch.randn(sequences, heads, longest, depth, device="cuda", dtype=torch.half) for _ in "qkv"
        ]
        real = torch.arange(longest, device="cuda")[None] < torch.tensor(lengths, device="cuda")[:, None]
        packed = [each.transpose(1, 2)[real].contiguous() for each in padded]
        call, output = kernel.prepare(*packed, ends, longest)
        mask = real[:, None, None, :]
        attend = functools.partial(scaled_dot_product_attention, *padded)
        calls = {
            "edgec": call,
            "padded, mask": functools.partial(attend, attn_mask=mask),
            "padded, no mask": attend,
            "padded, no mask, FlashAttention-2": functools.partial(_with, SDPBackend.FLASH_ATTENTION, attend),
        }
        call()
        expected = scaled_dot_product_attention(*padded, attn_mask=mask).transpose(1, 2)[real]
        assert float((output - expected).abs().max()) < 4e-3
        times = alternate(torch, calls)
        ours = times["edgec"]
        flops = 4.0 * heads * depth * float((lengths.astype(float) ** 2).sum())
        for name, theirs in times.items():
            ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
            note = f"{flops / statistics.median(theirs) / 1e6:.0f}" if name == "edgec" else ""
            rows.append(
                f"| {kind}, {int(lengths.mean())} | {name} | {statistics.median(theirs):.1f} | "
                f"{(max(theirs) - min(theirs)) / statistics.median(theirs):.0%} | {ratio:.2f} | {note} |"
            )
            print(rows[-1])
    return rows


def _with(backend, call):  # type: ignore[no-untyped-def]
    from torch.nn.attention import sdpa_kernel

    with sdpa_kernel([backend]):
        return call()


def run(folder: Path) -> None:
    """Check, measure, and write the table."""
    import torch

    libraries = sorted(folder.glob("varlen_attention*.so"))
    for library in libraries:
        print(library.name)
        kernel = Kernel(library)
        equal, times = check(kernel, folder), bench(kernel)
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    text = [
        "# VarlenAttention on a GPU",
        "",
        "Commands: `python benchmarks/varlen_attention_cuda.py prepare FOLDER`, then "
        "`python FOLDER/varlen_attention_cuda.py run FOLDER` on the machine with the GPU.",
        "",
        f"Machine: {machine}. fp16; the kernel against its definition on {CASES} drawn cases:",
        "",
        "| within 2e-3 | largest difference, of the largest value |",
        "| --- | --- |",
        *equal,
        "",
        "16 sequences of at most 512 tokens, 12 heads of 64; replays of CUDA graphs in alternating blocks. "
        "The ratio is the padded `scaled_dot_product_attention`'s time over the kernel's, block by block.",
        "",
        "| lengths | | µs | spread | ratio | TFLOP/s |",
        "| --- | --- | --- | --- | --- | --- |",
        *times,
        "",
    ]
    (folder / "varlen_attention_cuda.md").write_text("\n".join(text))
    print(json.dumps({"machine": machine}))


def main() -> None:
    step, folder = sys.argv[1], Path(sys.argv[2])
    if step == "prepare":
        prepare(folder)
    else:
        run(folder)


if __name__ == "__main__":
    main()
