"""Processes that train together, started by ``torchrun``: which one this is, what they agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

LONGEST_WAIT = timedelta(days=1)
"""For the slowest process; torchrun itself ends the others where one has died."""


@dataclass(frozen=True)
class Ranks:
    """Process ``rank`` of ``size`` that train together on a ``device`` each."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Over all processes, elementwise. Call it in each."""
        return mean_over_ranks(values)

    def largest(self, number: int) -> int:
        """Of all processes' numbers. Call it in each."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def of_first(self, value: float) -> float:
        """The first process's value, in each. Call it in each."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def together(self, module: nn.Module) -> nn.Module:
        """``module``, called so that its gradients are the mean over all processes."""
        return module if self.size == 1 else DistributedDataParallel(module)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Over the processes that train together, elementwise; ``values`` where there is one only.
    Call it in each."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun started (NCCL on GPUs, else Gloo), or this one alone."""
    on_gpu = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if "RANK" not in os.environ:
        yield Ranks(0, 1, device)
    elif dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    else:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        finally:
            dist.destroy_process_group()
