"""Does registration find back to a track whose every instant was disturbed?

    python studies/recovery.py --seeds 20 21 22

Things are registered as in discovery; then each instant of a track is moved by up to 0.6 m in a
direction of its own and turned by up to 90°, and registered again:

  alone     one instant at a time, on the model fused from all others where they stood
  together  all at once: nothing but the disturbed poses founds the model, which is fused anew
            in every round
  joined    all at once, as discovery does it: the best seen instant founds the model where it was
            put, the others join it one by one, nearest in time first

by Gauss–Newton steps from the disturbed pose (``descend``), or by ``search``, which also tries all
yaws around the middle of the instant's own pixels. An instant is back if it is within 1 voxel
(5 cm) and 5° of where it was, modulo the kind's symmetry; together and joined, after the one
shift and turn that all instants of a track have in common.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from protoscene.background import estimate_background, subtract
from protoscene.crops import Crops, cut
from protoscene.follow import follow, merge_fragments
from protoscene.formats import load
from protoscene.geometry import rotation_from_yaw
from protoscene.observe import choose_grid
from protoscene.pieces import Registered
from protoscene.pose_errors import PERIODS, best_offset
from protoscene.propose import propose
from protoscene.register import Fusion, Model, descend, misfit, search, total_misfit
from protoscene.start import MIN_INSTANTS, register
from protoscene.synth import SUITE, write_recording
from protoscene.truth import Truth, load_truth

VOXEL_M, FAR_M, FAR_YAW = 0.05, 0.6, np.pi / 2
BOUNDS = (-3.2, -3.2, -0.1, 3.2, 3.2, 1.5)
BACK_M, BACK_DEG = VOXEL_M, 5.0
ROUNDS, STEPS = 4, 12
Route = Literal["descend", "search"]


@dataclass
class Options:
    """Disturbs every instant of found tracks and registers it again."""

    data: Path = Path("build/suite")
    """Folder of the recordings, KIND-SEED each."""
    kinds: tuple[str, ...] = ("four_cameras",)
    seeds: tuple[int, ...] = (20, 21, 22)
    out: Path = Path("build/refine/recovery.json")
    """The shares, for studies/refine.py."""


@dataclass(frozen=True, eq=False)
class Followed:
    """A registered thing, the middles of its blobs and the turn (rad) that leaves it unchanged (0:
    any turn)."""

    thing: Registered
    middles: np.ndarray
    period: float

    @property
    def crops(self) -> Crops:
        return self.thing.crops


def followed(folder: Path) -> list[Followed]:
    """The registered movers of a recording, at most one trail per true object."""
    recording, truth = load(folder / "recording"), load_truth(folder / "truth.json")
    static = estimate_background(recording, choose_grid(recording, VOXEL_M, BOUNDS))
    bounds = np.stack([static.surface.grid.lower, static.surface.grid.upper])
    blobs = []
    for i in range(len(recording)):
        views = list(recording.views(i))
        blobs.append(propose(i, views, subtract(views, static), VOXEL_M / 2, bounds))
    trails = [t for t in merge_fragments(follow(blobs, recording.times))
              if len(t.blobs) >= MIN_INSTANTS]  # fmt: skip
    best: dict[int, Followed] = {}
    for trail, crops in zip(trails, cut(recording, trails, blobs, static.noise), strict=True):
        order = sorted(trail.blobs)
        middles = np.stack([trail.seen[i].centre for i in order])
        j = _whose(truth, [recording.times[i] for i in order], middles)
        if j is None or (j in best and len(best[j].middles) >= len(middles)):
            continue
        thing = Registered(trail, crops, *register(trail, crops, recording))
        best[j] = Followed(thing, middles, _period(truth, j))
    return list(best.values())


def _whose(truth: Truth, times: list[float], middles: np.ndarray) -> int | None:
    """The mover that the blobs mostly follow (within 0.3 m), if any."""
    for j, true in enumerate(truth.objects):
        centres = np.stack([true.track.pose(time)[0] for time in times])
        apart = np.linalg.norm((centres - middles)[:, :2], axis=1)
        if true.moving and np.median(apart) < 0.3:
            return j
    return None


def _period(truth: Truth, j: int) -> float:
    symmetry = truth.prototypes[truth.objects[j].prototype].symmetry
    return 0.0 if symmetry == "round" else PERIODS[symmetry]


def disturbed(poses: np.ndarray, middle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each pose turned about the thing's own ``middle`` and moved, evenly up to the farthest."""
    far = rng.uniform(0, FAR_M, len(poses))
    way = rng.uniform(0, 2 * np.pi, len(poses))
    turn = rng.uniform(-FAR_YAW, FAR_YAW, len(poses))
    moved = poses.copy()
    moved[:, 3] += turn
    before = np.einsum("nij,j->ni", rotation_from_yaw(poses[:, 3]), middle)
    after = np.einsum("nij,j->ni", rotation_from_yaw(moved[:, 3]), middle)
    moved[:, :3] += before - after
    moved[:, :2] += far[:, None] * np.stack([np.cos(way), np.sin(way)], axis=1)
    return moved


def again(one: Followed, model: Model, k: int, pose: np.ndarray, route: Route) -> np.ndarray:
    if route == "descend":
        return descend(model, one.crops, k, pose, STEPS)
    middle = model.bounds().mean(axis=0)
    return search(model, one.crops, k, [pose], middle, one.middles[k])


def alone(one: Followed, start: np.ndarray, route: Route) -> np.ndarray:
    """Every instant registered from its start on the model fused from the others."""
    poses, model = one.thing.poses, one.thing.model
    found = start.copy()
    for k in range(len(poses)):
        others = np.arange(len(poses)) != k
        fused = Fusion(one.crops, model.grid, model.truncation).add(poses, others).model()
        found[k] = again(one, fused, k, start[k], route)
    return found


def together(one: Followed, start: np.ndarray, route: Route) -> np.ndarray:
    """All instants registered from their starts, model and poses in turns; the better half of the
    instants is fused, of the first round all."""
    poses, grid, truncation = start.copy(), one.thing.model.grid, one.thing.model.truncation
    good = np.ones(len(poses), dtype=bool)
    for _ in range(ROUNDS):
        model = Fusion(one.crops, grid, truncation).add(poses, good).model()
        poses = np.stack([again(one, model, k, poses[k], route) for k in range(len(poses))])
        surface = model.surface()
        misfits = np.array([total_misfit(misfit(model, surface, one.crops, k, pose))
                            for k, pose in enumerate(poses)])  # fmt: skip
        good = misfits <= np.median(misfits)
    return poses


def joined(one: Followed, start: np.ndarray, route: Route) -> np.ndarray:
    """Every instant but the best seen one registered from its start on the model fused from those
    that joined before it."""
    trail, model, n = one.thing.trail, one.thing.model, len(start)
    first = int(np.argmax([trail.seen[i].n_pixels for i in sorted(trail.blobs)]))
    fusion, poses = Fusion(one.crops, model.grid, model.truncation), start.copy()
    for k in np.argsort(np.abs(np.arange(n) - first), kind="stable").tolist():
        if k != first:
            poses[k] = again(one, fusion.model(), k, poses[k], route)
        fusion.add(poses, np.arange(n) == k)
    return poses


def back(one: Followed, found: np.ndarray, common: bool) -> np.ndarray:
    """Which instants are back; ``common``: less the shift and turn that most have in common."""
    poses = one.thing.poses
    middle = one.thing.model.bounds().mean(axis=0)
    period = one.period
    turn = found[:, 3] - poses[:, 3]
    offset = best_offset(turn, period) if common and period else 0.0
    # Own-frame place of the true middle in the found frame; the common part is the median.
    was = np.einsum("nij,j->ni", rotation_from_yaw(poses[:, 3]), middle) + poses[:, :3]
    own = np.einsum("nji,nj->ni", rotation_from_yaw(found[:, 3]), was - found[:, :3])
    apart = np.linalg.norm(own - (np.median(own, axis=0) if common else middle), axis=1)
    if not period:
        return apart <= BACK_M
    off = np.abs((turn - offset + period / 2) % period - period / 2)
    return (apart <= BACK_M) & (np.degrees(off) <= BACK_DEG)


def main(options: Options) -> None:
    rows: dict[str, list[np.ndarray]] = {}
    for kind in options.kinds:
        for seed in options.seeds:
            folder = options.data / f"{kind}-{seed}"
            if not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                write_recording(SUITE[kind](seed), folder)
            rng = np.random.default_rng(seed)
            for one in followed(folder):
                start = disturbed(one.thing.poses, one.thing.model.bounds().mean(axis=0), rng)
                for route in ("descend", "search"):
                    rows.setdefault(f"alone, {route}", []).append(
                        back(one, alone(one, start, route), common=False))  # fmt: skip
                    rows.setdefault(f"together, {route}", []).append(
                        back(one, together(one, start, route), common=True))  # fmt: skip
                    rows.setdefault(f"joined, {route}", []).append(
                        back(one, joined(one, start, route), common=True))  # fmt: skip
            shares = {name: round(float(np.concatenate(b).mean()), 3) for name, b in rows.items()}
            print(f"up to {kind}-{seed}: {shares}", flush=True)
    shares = {name: float(np.concatenate(flags).mean()) for name, flags in rows.items()}
    print("\n| disturbed | instants | back |\n|---|---|---|")
    for name, share in shares.items():
        print(f"| {name} | {sum(map(len, rows[name]))} | {100 * share:.1f} % |")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"recovered": shares["joined, search"], **shares}
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
