"""Two prototypes made by hand, placed and composed; then one placement is fitted to the result.

    python examples/02_compose_by_hand.py

Nothing is read and nothing written.
"""

import math

import torch

import protoscene as ps

# Each prototype is (r g b a, z, y, x) in its own frame: middle at the origin, nose along +x.
brick = torch.zeros(4, 6, 8, 16)
brick[0], brick[3] = 0.8, 1.0  # red, solid
post = torch.zeros(4, 16, 4, 4)
post[2], post[3] = 0.9, 1.0  # blue, solid
prototypes = ps.VoxelPrototypes.from_rgba([brick, post], voxel_size=0.05)

# Three placements, a row each: two bricks and a post. Metres and radians.
grid = ps.Grid(origin=(-1.6, -1.6, 0.0), voxel_size=0.05, shape=(16, 64, 64))
centre = torch.tensor([[-0.8, 0.0, 0.15], [0.6, 0.5, 0.15], [0.3, -0.7, 0.4]])
yaw = torch.tensor([0.0, math.pi / 4, 0.0])
target = ps.compose(prototypes, ps.Placements(which=[0, 0, 1], centre=centre, yaw=yaw), grid)
print(f"composed {tuple(target.rgba.shape)}, {float(target.occupancy.sum()):.0f} occupied voxels")

# compose is differentiable: put the first brick in a wrong place and let it find back.
start = torch.tensor([-0.6, 0.1, 0.15])
guess = start.clone().requires_grad_()
optimiser = torch.optim.Adam([guess], lr=0.02)
for _ in range(60):
    rows = torch.cat([guess[None], centre[1:]])
    canvas = ps.compose(prototypes, ps.Placements(which=[0, 0, 1], centre=rows, yaw=yaw), grid)
    loss = (canvas.rgba - target.rgba).square().sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
off = float((guess.detach() - centre[0]).norm())
print(f"the brick started {float((start - centre[0]).norm()):.3f} m off and ended {off:.3f} m off")
