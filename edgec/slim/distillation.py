"""A loss that teaches a slimmed module what the whole one computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgec.core.errors import RequestError
from edgec.frontends.calling import named_tensors

if TYPE_CHECKING:
    import torch


class DistillationLoss:
    """What a student's outputs and features are away from its teacher's.

    The loss is the mean over the outputs' rows of KL(teacher | student) of the softmax of their logits, times
    the temperature squared (Hinton et al., 1503.02531), and of each pair of features the mean squared
    difference over the teacher's variance (FitNets, 1412.6550).

    Args:
        teacher: the whole module; runs in evaluation mode and without gradients.
        student: the module to train; the same inputs.
        features: layers of the teacher by layers of the student, as `named_modules` calls them.
        temperature: of the softmax.
        feature_weight: what the features count beside the outputs.

    Raises:
        RequestError: a layer of `features` is none.
    """

    def __init__(
        self,
        teacher: torch.nn.Module,
        student: torch.nn.Module,
        *,
        features: Mapping[str, str] | None = None,
        temperature: float = 1.0,
        feature_weight: float = 1.0,
    ) -> None:
        self.teacher = teacher.eval()
        self.student = student
        self.temperature = temperature
        self.feature_weight = feature_weight
        self._features = dict(features or {})
        self._seen: dict[tuple[str, str], torch.Tensor] = {}
        watched = [("student", student, name) for name in self._features]
        watched += [("teacher", teacher, name) for name in dict.fromkeys(self._features.values())]
        layers = [(side, name, _layer(module, name, side)) for side, module, name in watched]
        self._hooks = [layer.register_forward_hook(self._keeper(side, name)) for side, name, layer in layers]

    def __call__(self, *inputs: Any, **named: Any) -> torch.Tensor:
        """Run both on a batch; the loss, a scalar with the student's gradients.

        Raises:
            RequestError: two features have different shapes.
        """
        import torch
        from torch.nn import functional

        with torch.no_grad():
            taught = _logits(self.teacher(*inputs, **named))
        found = _logits(self.student(*inputs, **named))
        loss = functional.kl_div(
            functional.log_softmax(found / self.temperature, -1).flatten(0, -2),
            functional.log_softmax(taught / self.temperature, -1).flatten(0, -2),
            reduction="batchmean",
            log_target=True,
        )
        loss = loss * self.temperature**2
        for own, other in self._features.items():
            student, teacher = self._seen["student", own], self._seen["teacher", other]
            if student.shape != teacher.shape:
                raise RequestError(
                    f"the student's {own} is {tuple(student.shape)} and the teacher's {other} "
                    f"{tuple(teacher.shape)}",
                    fix="name layers whose outputs have one shape, such as whole blocks",
                )
            scale = teacher.var().clamp_min(torch.finfo(teacher.dtype).tiny)
            loss = loss + self.feature_weight * functional.mse_loss(student, teacher) / scale
        self._seen.clear()
        return loss

    def close(self) -> None:
        """Take the hooks off both modules."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> DistillationLoss:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keeper(self, side: str, name: str) -> Callable[..., None]:
        def keep(_layer: object, _inputs: object, output: object) -> None:
            self._seen[side, name] = _first(output)

        return keep


def distil(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    batches: Iterable[Any],
    *,
    steps: int,
    learning_rate: float,
    features: Mapping[str, str] | None = None,
) -> list[float]:
    """Train a student on its teacher's outputs with AdamW: no labels, no schedule.

    Args:
        student: trained in place; left in evaluation mode.
        teacher: the whole module.
        batches: tensors, tuples of them in the order of `forward`, or dicts by name. Gone through again
            where there are fewer than `steps`.
        steps: of the optimizer.
        learning_rate: of AdamW.
        features: as in `DistillationLoss`.

    Returns:
        the loss of every step.

    Raises:
        RequestError: there is no batch, or a layer of `features` is none.
    """
    import torch

    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate)
    losses: list[float] = []
    student.train()
    try:
        with DistillationLoss(teacher, student, features=features) as loss_of:
            for batch in itertools.islice(itertools.cycle(batches), steps):
                if isinstance(batch, Mapping):
                    loss = loss_of(**batch)
                else:
                    loss = loss_of(*(batch if isinstance(batch, (tuple, list)) else (batch,)))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.item())
    finally:
        student.eval()
    if not losses and steps > 0:
        raise RequestError("there is no batch to train on", fix="give at least one")
    return losses


def _layer(module: torch.nn.Module, name: str, side: str) -> torch.nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        raise RequestError(
            f"the {side} has no layer {name!r}", fix="name layers as named_modules does"
        ) from error


def _first(output: object) -> torch.Tensor:
    """The first tensor of what a module returned."""
    found = next((tensor for _, tensor in named_tensors(output, "")), None)
    if found is None:
        raise RequestError("a layer returns no tensor", fix="name another layer")
    return found


def _logits(output: object) -> torch.Tensor:
    found = _first(output)
    return found.unsqueeze(0) if found.dim() < 2 else found
