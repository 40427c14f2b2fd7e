"""The form of a decoder's attention: what the pass takes, and what it leaves alone and says."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from onnx import helper as h

from edgec.core.errors import JobError, RequestError
from edgec.passes.infra import MatchLog
from edgec.targets.x86.cached_attention import DOMAIN, OP, CachedAttention
from edgec.targets.x86.decoders import candidates


def attention(inputs=4, rank=4, heads=(4, 2), **attributes):
    names = ["q", "k", "v", "mask"][:inputs]
    shapes = {
        "q": [1, heads[0], "new", 8],
        "k": [1, heads[1], "all", 8],
        "v": [1, heads[1], "all", 8],
        "mask": [1, 1, "new", "all"],
    }
    values = [
        h.make_tensor_value_info(
            name, TensorProto.BOOL if name == "mask" else TensorProto.FLOAT, shapes[name][4 - rank :]
        )
        for name in names
    ]
    node = h.make_node("Attention", names, ["y"], name="attn", **attributes)
    out = h.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = h.make_graph([node], "g", values, [out])
    return ir.from_proto(h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11))


@pytest.mark.parametrize(
    ("options", "scale"), [({}, 8**-0.5), ({"scale": 0.5}, 0.5), ({"inputs": 3}, 8**-0.5)]
)
def test_attention_over_a_cache_says_its_scale_and_groups(options, scale):
    model, log = attention(**options), MatchLog()
    CachedAttention().apply(model, log)
    (node,) = model.graph
    assert (node.domain, node.op_type) == (DOMAIN, OP)
    assert node.attributes["groups"].value == 2
    np.testing.assert_allclose(node.attributes["scale"].value, scale, rtol=1e-6)
    assert len(log.matches) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"is_causal": 1}, "it hides keys or caps scores by an attribute"),
        ({"softcap": 2.0}, "it hides keys or caps scores by an attribute"),
        ({"rank": 3}, "its queries, keys and values are not of four dimensions"),
        ({"heads": (4, 3)}, "its heads are not known"),
    ],
)
def test_other_attention_is_left_alone(options, reason):
    model, log = attention(**options), MatchLog()
    CachedAttention().apply(model, log)
    assert next(iter(model.graph)).op_type == "Attention"
    assert [miss.reason for miss in log.misses] == [reason]


class Step:
    """A graph as far as the candidates look at it."""

    def __init__(self):
        self.model = attention()
        self.decoder = None


def test_what_is_not_to_be_had():
    with pytest.raises(RequestError, match="keeps no caches"):
        candidates(Step(), "auto", "ort")
    with pytest.raises(JobError, match="fp16 is not available for decoders"):
        candidates(Step(), "fp16", None)
    assert [candidate.precision for candidate in candidates(Step(), "auto", None)] == ["fp32"]
