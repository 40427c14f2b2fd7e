"""The opset-23 export of a model beside its opset-20 export, each compiled for x86 in fp32.

    python benchmarks/opsets.py

Opset 23 keeps attention as one op, which engines run slowly or refuse when it is handed to them as it is.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path

from fusion_counts import export
from tables import markdown, publish

from edgec.compiler import compile_graph, load
from edgec.core.timing import measure
from edgec.request import Request
from edgec.runtime.session import load as load_session

NAMES = ("deit_tiny", "swin_tiny", "minilm")
OPSETS = (20, 23)


def main() -> None:
    rows = []
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            calls = {}
            for opset in OPSETS:
                path = Path(folder) / f"{name}_{opset}.onnx"
                export(name, "dynamo", opset, path)
                bundle = compile_graph(
                    load(str(path)), Request.checked("x86", path.with_suffix(".x86.edgec"), "fp32")
                )
                session = stack.enter_context(load_session(bundle.path))
                calls[str(opset)] = functools.partial(session.run, bundle.samples()[0][0])
            found = measure(calls, blocks=11, block_seconds=0.3)
        rows.append([name, found["20"].p50, found["23"].p50, found["23"].ratio_to(found["20"])])
    headers = ["model", "from opset 20, ms", "from opset 23, ms", "23 over 20"]
    publish("opsets", "From opset 20 and from opset 23", markdown(headers, rows))


if __name__ == "__main__":
    main()
