"""Do false proposals vanish, and do true ones stay?

    python studies/presence.py --seeds 3 4 5

To what discovery found, each trial adds two copies of found things on tracks that were turned and
moved at random as a whole (every second one stands still), and one copy 5 to 30 cm and up to 17°
beside its original at all instants, in random order. Then presence is refined. A false one has
vanished below .1, a true one has stayed above .9; of an original and its copy the original must
stay. Variants leave out one loss each, or begin with things that are not solid.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from started import Started, started

from protoscene.geometry import rotation_from_yaw, wrap_angle
from protoscene.refine import SETTINGS, Phase, RefineSettings, refine
from protoscene.start import Thing

AREA_M = 2.4
"""Half the side of the square in which a false track's middle lies."""


@dataclass
class Options:
    """Adds false proposals to found things and refines their presence."""

    data: Path = Path("build/suite")
    """Folder of the recordings, KIND-SEED each."""
    kept: Path = Path("build/refine/things")
    """Folder of what was found in them."""
    kinds: tuple[str, ...] = ("four_cameras", "crowd")
    seeds: tuple[int, ...] = (3, 4, 5)
    trials: int = 4
    """Of each recording."""
    variants: bool = True
    """Also without each loss, and not solid at first."""
    out: Path = Path("build/refine/presence.json")
    """The share of trials in which all false things vanish, for studies/refine.py."""


def misplaced(thing: Thing, rng: np.random.Generator, stands: bool) -> Thing:
    """On a track of the same shape elsewhere."""
    poses, turn = thing.poses.copy(), float(rng.uniform(-np.pi, np.pi))
    if stands:
        poses[:] = poses[0]
    middle = poses[:, :2].mean(axis=0)
    rotation = rotation_from_yaw(turn)[:2, :2]
    poses[:, :2] = (poses[:, :2] - middle) @ rotation.T + rng.uniform(-AREA_M, AREA_M, 2)
    poses[:, 3] = wrap_angle(poses[:, 3] + turn)
    return replace(thing, poses=poses)


def beside(thing: Thing, rng: np.random.Generator) -> Thing:
    """A duplicate, shifted and turned alike at all instants."""
    poses, way = thing.poses.copy(), rng.uniform(0, 2 * np.pi)
    poses[:, :2] += rng.uniform(0.05, 0.3) * np.array([np.cos(way), np.sin(way)])
    poses[:, 3] += rng.uniform(-0.3, 0.3)
    return replace(thing, poses=poses)


def trial(found: Started, settings: RefineSettings, seed: int) -> dict[str, np.ndarray]:
    """Presence of true, random and duplicate things, and of the duplicate's original."""
    rng = np.random.default_rng(seed)
    true = found.things
    copied = rng.integers(len(true), size=3)
    false = [misplaced(true[k], rng, stands=n == 1) for n, k in enumerate(copied[:2])]
    things = [*true, *false, beside(true[copied[2]], rng)]
    order = rng.permutation(len(things))
    refined = refine([things[k] for k in order], found.evidence, found.background, settings)
    presence = np.empty(len(things))
    presence[order] = refined.presence
    n = len(true)
    return {"true": presence[:n], "random": presence[n : n + 2], "duplicate": presence[n + 2 :]}


def without(name: str) -> RefineSettings:
    return replace(SETTINGS, weights={**SETTINGS.weights, name: 0.0})


def softly(first: float) -> RefineSettings:
    return replace(SETTINGS, phases=tuple(
        Phase(p.name, p.variables, p.epochs, (first, 1.0)) for p in SETTINGS.phases
    ))  # fmt: skip


def main(options: Options) -> None:
    torch.set_num_threads(1)
    variants = {"all losses": SETTINGS}
    if options.variants:
        variants |= {
            "no overlap": without("overlap"), "no prior": without("presence"),
            "no free space": without("free"), "solid from .3 to 1": softly(0.3),
        }  # fmt: skip
    results: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in variants}
    begin = time.process_time()
    for kind in options.kinds:
        for seed in options.seeds:
            found = started(kind, seed, options.data, options.kept)
            for name, settings in variants.items():
                for k in range(options.trials):
                    results[name].append(trial(found, settings, 100 * seed + k))
    print(f"{time.process_time() - begin:.0f} s of processor time")
    print("| losses | trials | random gone | duplicate gone | all three gone | true stay "
          "| least presence of a true one |\n|---|---|---|---|---|---|---|")  # fmt: skip
    vanished = {}
    for name, trials in results.items():
        shares = {n: np.concatenate([r[n] for r in trials]) for n in trials[0]}
        gone = [max(r["random"].max(), r["duplicate"].max()) < 0.1 for r in trials]
        print(f"| {name} | {len(trials)} | {(shares['random'] < 0.1).mean():.1%} "
              f"| {(shares['duplicate'] < 0.1).mean():.1%} | {np.mean(gone):.1%} "
              f"| {(shares['true'] > 0.9).mean():.1%} | {shares['true'].min():.3f} |")  # fmt: skip
        vanished[name] = float(np.mean(gone))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(vanished) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
