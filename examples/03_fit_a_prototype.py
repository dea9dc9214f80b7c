"""A prototype and its poses are fitted to a volume by compose_loss, which never holds the volume.

    python examples/03_fit_a_prototype.py

Nothing is read and nothing written.
"""

import torch

import protoscene as ps

# A car of (r g b a, z, y, x): a red body and a grey cabin, set back. Nose along +x.
car = torch.zeros(4, 8, 10, 20)
car[0, :4], car[3, :4] = 0.8, 1.0
car[:3, 4:, :, 2:13], car[3, 4:, :, 2:13] = 0.5, 1.0
truth = ps.VoxelPrototypes.from_rgba([car], voxel_size=0.1)

# Three of them are parked; one byte a channel is what the target takes.
grid = ps.Grid(origin=(-4.0, -4.0, 0.0), voxel_size=0.1, shape=(16, 80, 80))
centre = torch.tensor([[-2.0, -2.0, 0.4], [1.5, -1.5, 0.4], [0.5, 2.0, 0.4]])
yaw = torch.tensor([0.3, 1.6, -0.4])
volume = ps.compose(truth, ps.Placements([0, 0, 0], centre, yaw), grid)
known = torch.ones(grid.shape, dtype=torch.bool)
known[:, :, 60:] = False  # nobody saw this part, and nothing there counts
target = ps.Target((255 * volume.rgba).round().to(torch.uint8), known)

# Begin with a grey block, half there, and with poses that are off.
torch.manual_seed(0)
rgba = torch.full_like(car, 0.5)
prototypes = ps.VoxelPrototypes.from_rgba([rgba], voxel_size=0.1, trainable=True)
moved = (centre + 0.1 * torch.randn(3, 3)).requires_grad_()
turned = (yaw + 0.1 * torch.randn(3)).requires_grad_()
optimiser = torch.optim.Adam(
    [
        {"params": [prototypes.voxels], "lr": 0.03},
        {"params": [moved, turned], "lr": 0.01},
    ]
)
for step in range(121):
    placements = ps.Placements([0, 0, 0], moved, turned)
    terms = ps.compose_loss(prototypes, placements, grid, target, colour=0.3)
    optimiser.zero_grad()
    terms["loss"].backward()
    optimiser.step()
    with torch.no_grad():
        prototypes.voxels.clamp_(0, 1)
    if step % 40 == 0:
        print(f"step {step}: occupancy {terms['mse']:.5f}, colour {terms['colour']:.5f}")

# The prototype's own frame is free: poses are compared with each other.
apart = (moved[1:] - moved[:1] - centre[1:] + centre[:1]).detach().norm(dim=1)
print(f"the cars' distances are within {1000 * float(apart.max()):.2f} mm")

# The same scene, as the tiles that hold something.
sparse = ps.compose_sparse(prototypes, placements, grid)
points, _ = sparse.points(least=0.5)
print(f"{len(sparse.index)} of 25 tiles hold something, {len(points)} voxels are occupied")
