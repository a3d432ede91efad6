"""Training in several processes: each takes its share of every batch, and the gradients are averaged.

A batch is the same whatever the number of processes, drawn and augmented alike, and every sample of it is trained on by
exactly one of them. So two processes end where one does, up to the order of floating-point sums, except that BatchNorm
sees the statistics of a share, not of the whole batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from inoculate.core.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes that train one network together, seen from process `rank` of `size`, which works on `device`."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates, writes and speaks."""
        return self.rank == 0

    def shares(self, batch: int, accumulate: int) -> list[slice]:
        """Which samples of a batch are this process's, in `accumulate` parts that are passed one after the other."""
        many = self.size * accumulate
        if batch % many:
            raise InputError(
                f"a batch of {batch} cannot be shared evenly by {self.size} processes in {accumulate} parts each: "
                f"choose a batch size that {many} divides"
            )
        size = batch // many
        starts = range(self.rank * accumulate * size, (self.rank + 1) * accumulate * size, size)
        return [slice(start, start + size) for start in starts]

    def mean(self, numbers: dict[str, float]) -> dict[str, float]:
        """The mean of each number over the processes."""
        if self.size == 1:
            return numbers
        total = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        return dict(zip(numbers, self._summed(total).div(self.size).tolist(), strict=True))

    def told(self, value: T) -> T:
        """The leading process's value."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        values: list[Any] = [value]
        with _gone(self.size):
            broadcast_object_list(values)
        told: T = values[0]
        return told

    def agree(self, number: int) -> None:
        """Raise `InputError` in every process unless all come with the same number of finished rounds."""
        means = self.mean({"number": float(number), "square": float(number) ** 2})
        if means["square"] != means["number"] ** 2:  # equal only if all numbers are
            raise InputError(
                "the processes resume from different rounds: all of them need the same folder, on a shared disk"
            )

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.mean({"here": 1.0})

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leading process does what is inside, then the others do."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def even_out(self, model: nn.Module) -> None:
        """Give every process the mean of the statistics that layers such as BatchNorm have gathered on their shares."""
        for buffer in model.buffers() if self.size > 1 else ():
            if buffer.is_floating_point():
                buffer.copy_(self._summed(buffer.detach().clone()) / self.size)

    @contextlib.contextmanager
    def averaging(self) -> Iterator[None]:
        """Inside, every optimiser steps along the mean of the processes' gradients."""
        if self.size == 1:
            yield
            return
        hook = register_optimizer_step_pre_hook(lambda optimizer, *_: self._average(optimizer))
        try:
            yield
        finally:
            hook.remove()

    def _average(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        flat = self._summed(torch.cat([gradient.flatten() for gradient in gradients])).div_(self.size)
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _summed(self, tensor: Tensor) -> Tensor:
        from accelerate.utils import reduce

        with _gone(self.size):
            summed: Tensor = reduce(tensor, reduction="sum")
        return summed


ALONE = Team()


def join(device: str) -> Team:
    """The team that a launcher (`accelerate launch`, `torchrun`) made this process part of; alone without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team(device=device)
    from accelerate import PartialState

    try:  # the others wait for as long as the leading process decodes the images, or validates
        state = PartialState(cpu=device == "cpu", timeout=timedelta(days=1))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the {size} processes cannot be joined: start them with torchrun ({error})") from error
    if state.num_processes != size:
        raise InputError(
            f"this is one of {size} processes, but they are not joined (device {device}): start them with torchrun or "
            "accelerate launch, on cpu or cuda"
        )
    return Team(state.process_index, state.num_processes, device if device == "cpu" else str(state.device))


class Accumulating:
    """An optimiser for a batch that comes in parts: it steps once, along the mean of their gradients.

    It stands in for `optimizer` in a method that makes one step for what it is given.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parts: int) -> None:
        self.optimizer, self.parts, self.passed = optimizer, parts, 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self.passed == 0:
            self.optimizer.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        self.passed = (self.passed + 1) % self.parts
        if self.passed:
            return
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.div_(self.parts)
        self.optimizer.step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)


@contextlib.contextmanager
def _gone(size: int) -> Iterator[None]:
    """Another process that has ended shows as a broken connection: say so in one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise InputError(
            f"the {size} processes lost each other (has one ended?), so training stops: run the same command again to "
            f"go on ({error})"
        ) from None
