"""How each op carries the members of a dependency group between its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op
from edgec.core.op_traits import BROADCASTING, POOLING, REDUCTION, UNARY
from edgec.passes.editing import attribute, constant, consumers, rank, sizes
from edgec.passes.fuse.matching import reduced_axes
from edgec.passes.slim.dependencies import Group, Rule
from edgec.passes.slim.movement_rules import MOVEMENT_RULES


def rule_of(node: ir.Node) -> Rule:
    """The rule of a node; one that holds every member where its op has none."""
    if node.domain == EDGEC_DOMAIN:
        return _EDGEC_RULES.get(node.op_type, _unknown)
    if node.domain not in ("", "ai.onnx"):
        return _unknown
    return _RULES.get(node.op_type, _unknown)


def tie_broadcast(group: Group, value: ir.Value | None, whole: ir.Value, axes: Iterable[int]) -> None:
    """Tie the axes of an operand to those of what it is broadcast to; a size of 1 has no members."""
    shape, full = sizes(value), sizes(whole)
    if shape is None or full is None:
        return
    for axis in axes:
        own = axis - len(full) + len(shape)
        if own >= 0 and shape[own] == full[axis]:
            group.tie(value, own, whole, axis)


def _unknown(group: Group, node: ir.Node) -> None:
    group.hold_all(node, f"{node.op_type} is not known to keep its entries apart")


def _elementwise(group: Group, node: ir.Node) -> None:
    out = node.outputs[0]
    if rank(out) is None:
        group.hold_all(node, "its shape is not known")
        return
    for value in (*node.inputs, *node.inputs):  # twice: from any operand to every other
        tie_broadcast(group, value, out, range(rank(out) or 0))


def _first(group: Group, node: ir.Node) -> None:
    for axis in range(rank(node.inputs[0]) or 0):
        group.tie(node.inputs[0], axis, node.outputs[0], axis)


def _tie_except(group: Group, node: ir.Node, mixed: Iterable[int], reason: str) -> None:
    """Tie the axes of the first input and output, and hold the members on some."""
    mixed = set(mixed)
    for axis in range(rank(node.inputs[0]) or 0):
        if axis not in mixed:
            group.tie(node.inputs[0], axis, node.outputs[0], axis)
            continue
        for value in (node.inputs[0], node.outputs[0]):
            members = group.members(value, axis)
            if members is not None:
                group.hold(members, reason, node)


def _along(group: Group, node: ir.Node) -> None:
    axis = int(attribute(node, "axis", -1)) % (rank(node.inputs[0]) or 1)
    _tie_except(group, node, [axis], f"{node.op_type} runs over the members")


def _lp_norm(group: Group, node: ir.Node) -> None:
    _first(group, node)


def _normalized(group: Group, node: ir.Node) -> None:
    """LayerNormalization and RMSNormalization: statistics over the last axes."""
    count = rank(node.inputs[0]) or 0
    first = int(attribute(node, "axis", -1)) % max(count, 1)
    _first(group, node)
    for parameter in node.inputs[1:]:
        tie_broadcast(group, parameter, node.outputs[0], range(count))
    if any(axis >= first for axis in group.axes(node.outputs[0])):
        group.normalized = True


def _batch_norm(group: Group, node: ir.Node) -> None:
    _first(group, node)
    for parameter in node.inputs[1:]:
        group.tie(node.inputs[0], 1, parameter, 0)


def _instance_norm(group: Group, node: ir.Node) -> None:
    mixed = range(2, rank(node.inputs[0]) or 0)
    _tie_except(group, node, mixed, "InstanceNormalization runs over the members")
    for parameter in node.inputs[1:]:
        group.tie(node.inputs[0], 1, parameter, 0)


def _group_norm(group: Group, node: ir.Node) -> None:
    _instance_norm(group, node)
    members = group.members(node.inputs[0], 1)
    if members is None:
        return
    groups = int(attribute(node, "num_groups", 1))
    if groups == 1:
        group.normalized = True
        return
    group.assign(node.inputs[0], 1, _by_group(group, members, groups))
    _instance_norm(group, node)


def _by_group(group: Group, members: np.ndarray, groups: int) -> np.ndarray:
    """The members, those of one of the equal groups of entries joined."""
    size = len(members) // groups
    rows = group.reshape((len(members),), 0, members, (groups, size))
    made = rows.get(0)
    if made is None:  # the same member in every group
        return members
    return np.repeat(made, size)


def _matmul(group: Group, node: ir.Node) -> None:
    left, right, out = node.inputs[0], node.inputs[1], node.outputs[0]
    left_rank, right_rank, out_rank = rank(left) or 0, rank(right) or 0, rank(out) or 0
    if left_rank < 2 or right_rank < 2 or not out_rank:
        group.hold_all(node, "a product with a vector")
        return
    for _ in range(2):
        group.tie(left, left_rank - 1, right, right_rank - 2)
        group.tie(left, left_rank - 2, out, out_rank - 2)
        group.tie(right, right_rank - 1, out, out_rank - 1)
        for value in (left, right):
            tie_broadcast(group, value, out, range(out_rank - 2))


def _gemm(group: Group, node: ir.Node) -> None:
    left, right, out = node.inputs[0], node.inputs[1], node.outputs[0]
    swapped, turned = int(attribute(node, "transA", 0)), int(attribute(node, "transB", 0))
    group.tie(left, 0 if swapped else 1, right, 1 if turned else 0)
    group.tie(left, 1 if swapped else 0, out, 0)
    group.tie(right, 0 if turned else 1, out, 1)
    if len(node.inputs) > 2:
        tie_broadcast(group, node.inputs[2], out, range(2))


def _einsum(group: Group, node: ir.Node) -> None:
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    if "." in equation or "->" not in equation:
        group.hold_all(node, "the equation of Einsum is not spelled out")
        return
    given, made = equation.split("->")
    terms = list(zip([*given.split(","), made], [*node.inputs, node.outputs[0]], strict=True))
    for letter in set(equation) - set(",->"):
        places = [(value, axis) for term, value in terms for axis, each in enumerate(term) if each == letter]
        for value, axis in (*places[1:], *places[1:]):
            group.tie(*places[0], value, axis)


def _conv(group: Group, node: ir.Node) -> None:
    """Conv and ConvTranspose, whose weights are (out, in / group, …) and (in, out / group, …)."""
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    groups, transposed = int(attribute(node, "group", 1)), is_op(node, "ConvTranspose")
    spatial = [axis for value in (data, out) for axis in group.axes(value) if axis > 1]
    if spatial or any(axis > 1 for axis in group.axes(weight)):
        group.hold_all(node, f"{node.op_type} mixes the members as places")
    group.tie(data, 0, out, 0)
    if groups == 1:
        group.tie(data, 1, weight, 0 if transposed else 1)
        for _ in range(2):
            group.tie(weight, 1 if transposed else 0, out, 1)
            group.tie(out, 1, bias, 0)
        return
    channels, made = (sizes(data) or (None, None))[1], (sizes(out) or (None, None))[1]
    shared = group.axes(weight) if any(axis == 1 for axis in group.axes(weight)) else []
    if channels is None or made is None or shared:
        group.hold_all(node, f"a {node.op_type} of groups whose weight the members share")
        return
    _whole_groups(group, [(data, 1), (weight, 0), (out, 1), (bias, 0)], groups)


def _whole_groups(group: Group, places: list[tuple[ir.Value | None, int]], groups: int) -> None:
    """Let the members of each group of channels leave from all of the places together."""
    found = [(value, axis, group.members(value, axis)) for value, axis in places]
    whole = np.full(groups, -1)
    for _, _, members in found:
        if members is None:
            continue
        for index, row in enumerate(members.reshape(groups, -1)):
            for member in np.unique(row[row >= 0]):
                if whole[index] >= 0:
                    group.join([int(member)], [int(whole[index])])
                whole[index] = member if whole[index] < 0 else whole[index]
    for value, axis in places:
        shape = sizes(value)
        if shape is not None and shape[axis] is not None:
            group.assign(value, axis, np.repeat(whole, int(shape[axis] or 0) // groups))


class _Heads:
    """The heads and the widths of one operand of an attention, of rank 4 or, side by side, of rank 3."""

    def __init__(self, group: Group, node: ir.Node, value: ir.Value | None, count: int | None) -> None:
        self.group, self.node, self.value, self.count = group, node, value, count
        self.flat = rank(value) == 3

    def members(self, *, width: bool) -> np.ndarray | None:
        """(heads,) or (width,) int, None where there are none."""
        if not self.flat:
            return self.group.members(self.value, 3 if width else 1)
        found = self.group.members(self.value, 2)
        if found is None or not self.count:
            return None
        table = self.group.roots(found.reshape(self.count, -1))
        if self.count > 1 and (table == table[:, :1]).all():
            return None if width else found.reshape(self.count, -1)[:, 0]
        if (table == table[:1]).all():
            return found.reshape(self.count, -1)[0] if width else None
        self.group.hold(found, "the members are neither heads nor widths of heads", self.node)
        return None

    def assign(self, members: np.ndarray | None, *, width: bool) -> None:
        """Carry members on."""
        if members is None:
            return
        if not self.flat:
            self.group.assign(self.value, 3 if width else 1, members)
            return
        shape = sizes(self.value)
        if shape is not None and shape[2] and self.count:
            each = shape[2] // self.count
            spread = np.tile(members, self.count) if width else np.repeat(members, each)
            self.group.assign(self.value, 2, spread)


def head_counts(node: ir.Node) -> tuple[int | None, int | None]:
    """The query and key heads of an Attention."""
    found = []
    for value, name in ((node.inputs[0], "q_num_heads"), (node.inputs[1], "kv_num_heads")):
        shape = sizes(value)
        found.append(shape[1] if shape is not None and len(shape) == 4 else attribute(node, name))
    return found[0], found[1]


def _attention(group: Group, node: ir.Node) -> None:
    """Heads of queries, keys, values and result together; the width of queries with that of keys."""
    counts = head_counts(node)
    if None in counts:
        group.hold_all(node, "its numbers of heads are not known")
        return
    queries, keys = int(counts[0] or 0), int(counts[1] or 0)
    given = [*node.inputs, *[None] * (7 - len(node.inputs))]
    made = [*node.outputs, *[None] * (4 - len(node.outputs))]
    of_query = [_Heads(group, node, value, queries) for value in (given[0], made[0])]
    of_key = [_Heads(group, node, value, keys) for value in (given[1], given[2], *given[4:6], *made[1:3])]
    for value in (given[0], given[1], given[2], made[0]):
        axes = (0, 1) if rank(value) == 3 else (0, 2)
        for axis in axes:
            members = group.members(value, axis)
            if members is not None:
                group.hold(members, "an attention mixes the members as tokens or samples", node)
    scores = [value for value in (given[3], made[3]) if value is not None]
    for _ in range(2):
        for one in of_query:
            heads = one.members(width=False)
            for other in of_query:
                other.assign(heads, width=False)
            if heads is not None and keys > 1:
                shared = heads if queries == keys else _per_key(group, heads, keys)
                for other in of_key:
                    other.assign(shared, width=False)
            if heads is not None:
                for score in scores:
                    _assign_scores(group, score, heads)
        for one in of_key:
            heads = one.members(width=False)
            if heads is not None:
                for other in (*of_key, *of_query):
                    repeated = heads if other in of_key else np.repeat(heads, queries // keys)
                    other.assign(repeated, width=False)
    for score in scores:
        _relate_scores(group, node, score, of_query[0], queries)
    scored, weighed = [of_query[0], of_key[0], of_key[2], of_key[4]], [of_query[1], of_key[1]]
    weighed += [of_key[3], of_key[5]]
    for together in (scored, weighed):
        for one in together:
            width = one.members(width=True)
            for other in together:
                other.assign(width, width=True)


def _per_key(group: Group, heads: np.ndarray, keys: int) -> np.ndarray:
    rows = group.reshape((len(heads),), 0, heads, (keys, len(heads) // keys))
    return next(iter(rows.values()))


def _assign_scores(group: Group, score: ir.Value, heads: np.ndarray) -> None:
    axis = (rank(score) or 0) - 3
    if axis >= 0 and (sizes(score) or ())[axis] == len(heads):
        group.assign(score, axis, heads)


def _relate_scores(group: Group, node: ir.Node, score: ir.Value, query: _Heads, heads: int) -> None:
    """A mask for each head, or the scores that the op shows."""
    axis = (rank(score) or 0) - 3
    for place in group.axes(score):
        members = group.members(score, place)
        assert members is not None
        if place == axis and len(members) == heads:
            query.assign(members, width=False)
        else:
            group.hold(members, "an attention mixes the members as tokens or samples", node)


def _rotary(group: Group, node: ir.Node) -> None:
    """Heads pass; entries of a head leave in the pairs that are turned together, with their angles."""
    data, out = node.inputs[0], node.outputs[0]
    if rank(data) != 4:
        heads = int(attribute(node, "num_heads", 0)) or None
        before, after = (_Heads(group, node, value, heads) for value in (data, out))
        if heads is None or before.members(width=True) is not None or after.members(width=True) is not None:
            group.hold_all(node, "a rotation of heads that lie side by side")
            return
        after.assign(before.members(width=False), width=False)
        before.assign(after.members(width=False), width=False)
        return
    _tie_except(group, node, (0, 2), "a rotation turns the members by their places")
    members = group.members(data, 3)
    if members is None:
        return
    turned = int(attribute(node, "rotary_embedding_dim", 0)) or len(members)
    table = members[:turned].reshape((-1, 2) if attribute(node, "interleaved", 0) else (2, -1))
    pairs = table if attribute(node, "interleaved", 0) else table.T
    both = (pairs >= 0).all(axis=1)
    group.join(pairs[both, 0], pairs[both, 1])
    joined = pairs.max(axis=1)
    whole = np.stack([joined, joined], axis=1)
    filled = whole.reshape(-1) if attribute(node, "interleaved", 0) else whole.T.reshape(-1)
    group.assign(data, 3, np.concatenate([filled, members[turned:]]))
    _first(group, node)
    for cache in node.inputs[1:3]:
        group.assign(cache, (rank(cache) or 1) - 1, joined)


def _reduction(group: Group, node: ir.Node) -> None:
    data, out = node.inputs[0], node.outputs[0]
    if node.op_type in ("ArgMax", "ArgMin"):
        axes: tuple[int, ...] | None = (int(attribute(node, "axis", 0)) % (rank(data) or 1),)
    else:
        axes = reduced_axes(node)
    if axes is None or rank(data) is None:
        group.hold_all(node, f"the axes of {node.op_type} are not known")
        return
    keeps = bool(attribute(node, "keepdims", 1))
    place = 0
    for axis in range(rank(data) or 0):
        if axis in axes:
            members = group.members(data, axis)
            if members is not None:
                group.hold(members, f"{node.op_type} runs over the members", node)
            place += keeps
            continue
        group.tie(data, axis, out, place)
        place += 1


def _pool(group: Group, node: ir.Node) -> None:
    mixed = range(2, rank(node.inputs[0]) or 0)
    _tie_except(group, node, mixed, f"{node.op_type} mixes the members as places")
    for other in node.outputs[1:]:
        for axis in (0, 1):
            group.tie(node.outputs[0], axis, other, axis)


def _resize(group: Group, node: ir.Node) -> None:
    before, after = sizes(node.inputs[0]), sizes(node.outputs[0])
    if before is None or after is None or (len(node.inputs) > 3 and constant(node.inputs[3]) is None):
        group.hold_all(node, "Resize to a computed size")
        return
    mixed = [axis for axis, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
    _tie_except(group, node, mixed, "Resize mixes the members as places")


def _shape(group: Group, node: ir.Node) -> None:
    """Sizes that are read may be of other axes only."""
    count = rank(node.inputs[0]) or 0
    first, last, _ = slice(attribute(node, "start", 0), attribute(node, "end")).indices(count)
    held = [place for place in range(first, last) if place in group.axes(node.inputs[0])]
    for reader in consumers(node.outputs[0]):
        index = constant(reader.inputs[1]) if is_op(reader, "Gather") else None
        if index is None or node.outputs[0].is_graph_output():
            break
        if any(first + int(place) % (last - first) in held for place in index.reshape(-1)):
            break
    else:
        return
    for axis in held:
        members = group.members(node.inputs[0], axis)
        assert members is not None
        group.hold(members, "the graph computes with their number", node)


def _quantization(group: Group, node: ir.Node) -> None:
    _first(group, node)
    axis = int(attribute(node, "axis", 1)) % (rank(node.inputs[0]) or 1)
    for parameter in node.inputs[1:]:
        shape = sizes(parameter)
        if shape is not None and len(shape) == 1 and shape != (1,):
            group.tie(node.inputs[0], axis, parameter, 0)
        elif shape is None or len(shape) > 1:
            group.hold_all(node, "it is quantised in blocks")


def _token_op(group: Group, node: ir.Node) -> None:
    """Ops that move or average tokens (B, N, C): channels pass."""
    group.tie(node.inputs[0], 2, node.outputs[0], 2)
    for value in (*node.inputs, *node.outputs):
        for axis in group.axes(value):
            if value not in (node.inputs[0], node.outputs[0]) or axis != 2:
                members = group.members(value, axis)
                assert members is not None
                group.hold(members, f"{node.op_type} compares the members", node)


def _channel_attention(group: Group, node: ir.Node) -> None:
    """Heads together; a channel of the queries is one of the result; keys are weighed by a softmax."""
    query, key, value, temperature = node.inputs[:4]
    out = node.outputs[0]
    for _ in range(2):
        for each in (query, key, value):
            group.tie(each, 1, out, 1)
        group.tie(query, 2, out, 2)
        tie_broadcast(group, temperature, out, (1,))
    for each in (query, key, value, out):
        for axis in group.axes(each):
            members = group.members(each, axis)
            if axis != 1 and not (axis == 2 and each in (query, out)) and members is not None:
                group.hold(members, "a softmax over channels weighs the members", node)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _first),
    **dict.fromkeys(BROADCASTING, _elementwise),
    **dict.fromkeys(REDUCTION, _reduction),
    **dict.fromkeys(POOLING - {"RoiAlign", "MaxRoiPool"}, _pool),
    **MOVEMENT_RULES,
    **dict.fromkeys(("Identity", "Dropout"), _first),
    "Softmax": _along,
    "LogSoftmax": _along,
    "Hardmax": _along,
    "LpNormalization": _lp_norm,
    "LayerNormalization": _normalized,
    "RMSNormalization": _normalized,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    "Resize": _resize,
    "Shape": _shape,
    "QuantizeLinear": _quantization,
    "DequantizeLinear": _quantization,
}

_EDGEC_RULES: dict[str, Rule] = {
    "ChannelAttention": _channel_attention,
    **dict.fromkeys(
        ("TokenMerge", "TokenMergeEnergy", "TokenPrune", "TokenTransform", "TokenRestore"), _token_op
    ),
}
