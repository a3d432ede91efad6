"""Data-parallel training: each process takes its part of every batch, and the gradients are averaged.

A batch is drawn and augmented alike whatever the number of processes, and every sample of it is trained on by exactly
one of them. The result is therefore that of one process up to the order of floating-point sums, except that BatchNorm
sees the statistics of a part of the batch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.optim.optimizer import register_optimizer_step_pre_hook

from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of
from inoculate.training.methods.names import STATEFUL

T = TypeVar("T")
JOIN = timedelta(minutes=10)  # a launcher starts all processes together: one that has not come by then has ended
TIMEOUT = timedelta(days=1)  # the others wait for as long as the main process decodes images, or validates


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one network together, seen from process `rank` of `size`, which works on `device`."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def parts(self, batch_size: int, accumulate: int) -> list[slice]:
        """This process's samples of a batch, in `accumulate` parts that are passed one after the other.

        Raises `InputError` if the batch cannot be divided evenly.
        """
        total = self.size * accumulate
        if batch_size % total:
            raise InputError(
                f"a batch of {batch_size} cannot be divided evenly among {self.size} processes with {accumulate} parts "
                f"each: choose a batch size that is a multiple of {total}"
            )
        size = batch_size // total
        starts = range(self.rank * accumulate * size, (self.rank + 1) * accumulate * size, size)
        return [slice(start, start + size) for start in starts]

    def mean(self, numbers: dict[str, float]) -> dict[str, float]:
        """The mean of each number over the processes."""
        if self.size == 1:
            return numbers
        total = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        return dict(zip(numbers, self._sum(total).div(self.size).tolist(), strict=True))

    def broadcast(self, value: T) -> T:
        """The main process's value."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with _connection_errors(self.size):
            dist.broadcast_object_list(values)
        received: T = values[0]
        return received

    def check_same_round(self, number: int) -> None:
        """Raise `InputError` in every process unless all of them have finished the same number of rounds."""
        means = self.mean({"number": float(number), "square": float(number) ** 2})
        if means["square"] != means["number"] ** 2:  # equal only if all numbers are
            raise InputError(
                "the processes resume from different rounds: all of them need the same folder, on a shared disk"
            )

    def barrier(self) -> None:
        """Return when every process has called this."""
        self.mean({"barrier": 1.0})

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block first, then the others do."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A folder of the main process, known to all, that is removed when all have left the block."""
        with TemporaryDirectory(prefix="inoculate-") if self.is_main else contextlib.nullcontext("") as folder:
            yield Path(self.broadcast(folder))
            self.barrier()

    def all_reduce_buffers(self, model: nn.Module) -> None:
        """Give every process the mean of the floating-point buffers, such as BatchNorm's running statistics."""
        for buffer in model.buffers() if self.size > 1 else ():
            if buffer.is_floating_point():
                buffer.copy_(self._sum(buffer.detach().clone()) / self.size)

    @contextlib.contextmanager
    def averaged_gradients(self) -> Iterator[None]:
        """Inside, every optimiser steps along the mean of the processes' gradients."""
        if self.size == 1:
            yield
            return
        hook = register_optimizer_step_pre_hook(lambda optimizer, *_: self._all_reduce_gradients(optimizer))
        try:
            yield
        finally:
            hook.remove()

    def _all_reduce_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        flat = self._sum(torch.cat([gradient.flatten() for gradient in gradients])).div_(self.size)
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        with _connection_errors(self.size):
            dist.all_reduce(tensor)
        return tensor


SINGLE = ProcessGroup()


def undivided() -> InputError:
    """The error for a method that carries state from batch to batch, where a batch is to be divided."""
    return InputError(
        f"methods {', '.join(STATEFUL[:-1])} and {STATEFUL[-1]} carry state from batch to batch: train in one process "
        "and without accumulating"
    )


def launch_device(model: object, device: str | None) -> str:
    """Where a model is trained: the `device` that was asked for, else the module's own, else the CPU."""
    if device is None and isinstance(model, nn.Module):
        return str(device_of(model))
    return device or "cpu"


@contextlib.contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that a launcher (`torchrun`, `accelerate launch`) started; without one, a group of one.

    When the block ends normally, all processes wait for each other. In any case the connection is closed before this
    returns: a thread of the gloo backend may still hold the tensor of the last exchange, and if the interpreter ends
    before that thread has released it, the process is aborted. A group that the caller has initialised stays open.
    Raises `InputError` if the processes cannot be joined.
    """
    if dist.is_initialized():
        yield _joined(device)
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup(device=device)
        return
    # Imported while a group exists, this module would keep it alive for ever, as a default argument of its functions.
    import torch.distributed.nn.functional  # noqa: F401

    try:
        store, rank, size, number = _rendezvous()
        store = dist.PrefixStore(f"inoculate/{next(number)}", store)  # type: ignore[attr-defined]
        backend = "gloo" if device == "cpu" else "nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the {size} processes cannot be joined on device {device} ({one_line(error)}; has one of them ended?): "
            "start them with torchrun or accelerate launch, on cpu or cuda"
        ) from error
    try:
        group = _joined(device)
        yield group
        group.barrier()  # the first to leave may hold the store through which the others are still connected
    finally:
        dist.destroy_process_group()  # joins the backend's threads


@lru_cache
def _rendezvous() -> tuple[Any, int, int, Iterator[int]]:
    """The store through which this process meets the others, its rank, their number, and a count of its groups.

    The store serves as long as the process: a second group that read the addresses of the first would never connect.
    Raises `RuntimeError` where another process does not come.
    """
    store, rank, size = next(rendezvous("env://", timeout=JOIN))
    store.set(f"inoculate/here/{rank}", "")
    store.wait([f"inoculate/here/{each}" for each in range(size)], JOIN)
    store.set_timeout(TIMEOUT)
    return store, rank, size, itertools.count()


def _joined(device: str) -> ProcessGroup:
    """This process's place in the initialised group; the processes of one machine share its GPUs out."""
    rank = dist.get_rank()
    if device != "cpu":
        index = int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count()
        torch.cuda.set_device(index)
        device = f"cuda:{index}"
    return ProcessGroup(rank, dist.get_world_size(), device)


class Accumulating:
    """An optimiser for a batch that comes in parts: it steps once, along the mean of their gradients.

    It replaces `optimizer` in a method that makes one step per call.
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

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups


@contextlib.contextmanager
def _connection_errors(size: int) -> Iterator[None]:
    """Turn the error of a broken connection, which is how the end of another process shows, into an `InputError`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        traceback.clear_frames(error.__traceback__)  # they would keep the process group open
        raise InputError(
            f"the connection between the {size} processes is broken (has one of them ended?): run the same command "
            f"again to continue ({error})"
        ) from None
