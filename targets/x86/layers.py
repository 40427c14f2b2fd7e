"""From the names that engines give their layers to the user's own layer names."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgec.core.dialect import source_layer


class LayerNames:
    """The layer behind every node and every value of a lowered model."""

    def __init__(self, model: ir.Model) -> None:
        self._by_name: dict[str, str] = {}
        for node in model.graph.all_nodes():
            layer = source_layer(node)
            for value in node.outputs:
                if value.name:
                    self._by_name[value.name] = layer
        for node in model.graph.all_nodes():
            if node.name:
                self._by_name[node.name] = source_layer(node)

    def find(self, candidates: Iterable[str]) -> str | None:
        """The layer of the first candidate that names a node or a value; None where none does.

        An engine's name for what it fused or inserted begins with the name of what it stands for,
        with words behind a slash or an underscore (`node_conv2d/WithoutBiases`, `x_nchwc`).
        """
        names = [name.strip() for name in candidates if name.strip()]
        for name in names:
            if name in self._by_name:
                return self._by_name[name]
        for name in names:
            stem = name
            while stem:
                stem = stem[: max(stem.rfind("/"), stem.rfind("_"), stem.rfind(":"), 0)]
                if stem in self._by_name:
                    return self._by_name[stem]
        return None
