"""The detector of single instants: trained with true labels, and with discovered ones.

    python studies/detector.py --out build/detector --results docs/results.md

Recordings and scenes that are missing are made (needs the extra ``sim``), results that exist are
kept, an interrupted training goes on; delete ``--out`` to measure anew. Set OMP_NUM_THREADS for
the number of threads.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from fleet import (
    APART_S,
    GRID,
    KINDS,
    TEST,
    TEST_ONE,
    TRAIN,
    later,
    one_after_another,
    recordings,
    scenes,
)
from results_page import write_between_markers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from protoscene.dictionary import merge
from protoscene.geometry import Grid
from protoscene.labels import Labels, labels_at
from protoscene.matching import average_precision, instants, match
from protoscene.network_input import network_input
from protoscene.networks import Detections, Detector, Prediction, detect, detection_loss, stride_of
from protoscene.observe import ViewStack
from protoscene.recording import Recording
from protoscene.samples import Sample, Samples, batch
from protoscene.scene import SceneObject, Track
from protoscene.score import score_objects
from protoscene.training import Training, fit
from protoscene.truth import Truth

BATCH = 4
COLUMNS = {
    "ap50": ("AP@.5", 3), "ap70": ("AP@.7", 3), "moving_recall": ("moving recall@.5", 3),
    "parked_recall": ("parked recall@.5", 3), "precision": ("precision@.5", 3),
    "flips": ("flips", 3), "yaw_deg": ("yaw, °", 2), "centre_voxels": ("centre, voxels", 2),
    "kind": ("prototype right", 3),
}  # fmt: skip
LESS_IS_BETTER = ("flips", "yaw_deg", "centre_voxels")


@dataclass
class Options:
    """Trains and measures the detector of single instants."""

    out: Path = Path("build/detector")
    """Folder of scenes, weights and results."""
    data: Path = Path("build/suite")
    """Folder of the recordings."""
    labels: tuple[str, ...] = ("true", "discovered")
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the training."""
    steps: int = 2400
    train: tuple[tuple[str, int], ...] = field(default=TRAIN)
    """Rig and seed of each recording to learn from."""
    test: tuple[tuple[str, int], ...] = field(default=TEST)
    test_one: tuple[tuple[str, int], ...] = field(default=TEST_ONE)
    """The same of those to be tested on, with several cameras and with one."""
    results: Path | None = None
    """A markdown file whose part between the study's markers is replaced by the table."""


def true_labels(options: Options) -> tuple[Samples, int]:
    seen, truths = recordings(options.data, options.train)
    labels = []
    for recording, truth in zip(seen, truths, strict=True):
        which = [KINDS.index(p.kind) for p in truth.prototypes]
        labels.append([labels_at(truth.objects, t, which) for t in recording.times])
    return _samples(seen, labels), len(KINDS)


def discovered_labels(options: Options) -> tuple[Samples, int]:
    seen, _ = recordings(options.data, options.train)
    found = scenes(options.data, options.out / "scenes", options.train)
    merged = merge(found)
    labels = [
        [labels_at(scene.objects, t, which, frames[:, 3]) for t in recording.times]
        for recording, scene, which, frames in zip(
            seen, found, merged.which, merged.frames, strict=True
        )
    ]
    return _samples(seen, labels), len(merged.sizes_m)


def _samples(seen: list[Recording], labels: list[list[Labels]]) -> Samples:
    return Samples(seen, labels, [GRID] * len(seen), stride_of(GRID.shape))


def loss(detector: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With bfloat16 inside of the network: half the time, the same result."""
    sample = Sample(**given)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = detector(sample.volume)
    return detection_loss(Prediction(*(part.float() for part in prediction)), sample)


def train(samples: Samples, n_kinds: int, seed: int, steps: int, folder: Path) -> Detector:
    def batches(step: int, rank: int, ranks: int) -> Mapping[str, Tensor]:
        return batch(samples.draw(seed, step, k) for k in range(rank, BATCH, ranks))._asdict()

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        detector = Detector(n_kinds, GRID.shape)
    fit(detector, batches, loss, folder, Training(steps, seed), {"kinds": n_kinds})
    return detector


def as_objects(found: Detections, time: float) -> list[SceneObject]:
    """Each as an object that exists at that one instant."""
    objects = []
    for k, box in enumerate(found.boxes):
        track = Track(np.array([time]), box[None, :3], box[6:], np.ones(1), np.ones(1, bool))
        dims = (float(box[3]), float(box[4]), float(box[5]))
        objects.append(
            SceneObject(k, int(found.kind[k]), float(found.score[k]), False, dims, track)
        )
    return objects


def found_in(detector: Detector, seen: Sequence[Recording]) -> list[SceneObject]:
    """Each instant of each recording by itself, the recordings ``APART_S`` apart."""
    objects: list[SceneObject] = []
    for r, recording in enumerate(seen):
        for i, t in enumerate(recording.times):
            volume = network_input(ViewStack.of(recording.views(i)), GRID)
            now = as_objects(detect(detector, volume, GRID), t)
            objects += later(now, r * APART_S, len(objects))
    return objects


def measures(objects: list[SceneObject], truths: list[Truth]) -> dict[str, float]:
    """All recordings pooled; what needs an operating point is measured at score .5. A prototype is
    right where it is of the kind that most of its matched boxes are of."""
    truth = one_after_another(truths)
    card = score_objects(objects, truth, GRID.voxel_size)
    scores = np.array([o.score for o in objects])
    sure = [o for o in objects if o.score >= 0.5]
    pairs = match(instants(sure, truth.objects, truth.times), 0.5, len(sure), len(truth.objects))
    joint = np.zeros((1 + max((o.prototype for o in sure), default=0), len(truth.prototypes)))
    for _, i, j in pairs.pairs:
        joint[sure[i].prototype, truth.objects[j].prototype] += 1
    return {
        "ap50": card.ap50_pooled,
        "ap70": average_precision(instants(objects, truth.objects, truth.times), scores, 0.7),
        "precision": card.at_iou_50.precision,
        "moving_recall": card.at_iou_50.moving_recall,
        "parked_recall": card.at_iou_50.parked_recall,
        "flips": card.yaw.flips,
        "yaw_deg": card.yaw.median_deg,
        "centre_voxels": card.centre.median_voxels,
        "kind": float(joint.max(axis=1).sum() / max(joint.sum(), 1)),
    }


def measure(options: Options, kind: str, seed: int) -> dict[str, dict[str, float]]:
    """Of one training; kept in the folder of its name."""
    folder = options.out / f"{kind}-{seed}-{options.steps}"
    file, weights = folder / "measured.json", folder / "weights.safetensors"
    if file.exists():
        return dict(json.loads(file.read_text()))
    samples, n_kinds = {"true": true_labels, "discovered": discovered_labels}[kind](options)
    detector = Detector(n_kinds, GRID.shape)
    seconds = 0.0
    if weights.exists():
        detector.load_state_dict(load_file(weights))
    else:
        start = time.process_time()
        detector = train(samples, n_kinds, seed, options.steps, folder / "training")
        seconds = time.process_time() - start
        save_file(detector.state_dict(), weights)
    results: dict[str, dict[str, float]] = {"training": {"cpu_minutes": seconds / 60}}
    for name, test in (("several", options.test), ("one", options.test_one)):
        seen, truths = recordings(options.data, test)
        results[name] = measures(found_in(detector, seen), truths)
        print(kind, seed, name, {k: round(v, 3) for k, v in results[name].items()}, flush=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    return results


def seconds(options: Options) -> dict[str, float]:
    """Median wall seconds of an instant from pictures to boxes, reading the pictures apart."""
    (recording,), _ = recordings(options.data, options.test[:1])
    views, taken = list(recording.views(0)), {}
    for name, grid in (("128×128×32", GRID), ("256³", Grid(GRID.origin, 0.025, (256, 256, 256)))):
        detector, times = Detector(len(KINDS), grid.shape), []
        for _ in range(6):
            start = time.perf_counter()
            detect(detector, network_input(ViewStack.of(views), grid), grid)
            times.append(time.perf_counter() - start)
        taken[name] = float(np.median(times[1:]))  # the first compiles
    return taken


def markdown(options: Options, results: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    titles = [title for title, _ in COLUMNS.values()]
    lines = ["| labels | cameras | " + " | ".join(titles) + " | training, CPU minutes |"]
    lines.append("|---" * (3 + len(titles)) + "|")
    for kind, runs in results.items():
        minutes = f"{max(run['training']['cpu_minutes'] for run in runs):.1f}"
        for cameras in ("several", "one"):
            cells = [
                spread([run[cameras][name] for run in runs], digits, name in LESS_IS_BETTER)
                for name, (_, digits) in COLUMNS.items()
            ]
            lines.append(f"| {kind} | {cameras} | {' | '.join(cells)} | {minutes} |")
    note = (
        f"Mean (worst) over training seeds {', '.join(map(str, options.seeds))}; "
        f"{options.steps} steps of {BATCH} samples; learnt from {len(options.train)} recordings of "
        "24 instants, tested on others (seeds, layouts, rigs; 3 to 5 cameras, or one), each "
        "instant by itself, all instants pooled. Four kinds of things look alike in all recordings "
        "but for their size; moving and parked ones are found alike. Discovered: without any "
        "true label."
    )
    return "\n".join([*lines, "", note])


def spread(values: list[float], digits: int, less_is_better: bool) -> str:
    """The mean and the worst."""
    worst = max(values) if less_is_better else min(values)
    return f"{np.mean(values):.{digits}f} ({worst:.{digits}f})"


def main(options: Options) -> None:
    results = {kind: [measure(options, kind, s) for s in options.seeds] for kind in options.labels}
    table = markdown(options, results)
    each = ", ".join(f"{s:.2f} s at {name}" for name, s in seconds(options).items())
    table += (
        f"\n\nOne instant, pictures read, to boxes: {each} (median of 5; {torch.get_num_threads()} "
        f"threads; load {os.getloadavg()[0]:.1f})."
    )
    print(table)
    if options.results is not None:
        write_between_markers(options.results, "detector", table)


if __name__ == "__main__":
    main(tyro.cli(Options))
