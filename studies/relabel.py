"""Rounds of relabelling: does a detector find what motion missed, and is it better taught by that?

    python studies/relabel.py --out build/relabel --results docs/results.md

Discovered labels of recordings, without those of parked things, stand in for what motion alone
gives. The recordings are in two halves, a detector is trained on each, and labels the other's
instants; trained anew with these labels added, and so on. ``each instant`` adds whatever is
detected with a score of .5 or more; ``standing`` what is detected in one place over many instants,
and ignores the places where that is uncertain. Recordings and scenes as in ``studies/detector.py``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from detector import found_in, measures, train
from fleet import GRID, TEST, TRAIN, recordings, scenes
from results_page import write_between_markers
from safetensors.torch import load_file, save_file

from protoscene.boxes import iou_3d, iou_bev
from protoscene.dictionary import merge
from protoscene.labels import Labels, labels_at
from protoscene.matching import boxes_at
from protoscene.network_input import network_input
from protoscene.networks import Detections, Detector, detect, stride_of
from protoscene.observe import ViewStack
from protoscene.recording import Recording
from protoscene.samples import Samples
from protoscene.truth import Truth

SURE = 0.5
"""Least score of a detection that becomes a label by itself."""
NEAR_M = 0.25
"""Detections of a thing that stands are no farther from each other."""
STANDS, UNCERTAIN = 0.3, 0.05
"""Mean score over all instants of what becomes a label, and of what is ignored."""
TOUCHES = 0.1
"""Bird's-eye IoU with a box that is labelled already: that thing is known."""


@dataclass
class Options:
    """Trains on movers, relabels, trains again."""

    out: Path = Path("build/relabel")
    scenes: Path = Path("build/detector/scenes")
    """Of the discovered recordings."""
    data: Path = Path("build/suite")
    steps: int = 800
    seed: int = 0
    rounds: int = 2
    ways: tuple[str, ...] = ("standing", "each instant")
    results: Path | None = None
    """A markdown file whose part between the study's markers is replaced by the table."""


@dataclass(frozen=True)
class Learnt:
    """The recordings to learn from and what is known of them; ``halves`` of their numbers."""

    seen: list[Recording]
    truths: list[Truth]
    movers: list[list[Labels]]
    all_things: list[list[Labels]]
    n_kinds: int

    @property
    def halves(self) -> tuple[list[int], list[int]]:
        numbers = list(range(len(self.seen)))
        return numbers[::2], numbers[1::2]


def to_learn_from(options: Options) -> Learnt:
    seen, truths = recordings(options.data, TRAIN)
    found = scenes(options.data, options.scenes, TRAIN)
    merged = merge(found)
    labels: list[list[list[Labels]]] = []
    for parked in (False, True):
        labels.append([
            [labels_at([o for o in scene.objects if o.moving or parked], t, which, frames[:, 3])
             for t in recording.times]
            for recording, scene, which, frames in zip(
                seen, found, merged.which, merged.frames, strict=True
            )
        ])  # fmt: skip
    return Learnt(seen, truths, labels[0], labels[1], len(merged.sizes_m))


def taught(
    options: Options, learnt: Learnt, labels: list[list[Labels]], half: Sequence[int], name: str
) -> Detector:
    """A detector trained on the recordings of ``half``; kept."""
    file = options.out / f"{name}.safetensors"
    detector = Detector(learnt.n_kinds, GRID.shape)
    if file.exists():
        detector.load_state_dict(load_file(file))
        return detector.eval()
    seen, own = [learnt.seen[k] for k in half], [labels[k] for k in half]
    samples = Samples(seen, own, [GRID] * len(half), stride_of(GRID.shape))
    start = time.process_time()
    detector = train(samples, learnt.n_kinds, options.seed, options.steps, options.out / name)
    print(f"{name}: {(time.process_time() - start) / 60:.1f} CPU minutes", flush=True)
    save_file(detector.state_dict(), file)
    return detector.eval()


def relabelled(way: str, found: Sequence[Detections], known: Sequence[Labels]) -> list[Labels]:
    """``known`` labels of a recording's instants and what was ``found`` besides."""
    rest = [_besides(one, labels) for one, labels in zip(found, known, strict=True)]
    if way == "each instant":
        return [
            added(labels, one.boxes[sure], one.kind[sure], one.score[sure])
            for one, labels in zip(rest, known, strict=True)
            for sure in [one.score >= SURE]
        ]
    boxes, kinds, means = standing(rest)
    weights = np.where(means >= STANDS, means, 0.0)
    return [
        added(labels, boxes[free], kinds[free], weights[free])
        for labels in known
        for free in [_free(boxes, labels)]
    ]


def standing(
    found: Sequence[Detections],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(boxes, kinds, mean scores) of the places where things are found again and again: about the
    most likely detection of all, then about that of those left, …; mean scores count 0 where
    nothing is found."""
    boxes = np.concatenate([one.boxes for one in found])
    score = np.concatenate([one.score for one in found])
    kind = np.concatenate([one.kind for one in found])
    instant = np.repeat(np.arange(len(found)), [len(one.score) for one in found])
    left = np.ones(len(score), dtype=bool)
    rows, means = [], []
    for row in np.argsort(-score, kind="stable"):
        if not left[row]:
            continue
        near = left & (np.linalg.norm(boxes[:, :2] - boxes[row, :2], axis=1) <= NEAR_M)
        best = np.zeros(len(found))
        np.maximum.at(best, instant[near], score[near])
        left &= ~near
        if best.mean() >= UNCERTAIN:
            rows.append(row)
            means.append(best.mean())
    return boxes[rows], kind[rows], np.array(means)


def _free(boxes: np.ndarray, labels: Labels) -> np.ndarray:
    """Which of ``boxes`` touch no label."""
    if len(labels.boxes) == 0 or len(boxes) == 0:
        return np.ones(len(boxes), dtype=bool)
    return np.asarray(iou_bev(boxes, labels.boxes).max(axis=1) <= TOUCHES)


def _besides(found: Detections, labels: Labels) -> Detections:
    free = _free(found.boxes, labels)
    return Detections(
        found.boxes[free], found.score[free], found.kind[free], found.kind_logits[free]
    )


def added(labels: Labels, boxes: np.ndarray, kind: np.ndarray, weight: np.ndarray) -> Labels:
    return Labels(
        np.concatenate([labels.kind, kind]),
        np.concatenate([labels.boxes, boxes]),
        np.concatenate([labels.weight, weight]),
    )


def rightness(learnt: Learnt, labels: list[list[Labels]]) -> dict[str, float]:
    """Of the labels beside the movers': ``precision``, the share that some true thing overlaps by
    half (3-D IoU); ``recall`` the share of true parked things, each instant, that have one."""
    right, given, reached, parked = 0, 0, 0, 0
    for truth, own, movers in zip(learnt.truths, labels, learnt.movers, strict=True):
        standing_still = [o for o in truth.objects if not o.moving]
        for t, now, before in zip(truth.times, own, movers, strict=True):
            new = now.boxes[len(before.boxes) :][now.weight[len(before.boxes) :] > 0]
            _, every, _ = boxes_at(truth.objects, t)
            _, still, visible = boxes_at(standing_still, t)
            still = still[visible]
            given, parked = given + len(new), parked + len(still)
            if len(new):
                right += int((iou_3d(new, every).max(axis=1) >= 0.5).sum())
                if len(still):
                    reached += int((iou_3d(still, new).max(axis=1) >= 0.5).sum())
    return {
        "labels": given, "label_precision": right / given if given else float("nan"),
        "label_recall": reached / max(parked, 1),
    }  # fmt: skip


def one_round(
    options: Options, learnt: Learnt, labels: list[list[Labels]], name: str
) -> tuple[list[Detector], dict[str, float]]:
    """A detector of each half, and what both measure on other recordings, in the mean."""
    detectors = [
        taught(options, learnt, labels, half, f"{name}-{n}") for n, half in enumerate(learnt.halves)
    ]
    file = options.out / f"{name}.json"
    if not file.exists():
        seen, truths = recordings(options.data, TEST)
        both = [measures(found_in(detector, seen), truths) for detector in detectors]
        mean = {key: float(np.mean([one[key] for one in both])) for key in both[0]}
        file.write_text(json.dumps(mean | rightness(learnt, labels), indent=1) + "\n")
    row = dict(json.loads(file.read_text()))
    print(name, {key: round(value, 3) for key, value in row.items()}, flush=True)
    return detectors, row


def rounds(options: Options, learnt: Learnt, way: str) -> dict[str, dict[str, float]]:
    detectors, row = one_round(options, learnt, learnt.movers, "movers")
    rows = {"movers alone": row}
    for n in range(1, options.rounds + 1):
        labels = list(learnt.movers)
        for half, other in zip(learnt.halves, detectors[::-1], strict=True):
            for k in half:
                seen = learnt.seen[k]
                views = [ViewStack.of(seen.views(i)) for i in range(len(seen))]
                found = [detect(other, network_input(v, GRID), GRID, 0.1) for v in views]
                labels[k] = relabelled(way, found, learnt.movers[k])
        name = f"{way.replace(' ', '_')}-{n}"
        detectors, rows[f"{way}, round {n}"] = one_round(options, learnt, labels, name)
    return rows


def markdown(options: Options, rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "| labels | added | precision | parked labelled | AP@.5 | moving recall@.5 | "
        "parked recall@.5 | precision@.5 | yaw, ° |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    keys = ("label_precision", "label_recall", "ap50", "moving_recall", "parked_recall")
    for name, row in rows.items():
        cells = [f"{row[key]:.3f}" if row[key] == row[key] else "" for key in keys]
        cells += [f"{row['precision']:.3f}", f"{row['yaw_deg']:.0f}"]
        lines.append(f"| {name} | {row['labels']:.0f} | {' | '.join(cells)} |")
    note = (
        f"Each row: two detectors, each of half of the {len(TRAIN)} recordings (seed "
        f"{options.seed}, {options.steps} steps), tested on the other seeds and rigs of "
        "`studies/detector.py`, in the mean. Added labels come from the detector that has not "
        "seen the recording."
    )
    return "\n".join([*lines, "", note])


def main(options: Options) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    learnt = to_learn_from(options)
    rows: dict[str, dict[str, float]] = {}
    for way in options.ways:
        rows |= rounds(options, learnt, way)
    _, rows["all that was discovered"] = one_round(options, learnt, learnt.all_things, "all")
    text = markdown(options, rows)
    print(text)
    if options.results is not None:
        write_between_markers(options.results, "relabel", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
