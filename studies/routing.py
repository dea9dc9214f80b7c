"""Routing or one-shot: who of the parts that claim a piece of space represents it?

    python studies/routing.py --results docs/results.md

One encoder for both, and no parameter besides. Candidates are what the networks of
``studies/fat_voxels.py`` hold for possible in rooms unseen before, of each cell and size one; and
beside it, of every cell, the part and pose of most gain by one matrix product. All are refined.
One shot keeps those whose own gain is enough. Routing lets them compete for what several claim,
over one to three rounds, and keeps those whose gain is enough of what is left to them. Matching
pursuit, which looks again after each part, is the bound.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from fat_voxel_network import competitors, settled
from fat_voxels import Options, learnt, networks, picture
from results_page import write_between_markers
from room_measures import STRIDE, Halves, colour_psnr, halves, iou
from static_scenes import room, room_settings
from torch import Tensor

from protoscene.assign import usage
from protoscene.laid import left_of
from protoscene.parts import Parts, decode, encode
from protoscene.pursuit import Finds, Templates, claims, proposals
from protoscene.routing import TEMPERATURES, route


@dataclass(frozen=True, eq=False)
class Proposed:
    """Candidates of one room: a code, what each must gain, and its claims (value, owner, voxel)."""

    code: Finds
    least: Tensor
    value: Tensor
    owner: Tensor
    voxel: Tensor


def searched(rgba: Tensor, parts: Parts) -> Finds:
    """Of each cell and size of part the best one."""
    field, codes = left_of(rgba), []
    for number in range(len(parts.sizes)):
        if not len(parts.rgba[number]):
            continue
        some = proposals(field, Templates(parts.rgba[number]), STRIDE)
        codes.append(Finds(some.which + parts.first(number), some.pose, some.gain))
    return Finds.joined(codes)


def claiming(code: Finds, rgba: Tensor, parts: Parts) -> Proposed:
    """What the parts of a code claim of a volume of which nothing is explained."""
    volumes = [one for own in parts.rgba for one in own]
    value, owner, voxel = claims(left_of(rgba), [volumes[k] for k in code.which], code.pose)
    sizes = np.repeat([size.least for size in parts.sizes], [len(own) for own in parts.rgba])
    least = torch.from_numpy(sizes[code.which])
    return Proposed(code, least, *map(torch.from_numpy, (value, owner, voxel)))


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


Rows = dict[str, list[list[float]]]


def compared(code: Finds, bound: Finds, parts: Parts, test: Halves, rows: Rows) -> dict[str, Finds]:
    """Appends to ``rows`` the figures of each way to choose among the candidates ``code``."""
    some = claiming(code, test.above, parts)
    codes = {name: kept(some, temperatures) for name, temperatures in WAYS.items()}
    codes["matching pursuit"] = bound
    for name, one in codes.items():
        rows.setdefault(name, []).append(measure(one, parts, test))
    return codes


def lines_of(source: str, rows: Rows, n_tests: int) -> list[str]:
    """``rows``: of each network one after another its rooms."""
    lines = []
    for name, found in rows.items():
        of = np.array(found).reshape(-1, n_tests, 4)
        same, psnr, entropy, n = of.mean(axis=(0, 1))
        cells = [f"{same:.3f}", f"{entropy:.3f}"]
        if len(of) > 1:
            spread = of.mean(axis=1).std(axis=0)
            cells = [f"{same:.3f} ± {spread[0]:.3f}", f"{entropy:.3f} ± {spread[2]:.3f}"]
        lines.append(
            f"| {source} | {name} | {cells[0]} | {of[..., 0].min():.3f} | {psnr:.1f} | {cells[1]} "
            f"| {n:.0f} |"
        )
    return lines


def main(options: Options) -> None:
    torch.set_num_threads(1)
    parts, _ = learnt(options)
    nets, _ = networks(parts, options)
    begin = time.process_time()
    tests = [halves(room(room_settings(seed), options.size)) for seed in options.tests]
    lines = [
        "| candidates by | who represents | IoU | worst | colour, dB | usage entropy "
        "| parts laid |",
        "|---" * 7 + "|",
    ]
    shown: list[Tensor] = [tests[0].above]
    rows: Rows = {}
    for net in nets:
        for test in tests:
            above = test.above
            bound = settled(net, above, parts)
            codes = compared(competitors(net, above, parts), bound, parts, test, rows)
            if len(shown) == 1:
                two = (codes["one shot"], codes["routing, 3 rounds"])
                shown += [decode(code, parts, test.grid).rgba for code in two]
    lines += lines_of("network", rows, len(tests))
    rows = {}
    for test in tests:
        above = test.above
        compared(searched(above, parts), encode(above, parts), parts, test, rows)
    lines += lines_of("matrix product", rows, len(tests))
    title = (
        f"Rooms {', '.join(map(str, options.tests))} at {options.size}³, {len(parts)} parts learnt "
        f"from rooms {', '.join(map(str, options.rooms))}, networks of "
        f"{options.steps} steps, seeds {', '.join(map(str, options.seeds))}; "
        f"{time.process_time() - begin:.0f} CPU s."
    )
    text = "\n".join([title, "", *lines])
    print(text)
    picture(shown, options.out / "routing.png")
    if options.results:
        write_between_markers(options.results, "routing", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
