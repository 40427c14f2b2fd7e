"""Finding the places where a network's tokens can be reduced: after the attention of each block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op, source_layer
from edgec.passes.editing import attribute, constant, consumers, rank, sizes, sole_consumer
from edgec.passes.infra import MatchLog, Refusal
from edgec.passes.tokens.flow import Flow, Survey
from edgec.passes.tokens.masks import attention_mask
from edgec.passes.tokens.readers import NORMS, UNARY, slice_bounds

AXIS_KEY = "edgec.attention"
"""Metadata that `fuse.attention` leaves on an `Attention`: `tokens`, or `unknown`."""


@dataclasses.dataclass(frozen=True)
class Site:
    """One block whose tokens can be reduced behind its attention.

    Attributes:
        index: its place among the graph's sites, from 0: the layer that a schedule names.
        attention: the block's `Attention`.
        stream: (B, N, C), what the rest of the network reads: the sum of the block's input and
            its attention, behind the norm in a post-norm block.
        length: N.
        protected: leading tokens that must stay: learned ones and those that are singled out later.
        mask: the attention's padding mask, (B or 1, 1, 1, N) or (1, N) shaped, None where there is none.
        found: what lies behind it.
        sequence: which of the graph's sequences of tokens it is in, from 0: two towers, or the stages of a
            pyramid, have one each.
        flow: the token axis in the graph.
    """

    index: int
    attention: ir.Node
    stream: ir.Value
    length: int
    protected: int
    mask: ir.Value | None
    found: Survey
    sequence: int
    flow: Flow = dataclasses.field(compare=False, repr=False)

    @property
    def layer(self) -> str:
        """The user's name of the attention's layer."""
        return source_layer(self.attention)

    @property
    def class_token(self) -> int | None:
        """The place of the first token whose row alone is read for what the network gives.

        None where there is none: learned tokens that nothing reads are registers.
        """
        return min(self.found.heard, default=None)


class _Refused(Refusal):
    pass


def find_sites(model: ir.Model, log: MatchLog | None = None) -> list[Site]:
    """The sites of a neutral graph in order; the attentions that are none go to the log, with reasons."""
    log = MatchLog() if log is None else log
    found: list[Site] = []
    flow = Flow(model.graph)
    nodes = list(model.graph)
    on_grid = not any(is_op(node, "Attention") for node in nodes)
    for node in nodes:
        if not is_op(node, "Attention"):
            reason = _mixer(node) or (_grid_mixer(node) if on_grid else None)
            if reason is not None:
                log.missed(node, reason)
            continue
        try:
            found.append(_read(flow, node, found))
        except _Refused as refused:
            log.missed(node, str(refused))
    for body in model.graph.subgraphs():
        for node in body:
            if is_op(node, "Attention") or _mixer(node) is not None:
                log.missed(node, "it is inside a branch or a loop: what is in one keeps its tokens")
    # What one site or anything behind it singles out is special in every block of the same sequence.
    protected: dict[int, int] = {}
    for site in found:
        protected[site.sequence] = max(protected.get(site.sequence, 0), site.protected)
    return [dataclasses.replace(site, protected=protected[site.sequence]) for site in found]


def _read(flow: Flow, node: ir.Node, earlier: list[Site]) -> Site:
    query, key = node.inputs[0], node.inputs[1]
    if node.metadata_props.get(AXIS_KEY, "tokens") != "tokens":
        raise _Refused("nothing tells that its softmax runs over tokens")
    query_sizes, key_sizes = sizes(query), sizes(key)
    if query_sizes is None or len(query_sizes) != 4 or key_sizes is None or len(key_sizes) != 4:
        raise _Refused("its operands are not (batch, heads, tokens, depth)")
    length = query_sizes[2]
    if length is None or key_sizes[2] is None:
        raise _Refused("its number of tokens is open; give the model a fixed shape")
    if None in (query_sizes[1], query_sizes[3], key_sizes[1]):
        raise _Refused("its numbers of heads or their size are open; give the model a fixed shape")
    if key_sizes[2] != length:
        raise _Refused(
            f"{length} queries attend to {key_sizes[2]} keys: it is a cross-attention, or the layers behind "
            "read no other tokens"
        )
    if attribute(node, "is_causal", 0):
        raise _Refused("it is causal: its tokens must keep their order")
    if attribute(node, "softcap", 0.0):
        raise _Refused("it caps its logits: a token's size cannot be added to them")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    padding = attention_mask(node)
    if mask is not None and padding is None:
        raise _Refused(f"its bias {mask.name!r} has a value for each pair of tokens")
    before, stream = _stream(node, query_sizes[0], length)
    if not _same_tokens(key, before):
        raise _Refused("its keys are of other tokens than its queries: it is a cross-attention")
    found = flow.survey(stream)
    if found.refusal is not None:
        raise _Refused(found.refusal)
    for behind in found.attentions:
        if attention_mask(behind) is not padding:
            raise _Refused(f"the attention of {source_layer(behind)} behind it has another mask")
    if not found.products:
        reason = f" ({found.restores[0][1]})" if found.restores else ""
        raise _Refused(f"nothing behind it gets cheaper{reason}")
    protected = max(found.singled, _learned(stream, length))
    if length - protected < 2:
        raise _Refused(f"of its {length} tokens {protected} must stay")
    sequence = _sequence(stream, earlier)
    return Site(len(earlier), node, stream, length, protected, padding, found, sequence, flow)


def _mixer(node: ir.Node) -> str | None:
    """Why a node that mixes tokens, and is no `Attention`, is no site; None where it is no such node."""
    if is_op(node, "ChannelAttention", domain=EDGEC_DOMAIN):
        return "it attends over channels; its tokens are mixed by no attention"
    if is_op(node, "Softmax") and constant(node.inputs[0]) is None:
        for reader in _behind_views(node.outputs[0]):
            if is_op(reader, "MatMul"):
                return (
                    "this attention was not recognised as one (`fuse.attention` says why), so it has no keys"
                )
    return None


def _grid_mixer(node: ir.Node) -> str | None:
    if is_op(node, "AveragePool") and set(attribute(node, "strides", [1])) == {1}:
        return "its tokens are a grid, mixed by pooling"
    if is_op(node, "Conv") and attribute(node, "group", 1) > 1:
        return "its tokens are a grid, mixed by a convolution over each channel"
    return None


def _behind_views(value: ir.Value) -> list[ir.Node]:
    """Who reads a value, through changes of its shape and mixtures of its heads."""
    found: list[ir.Node] = []
    seen: set[ir.Node] = set()
    waiting = [value]
    while waiting:
        for node in consumers(waiting.pop()):
            if node in seen:
                continue
            seen.add(node)
            mixed = is_op(node, "MatMul") and not any(_from_weights(each) for each in node.inputs)
            if not mixed and (node.op_type in _WITHIN or is_op(node, "Add", "Unsqueeze")):
                waiting.append(node.outputs[0])
            else:
                found.append(node)
    return found


_WITHIN = UNARY | NORMS | {"Transpose", "Reshape", "MatMul", "Gemm", "Mul", "Squeeze"}


def _stream(attention: ir.Node, batch: int | None, length: int) -> tuple[ir.Value, ir.Value]:
    """The block's input, and its sum with the attention's output.

    From the attention forward through its projection, bias, layer scale and norms, to the first Add
    of something that is computed and has the tokens' shape.
    """
    value = attention.outputs[0]
    while True:
        node = sole_consumer(value)
        if node is None:
            readers = "nothing" if not consumers(value) else f"{len(consumers(value))} nodes"
            raise _Refused(f"its output is read by {readers} before a residual connection")
        other = _other(node, value)
        output = node.outputs[0]
        if is_op(node, "Add") and other is not None and constant(other) is None and not _from_weights(other):
            before = other
            break
        known = node.op_type in _WITHIN or is_op(node, "Add") or _joins_channels(node)
        if not known or node.domain not in ("", "ai.onnx"):
            raise _Refused(f"{node.op_type} stands between it and a residual connection")
        value = output
    shape = sizes(output)
    if shape is None or len(shape) != 3 or shape[1] != length:
        if shape is not None and batch is not None and shape[0] is not None and shape[0] < batch:
            raise _Refused(f"it is windowed: it attends to {length} tokens at a time, {batch} times")
        raise _Refused(f"the residual connection's shape is {shape}, not (batch, {length}, channels)")
    if batch is None:
        raise _Refused("its batch size is open; give the model a fixed one")
    if shape[0] != batch:
        raise _Refused(f"it is windowed: it attends to {length} tokens at a time, {batch} times")
    output = _behind_parallel(output, shape)
    after = sole_consumer(output)
    if after is not None and after.op_type in NORMS and after.inputs[0] is output:
        return before, after.outputs[0]
    return before, output


def _same_tokens(key: ir.Value | None, before: ir.Value) -> bool:
    """Whether keys are computed from a block's input, or from what that is computed from token by token."""
    origin = before
    while (node := origin.producer()) is not None:
        computed = [value for value in node.inputs if value is not None and not _from_weights(value)]
        if len(computed) != 1 or not _alike(computed[0], before):
            break
        origin = computed[0]
    return any(value is origin for value in _ancestors(key))


def _alike(value: ir.Value | None, tokens: ir.Value) -> bool:
    """Whether a value is (B, N, any channels) as `tokens` is."""
    one, other = sizes(value) or (), sizes(tokens) or ()
    return len(one) == len(other) == 3 and one[:2] == other[:2]


def _ancestors(value: ir.Value | None) -> Iterator[ir.Value]:
    """A value and all that it is computed from without another attention's keys in between."""
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.add(each)
        yield each
        node = each.producer()
        if node is not None:
            waiting.extend(node.inputs[:1] if is_op(node, "Attention") else node.inputs)


def _sequence(stream: ir.Value, earlier: list[Site]) -> int:
    """The sequence of the nearest site in front, through tensors of the same tokens; a new one without."""
    streams = {site.stream: site.sequence for site in earlier}
    seen: set[ir.Value] = set()
    waiting = [stream]
    while waiting:
        value = waiting.pop(0)
        if value in streams:
            return streams[value]
        node = value.producer()
        for each in () if node is None else node.inputs:
            if each is not None and each not in seen and _alike(each, stream):
                seen.add(each)
                waiting.append(each)
    return len(set(streams.values()))


def _behind_parallel(total: ir.Value, shape: tuple[int | None, ...]) -> ir.Value:
    """The sum that has an MLP beside the attention, from the same norm, in it too (ViT-22B's block)."""
    value = total
    while (node := sole_consumer(value)) is not None:
        other = _other(node, value)
        if is_op(node, "Add") and other is not None and not _from_weights(other) and sizes(other) == shape:
            total = value = node.outputs[0]
        elif is_op(node, "Mul", "Identity", "Dropout", "Cast") and (
            other is None or constant(other) is not None
        ):
            value = node.outputs[0]
        else:
            break
    return total


def _joins_channels(node: ir.Node) -> bool:
    """Whether a node puts the attention beside other channels of its tokens: an MLP shares its projection."""
    return is_op(node, "Concat") and rank(node.outputs[0]) == 3 and attribute(node, "axis") in (2, -1)


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    if len(node.inputs) != 2:
        return None
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _from_weights(value: ir.Value | None, depth: int = 12) -> bool:
    """Whether a value is computed from constants alone."""
    if value is None or constant(value) is not None:
        return True
    node = value.producer()
    return node is not None and depth > 0 and all(_from_weights(each, depth - 1) for each in node.inputs)


def _learned(stream: ir.Value, length: int) -> int:
    """Leading learned tokens: where the sequence is put together, the constants in front."""
    seen: set[ir.Node] = set()
    waiting = [stream.producer()]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        shape = sizes(node.outputs[0])
        if is_op(node, "Concat") and shape is not None and len(shape) == 3 and shape[1] == length:
            learned = _leading(node.outputs[0])
            # A sequence that is only put together again from its parts says nothing; look further back.
            if learned:
                return learned
        own = node.inputs[:1] if is_op(node, "Attention") else node.inputs
        waiting.extend(value.producer() for value in own if value is not None)
    return 0


def _leading(value: ir.Value | None) -> int:
    """How many leading tokens of a value (B, N, C) are computed from weights alone."""
    shape = sizes(value)
    if value is None or shape is None or len(shape) != 3 or shape[1] is None:
        return 0
    if _from_weights(value):
        return shape[1]
    node = value.producer()
    if node is None:
        return 0
    if is_op(node, "Concat") and attribute(node, "axis") in (1, -2):
        return _leading_of_parts(node)
    if is_op(node, "Slice"):
        bounds = slice_bounds(node, 1)
        return 0 if bounds is None else max(0, min(_leading(node.inputs[0]), bounds[1]) - bounds[0])
    if is_op(node, "Split") and attribute(node, "axis", 0) in (1, -2):
        counts = [(sizes(output) or (None, None))[1] for output in node.outputs[: value.index() or 0]]
        before = sum(count or 0 for count in counts)
        return 0 if None in counts else max(0, min(_leading(node.inputs[0]) - before, shape[1]))
    if is_op(node, "Add", "Mul"):
        return max(0, *(_leading(each) for each in node.inputs if not _from_weights(each)))
    if node.op_type in NORMS or is_op(node, "Identity", "Cast", "Dropout"):
        return _leading(node.inputs[0])
    return 0


def _leading_of_parts(concat: ir.Node) -> int:
    total = 0
    for place, part in enumerate(concat.inputs):
        count = (sizes(part) or (None, None))[1]
        mine = _leading(part)
        total += mine
        if mine == count:
            continue
        if any(_from_weights(later) for later in concat.inputs[place + 1 :]):
            raise _Refused("learned tokens stand behind the others; only leading ones can be protected")
        return total
    return total
