"""Training: one resumable loop for any module, the same in one process or in several.

Everything that a step draws at random is a function of (seed, step, rank), so that the state of a
run is its tensors and the number of steps taken. Killed and resumed, a run gives the same bytes as
an undisturbed one, on a CPU with the same number of threads.
"""

from __future__ import annotations

import copy
import ctypes
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from protoscene.checkpoints import (
    FORMAT,
    VERSION,
    Checkpoint,
    Identity,
    load_checkpoint,
    save_checkpoint,
    versions,
)
from protoscene.errors import Failed, Refused
from protoscene.files import make_folder
from protoscene.ranks import Ranks, ranks

Batch = Mapping[str, Tensor]
Batches = Callable[[int, int, int], Batch]
"""(step, rank, ranks) → this process's share of the samples of that step: a pure function."""
Loss = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
"""Terms by name, each a mean over the batch's samples; what is minimised is their sum."""
HeldOut = Callable[[nn.Module], float]
"""How badly a module does on what it was not trained on."""
Progress = Callable[[str, int, int], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""By which a run is ended early, with its state saved."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent dies."""


@dataclass(frozen=True)
class Training:
    """How to train: AdamW, its rate rising over the first ``warm_up`` of all steps (a share)
    and falling to 0 as a cosine."""

    steps: int
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.05
    clip: float = 5.0
    """The gradient's norm is cut to this."""
    ema: float = 0.99
    """Decay of the averaged weights, which are the result; less in the first steps."""
    every: int = 100
    """Steps between checkpoints, and between checks on what is held out."""
    patience: int = 5
    """So many checks without improvement end the run early."""

    def rate(self, step: int) -> float:
        rising = min(1.0, (step + 1) / max(self.warm_up * self.steps, 1.0))
        return self.learning_rate * rising * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class Fitted:
    """``steps`` were taken; the weights are those after ``best_step``, whose averages have the
    ``held_out`` loss (None where nothing is held out). ``history``: step, mean loss since the row
    before, held-out loss."""

    steps: int
    best_step: int
    held_out: float | None
    history: tuple[tuple[int, float, float | None], ...]


def fit(
    module: nn.Module,
    batches: Batches,
    loss: Loss,
    folder: Path,
    settings: Training,
    inputs: Identity,
    held_out: HeldOut | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Fitted:
    """Trains ``module`` in place; at the end it has the averaged weights that were best on what is
    ``held_out``, or the last averaged ones.

    ``folder`` (made if missing) keeps the last two checkpoints; where it has one, the run goes on
    from there. ``inputs`` names whatever the outcome depends on besides ``settings``: hashes of the
    data, sizes of the network. ``workers`` processes prepare batches. Under torchrun the samples of
    a batch are shared out, and the result is that of one process but for rounding.

    ``SIGNALS`` are handed on after the step under way, with a checkpoint saved. Raises Refused
    where the run in ``folder`` was begun with another setting, input or version, naming the
    difference; Failed, before the step, where the loss or its gradient is not finite.
    """
    with ranks() as group, _signals_held() as held, _own_random_numbers(group):
        run = _Run(module.to(group.device), settings, group, held_out)
        make_folder(folder)
        identity = _identity(settings, inputs, group)
        run.restore(folder, identity)
        for batch in _prepared(batches, run.step, settings.steps, group, workers):
            if run.is_over:
                break
            run.take_step(batch, loss)
            stop = group.largest(held.number)  # all processes at the same step
            if run.step % settings.every == 0 or run.step == settings.steps:
                run.check()
                run.save(folder, identity)
            elif stop:
                run.save(folder, identity)
            if progress and group.is_first:
                progress("learn", run.step, settings.steps)
            if stop:
                held.number = stop
                break
        run.finish()
    return Fitted(run.step, run.best_step, run.best_loss, tuple(run.history))


class _Run:
    """A module on its way through training."""

    def __init__(
        self, module: nn.Module, settings: Training, group: Ranks, held_out: HeldOut | None
    ) -> None:
        self.module, self.settings, self.group, self.held_out = module, settings, group, held_out
        self.shared = group.together(module)
        self.averaged = copy.deepcopy(module).requires_grad_(False)
        self.best = {name: t.clone() for name, t in self.averaged.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            module.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.step, self.best_step = 0, 0
        self.best_loss: float | None = None
        self.losses = torch.zeros((), dtype=torch.float64, device=group.device)  # since last row
        self.history: list[tuple[int, float, float | None]] = []

    @property
    def is_over(self) -> bool:
        waited = (self.step - self.best_step) // self.settings.every
        return self.best_loss is not None and waited >= self.settings.patience

    def take_step(self, batch: Batch, loss: Loss) -> None:
        settings, rank = self.settings, self.group.rank
        torch.manual_seed(_seed(settings.seed, self.step, rank))
        self.shared.train()
        for part in self.optimiser.param_groups:
            part["lr"] = settings.rate(self.step)
        self.optimiser.zero_grad()
        terms = loss(self.shared, {name: t.to(self.group.device) for name, t in batch.items()})
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), settings.clip)
        measured = torch.stack([*(t.detach() for t in terms.values()), norm.detach()]).double()
        measured = self.group.mean(measured)  # finite in all processes, or in none
        self._require_finite([*terms, "gradient"], measured)
        self.optimiser.step()
        self.losses += measured[:-1].sum()
        self.step += 1
        self._average()

    def _require_finite(self, names: list[str], measured: Tensor) -> None:
        for name, value in zip(names, measured.tolist(), strict=True):
            if not math.isfinite(value):
                kept = "the last good state is kept; a smaller learning rate may help"
                raise Failed(f"training diverged at step {self.step}: {name} is {value}; {kept}")

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        new = self.module.state_dict()
        for name, mean in self.averaged.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(new[name], 1 - decay)
            else:
                mean.copy_(new[name])

    def check(self) -> None:
        """Keeps the averaged weights if they are the best so far."""
        loss = None
        if self.held_out is not None:
            loss = self.held_out(self.averaged.eval()) if self.group.is_first else 0.0
            loss = self.group.of_first(loss)
            if not math.isfinite(loss):
                raise Failed(f"step {self.step}: the held-out loss is {loss}")
        since = self.step - (self.history[-1][0] if self.history else 0)
        self.history.append((self.step, float(self.losses) / since, loss))
        self.losses.zero_()
        if loss is None or self.best_loss is None or loss < self.best_loss:
            self.best = {name: t.clone() for name, t in self.averaged.state_dict().items()}
            self.best_step, self.best_loss = self.step, loss

    def finish(self) -> None:
        self.module.load_state_dict(self.best)
        self.module.eval()

    def save(self, folder: Path, identity: Identity) -> None:
        if self.group.is_first:
            checkpoint = Checkpoint(
                format=FORMAT, version=VERSION, files={}, step=self.step, identity=dict(identity),
                best_step=self.best_step, best_loss=self.best_loss, history=self.history,
            )  # fmt: skip
            save_checkpoint(folder, checkpoint, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        """Everything but what the checkpoint's JSON holds, by name."""
        parts = {"module": self.module.state_dict(), "averaged": self.averaged.state_dict(),
                 "best": self.best}  # fmt: skip
        tensors = {f"{part}.{name}": t for part, own in parts.items() for name, t in own.items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adamw.{i}.{name}": t for name, t in moments.items()}
        tensors["losses"] = self.losses
        return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    def restore(self, folder: Path, identity: Identity) -> None:
        """Goes on from the last checkpoint, if there is one. Raises Refused where it is of another
        run or module."""
        found = load_checkpoint(folder, identity) if self.group.is_first else None
        self.group.of_first(0.0)  # the first one tidies up before the others look
        found = found if self.group.is_first else load_checkpoint(folder, identity)
        if found is None:
            return
        checkpoint, tensors = found
        parts: dict[str, dict[str, Tensor]] = {"module": {}, "averaged": {}, "best": {}}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part == "adamw":
                number, _, moment = rest.partition(".")
                moments.setdefault(int(number), {})[moment] = tensor
            elif part in parts:
                parts[part][rest] = tensor
        try:
            self.module.load_state_dict(parts["module"])
            self.averaged.load_state_dict(parts["averaged"])
        except RuntimeError:
            raise Refused(folder, "module", "is another than that of the interrupted run") from None
        self.best = {name: t.to(self.group.device) for name, t in parts["best"].items()}
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.losses.copy_(tensors["losses"])
        self.step, self.best_step = checkpoint.step, checkpoint.best_step
        self.best_loss, self.history = checkpoint.best_loss, checkpoint.history


def _identity(settings: Training, inputs: Identity, group: Ranks) -> Identity:
    """Everything that the outcome depends on, by name."""
    where = {"processes": group.size, "device": group.device.type}
    return {**asdict(settings), **inputs, **versions(), **where}


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class _Share(Dataset):
    """One process's batches, by step."""

    def __init__(self, batches: Batches, group: Ranks) -> None:
        self.batches, self.group = batches, group

    def __getitem__(self, step: int) -> Batch:
        return self.batches(step, self.group.rank, self.group.size)


def _prepared(
    batches: Batches, start: int, end: int, group: Ranks, workers: int
) -> Iterator[Batch]:
    """The batches of steps ``start`` to ``end``, prepared ahead by ``workers`` processes."""
    loader = DataLoader(
        _Share(batches, group), batch_size=None, sampler=range(start, end), num_workers=workers,
        collate_fn=_unchanged, worker_init_fn=_end_with_parent, generator=torch.Generator(),
    )  # fmt: skip
    try:
        yield from loader
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker"):  # it died, for want of memory for instance
            raise Failed(f"{error}; the last state is kept") from error
        raise


def _unchanged(batch: Any) -> Any:
    return batch


def _end_with_parent(_worker: int) -> None:
    """A worker ends when its parent does, and at once, as it shares its parent's locks; not by the
    signals that reach every process of a terminal or a service."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Held:
    """The number of the signal that came, or 0."""

    number = 0


@contextmanager
def _own_random_numbers(group: Ranks) -> Iterator[None]:
    """Leaves torch's own generators as they were."""
    devices = [] if group.device.type == "cpu" else [group.device]
    with torch.random.fork_rng(devices):
        yield


@contextmanager
def _signals_held() -> Iterator[_Held]:
    """Inside, the first signal is only noted, and handed on at the end; a second one does at once
    what it always does. One that is ignored stays so."""
    held = _Held()
    if threading.current_thread() is not threading.main_thread():  # signals are not ours
        yield held
        return
    before = {n: handler for n in SIGNALS if (handler := signal.getsignal(n)) != signal.SIG_IGN}

    def note(number: int, _frame: FrameType | None) -> None:
        held.number = number
        _restore()

    def _restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield held
    finally:
        _restore()
    if held.number:
        signal.raise_signal(held.number)
