"""A dictionary of nets: does one of K codes for a patch of a room do as well as a free vector?

    python studies/codebook.py                     # 64, 256 and 1024 nets, three seeds
    python studies/codebook.py --full              # ten times the patches, forty times the steps

Patches of 16³ voxels around the surfaces of rooms (128³) get a vector; the net of which this is the
code (protoscene.neural.CodedField) gives colour and occupancy at positions. A vector is what an
encoder makes of a patch, or one is fitted to each patch by gradients. Codes are the vector itself;
the nearest of a codebook learnt jointly (straight through, moving means, dead codes reborn); or the
nearest of the K means of all vectors, clustered afterwards. Figures are of patches of other rooms,
beside the best that the same K nets could do: for each patch the net that is least wrong of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Int, UInt8
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
FITTED_RATE, ASKED_RATE, ASKED_STEPS = 0.1, 0.25, 80
"""Of vectors that are fitted, learning rates: in training, and of an unseen patch; its steps."""
MORE = 4
"""Times as many patches a step, with so many times fewer positions, where vectors are fitted: each
has only those steps in which it is drawn."""


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
    fitting: int = 1500
    """Steps of the nets without an encoder, which are cheaper."""
    batch: int = 32
    positions: int = 256
    size: int = 128
    code_dim: int = 32
    full: bool = False
    out: Path = Path("build/codebook")
    """Figures of a seed that are there are not measured again."""
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


def wrong(
    field: CodedField,
    codes: Float[Tensor, "n d"],
    patches: UInt8[Tensor, "n 4 16 16 16"],
    n_positions: int,
    random: torch.Generator,
) -> Float[Tensor, ""]:
    """The loss at so many random voxels of each patch."""
    at = torch.randint(PATCH**3, (len(patches), n_positions), generator=random).to(codes.device)
    wanted = patches.flatten(2).gather(2, at[:, None].expand(-1, 4, -1)).transpose(1, 2)
    places = voxel_positions((PATCH,) * 3).to(codes)
    return losses(field(places[at], codes), wanted.float() / 255)


def trained(
    patches: UInt8[Tensor, "n 4 16 16 16"], n_nets: int | None, seed: int, options: Options
) -> PatchCoder:
    """Adam, ``steps`` of ``batch`` patches at random ``positions``; with ``n_nets`` the codebook
    starts as so many patches' vectors after a tenth of the steps."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    coder = PatchCoder(options.code_dim, None).to(patches.device)
    optimiser = torch.optim.Adam(coder.parameters(), lr=2e-3)
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / options.steps) ** 0.5
        chosen = torch.randint(len(patches), (options.batch,), generator=random)
        vectors = coder.vectors(patches[chosen].float() / 255)
        if n_nets is not None and step == options.steps // 10:
            coder.book = Codebook(all_vectors(coder, drawn_patches(patches, n_nets, random)))
        codes, extra = vectors, vectors.new_zeros(())
        if coder.book is not None:
            codes, which = coder.book(vectors)
            extra = COMMITMENT * F.mse_loss(vectors, coder.book.codes[which])
            coder.book.update(vectors, which)
            if step % RESTART_EVERY == 0 and step < 0.8 * options.steps:
                some = drawn_patches(patches, 4 * options.batch, random)
                coder.book.restart(all_vectors(coder, some), random)
        loss = wrong(coder.field, codes, patches[chosen], options.positions, random) + extra
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return coder.eval()


def drawn_patches(
    patches: UInt8[Tensor, "n 4 16 16 16"], n: int, random: torch.Generator
) -> UInt8[Tensor, "n 4 16 16 16"]:
    """``n`` of the patches, each once if there are as many."""
    order = torch.randperm(len(patches), generator=random)
    return patches[order.repeat(-(-n // len(order)))[:n].to(patches.device)]


@torch.no_grad()
def all_vectors(coder: PatchCoder, patches: UInt8[Tensor, "n 4 16 16 16"]) -> Float[Tensor, "n d"]:
    return torch.cat([coder.vectors(part.float() / 255) for part in patches.split(128)])


def fitted(
    patches: UInt8[Tensor, "n 4 16 16 16"], seed: int, options: Options
) -> tuple[CodedField, Float[Tensor, "n d"]]:
    """Nets that are first of all fitted: a field of all, a vector for each patch, by Adam on both,
    vectors only where their patch is drawn."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    field = CodedField(options.code_dim).to(patches.device)
    vectors = nn.Embedding(len(patches), options.code_dim, sparse=True, device=patches.device)
    nn.init.zeros_(vectors.weight)
    own = torch.optim.SparseAdam(list(vectors.parameters()), lr=FITTED_RATE)
    shared = torch.optim.Adam(field.parameters(), lr=2e-3)
    for step in range(options.fitting):
        left = (1 - step / options.fitting) ** 0.5
        own.param_groups[0]["lr"], shared.param_groups[0]["lr"] = FITTED_RATE * left, 2e-3 * left
        chosen = torch.randint(len(patches), (MORE * options.batch,), generator=random)
        codes = vectors(chosen.to(patches.device))
        own.zero_grad()
        shared.zero_grad()
        wrong(field, codes, patches[chosen], options.positions // MORE, random).backward()
        own.step()
        shared.step()
    return field.requires_grad_(False), vectors.weight.detach()


def fitted_vectors(
    field: CodedField, patches: UInt8[Tensor, "n 4 16 16 16"], options: Options
) -> Float[Tensor, "n d"]:
    """The vectors of patches that the field has not seen, by Adam from 0."""
    random = torch.Generator().manual_seed(0)
    vectors = torch.zeros(len(patches), options.code_dim, device=patches.device).requires_grad_()
    optimiser = torch.optim.Adam([vectors], lr=ASKED_RATE)
    for step in range(ASKED_STEPS):
        optimiser.param_groups[0]["lr"] = ASKED_RATE * (1 - step / ASKED_STEPS) ** 0.5
        optimiser.zero_grad()
        wrong(field, vectors, patches, options.positions, random).backward()
        optimiser.step()
    return vectors.detach()


@dataclass(frozen=True)
class Figure:
    """Mean IoU of occupancy, the same if each patch had the net that is least wrong of it, mean
    colour PSNR (dB) where it is full, and codes in even use."""

    iou: float
    best: float
    psnr: float
    used: float


@torch.no_grad()
def drawn(field: CodedField, codes: Float[Tensor, "n d"]) -> Float[Tensor, "n 4 16 16 16"]:
    """Logits on whole patches."""
    places = voxel_positions((PATCH,) * 3).to(codes)[None]
    logits = [field(places.expand(len(c), -1, -1), c).transpose(1, 2) for c in codes.split(32)]
    return torch.cat(logits).unflatten(2, (PATCH,) * 3)


def least_wrong(
    nets: Float[Tensor, "K 4 16 16 16"], patches: UInt8[Tensor, "n 4 16 16 16"]
) -> Int[Tensor, " n"]:
    """Which of K nets, given as logits, has the least of :func:`losses` on each whole patch."""
    wanted = patches.flatten(2).float() / 255
    full = wanted[:, 3]
    logit = nets[:, 3].flatten(1)
    entropy = F.softplus(logit).mean(dim=1) - full @ logit.T / PATCH**3
    colour = nets[:, :3].flatten(2).sigmoid()
    # (a - b)² = a² - 2 a b + b², and b² is every net's.
    off = full @ colour.square().mean(dim=1).T
    off -= 2 / 3 * (wanted[:, :3] * full[:, None]).flatten(1) @ colour.flatten(1).T
    return (entropy + COLOUR * off / full.sum(dim=1).clamp(min=1)[:, None]).argmin(dim=1)


def judged(
    logits: Float[Tensor, "n 4 16 16 16"], patches: UInt8[Tensor, "n 4 16 16 16"]
) -> tuple[float, float]:
    """Mean IoU, and dB of colour."""
    ours, true = logits.sigmoid(), patches.float() / 255
    a, b = ours[:, 3] > 0.5, true[:, 3] > 0.5
    iou = (a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1).clamp(min=1)
    error = ((ours[:, :3] - true[:, :3]) ** 2).mean(dim=1)[b].mean()
    return float(iou.mean()), float(-10 * torch.log10(error))


def measured(
    field: CodedField,
    vectors: Float[Tensor, "n d"],
    book: Codebook | None,
    patches: UInt8[Tensor, "n 4 16 16 16"],
) -> tuple[Figure, Float[Tensor, "n 4 16 16 16"]]:
    """The figures on whole patches of these vectors, and the patches as the nets give them."""
    if book is None:
        logits = drawn(field, vectors)
        iou, psnr = judged(logits, patches)
        return Figure(iou, iou, psnr, float("nan")), logits.sigmoid()
    nets, which = drawn(field, book.codes), book.nearest(vectors)
    iou, psnr = judged(nets[which], patches)
    best, _ = judged(nets[least_wrong(nets, patches)], patches)
    return Figure(iou, best, psnr, perplexity(which, len(book))), nets[which].sigmoid()


def clustered(vectors: Float[Tensor, "n d"], n: int, seed: int) -> Codebook:
    means = kmeans2(vectors.cpu().numpy(), n, minit="++", seed=seed)[0]
    return Codebook(torch.from_numpy(means).to(vectors))


Way = tuple[str, CodedField, Float[Tensor, "n d"], Codebook | None]
"""A row of the table: its name, the field, the vectors of the patches to judge, the nets."""


def ways(
    train: UInt8[Tensor, "n 4 16 16 16"],
    test: UInt8[Tensor, "m 4 16 16 16"],
    seed: int,
    options: Options,
) -> Iterator[Way]:
    free = trained(train, None, seed, options)
    seen, asked = (all_vectors(free, patches) for patches in (train, test))
    yield "encoded", free.field, asked, None
    field, own = fitted(train, seed, options)
    found = fitted_vectors(field, test, options)
    yield "fitted", field, found, None
    for n in options.nets:
        yield f"encoded, then {n} clusters", free.field, asked, clustered(seen, n, seed)
        yield f"fitted, then {n} clusters", field, found, clustered(own, n, seed)
        joint = trained(train, n, seed, options)
        yield f"{n} learnt jointly", joint.field, all_vectors(joint, test), joint.book


def judged_ways(
    train: UInt8[Tensor, "n 4 16 16 16"],
    test: UInt8[Tensor, "m 4 16 16 16"],
    seed: int,
    options: Options,
) -> tuple[dict[str, Figure], float]:
    """{row: figures} and the CPU seconds they took; kept, and read again."""
    asked = replace(options, seeds=(seed,), out=Path(), results=None)
    file = options.out / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:12]}.json"
    if not file.exists():
        begin, figures, strips = time.process_time(), {}, [test[:24].float() / 255]
        for name, field, vectors, book in ways(train, test, seed, options):
            figures[name], shown = measured(field, vectors, book, test)
            strips.append(shown[:24])
            print(seed, name, figures[name], flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        rows = [np.concatenate([from_above(p) for p in strip.cpu()], axis=1) for strip in strips]
        Image.fromarray(np.concatenate(rows)).save(options.out / "codebook.png")
        seconds = time.process_time() - begin
        each = {name: asdict(found) for name, found in figures.items()}
        file.write_text(json.dumps({"seconds": seconds, "figures": each}))
    kept = json.loads(file.read_text())
    return {name: Figure(**found) for name, found in kept["figures"].items()}, kept["seconds"]


def main(options: Options) -> dict[str, list[Figure]]:
    if options.full:
        options.patches, options.steps, options.batch = 30_000, 20_000, 128
        options.fitting = 60_000
    device = "cuda" if options.full and torch.cuda.is_available() else "cpu"
    random = np.random.default_rng(0)
    train = patches_of(options.rooms, options.patches, options.size, random).to(device)
    test = patches_of(options.test_rooms, options.test_patches, options.size, random).to(device)
    runs, seconds = zip(
        *(judged_ways(train, test, seed, options) for seed in options.seeds), strict=True
    )
    figures = {name: [run[name] for run in runs] for name in runs[0]}
    text = f"### A dictionary of nets\n\n{title(options, sum(seconds))}\n\n{table(figures)}"
    print(text)
    if options.results:
        write_between_markers(options.results, "codebook", text)
    return figures


def title(options: Options, seconds: float) -> str:
    rooms, seeds = (", ".join(map(str, some)) for some in (options.test_rooms, options.seeds))
    return (
        f"{options.test_patches} patches of rooms {rooms}, learnt from {options.patches} of other "
        f"rooms; training seeds {seeds}, {seconds:.0f} CPU s in all. Best: each patch had the net "
        "that is least wrong of it."
    )


def table(figures: dict[str, list[Figure]]) -> str:
    lines = [
        "| nets | occupancy IoU | of that without | best | colour PSNR (dB) | nets in use |",
        "|---" * 6 + "|",
    ]
    for name, found in figures.items():
        whole = figures["fitted" if name.startswith("fitted") else "encoded"]
        share = np.mean([f.iou for f in found]) / np.mean([f.iou for f in whole])
        ious, best, psnrs, used = (
            np.array([getattr(f, a) for f in found]) for a in ("iou", "best", "psnr", "used")
        )
        in_use = "–" if np.isnan(used).all() else f"{used.mean():.0f}"
        lines.append(
            f"| {name} | {ious.mean():.3f} ± {ious.std():.3f} | {share:.0%} "
            f"| {best.mean():.3f} | {psnrs.mean():.1f} | {in_use} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Options))
