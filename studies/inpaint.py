"""An encoder that inpaints: from what one side shows to all that four sides show.

    python studies/inpaint.py --results docs/results.md

The detector's encoder reads an instant seen from one side; a 1 × 1 head writes occupancy and colour
of the whole column of every cell. It is taught by the same scenes seen from four sides. Measured on
scenes held out, over voxels that the one side did not know and four sides do; beside it, copying
the input, which knows nothing there (its colour: the mean of what it saw).

Then the same in feature space. Prototypes are means of the encoder's features under things, turned
back; the background's features are those of empty cells. At each held-out thing all prototypes at
all yaws are placed by `compose` onto that background and compared with the instant's features; the
same with RGB-O itself. Which tells kind and yaw better?
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from instants import GROUND_M, SIDE_M, things_of, whole_scenes
from joint_network import network_volume
from PIL import Image
from results_page import write_between_markers
from solids import from_above, seen
from torch import Tensor, nn

from protoscene.compose import compose
from protoscene.gains import Looks, Poses, averaged, explain, posed, seen_channels
from protoscene.geometry import Grid, wrap_angle
from protoscene.networks import Encoder
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.slots import window

YAWS = 36
HIGH_M = 0.8
"""Of what is inpainted, above the ground."""
WINDOW_M = 1.2
"""Of the windows around things."""


@dataclass
class Options:
    """Inpaints what a single side hides."""

    seeds: tuple[int, ...] = (0,)
    scenes: int = 64
    held_out: int = 16
    steps: int = 250
    batch: int = 6
    resolution: int = 64
    out: Path = Path("out/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """n scenes from one side and from four, (n, 5, z, y, x): colour, occupied, free; their things:
    scene, kind, place (x y, voxels) and yaw."""

    one: Tensor
    four: Tensor
    scene: np.ndarray
    kind: np.ndarray
    place: np.ndarray
    yaw: np.ndarray


def make_pairs(options: Options, n: int, seed: int, part: int) -> Pairs:
    one, four, rows = [], [], []
    voxel = SIDE_M / options.resolution
    low, high = round(GROUND_M / voxel), round((GROUND_M + HIGH_M) / voxel)
    drawn = whole_scenes(things_of(seed, 3), n, 1000 * part + seed, options.resolution)
    for scene, (whole, pieces, random) in enumerate(drawn):
        azimuth = random.uniform(0, 2 * np.pi)
        around = [azimuth + k * np.pi / 2 for k in range(4)]
        for views, found in ((around[:1], one), (around, four)):
            view = seen(whole, views, random)
            found.append(seen_channels(
                torch.from_numpy(view.rgba[None, :, low:high]),
                torch.from_numpy(view.known[None, low:high]).float(),
            ))  # fmt: skip
        for piece in pieces:
            rows.append((scene, piece.kind, *((piece.box[:2] + SIDE_M / 2) / voxel), piece.box[6]))
    table = np.array(rows)
    return Pairs(
        torch.cat(one), torch.cat(four), table[:, 0].astype(int), table[:, 1].astype(int),
        table[:, 2:4], table[:, 4],
    )  # fmt: skip


class Inpainter(nn.Module):
    """(n, 4, z, y, x): colour and the logit of occupancy, from colour, occupied and free."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = Encoder(shape)
        self.shape = shape
        self.head = nn.Conv2d(self.encoder.width, 4 * shape[0] * self.encoder.stride**2, 1)

    def forward(self, volume: Tensor) -> Tensor:
        columns = F.pixel_shuffle(self.head(self.encoder(volume)), self.encoder.stride)
        return columns.unflatten(1, (4, self.shape[0]))


def inpaint_loss(said: Tensor, four: Tensor) -> Tensor:
    """Cross-entropy of occupancy where four sides know it, and squared error of occupied colour."""
    occupied, free = four[:, 0], four[:, 1]
    known = occupied + free
    entropy = F.binary_cross_entropy_with_logits(said[:, 3], occupied, reduction="none")
    # Nine of ten known voxels are free.
    weight = known * (1 + 4 * occupied)
    colour = occupied * (said[:, :3].sigmoid() - four[:, 2:5]).square().mean(dim=1)
    return (weight * entropy).sum() / weight.sum() + 5 * colour.sum() / occupied.sum()


def train(pairs: Pairs, options: Options, seed: int) -> Inpainter:
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    model = Inpainter(tuple(pairs.one.shape[2:]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    for _ in range(options.steps):
        rows = torch.randint(len(pairs.one), (options.batch,), generator=random)
        turns = int(torch.randint(4, (1,), generator=random))
        one, four = (torch.rot90(v[rows], turns, (3, 4)) for v in (pairs.one, pairs.four))
        loss = inpaint_loss(model(network_volume(one)), four)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def hidden_scores(said: Tensor, one: Tensor, four: Tensor) -> tuple[float, float, float]:
    """IoU over voxels that only four sides know, IoU over all that these know, and PSNR (dB) of
    the colour of hidden occupied voxels, from rgba in [0, 1]."""
    known, before = four[:, 0] + four[:, 1], one[:, 0] + one[:, 1]
    there, guess = four[:, 0] > 0.5, said[:, 3] > 0.5
    hidden, everywhere = (known > 0) & (before == 0), known > 0
    ious = [
        float((there & guess & among).sum() / ((there | guess) & among).sum().clamp(min=1))
        for among in (hidden, everywhere)
    ]
    off = (said[:, :3] - four[:, 2:5]).square().mean(dim=1)[hidden & there]
    return ious[0], ious[1], float(-10 * torch.log10(off.mean()))


def copied(one: Tensor) -> Tensor:
    """The input as rgba: hidden voxels are empty, their colour the mean of what was seen."""
    mean = one[:, 2:5].sum(dim=(2, 3, 4)) / one[:, 0].sum(dim=(1, 2, 3))[:, None]
    seen_there = one[:, :1] > 0
    colour = torch.where(seen_there, one[:, 2:5], mean[..., None, None, None])
    return torch.cat([colour, one[:, :1]], dim=1)


def features(model: Inpainter, volumes: Tensor) -> Tensor:
    """(n, f, cy, cx): the encoder's, each to the same spread."""
    with torch.inference_mode():
        found = torch.cat([model.encoder(network_volume(v[None])) for v in volumes])
    return (found / found.square().mean(dim=(0, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)).clone()


def feature_prototypes(maps: Tensor, pairs: Pairs, stride: int, side: int) -> tuple[Tensor, Tensor]:
    """(K, f, 1, side, side) means of features under things, turned back, and (f,) those of cells
    that nothing is near to."""
    kinds = int(pairs.kind.max()) + 1
    empty = torch.ones(maps.shape[0], *maps.shape[2:], dtype=torch.bool)
    windows = []
    for scene, place in zip(pairs.scene, pairs.place / stride, strict=True):
        middle = torch.from_numpy(np.rint(place))
        windows.append(window(maps[scene][:, None], middle, side))
        x, y = (int(v) for v in middle.tolist())
        half = side // 2
        empty[scene][max(0, y - half) : y + half, max(0, x - half) : x + half] = False
    yaw = torch.from_numpy(pairs.yaw).float()
    rest = torch.from_numpy(pairs.place / stride - np.rint(pairs.place / stride)).float()
    cos, sin = torch.cos(yaw), torch.sin(yaw)
    x, y = rest.T
    back = -torch.stack([cos * x + sin * y, cos * y - sin * x], dim=1)
    turned = posed(torch.stack(windows), -yaw, torch.ones(len(yaw)), back)
    kind = torch.from_numpy(pairs.kind)
    total = torch.zeros(kinds, *turned.shape[1:]).index_add_(0, kind, turned)
    count = torch.bincount(kind, minlength=kinds)[:, None, None, None, None]
    return total / count.clamp(min=1), maps.movedim(1, -1)[empty].mean(dim=0)


def by_features(
    maps: Tensor, pairs: Pairs, prototypes: Tensor, background: Tensor, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kind and yaw of each thing: the least squared difference of features, composed over all
    candidates side by side, from what is seen around it."""
    k, side = len(prototypes), prototypes.shape[-1]
    looks = Looks.of(YAWS)
    disc = (torch.arange(side) - side / 2 + 0.5).square()
    disc = ((disc[:, None] + disc) < (side / 2) ** 2).float().expand(k, 1, 1, side, side)
    dictionary = VoxelPrototypes.from_rgba(list(torch.cat([prototypes, disc], 1)), 1.0)
    n = k * YAWS
    grid = Grid((0, 0, 0), 1.0, (1, side, n * side))
    # The object's place is cleared first: composing adds occupancies.
    centre = torch.tensor([[(i + 0.5) * side, side / 2, 0.5] for i in range(n)])
    which = torch.arange(k).repeat_interleave(YAWS)
    ground = torch.cat([background, torch.tensor([0.02])])[:, None, None, None]
    ground = ground.expand(-1, 1, side, n * side).contiguous()
    found = []
    for scene, place in zip(pairs.scene, pairs.place / stride, strict=True):
        middle = torch.from_numpy(np.rint(place))
        here = window(maps[scene][:, None], middle, side)[:, 0]
        rest = torch.cat([torch.from_numpy(place - np.rint(place)).float(), torch.zeros(1)])
        placed = Placements(which, centre + rest, looks.yaw.repeat(k))
        canvas = compose(dictionary, placements=placed, grid=grid, background=ground).rgba
        drawn = canvas[:-1, 0].unflatten(-1, (n, side)).movedim(2, 0)
        found.append(int((drawn - here).square().sum(dim=(1, 2, 3)).argmin()))
    best = np.array(found)
    return best // YAWS, looks.yaw.numpy()[best % YAWS]


def by_rgbo(train_pairs: Pairs, pairs: Pairs, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by gains of prototypes that are means of RGB-O."""

    def windows(of: Pairs, seen_from: Tensor) -> Tensor:
        return torch.stack([
            window(seen_from[s], torch.from_numpy(np.rint(p)), side)
            for s, p in zip(of.scene, of.place, strict=True)
        ])  # fmt: skip

    yaw = torch.from_numpy(train_pairs.yaw).float()
    rest = torch.from_numpy(train_pairs.place - np.rint(train_pairs.place)).float()
    kind = torch.from_numpy(train_pairs.kind)
    one = torch.ones(len(yaw))
    blank = torch.zeros(int(kind.max()) + 1, 4, train_pairs.one.shape[2], side, side)
    poses = Poses(kind, yaw, one, rest, one)
    prototypes = averaged(windows(train_pairs, train_pairs.one), poses, blank)
    found = explain(windows(pairs, pairs.one), prototypes, Looks.of(YAWS))
    return found.which.numpy(), found.yaw.numpy()


def told_apart(which: np.ndarray, yaw: np.ndarray, pairs: Pairs) -> tuple[float, float, float]:
    """Share of right kinds; of these the median of the yaw's error (degrees), and how many are
    beyond 30."""
    right = which == pairs.kind
    error = np.rad2deg(np.abs(wrap_angle(yaw - pairs.yaw)))[right]
    return float(right.mean()), float(np.median(error)), float((error > 30).mean())


def study(options: Options, seed: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """{way: [hidden IoU, IoU, PSNR, CPU s]} and {space: [right kinds, yaw error, beyond 30°]}."""
    mine, rest = (
        make_pairs(options, n, seed, part)
        for part, n in enumerate((options.scenes, options.held_out))
    )
    begin = time.process_time()
    model = train(mine, options, seed)
    seconds = time.process_time() - begin
    with torch.inference_mode():
        said = torch.cat([model(network_volume(v[None])) for v in rest.one]).sigmoid()
    ways = {}
    for name, rgba, took in (("copied", copied(rest.one), 0.0), ("inpainted", said, seconds)):
        ways[name] = [*hidden_scores(rgba, rest.one, rest.four), took]
    stride = model.encoder.stride
    maps = features(model, torch.cat([mine.one, rest.one]))
    side = round(WINDOW_M / SIDE_M * options.resolution / stride / 2) * 2
    prototypes, background = feature_prototypes(maps[: len(mine.one)], mine, stride, side)
    spaces = {
        "features": by_features(maps[len(mine.one) :], rest, prototypes, background, stride),
        "RGB-O": by_rgbo(mine, rest, stride * side),
    }
    picture(rest, said, options.out)
    return ways, {name: [*told_apart(*found, rest)] for name, found in spaces.items()}


def picture(pairs: Pairs, said: Tensor, out: Path) -> None:
    """Three scenes: from one side, inpainted, from four sides."""
    straight = torch.cat([pairs.four[:, 2:5], pairs.four[:, :1]], dim=1)
    shown = (copied(pairs.one), said * (said[:, 3:] > 0.5), straight)
    rows = [np.concatenate([from_above(v[i]) for v in shown], axis=1) for i in range(3)]
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(out / "inpaint.png")


def main(options: Options) -> None:
    torch.set_num_threads(1)
    found = [study(options, seed) for seed in options.seeds]
    lines = ["| volume | hidden IoU | IoU | hidden colour, dB | CPU s |", "|---" * 5 + "|"]
    for name in found[0][0]:
        a, b, c, d = np.mean([ways[name] for ways, _ in found], axis=0)
        lines.append(f"| {name} | {a:.3f} | {b:.3f} | {c:.1f} | {d:.0f} |")
    lines += ["", "| compared in | right kinds | yaw, ° | beyond 30° |", "|---" * 4 + "|"]
    for name in found[0][1]:
        a, b, c = np.mean([spaces[name] for _, spaces in found], axis=0)
        lines.append(f"| {name} | {a:.3f} | {b:.1f} | {c:.3f} |")
    title = (
        f"{options.held_out} instants held out at {options.resolution}³, one side for four, seeds "
        f"{', '.join(map(str, options.seeds))}; {options.steps} steps of {options.batch} of "
        f"{options.scenes} instants."
    )
    text = "\n".join([title, "", *lines])
    print(text)
    if options.results:
        write_between_markers(options.results, "inpaint", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
