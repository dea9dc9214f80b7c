"""A detector of single instants, trained with labels that were discovered."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from protoscene.checkpoints import KEPT
from protoscene.files import make_folder, write_file
from protoscene.memory import give_back
from protoscene.network_input import CHANNELS
from protoscene.networks import Detector, Prediction, detection_loss
from protoscene.observe import Progress
from protoscene.ranks import Ranks, mean_over_ranks
from protoscene.recording import Recording
from protoscene.samples import MOST_PICTURE_BYTES, Sample, Samples, batch
from protoscene.training import Batches, Fitted, HeldOut, Training, fit

STEPS = 2400
"""Headings are learnt last, after a thousand."""
BATCH = 4
HELD_OUT = 5
"""Of so many recordings one is not learnt from, but decides when to stop."""
HELD_OUT_INSTANTS = 32
CHECKS = 15
"""At least so many checkpoints are made, each with a look at what is held out."""
ACTIVATION_BYTES = 2**23
"""Of a sample's features at 32 × 32 cells, and their gradients; more for no input."""
WORKER_BYTES, PROGRAM_BYTES = 100 * 2**20, 100 * 2**20
"""Of a worker by itself, and of code that is used first when training."""
TRIMMED = 8
"""Steps after which freed memory is handed back: else a worker grows to twice its size."""
TIMED = 6
"""Steps that are timed, after two others, to see how many fit into the minutes given."""
SPARE = 0.9
"""Of the minutes given are filled with steps; the rest is for checkpoints."""


def a_detector(n_kinds: int, shape: tuple[int, int, int], seed: int) -> Detector:
    """Untrained, with random weights."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Detector(n_kinds, shape)


def memory_plan(
    recordings: Sequence[Recording], shape: tuple[int, int, int], workers: int
) -> dict[str, int]:
    """Bytes that :func:`distil` takes, in all processes, besides what this one has already, by what
    takes them. ``shape`` (nz, ny, nx) is that of the evidence, ``workers`` prepare it: each keeps
    pictures of its own, and has two batches ready."""
    weights = _weight_bytes(shape)
    decoded = sum(7 * f.camera.width * f.camera.height for r in recordings for f in r.frames)
    volumes = 4 * CHANNELS * BATCH * math.prod(shape)
    return {
        "pictures": max(workers, 1) * min(decoded, MOST_PICTURE_BYTES),
        # As drawn, moved, padded and rounded; with its gradient's patches.
        "batches": 3 * volumes + 2 * workers * volumes,
        # Weights, averages, the best, gradient, Adam's two, and a checkpoint as bytes, twice.
        "network": 16 * weights + BATCH * ACTIVATION_BYTES,
        "workers": workers * WORKER_BYTES,
        "program": PROGRAM_BYTES,
    }


def checkpoint_bytes(shape: tuple[int, int, int]) -> int:
    """Bytes of the checkpoints that are kept, of the one being written, and of the model's weights:
    each checkpoint has the weights, averaged, the best, and Adam's two."""
    return (5 * (KEPT + 1) + 1) * _weight_bytes(shape)


def _weight_bytes(shape: tuple[int, int, int]) -> int:
    with torch.device("meta"):
        detector = Detector(1, shape)
    return sum(4 * t.numel() for t in detector.parameters())


def distil(
    detector: Detector,
    samples: Samples,
    folder: Path,
    steps: int = STEPS,
    seed: int = 0,
    workers: int = 0,
    progress: Progress | None = None,
) -> Fitted:
    """Trains ``detector`` in place; see :func:`protoscene.training.fit` for ``folder``, ``workers``
    and what is raised. Of five recordings or more every fifth, the last ones, is held out."""
    learnt, kept_back = _split(samples)
    inputs: dict[str, str | int | float | None] = {
        "recordings_sha256": hash_of(samples.recordings), "labels_sha256": _labels_hash(samples),
        "batch": BATCH, "kinds": detector.parts[-1],
    }  # fmt: skip
    settings = Training(steps, seed, every=max(1, min(100, steps // CHECKS)))
    return fit(
        detector, _batches(learnt, seed), shared_loss, folder, settings, inputs,
        _held_out_loss(kept_back) if kept_back else None, workers, progress,
    )  # fmt: skip


def _batches(samples: Samples, seed: int) -> Batches:
    def batches(step: int, rank: int, ranks: int) -> Mapping[str, Tensor]:
        drawn = [samples.draw(seed, step, k) for k in range(rank, BATCH, ranks)]
        if step % TRIMMED == 0:
            give_back()
        return batch(drawn)._asdict()

    return batches


def _split(samples: Samples) -> tuple[Samples, Samples | None]:
    """What is learnt from, and the recordings that are held out, if there are enough."""
    n = len(samples.recordings) - len(samples.recordings) // HELD_OUT

    def part(rows: slice) -> Samples:
        parts = samples.recordings[rows], samples.labels[rows], samples.grids[rows]
        return Samples(*parts, samples.stride, wholes=samples.wholes[rows])

    if n == len(samples.recordings):
        return samples, None
    return part(slice(n)), part(slice(n, None))


def shared_loss(detector: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`detection_loss`, whose means are over the centres of all processes' samples."""
    sample = Sample(**given)
    centres = (sample.known * (sample.heat >= 1)).sum().clamp(min=1)
    weight = sample.weight.sum().clamp(min=1e-6)
    own = torch.stack([centres, weight])
    of_centres, of_weight = own / mean_over_ranks(own)
    with torch.autocast(sample.volume.device.type, torch.bfloat16):  # half the time, as good
        prediction = detector(sample.volume)
    terms = detection_loss(Prediction(*(part.float() for part in prediction)), sample)
    return {name: t * (of_centres if name == "heat" else of_weight) for name, t in terms.items()}


def _held_out_loss(samples: Samples) -> HeldOut:
    """module → mean loss over instants that are spread over ``samples``."""
    numbers = np.unique(np.linspace(0, len(samples) - 1, HELD_OUT_INSTANTS).round().astype(int))

    @torch.no_grad()
    def loss(detector: nn.Module) -> float:
        device = next(detector.parameters()).device
        total = 0.0
        for number in numbers:
            sample = batch([samples.exactly(int(number))])
            sample = Sample(*(part.to(device) for part in sample))
            terms = detection_loss(detector(sample.volume), sample)
            total += float(torch.stack(list(terms.values())).sum())
        return total / len(numbers)

    return loss


class _Plan(msgspec.Struct):
    minutes: float
    steps: int


def steps_within(
    minutes: float, detector: Detector, samples: Samples, folder: Path, group: Ranks
) -> int:
    """How many steps fit into ``minutes``, judged by a few of them. Kept in ``folder``, so that an
    interrupted run goes on with the same number."""
    file = folder / "plan.json"
    if file.exists():
        plan = msgspec.json.decode(file.read_bytes(), type=_Plan)
        if plan.minutes == minutes:
            return plan.steps
    seconds = _seconds_a_step(deepcopy(detector).to(group.device), samples, group)
    steps = int(group.of_first(max(1.0, SPARE * 60 * minutes / seconds)))
    if group.is_first:
        make_folder(folder)
        write_file(file, msgspec.json.encode(_Plan(minutes, steps)))
    return steps


def _seconds_a_step(detector: Detector, samples: Samples, group: Ranks) -> float:
    batches, optimiser = _batches(samples, 0), torch.optim.AdamW(detector.parameters(), 0.0)
    start = 0.0
    for step in range(-2, TIMED):
        if step == 0:
            start = time.perf_counter()
        given = batches(step + 2, group.rank, group.size)
        terms = shared_loss(detector, {name: t.to(group.device) for name, t in given.items()})
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    return (time.perf_counter() - start) / TIMED


def hash_of(recordings: Sequence[Recording]) -> str:
    return hashlib.sha256("".join(r.sha256 for r in recordings).encode()).hexdigest()


def _labels_hash(samples: Samples) -> str:
    """Of the boxes, kinds and weights, and of the grids."""
    found = hashlib.sha256(repr((samples.grids, samples.wholes)).encode())
    for of_recording in samples.labels:
        for labels in of_recording:
            found.update(labels.boxes.tobytes() + labels.kind.tobytes() + labels.weight.tobytes())
    return found.hexdigest()
