"""New views of an instant seen from one side: drawn by a network from features, or plainly.

    python studies/rendernet.py --results docs/results.md

The encoder makes features and occupancies of voxels twice as large; these are volume-rendered at
half the picture's resolution, and a small network of convolutions makes colours of them at twice
that (RenderNet, with zoom). It is taught pictures of the whole scene from anywhere around. Beside
it, plain volume rendering of what the one side shows, and of what four sides show, on voxels half
as large. PSNR over the pixels of things, and over all pixels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from inpaint import HIGH_M, network_volume
from instants import GROUND_M, SIDE_M, things_of, whole_scenes
from jaxtyping import Float
from PIL import Image
from results_page import write_between_markers
from solids import seen
from torch import Tensor, nn

from protoscene.gains import seen_channels
from protoscene.geometry import Camera, Grid, look_at
from protoscene.networks import Encoder
from protoscene.render import render
from protoscene.volume import Volume

FEATURES = 8
WIDTH, HEIGHT = 96, 64


@dataclass
class Options:
    """Draws instants from where no camera was."""

    seeds: tuple[int, ...] = (0,)
    scenes: int = 32
    held_out: int = 8
    views: int = 3
    """Of each scene, from anywhere around."""
    steps: int = 900
    resolution: int = 64
    out: Path = Path("out/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A scene above its ground: channels from one side and from four (5, z, y, x), and new views:
    cameras, pictures and where things are in them."""

    grid: Grid
    one: Tensor
    four: Tensor
    cameras: list[Camera]
    pictures: Float[Tensor, "v h w 3"]
    things: Float[Tensor, "v h w"]


def make_scenes(options: Options, n: int, seed: int, part: int) -> list[Drawn]:
    voxel = SIDE_M / options.resolution
    low, high = round(GROUND_M / voxel), round((GROUND_M + HIGH_M) / voxel)
    grid = Grid((-SIDE_M / 2, -SIDE_M / 2, 0.0), voxel, (high - low, *[options.resolution] * 2))
    made = []
    drawn = whole_scenes(things_of(seed, 3), n, 1000 * part + seed, options.resolution)
    for whole, _, random in drawn:
        start = random.uniform(0, 2 * np.pi)
        sides = [start + k * np.pi / 2 for k in range(4)]
        evidence = []
        for azimuths in (sides[:1], sides):
            view = seen(whole, azimuths, random)
            rgba = torch.from_numpy(view.rgba[None, :, low:high])
            known = torch.from_numpy(view.known[None, low:high]).float()
            evidence.append(network_volume(seen_channels(rgba, known))[0])
        cameras = [_around(float(random.uniform(0, 2 * np.pi))) for _ in range(options.views)]
        solid = Volume(torch.from_numpy(whole[:, low:high].copy()), grid)
        with torch.no_grad():
            pictures = [render(solid, camera) for camera in cameras]
        made.append(Drawn(
            grid, *evidence, cameras, torch.stack([p.colour for p in pictures]),
            torch.stack([(p.opacity > 0.5).float() for p in pictures]),
        ))  # fmt: skip
    return made


def _around(azimuth: float) -> Camera:
    eye = (3.2 * np.cos(azimuth), 3.2 * np.sin(azimuth), 1.8)
    return Camera(
        WIDTH, HEIGHT, 0.9 * WIDTH, 0.9 * WIDTH, WIDTH / 2, HEIGHT / 2,
        look_at(eye, (0.0, 0.0, 0.2)),
    )  # fmt: skip


class RenderNet(nn.Module):
    """What :class:`Drawn.one` shows → its picture from any camera, (h, w, 3) in [0, 1]."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = Encoder(shape)
        self.heights = shape[0] // 2
        self.head = nn.Conv2d(self.encoder.width, (FEATURES + 1) * self.heights, 1)
        self.draw = nn.Sequential(
            nn.Conv2d(FEATURES + 1, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, one: Tensor, grid: Grid, camera: Camera) -> Tensor:
        cells = self.head(self.encoder(one[None]))[0].unflatten(0, (FEATURES + 1, self.heights))
        # Mostly empty to begin with.
        volume = torch.cat([cells[:-1].sigmoid(), (cells[-1:] - 3).sigmoid()])
        coarse = Grid(grid.origin, 2 * grid.voxel_size, tuple(volume.shape[1:]))
        picture = render(Volume(volume, coarse), camera.scaled(0.5))
        features = torch.cat([picture.colour, picture.opacity[..., None]], dim=-1)
        said: Tensor = self.draw(features.movedim(-1, 0)[None])[0].movedim(0, -1).sigmoid()
        return said


def train(scenes: list[Drawn], options: Options, seed: int) -> RenderNet:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = RenderNet(scenes[0].grid.shape)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    for _ in range(options.steps):
        scene, view = scenes[random.integers(len(scenes))], random.integers(options.views)
        said = model(scene.one, scene.grid, scene.cameras[view])
        wrong = (said - scene.pictures[view]).square().mean(dim=-1)
        loss = (wrong * (1 + 9 * scene.things[view])).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def drawn_plainly(volume: Tensor, grid: Grid, camera: Camera) -> Tensor:
    return render(Volume(volume[:4], grid), camera).colour


@torch.no_grad()
def study(options: Options, seed: int) -> tuple[dict[str, list[float]], float]:
    """{way: [PSNR over things, over all]} and CPU seconds of training."""
    mine, rest = (
        make_scenes(options, n, seed, part)
        for part, n in enumerate((options.scenes, options.held_out))
    )
    begin = time.process_time()
    with torch.enable_grad():
        model = train(mine, options, seed)
    seconds = time.process_time() - begin
    errors: dict[str, list[Tensor]] = {}
    shown = []
    for scene in rest:
        for view, camera in enumerate(scene.cameras):
            ways = {
                "plain, one side": drawn_plainly(scene.one, scene.grid, camera),
                "plain, four sides": drawn_plainly(scene.four, scene.grid, camera),
                "RenderNet, one side": model(scene.one, scene.grid, camera),
            }
            truth, things = scene.pictures[view], scene.things[view] > 0
            for name, picture in ways.items():
                wrong = (picture - truth).square().mean(dim=-1)
                errors.setdefault(name, []).append(
                    torch.stack([wrong[things].mean(), wrong.mean()])
                )
            shown.append(torch.cat([truth, *ways.values()], dim=1))
    options.out.mkdir(parents=True, exist_ok=True)
    pixels = (255 * torch.cat(shown[:3]).clamp(0, 1)).byte().numpy()
    Image.fromarray(pixels).save(options.out / "rendernet.png")
    decibels = {
        name: (-10 * torch.log10(torch.stack(e).mean(dim=0))).tolist() for name, e in errors.items()
    }
    return decibels, seconds


def main(options: Options) -> None:
    torch.set_num_threads(1)
    found = [study(options, seed) for seed in options.seeds]
    lines = ["| drawn | things, dB | all pixels, dB |", "|---" * 3 + "|"]
    for name in found[0][0]:
        things, every = np.mean([ways[name] for ways, _ in found], axis=0)
        lines.append(f"| {name} | {things:.2f} | {every:.2f} |")
    title = (
        f"{options.held_out} instants held out, {options.views} new views of {WIDTH} × {HEIGHT} "
        f"each, seeds {', '.join(map(str, options.seeds))}; {options.steps} pictures of "
        f"{options.scenes} instants to learn from, {np.mean([s for _, s in found]):.0f} CPU s."
    )
    text = "\n".join([title, "", *lines])
    print(text)
    if options.results:
        write_between_markers(options.results, "rendernet", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
