"""A dictionary and placements learnt together from single instants: no labels, no motion.

    slots       pieces of evidence around centre-surround peaks, their centres by mean shift
    anneal      EM: every slot's prototype, yaw and place drawn by softmax(gain / T), T falling;
                prototypes are means of the slots, turned back
    settle      each prototype anew from one view, where that explains more; two made one, where
                that explains about as much
    find        in the whole of each instant: what explains most is placed, what it explains is
                taken away, and so on; prototypes anew from what was found, on finer voxels
    descend     places, yaws, scales, weights and prototypes by gradient through compose_loss

Evidence is what :mod:`gains` takes, (n, 6, z, y, x), with what stands on the ground on its lowest
layer. All but ``descend`` counts in its voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from protoscene import assign
from protoscene.compose import Target, compose_loss
from protoscene.gains import Looks, Poses, averaged, explain, posed
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.slots import Finds, Slots, centres, find, slots_around, slots_of

WINDOW = 3
"""A slot's prototype may lie so many voxels from the slot's middle, in x and in y."""
YAWS = 36
ROUNDS = 36
COLD = 0.01
"""Of annealing: a hundredth of what a slot shows makes a pose e times as likely."""
SAME = 0.87
"""Two prototypes are one if one explains that share of what both did: halves of one kind explain
.90 and more of each other, two kinds .83 at most."""
TRIES = 4
"""Views from which a prototype is started anew."""
EDGE = 0.3
"""A prototype ends where its occupancy falls below."""
LEAST_GAIN = 0.12
"""Of the median slot's gain, for a find to be kept."""
SWEEPS = 2
"""Of finding things anew in the whole of each instant."""


@dataclass(frozen=True, eq=False)
class Joint:
    """What was learnt, and where it is in the instants that it was learnt from: ``prototypes``
    (colours times occupancy) and ``finds`` on the evidence's voxels; to find them again,
    ``coarse`` ones of twice as large voxels, and the ``least`` gain with those."""

    prototypes: Float[Tensor, "K 4 z q p"]
    coarse: Float[Tensor, "K 4 h s s"]
    least: float
    finds: Finds


def learn_jointly(
    seen: Float[Tensor, "n 6 z y x"],
    voxel_size: float,
    size_m: float,
    prototypes: Float[Tensor, "K 4 h q p"],
    random: torch.Generator,
    looks: Sequence[Looks] = (),
    temperature: float = 0.3,
) -> Joint:
    """Prototypes and placements of instants in which things about ``size_m`` wide stand.

    ``seen`` has an even number of layers; ``prototypes``, to start from, have voxels twice as large
    and half as many layers. ``looks`` are what annealing tries, stage after stage, the last of them
    what all the rest tries too; left out, all yaws at once. Its ``temperature`` falls to ``COLD``,
    as it should be from the beginning where the prototypes are known already. Raises ValueError
    where no instant shows a thing.
    """
    coarse = F.avg_pool3d(seen, 2)
    side = prototypes.shape[-1]
    places = centres(coarse, 2 * voxel_size, size_m)
    slots = slots_around(coarse, places, side + 2 * WINDOW)
    stages = looks or (Looks.of(YAWS),)
    every = stages[-1]
    for i, stage in enumerate(stages):
        hot = [assign.decayed(temperature, COLD, (i + d) / len(stages)) for d in (0, 1)]
        prototypes = anneal(slots, prototypes, stage, random, ROUNDS // len(stages), *hot)
    prototypes, poses = settle(slots, prototypes, every)
    least = LEAST_GAIN * float(poses.gain.median())
    fine = F.interpolate(prototypes, scale_factor=2, mode="trilinear")
    for sweep in range(SWEEPS):
        finds, slots = located(seen, prototypes, fine, least, every)
        fine, found = fitted(slots, fine, every)
        if sweep == 0:
            fine = restarted(slots, fine, found, every)
        fine, found = fitted(slots, squared(fine), every, 1)
        finds = at_best(finds, slots, found)
        prototypes, poses = coarsened(coarse, finds, fine, prototypes, every)
        least = LEAST_GAIN * float(poses.gain.median())
    return Joint(fine, prototypes, least, finds)


def recognise(joint: Joint, seen: Float[Tensor, "n 6 z y x"]) -> Finds:
    """The same things, as large, in other instants (or in those, anew)."""
    looks = Looks.of(YAWS)
    finds, slots = located(seen, joint.coarse, joint.prototypes, joint.least, looks)
    return at_best(finds, slots, explain(slots.seen, joint.prototypes, looks))


def located(
    seen: Float[Tensor, "n 6 z y x"],
    coarse: Float[Tensor, "K 4 h s s"],
    fine: Float[Tensor, "K 4 z q p"],
    least: float,
    looks: Looks,
) -> tuple[Finds, Slots]:
    """What is found on voxels twice as large, and the evidence around it without its neighbours."""
    finds = find(F.avg_pool3d(seen, 2), coarse, looks, least).resized(2)
    return finds, slots_of(seen, finds, fine, fine.shape[-1] + 2 * WINDOW)


def at_best(finds: Finds, slots: Slots, poses: Poses) -> Finds:
    """The finds at their slots' poses, scored by the share of what is seen that they explain."""
    shown = slots.seen[:, 0].sum(dim=(1, 2, 3)).clamp(min=1)
    return Finds(
        finds.instant, poses.which, slots.middle + poses.offset, poses.yaw, poses.scale,
        poses.gain / shown,
    )  # fmt: skip


def random_prototypes(
    k: int, shape: tuple[int, int, int], random: torch.Generator
) -> Float[Tensor, "K 4 z y x"]:
    """Any colours at any occupancy from .1 to .3, voxel by voxel."""
    alpha = 0.1 + 0.2 * torch.rand((k, 1, *shape), generator=random)
    return torch.cat([torch.rand((k, 3, *shape), generator=random) * alpha, alpha], dim=1)


def coarsened(
    coarse: Float[Tensor, "n 6 h y x"],
    finds: Finds,
    fine: Float[Tensor, "K 4 z q p"],
    old: Float[Tensor, "K 4 h s s"],
    looks: Looks,
) -> tuple[Float[Tensor, "K 4 h s s"], Poses]:
    """Prototypes of voxels twice as large, from the evidence under the finds: not means of
    ``fine``'s voxels, as what nobody saw would count as empty."""
    finds = finds.resized(0.5)
    slots = slots_of(coarse, finds, F.avg_pool3d(fine, 2), old.shape[-1] + 2 * WINDOW)
    poses = Poses(finds.which, finds.yaw, finds.scale, finds.place - slots.middle, finds.score)
    prototypes = averaged(slots.seen, poses, old)
    return prototypes, explain(slots.seen, prototypes, looks)


def _solid(alpha: Float[Tensor, "z y x"]) -> Bool[Tensor, "z y x"]:
    """Where occupancy is above ``EDGE``, or half of its most if that is less; of nothing, all."""
    most = float(alpha.max())
    return alpha > min(EDGE, most / 2) if most > 0 else alpha == 0


def anneal(
    slots: Slots,
    prototypes: Float[Tensor, "K 4 z q p"],
    looks: Looks,
    random: torch.Generator,
    rounds: int,
    first: float,
    last: float,
) -> Float[Tensor, "K 4 z q p"]:
    """EM with poses drawn at temperatures that fall from ``first`` to ``last``."""
    for i in range(rounds):
        temperature = assign.decayed(first, last, i / max(1, rounds - 1))
        poses = explain(slots.seen, prototypes, looks, temperature, random)
        prototypes = averaged(slots.seen, poses, prototypes)
    return prototypes


def fitted(
    slots: Slots, prototypes: Float[Tensor, "K 4 z q p"], looks: Looks, rounds: int = 3
) -> tuple[Float[Tensor, "K 4 z q p"], Poses]:
    """EM with the best poses, and those under the last prototypes."""
    for _ in range(rounds):
        poses = explain(slots.seen, prototypes, looks)
        prototypes = averaged(slots.seen, poses, prototypes)
    return prototypes, explain(slots.seen, prototypes, looks)


def settle(
    slots: Slots, prototypes: Float[Tensor, "K 4 z q p"], looks: Looks
) -> tuple[Float[Tensor, "_ 4 z q p"], Poses]:
    """Prototypes restarted, merged, and both once more: what annealing has split is whole now."""
    prototypes, poses = fitted(slots, prototypes, looks)
    for _ in range(2):
        prototypes = restarted(slots, prototypes, poses, looks)
        prototypes, poses = merged(slots, prototypes, looks)
    return fitted(slots, squared(prototypes), looks, 1)


def restarted(
    slots: Slots, prototypes: Float[Tensor, "K 4 z q p"], poses: Poses, looks: Looks
) -> Float[Tensor, "K 4 z q p"]:
    """Each prototype started anew from single slots of its own, those that show most, where all of
    its slots are then explained better."""
    result = []
    for k in range(len(prototypes)):
        mine = (poses.which == k).nonzero()[:, 0]
        own = slots[mine]
        best, most = prototypes[k : k + 1], float(poses.gain[mine].sum())
        size = own.seen[:, 0].sum(dim=(1, 2, 3))
        for j in size.argsort(descending=True)[:TRIES]:
            pose = replace(poses[mine[j, None]], which=torch.zeros(1, dtype=torch.long))
            alone = averaged(own.seen[j, None], pose, best)
            made, found = fitted(own, alone, looks)
            if float(found.gain.sum()) > most:
                best, most = made, float(found.gain.sum())
        result.append(best[0])
    return torch.stack(result)


def merged(
    slots: Slots, prototypes: Float[Tensor, "K 4 z q p"], looks: Looks
) -> tuple[Float[Tensor, "_ 4 z q p"], Poses]:
    """Any two made one, the more used one kept, where that explains ``SAME`` of what both did;
    those that hardly any slot has (``assign.DEAD``) dropped. The most used come first."""
    prototypes, poses = fitted(slots, prototypes, looks, 1)
    i = 1
    while i < len(prototypes):
        prototypes, poses = living(slots, prototypes, poses, looks)
        for j in range(min(i, len(prototypes) - 1)):
            mine = ((poses.which == i) | (poses.which == j)).nonzero()[:, 0]
            made, found = fitted(slots[mine], prototypes[j : j + 1], looks)
            if float(found.gain.sum()) >= SAME * float(poses.gain[mine].sum()):
                rest = torch.arange(len(prototypes)) != i
                prototypes = torch.cat([prototypes[:j], made, prototypes[j + 1 :]])[rest]
                prototypes, poses = fitted(slots, prototypes, looks, 1)
                break
        else:
            i += 1
    return prototypes, poses


def living(
    slots: Slots, prototypes: Float[Tensor, "K 4 z q p"], poses: Poses, looks: Looks
) -> tuple[Float[Tensor, "_ 4 z q p"], Poses]:
    count = torch.bincount(poses.which, minlength=len(prototypes))
    kept = int((count >= assign.DEAD * len(slots) / len(prototypes)).sum())
    prototypes = prototypes[count.argsort(descending=True, stable=True)[:kept]]
    return prototypes, explain(slots.seen, prototypes, looks)


def squared(prototypes: Float[Tensor, "_ 4 z q p"]) -> Float[Tensor, "_ 4 z q p"]:
    """Each turned and moved so that its box is the closest fit (occupied columns lie near its
    sides), longer than wide, and in the middle of its volume."""
    turns = torch.arange(0, math.pi / 2, math.pi / 36)
    cos, sin = torch.cos(turns)[:, None], torch.sin(turns)[:, None]
    yaw = []
    for alpha in prototypes[:, 3]:
        v, u = _solid(alpha).any(dim=0).nonzero().T.float()
        axes = torch.stack([cos * u + sin * v, cos * v - sin * u])
        first, last = axes.amin(dim=2, keepdim=True), axes.amax(dim=2, keepdim=True)
        inside = torch.minimum(axes - first, last - axes).amin(dim=0).sum(dim=1)
        best = int(inside.argmin())
        long, wide = (last - first)[:, best, 0].tolist()
        yaw.append(-float(turns[best]) - (0 if long >= wide else math.pi / 2))
    one = torch.ones(len(prototypes))
    level = posed(prototypes, torch.tensor(yaw), one)
    return posed(level, 0 * one, one, -boxes(level)[:, :2])


def boxes(prototypes: Float[Tensor, "K 4 z q p"]) -> Float[Tensor, "K 5"]:
    """Of occupancy above ``EDGE``: its middle x y from the volume's, length, width and height."""
    rows = []
    for alpha in prototypes[:, 3]:
        ends: list[tuple[float, float]] = []
        for axis in (2, 1, 0):
            there = _solid(alpha).movedim(axis, 0).flatten(1).any(dim=1).nonzero()[:, 0]
            half = alpha.shape[axis] / 2
            ends.append((int(there[0]) - half, int(there[-1]) + 1 - half))
        (x0, x1), (y0, y1), (_, top) = ends
        rows.append([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, top + alpha.shape[0] / 2])
    return torch.tensor(rows)


def descend(
    joint: Joint,
    targets: Sequence[Target],
    grid: Grid,
    background: Tensor | None,
    floor_m: float,
    steps: int,
) -> tuple[Joint, float]:
    """Adam on places, yaws, scales, weights over the dictionary and prototypes, all instants every
    step, and the last loss. ``floor_m`` is the height of the evidence's lowest layer."""
    finds, voxel = joint.finds, grid.voxel_size
    alpha = joint.prototypes[:, 3:]
    straight = torch.cat([joint.prototypes[:, :3] / alpha.clamp(min=1e-3), alpha], dim=1)
    prototypes = VoxelPrototypes.from_rgba(list(straight.clamp(0, 1)), voxel, trainable=True)
    logits = 4 * F.one_hot(finds.which, len(alpha)).float() - 2
    leaves = [logits, finds.place.clone(), finds.yaw.clone(), finds.scale.log()]
    logits, place, yaw, log_scale = (v.requires_grad_() for v in leaves)
    rates = ((logits, 0.1), (place, 0.05), (yaw, 0.01), (log_scale, 0.003))
    optimiser = torch.optim.Adam(
        [{"params": [v], "lr": r} for v, r in rates]
        + [{"params": prototypes.parameters(), "lr": 0.02}]
    )
    lower = torch.tensor(grid.origin[:2])
    for _ in range(steps):
        weights, scale = assign.softmax(logits), log_scale.exp()
        height = floor_m + scale * (alpha.shape[2] * voxel / 2)
        centre = torch.cat([lower + place * voxel, height[:, None]], dim=1)
        losses = []
        for i, target in enumerate(targets):
            mine = finds.instant == i
            rows = Placements(weights[mine], centre[mine], yaw[mine], scale[mine])
            losses.append(compose_loss(prototypes, rows, grid, target, background)["loss"])
        loss = torch.stack(losses).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            prototypes.voxels.clamp_(0, 1)
    own = torch.stack([prototypes.rgba(k).detach() for k in range(len(prototypes))])
    found = replace(
        finds, which=logits.argmax(dim=1), place=place.detach(), yaw=yaw.detach(),
        scale=log_scale.detach().exp(),
    )  # fmt: skip
    own = torch.cat([own[:, :3] * own[:, 3:], own[:, 3:]], dim=1)
    return replace(joint, prototypes=own, finds=found), float(loss.detach())
