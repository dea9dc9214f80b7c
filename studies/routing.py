"""Routing or one-shot: who of the parts that claim a piece of space represents it?

    python studies/routing.py --results docs/results.md

One encoder for both, and no parameter besides: every cell of a room unseen before proposes, for
each size of part, the part and pose of most gain around it, by one matrix product, refined. One
shot keeps those whose own gain is enough (softmax over the cell's parts and none). Routing lets
them compete for what several claim, over one to three rounds, and keeps those whose gain is enough
of what is left to them. Matching pursuit, which looks again after each part, is the bound.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from fat_voxels import Options as Learning
from fat_voxels import learnt, picture
from results_page import write_between_markers
from room_measures import STRIDE, Halves, colour_psnr, halves, iou
from static_scenes import room, room_settings
from torch import Tensor

from protoscene.assign import usage
from protoscene.laid import left_of
from protoscene.parts import Parts, decode, encode
from protoscene.pursuit import Finds, Templates, claims, proposals
from protoscene.routing import TEMPERATURES, route


@dataclass
class Options:
    """Compares ways to choose among parts that claim the same space."""

    rooms: tuple[int, ...] = (100, 101, 102, 103)
    tests: tuple[int, ...] = (20, 21, 22)
    passes: int = 2
    size: int = 256
    full: bool = False
    """Many rooms, for a larger machine."""
    out: Path = Path("build/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Proposed:
    """Candidates of one room: a code, what each must gain, and its claims (value, owner, voxel)."""

    code: Finds
    least: Tensor
    value: Tensor
    owner: Tensor
    voxel: Tensor


def proposed(rgba: Tensor, parts: Parts) -> Proposed:
    """Of each cell and size of part the best one."""
    field, codes, least = left_of(rgba), [], []
    for number, size in enumerate(parts.sizes):
        if len(parts.rgba[number]):
            some = proposals(field, Templates(parts.rgba[number]), STRIDE)
            codes.append(Finds(some.which + parts.first(number), some.pose, some.gain))
            least += [size.least] * len(some.which)
    code = Finds.joined(codes)
    volumes = [one for own in parts.rgba for one in own]
    value, owner, voxel = claims(field, [volumes[k] for k in code.which], code.pose)
    return Proposed(code, torch.tensor(least), *map(torch.from_numpy, (value, owner, voxel)))


def kept(some: Proposed, temperatures: tuple[float, ...]) -> Finds:
    gains = route(some.value.float(), some.owner, some.voxel, len(some.least), temperatures)
    rows = (gains >= some.least).numpy()
    return Finds(some.code.which[rows], some.code.pose[rows], gains.numpy()[rows])


WAYS: dict[str, tuple[float, ...]] = {
    "one shot": (),
    "routing, 1 round": TEMPERATURES[-1:],
    "routing, 2 rounds": TEMPERATURES[1:],
    "routing, 3 rounds": TEMPERATURES,
}


def measure(code: Finds, parts: Parts, test: Halves) -> list[float]:
    drawn = decode(code, parts, test.grid).rgba
    weights = torch.nn.functional.one_hot(torch.from_numpy(code.which), len(parts)).float()
    entropy = usage(weights).entropy if len(weights) else 0.0
    return [iou(drawn, test.above), colour_psnr(drawn, test.above), entropy, len(code.which)]


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.full:
        options.rooms = tuple(range(100, 116))
    learning = Learning(
        rooms=options.rooms, passes=options.passes, size=options.size, out=options.out
    )
    parts, _ = learnt(learning)
    begin = time.process_time()
    tests = [halves(room(room_settings(seed), options.size)) for seed in options.tests]
    rows: dict[str, list[list[float]]] = {}
    shown: list[Tensor] = [tests[0].above]
    for number, test in enumerate(tests):
        some = proposed(test.above, parts)
        codes = {name: kept(some, temperatures) for name, temperatures in WAYS.items()}
        codes["matching pursuit"] = encode(test.above, parts)
        for name, code in codes.items():
            rows.setdefault(name, []).append(measure(code, parts, test))
            if number == 0 and name in ("one shot", "routing, 3 rounds"):
                shown.append(decode(code, parts, test.grid).rgba)
    lines = [
        "| who represents | IoU | worst | colour, dB | usage entropy | parts laid |",
        "|---" * 6 + "|",
    ]
    for name, found in rows.items():
        same, psnr, entropy, n = np.mean(found, axis=0)
        worst = min(row[0] for row in found)
        lines.append(
            f"| {name} | {same:.3f} | {worst:.3f} | {psnr:.1f} | {entropy:.3f} | {n:.0f} |"
        )
    title = (
        f"Rooms {', '.join(map(str, options.tests))} at {options.size}³, {len(parts)} parts learnt "
        f"from rooms {', '.join(map(str, options.rooms))}; the same candidates, of each cell and "
        f"size one. {time.process_time() - begin:.0f} CPU s."
    )
    text = "\n".join([title, "", *lines])
    print(text)
    picture(shown, options.out / "routing.png")
    if options.results:
        write_between_markers(options.results, "routing", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
