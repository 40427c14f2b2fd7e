"""One preview in a process of its own: a builder that crashes takes only this process with it.

python -m edgec.targets.jetson.preview_process REQUEST RESULT

REQUEST is a JSON file: `model` (an ONNX file), `capabilities`, `profiles`, `engine` (where its bytes go).
RESULT is written as JSON: `tool`, `layers`, `parser` (errors as [op, node, reason]) and `builder` (messages);
an engine was built where both lists are empty.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Parse and build as the request says; the result as JSON values."""
    import tensorrt_rtx as rtx

    messages: list[str] = []

    class Logger(rtx.ILogger):
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (rtx.ILogger.Severity.ERROR, rtx.ILogger.Severity.INTERNAL_ERROR):
                messages.append(message)

    logger = Logger()
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    result: dict[str, Any] = {
        "tool": f"tensorrt-rtx {rtx.__version__}",
        "parser": [],
        "builder": [],
        "layers": 0,
    }
    if not parser.parse_from_file(request["model"]):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        result["parser"] = [[error.node_operator(), error.node_name(), error.desc()] for error in errors]
        result["parser"] = result["parser"] or [["", "", "the parser refuses the model and says nothing"]]
        return result
    result["layers"] = network.num_layers
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(request["capabilities"])
    for place, capability in enumerate(request["capabilities"]):
        config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{capability}"), place)
    for profile in request["profiles"]:
        ranges = builder.create_optimization_profile()
        for name, sizes in profile["inputs"].items():
            ranges.set_shape(name, sizes["min"], sizes["opt"], sizes["max"])
        config.add_optimization_profile(ranges)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        result["builder"] = messages or ["the builder fails and says nothing"]
    else:
        Path(request["engine"]).write_bytes(bytes(engine))
    return result


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(asked)), encoding="utf-8")
