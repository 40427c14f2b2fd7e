"""The TensorRT plugin classes with their real kernels on a GPU, without TensorRT, against the definitions.

In two steps, because the machine with the GPU need not have edgec installed::

    python benchmarks/tensorrt_plugins_cuda.py prepare FOLDER   # here: compiles, draws 120 cases an op
    python FOLDER/tensorrt_plugins_cuda.py run FOLDER           # there: needs numpy and a GPU
    cp FOLDER/tensorrt_plugins_cuda.md benchmarks/results/

`prepare` compiles the plugins with their own CMakeLists.txt for sm_90, against headers with IPluginV3 and
against some with IPluginV2DynamicExt, and the harness of tests/plugins that takes the place of TensorRT:
it finds a creator as the ONNX parser does, creates, clones, asks for types, shapes, formats and workspace,
saves, loads, and enqueues in device memory. Expected results are the function bodies' in ONNX Runtime, on
inputs that fp16 holds. Outputs and workspace are poisoned, and what lies behind them must not change.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

CASES = 120
INTERFACES = {"IPluginV3": 10, "IPluginV2DynamicExt": 8}
SHIPPED = ("tensorrt_harness.py", "drawn.py")


def prepare(folder: Path) -> None:
    """Write libraries, cases with their expected results, and the files that run them."""
    tests = Path(__file__).parents[1] / "tests" / "plugins"
    sys.path.insert(0, str(tests))
    import drawn
    import tensorrt_build
    from bodies import run_body

    from edgec.plugins.bindings import tensorrt
    from edgec.plugins.infra import Kind, plugins

    folder.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        shutil.copy(tests / name, folder / name)
    shutil.copy(__file__, folder / Path(__file__).name)
    for interface, generation in INTERFACES.items():
        with tempfile.TemporaryDirectory(prefix=f"edgec-{interface}-") as scratch:
            sources, built = Path(scratch) / "plugins", Path(scratch) / interface
            tensorrt.write_sources(sources, tensorrt.libraries())
            tensorrt_build.with_cmake(built, sources, generation, ["90"], on_gpu=True)
            (folder / interface).mkdir(exist_ok=True)
            for library in built.glob("*.so"):
                shutil.copy(library, folder / interface / library.name)
    arrays: dict[str, np.ndarray] = {}
    meta = []
    for op_type in tensorrt.libraries():
        plugin, rng = plugins()[op_type], np.random.default_rng(11)
        like = [[port.kind is Kind.LIKE_FIRST for port in ports] for ports in (plugin.inputs, plugin.outputs)]
        for _ in range(CASES):
            feeds, attributes = drawn.draw(plugin, rng)
            expected = run_body(op_type, feeds, **attributes)
            given = [feeds[port.name] for port in plugin.inputs]
            arrays |= {f"{len(meta)}_input{place}": array for place, array in enumerate(given)}
            arrays |= {f"{len(meta)}_expected{place}": array for place, array in enumerate(expected)}
            types = plugin.kernels["cuda"].types
            meta.append({"op": op_type, "attributes": attributes, "like_first": like, "types": types})
    np.savez_compressed(folder / "tensorrt_cases.npz", meta=json.dumps(meta), **arrays)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{len(meta)} cases, {size / 1e6:.1f} MB in {folder}")


def run(folder: Path) -> bool:
    """Run every case through every interface; print and write the table. True where all are right."""
    sys.path.insert(0, str(folder))
    import drawn
    from tensorrt_harness import Harness, PluginError

    stored = np.load(folder / "tensorrt_cases.npz")
    meta = json.loads(str(stored["meta"]))
    rows, whole = [], True
    for interface in INTERFACES:
        harness = Harness(folder / interface)
        for op_type in dict.fromkeys(case["op"] for case in meta):
            places = [place for place, case in enumerate(meta) if case["op"] == op_type]
            for dtype in meta[places[0]]["types"]:
                right, first = 0, ""
                for place in places:
                    case = meta[place]
                    inputs, outputs = case["like_first"]
                    given = [stored[f"{place}_input{index}"] for index in range(len(inputs))]
                    expected = [stored[f"{place}_expected{index}"] for index in range(len(outputs))]
                    try:
                        with harness.create(op_type, case["attributes"]) as plugin:
                            found = plugin.run(drawn.as_given(given, inputs, np.dtype(dtype)))
                        wrong = drawn.difference(op_type, found, expected, outputs, dtype)
                    except PluginError as error:
                        wrong = str(error).strip()
                    right += not wrong
                    first = first or (f"case {place}: {wrong}" if wrong else "")
                whole = whole and right == len(places)
                rows.append(f"| {interface} | {op_type} | {dtype} | {right} of {len(places)} | {first} |")
                print(rows[-1], flush=True)
    text = [
        "# The TensorRT plugins on a GPU",
        "",
        "Commands: `python benchmarks/tensorrt_plugins_cuda.py prepare FOLDER`, then "
        "`python FOLDER/tensorrt_plugins_cuda.py run FOLDER` on the machine with the GPU.",
        "",
        f"Machine: {device()}. Every drawn case runs through the plugin class as TensorRT would, without "
        "TensorRT, and is compared with the function body: sizes, places and restored tokens bit for bit, "
        "averages and attention to 2e-5 of the largest value in fp32, 2e-3 in fp16.",
        "",
        "| interface | op | precision | equal | first difference |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]
    (folder / "tensorrt_plugins_cuda.md").write_text("\n".join(text), encoding="utf-8")
    print("all right" if whole else "NOT all right")
    return whole


def device() -> str:
    """The GPU's name."""
    try:
        import torch

        return torch.cuda.get_device_name()
    except ImportError:
        return "a GPU"


def main() -> None:
    step, folder = sys.argv[1], Path(sys.argv[2])
    if step == "prepare":
        prepare(folder)
    else:
        sys.exit(not run(folder))


if __name__ == "__main__":
    main()
