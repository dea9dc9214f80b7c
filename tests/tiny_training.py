"""A module that is trained in a blink, and a program that trains it: to be killed, resumed, and
started by torchrun.

    python tiny_training.py FOLDER OUT [--workers N] [--pause SECONDS]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protoscene.training import Fitted, Training, fit

SETTINGS = Training(steps=40, seed=3, every=10, warm_up=0.1, learning_rate=6e-2, ema=0.9)
SAMPLES = 8
WEIGHTS = torch.linspace(-1, 1, 6)


def a_module() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))


def batches(step: int, rank: int, ranks: int) -> dict[str, Tensor]:
    rows = []
    for sample in range(rank, SAMPLES, ranks):
        rows.append(np.random.default_rng([3, step, sample]).normal(size=6))
    x = torch.tensor(np.array(rows), dtype=torch.float32)
    return {"x": x, "y": torch.sin(x @ WEIGHTS)}


def loss(module: nn.Module, batch: Any) -> dict[str, Tensor]:
    error = module(batch["x"])[:, 0] - batch["y"]
    return {"square": (error**2).mean(), "absolute": 0.1 * error.abs().mean()}


def held_out(module: nn.Module) -> float:
    with torch.no_grad():
        return float(loss(module, batches(10_000, 0, 1))["square"])


def trained(folder: Path, **options: Any) -> tuple[nn.Module, Fitted]:
    module = options.pop("module", None) or a_module()
    given: dict[str, Any] = {"settings": SETTINGS, "inputs": {"data": "a"}, "held_out": held_out}
    given |= {"batches": batches, "loss": loss} | options
    return module, fit(module, folder=folder, **given)


def slowly(pause: float) -> Callable[[str, int, int], None]:
    def show(stage: str, done: int, total: int) -> None:
        print(stage, done, total, flush=True)
        time.sleep(pause)

    return show


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--plain", action="store_true", help="no dropout")
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun = a_module()
    if given.plain:
        begun[2] = nn.Identity()  # type: ignore[operator]
    done, fitted = trained(
        given.folder, module=begun, workers=given.workers, progress=slowly(given.pause)
    )
    if given.out.name != "nothing" and os.environ.get("RANK", "0") == "0":
        weights = torch.cat([p.detach().flatten() for p in done.parameters()])
        np.savez(given.out, weights=weights.numpy(), history=np.array(fitted.history, dtype=float))
