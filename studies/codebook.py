"""A dictionary of nets: does one of K codes for a patch of a room do as well as a free vector?

    python studies/codebook.py                     # 64, 256 and 1024 nets, three seeds
    python studies/codebook.py --full              # ten times the patches and steps

Patches of 16³ voxels around the surfaces of rooms (128³) are encoded to a vector; the net of which
this is the code (protoscene.neural.CodedField) gives colour and occupancy at positions. Codes
are the vector itself; the nearest of a codebook learnt jointly (straight through, moving means,
dead codes reborn); or the nearest of the K means of the free vectors, learnt afterwards. Figures
are of patches of other rooms.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, UInt8
from PIL import Image
from results_page import write_between_markers
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from solids import from_above
from static_scenes import room, room_settings
from torch import Tensor, nn

from protoscene.codebook import Codebook, perplexity
from protoscene.neural import CodedField, voxel_positions

PATCH = 16
RESTART_EVERY, COLOUR, COMMITMENT = 20, 2.0, 0.25
"""Steps between rebirths, what colour counts beside occupancy, and what the distance of a vector
from its code does."""


@dataclass
class Options:
    """Trains free and quantised autoencoders of patches."""

    nets: tuple[int, ...] = (64, 256, 1024)
    seeds: tuple[int, ...] = (0, 1, 2)
    rooms: tuple[int, ...] = (100, 101, 102, 103, 104, 105, 106, 107)
    test_rooms: tuple[int, ...] = (20, 21, 22)
    patches: int = 3072
    test_patches: int = 300
    steps: int = 500
    batch: int = 32
    positions: int = 256
    size: int = 128
    code_dim: int = 32
    full: bool = False
    out: Path = Path("build/codebook")
    results: Path | None = None
    """The page of results to write the table into."""


def patches_of(
    seeds: tuple[int, ...], n: int, size: int, random: np.random.Generator
) -> UInt8[Tensor, "n 4 16 16 16"]:
    """``n`` windows around voxels of what stands in the rooms of ``seeds``, evenly many of each."""
    found = []
    for seed in seeds:
        there = room(room_settings(seed), size)
        solid = there.rgba[3] > 0.5
        low = (there.grid.axes()[2] < 0)[:, None, None]
        near = ndimage.binary_dilation(solid & ~low, iterations=2)
        edge = PATCH // 2
        near[:edge] = near[-edge:] = near[:, :edge] = near[:, -edge:] = False
        near[..., :edge] = near[..., -edge:] = False
        places = np.argwhere(near)
        for z, y, x in places[random.integers(len(places), size=-(-n // len(seeds)))] - edge:
            window = there.rgba[:, z : z + PATCH, y : y + PATCH, x : x + PATCH]
            found.append(np.round(255 * window).astype(np.uint8))
    return torch.from_numpy(np.stack(found[:n]))


class PatchCoder(nn.Module):
    """Three strided convolutions and a linear layer to a vector; a field whose code that is; and
    between the two a codebook, or none."""

    def __init__(self, code_dim: int, book: Codebook | None) -> None:
        super().__init__()
        widths = (4, 16, 32, 64)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv3d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * widths[-1], code_dim))
        self.field = CodedField(code_dim)
        self.book = book

    def vectors(self, patches: Float[Tensor, "n 4 z y x"]) -> Float[Tensor, "n d"]:
        colour, occupancy = patches[:, :3] - 0.5, patches[:, 3:]
        found: Tensor = self.encoder(torch.cat([colour * occupancy, occupancy], dim=1))
        return found


def losses(logits: Float[Tensor, "n p 4"], wanted: Float[Tensor, "n p 4"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of occupancy + ``COLOUR`` · squared colour error where it is full."""
    full = wanted[..., 3]
    off = ((torch.sigmoid(logits[..., :3]) - wanted[..., :3]) ** 2).mean(dim=-1)
    entropy = F.binary_cross_entropy_with_logits(logits[..., 3], full)
    return entropy + COLOUR * (off * full).sum() / full.sum().clamp(min=1)


def trained(
    patches: UInt8[Tensor, "n 4 16 16 16"], n_nets: int | None, seed: int, options: Options
) -> PatchCoder:
    """Adam, ``steps`` of ``batch`` patches at random ``positions``; with ``n_nets`` the codebook
    starts as so many patches' vectors after a tenth of the steps."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    coder = PatchCoder(options.code_dim, None)
    optimiser = torch.optim.Adam(coder.parameters(), lr=2e-3)
    places = voxel_positions((PATCH,) * 3)
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / options.steps) ** 0.5
        chosen = torch.randint(len(patches), (options.batch,), generator=random)
        batch = patches[chosen].float() / 255
        at = torch.randint(PATCH**3, (options.batch, options.positions), generator=random)
        wanted = batch.flatten(2).gather(2, at[:, None].expand(-1, 4, -1)).transpose(1, 2)
        vectors = coder.vectors(batch)
        if n_nets is not None and step == options.steps // 10:
            coder.book = Codebook(all_vectors(coder, patches, n_nets, random))
        codes, extra = vectors, torch.zeros(())
        if coder.book is not None:
            codes, which = coder.book(vectors)
            extra = COMMITMENT * F.mse_loss(vectors, coder.book.codes[which])
            coder.book.update(vectors, which)
            if step % RESTART_EVERY == 0 and step < 0.8 * options.steps:
                many = all_vectors(coder, patches, 4 * options.batch, random)
                coder.book.restart(many, random)
        loss = losses(coder.field(places[at], codes), wanted) + extra
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return coder.eval()


@torch.no_grad()
def all_vectors(
    coder: PatchCoder, patches: UInt8[Tensor, "n 4 16 16 16"], n: int, random: torch.Generator
) -> Float[Tensor, "n d"]:
    """The vectors of ``n`` patches, each drawn once if there are as many."""
    order = torch.randperm(len(patches), generator=random)
    order = order.repeat(-(-n // len(order)))[:n]
    return torch.cat([coder.vectors(patches[part].float() / 255) for part in order.split(128)])


@dataclass(frozen=True)
class Figure:
    """Mean IoU of occupancy, mean colour PSNR (dB) where it is full, and codes in even use."""

    iou: float
    psnr: float
    used: float


@torch.no_grad()
def measured(
    coder: PatchCoder, book: Codebook | None, patches: UInt8[Tensor, "n 4 16 16 16"]
) -> tuple[Figure, Float[Tensor, "n 4 16 16 16"]]:
    """The figures on whole patches, and the patches as the nets give them."""
    places = voxel_positions((PATCH,) * 3)[None]
    given, chosen = [], []
    for part in patches.split(32):
        codes = coder.vectors(part.float() / 255)
        if book is not None:
            codes, which = book(codes)
            chosen.append(which)
        logits = coder.field(places.expand(len(part), -1, -1), codes)
        given.append(torch.sigmoid(logits).transpose(1, 2).reshape(part.shape))
    ours, true = torch.cat(given), patches.float() / 255
    a, b = ours[:, 3] > 0.5, true[:, 3] > 0.5
    iou = (a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1).clamp(min=1)
    error = ((ours[:, :3] - true[:, :3]) ** 2).mean(dim=1)[b].mean()
    used = perplexity(torch.cat(chosen), len(book)) if book is not None else float("nan")
    return Figure(float(iou.mean()), float(-10 * torch.log10(error)), used), ours


def main(options: Options) -> dict[str, list[Figure]]:
    if options.full:
        options.patches, options.steps, options.batch = 30_000, 20_000, 128
    random = np.random.default_rng(0)
    train = patches_of(options.rooms, options.patches, options.size, random)
    test = patches_of(options.test_rooms, options.test_patches, options.size, random)
    figures: dict[str, list[Figure]] = {}
    strips = [test[:24].float() / 255]
    start = time.process_time()
    for seed in options.seeds:
        free = trained(train, None, seed, options)
        found, shown = measured(free, None, test)
        figures.setdefault("no codebook", []).append(found)
        strips += [shown[:24]] if seed == options.seeds[-1] else []
        vectors = all_vectors(free, train, len(train), torch.Generator().manual_seed(seed))
        for n in options.nets:
            means = kmeans2(vectors.numpy(), n, minit="++", seed=seed)[0]
            joint = trained(train, n, seed, options)
            for name, coder, book in (
                (f"{n} separate", free, Codebook(torch.from_numpy(means))),
                (f"{n} joint", joint, joint.book),
            ):
                found, shown = measured(coder, book, test)
                figures.setdefault(name, []).append(found)
                strips += [shown[:24]] if seed == options.seeds[-1] else []
                print(seed, name, found, f"{time.process_time() - start:.0f} s", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate([from_above(patch) for patch in strip], axis=1) for strip in strips]
    Image.fromarray(np.concatenate(rows)).save(options.out / "codebook.png")
    text = "### A dictionary of nets\n\n" + table(figures)
    print(text)
    if options.results:
        write_between_markers(options.results, "codebook", text)
    return figures


def table(figures: dict[str, list[Figure]]) -> str:
    lines = [
        "| nets | occupancy IoU | of that without | colour PSNR (dB) | nets in use |",
        "|---|---|---|---|---|",
    ]
    whole = float(np.mean([f.iou for f in figures["no codebook"]]))
    for name, found in figures.items():
        ious, psnrs, used = (np.array([getattr(f, a) for f in found])
                             for a in ("iou", "psnr", "used"))  # fmt: skip
        in_use = "–" if np.isnan(used).all() else f"{used.mean():.0f}"
        lines.append(f"| {name} | {ious.mean():.3f} ± {ious.std():.3f} | {ious.mean() / whole:.0%} "
                     f"| {psnrs.mean():.1f} | {in_use} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Options))
