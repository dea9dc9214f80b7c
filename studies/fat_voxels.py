"""Fat voxels: rooms unseen before as a few parts each, from one dictionary of parts.

    python studies/fat_voxels.py --results docs/results.md

The dictionary is learnt by hard EM from some rooms (their things and clutter, and one ground).
Codes of other rooms are found by search, and by a network at 32³ cells that says of each cell
which part stands in it and how, taught by the codes of the first rooms turned any way. Beside the
bits of a code: those of a coarser volume of the same IoU, as a sparse grid and by lzma.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from fat_voxel_network import Lesson, said, settled, train
from PIL import Image
from results_page import write_between_markers
from room_measures import (
    STRIDE,
    Halves,
    at_equal_iou,
    colour_psnr,
    halves,
    iou,
    mean_over,
    tensors_bytes,
)
from safetensors.torch import load_file, save_file
from static_scenes import room, room_settings, seen_from_above
from torch import Tensor

from protoscene.networks.fat_voxels import FatVoxels
from protoscene.parts import SIZES, Parts, Size, code_bits, decode, encode, learn
from protoscene.pursuit import Finds

PIECE_M = 1.92
"""Side of the piece of ground that is learnt from."""


@dataclass
class Options:
    """Learns parts, and codes rooms by them."""

    rooms: tuple[int, ...] = (100, 101, 102, 103)
    """For the dictionary."""
    lessons: tuple[int, ...] = tuple(range(100, 116))
    """Rooms whose codes the network is taught."""
    tests: tuple[int, ...] = (20, 21, 22)
    passes: int = 2
    size: int = 256
    steps: int = 2500
    """Of the network, in all its seeds; 0: none."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the network."""
    full: bool = False
    """Many rooms and steps, for a graphics card's machine."""
    out: Path = Path("build/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""

    def __post_init__(self) -> None:
        if self.full:
            self.rooms, self.passes = tuple(range(100, 116)), 3
            self.lessons, self.steps = tuple(range(100, 164)), 20000


def sizes_for(size: int) -> tuple[Size, ...]:
    """The usual sizes of parts, their demands scaled to rooms of ``size``³ voxels."""
    share = (size / 256) ** 3
    return tuple(replace(s, least=max(4.0, s.least * share)) for s in SIZES)


@dataclass(frozen=True)
class Measured:
    """Of one room: how alike above the ground and in all, codes, their bytes, and how many bytes
    coarser volumes of the same IoU have."""

    iou: float
    psnr: float
    iou_all: float
    psnr_all: float
    codes: int
    bytes: float
    sparse: float
    lzma: float
    seconds: float


def measure(parts: Parts, test: Halves, code: Finds, ground: Finds, seconds: float) -> Measured:
    above, below = decode(code, parts, test.grid).rgba, decode(ground, parts, test.ground).rgba
    shape = tuple(test.above.shape[1:])
    same = iou(above, test.above)
    coarse = at_equal_iou(test.above, same)
    both, true = torch.cat([below, above], 1), torch.cat([test.below, test.above], 1)
    return Measured(
        same, colour_psnr(above, test.above), iou(both, true), colour_psnr(both, true),
        len(code.which), code_bits(code, parts, shape) / 8, coarse.sparse, coarse.lzma, seconds,
    )  # fmt: skip


def by_search(
    parts: Parts, tests: list[Halves], grounds: list[Finds]
) -> tuple[list[Measured], list[Finds]]:
    found, codes = [], []
    for test, ground in zip(tests, grounds, strict=True):
        begin = time.process_time()
        code = encode(test.above, parts)
        seconds = time.process_time() - begin
        found.append(measure(parts, test, code, ground, seconds))
        codes.append(code)
    return found, codes


HEAD = (
    "| codes by | IoU | colour, dB | IoU with ground | colour with ground, dB | codes "
    "| bytes | sparse grid, bytes | lzma, bytes | CPU s |\n" + "|---" * 10 + "|"
)


def row(name: str, found: list[Measured]) -> str:
    def mean(field: str) -> float:
        return mean_over([getattr(one, field) for one in found])

    cells = [
        f"{mean('iou'):.3f} (worst {min(m.iou for m in found):.3f})", f"{mean('psnr'):.1f}",
        f"{mean('iou_all'):.3f}", f"{mean('psnr_all'):.1f}", f"{mean('codes'):.0f}",
        f"{mean('bytes'):.0f}", f"{mean('sparse'):.0f}", f"{mean('lzma'):.0f}",
        f"{mean('seconds'):.1f}",
    ]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"


def picture(volumes: list[Tensor], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    views = [seen_from_above(v.detach().contiguous().numpy()) for v in volumes]
    Image.fromarray(np.concatenate(views, axis=1)).save(file)


def rooms_of(seeds: tuple[int, ...], size: int) -> list[Halves]:
    return [halves(room(room_settings(seed), size)) for seed in seeds]


def learnt(options: Options) -> tuple[Parts, float]:
    """The dictionary of the rooms, and CPU seconds; the same one is learnt once per folder."""
    names = "-".join(map(str, (options.size, options.passes, *options.rooms)))
    file = options.out / f"parts-{names}.safetensors"
    sizes = sizes_for(options.size)
    if file.exists():
        kept = load_file(file)
        rgba = tuple(kept[f"of{size.side}"].float() for size in sizes)
        return Parts(sizes, rgba), float(kept["seconds"])
    begin = time.process_time()
    made = rooms_of(options.rooms, options.size)
    # All grounds are alike, and a piece of two tiles a side shows all there is of it.
    side = round(PIECE_M / made[0].grid.voxel_size)
    volumes = [one.above for one in made] + [made[0].below[:, :, :side, :side].contiguous()]
    parts = learn(volumes, sizes, options.passes)
    seconds = time.process_time() - begin
    kept = {f"of{size.side}": own.contiguous() for size, own in zip(sizes, parts.rgba, strict=True)}
    options.out.mkdir(parents=True, exist_ok=True)
    save_file({**kept, "seconds": torch.tensor(seconds)}, file)
    return parts, seconds


def networks(parts: Parts, options: Options) -> tuple[list[FatVoxels], float]:
    """Of each seed a network, and CPU seconds of training one; they too are learnt once per folder
    (which must not be kept when their training is changed)."""
    asked = (options.size, options.passes, options.rooms, options.lessons, options.steps)
    name = hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
    files = [options.out / f"fat_voxels-{name}-{seed}.safetensors" for seed in options.seeds]
    nets, spent, lessons = [], 0.0, []
    for seed, file in zip(options.seeds, files, strict=True):
        if not file.exists():
            lessons = lessons or taught(parts, options)
            begin = time.process_time()
            made = train(lessons, parts, options.steps, seed).state_dict()
            seconds = torch.tensor(time.process_time() - begin)
            save_file({**made, "seconds": seconds}, file)
        kept = load_file(file)
        spent += float(kept.pop("seconds"))
        net = FatVoxels(len(parts), STRIDE)
        net.load_state_dict(kept)
        nets.append(net.eval())
    return nets, spent / len(nets)


def taught(parts: Parts, options: Options) -> list[Lesson]:
    """Rooms and their codes by search."""
    rooms = rooms_of(options.lessons, options.size)
    tall = max(-(-one.above.shape[1] // STRIDE) * STRIDE for one in rooms)
    return [Lesson.of(one.above, encode(one.above, parts), tall) for one in rooms]


def by_network(
    parts: Parts, nets: list[FatVoxels], tests: list[Halves], grounds: list[Finds]
) -> tuple[dict[str, list[Measured]], list[Finds]]:
    """Codes that networks say: as they are, and refined where they lie; the last network's."""
    found: dict[str, list[Measured]] = {"network": [], "network, refined": []}
    last: list[Finds] = []
    for net in nets:
        last = []
        for test, ground in zip(tests, grounds, strict=True):
            begin = time.process_time()
            code = said(net, test.above)
            middle = time.process_time()
            better = settled(net, test.above, parts)
            end = time.process_time()
            found["network"].append(measure(parts, test, code, ground, middle - begin))
            found["network, refined"].append(measure(parts, test, better, ground, end - middle))
            last += [code, better]
    return found, last


def main(options: Options) -> None:
    torch.set_num_threads(1)
    parts, seconds = learnt(options)
    tests = rooms_of(options.tests, options.size)
    grounds = [encode(tests[0].below, parts)] * len(tests)
    found, codes = by_search(parts, tests, grounds)
    lines = [HEAD, row("search", found)]
    shown, taught = [codes[0]], ""
    if options.steps:
        nets, spent = networks(parts, options)
        said_by, last = by_network(parts, nets, tests, grounds)
        lines += [row(name, measured) for name, measured in said_by.items()]
        shown += last[:2]
        taught = (
            f" Networks: {len(options.seeds)} of {options.steps} steps, {spent:.0f} CPU s each, "
            f"taught the codes of {len(options.lessons)} rooms; refined: parts that they hold for "
            "possible moved to where they explain most, without a search."
        )
    drawn = [decode(code, parts, tests[0].grid).rgba for code in shown]
    counts = " + ".join(
        f"{len(own)} of {size.side}³" for own, size in zip(parts.rgba, parts.sizes, strict=True)
    )
    volumes = [one for own in parts.rgba for one in own]
    title = (
        f"{counts} parts learnt from rooms {', '.join(map(str, options.rooms))} at "
        f"{options.size}³ in {seconds:.0f} CPU s ({tensors_bytes(volumes)} bytes by lzma); means "
        f"over rooms {', '.join(map(str, options.tests))}; colours over voxels that are solid in "
        "both. Sparse grid and lzma: the coarser volume of at least the same IoU, things and "
        f"clutter alone, as the codes' bytes.{taught}"
    )
    text = "\n".join([title, "", *lines])
    print(text)
    picture([tests[0].above, *drawn], options.out / "fat_voxels.png")
    if options.results:
        write_between_markers(options.results, "fat_voxels", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
