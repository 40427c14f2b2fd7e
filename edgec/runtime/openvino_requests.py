"""Infer requests of one compiled model: each run under way has one to itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.runtime.engine import closed


class Requests:
    """A pool of infer requests, safe from any number of threads.

    OpenVINO refuses a request that is busy, and only after its inputs were written: two threads with one
    request may read each other's. So a run takes a request out of the pool, and makes one where none is
    idle; there are never more than runs were under way at once. The list's own `pop` and `append` are
    whole steps to every thread, so nothing is locked, and a signal's handler may run or close too.

    Args:
        core: what compiled the model, and holds the libraries of its ops.
        compiled: the compiled model.
        inputs: names of its inputs, in its order.
    """

    def __init__(self, core: Any, compiled: Any, inputs: Sequence[str]) -> None:
        dtypes = [port.get_element_type().to_dtype() for port in compiled.inputs]
        self._made_of: tuple[Any, Any, dict[str, np.dtype]] | None
        self._made_of = (core, compiled, dict(zip(inputs, dtypes, strict=True)))
        self._idle: list[Request] = [self._another()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> Iterable[np.ndarray]:
        """Run once; the outputs are fresh arrays, in the model's order.

        Raises:
            RequestError: the pool is closed.
        """
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._another()
        try:
            return request.run(feeds)
        finally:
            self._idle.append(request)
            if self._made_of is None:
                self._idle.clear()

    def close(self) -> None:
        """Free the idle requests; a run under way ends undisturbed, and frees its own."""
        self._made_of = None
        self._idle.clear()

    def _another(self) -> Request:
        made_of = self._made_of
        if made_of is None:
            raise closed()
        return Request(*made_of)


class Request:
    """One infer request, the memory that it reads its inputs from, and all that has to outlive it.

    Copying a feed to memory that stays is faster than giving the request another tensor for every run; and
    the compiled model, which its requests share, keeps the addresses that its last run read from.

    Args:
        core: what compiled the model.
        compiled: the compiled model.
        inputs: dtypes of its inputs by name, in its order.
    """

    # Freed in this order: OpenVINO's objects do not all keep alive what they came from.
    __slots__ = ("_infer", "_request", "_arrays", "_is_fixed", "_inputs", "_compiled", "_core")  # noqa: RUF023

    def __init__(self, core: Any, compiled: Any, inputs: dict[str, np.dtype]) -> None:
        self._core, self._compiled, self._inputs = core, compiled, inputs
        self._request, self._infer = compiled.create_infer_request(), plain_infer()
        self._arrays: dict[str, np.ndarray] = {}
        shapes = [port.get_partial_shape() for port in compiled.inputs]
        self._is_fixed = all(shape.is_static for shape in shapes)
        if self._is_fixed:
            for shape, (name, dtype) in zip(shapes, inputs.items(), strict=True):
                self._arrays[name] = np.zeros(tuple(shape.to_shape()), dtype)
            for index, tensor in shared_tensors(self._arrays, inputs).items():
                self._request.set_input_tensor(index, tensor)

    def run(self, feeds: Mapping[str, np.ndarray]) -> Iterable[np.ndarray]:
        """Run once; the outputs are fresh arrays."""
        if not self._is_fixed:
            return self._run_at_any_size(feeds)
        for name, own in self._arrays.items():
            np.copyto(own, feeds[name])
        # Not shared: the request writes its next results over its own tensors.
        return self._infer(self._request, {}, share_outputs=False, decode_strings=True).values()

    def _run_at_any_size(self, feeds: Mapping[str, np.ndarray]) -> Iterable[np.ndarray]:
        arrays, others = self._arrays, {}
        for name, dtype in self._inputs.items():
            array, own = feeds[name], arrays.get(name)
            if own is None or own.shape != array.shape:
                own = others[name] = np.empty(array.shape, dtype)
            np.copyto(own, array)
        if others:
            # Should setting them fail half way, the next run sets all of them.
            self._arrays = {}
        tensors = shared_tensors(others, self._inputs) if others else {}
        results = self._infer(self._request, tensors, share_outputs=False, decode_strings=True)
        # Only now may memory of the last shapes go.
        self._arrays = {**arrays, **others} if others else arrays
        return results.values()


def shared_tensors(arrays: Mapping[str, np.ndarray], inputs: Iterable[str]) -> dict[int, Any]:
    """Tensors by place among the inputs, over the arrays' own memory.

    Args:
        arrays: writeable and contiguous: the binding shares no others.
        inputs: the names of all inputs, in the model's order.
    """
    from openvino import Tensor

    places = {name: index for index, name in enumerate(inputs)}
    return {places[name]: Tensor(array, shared_memory=True) for name, array in arrays.items()}


def plain_infer() -> Any:
    """`InferRequest.infer` of the binding itself: the class over it looks at every feed's type first."""
    from openvino._pyopenvino import InferRequest

    return InferRequest.infer
