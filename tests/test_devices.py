"""What networks are made of stays on the device of its inputs.

A tensor that is made without saying where would be on the "meta" device here, and nothing can be
reckoned with both.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from protoscene.codebook import Codebook
from protoscene.fields import Field
from protoscene.networks.capsules import CapsuleNet, canonical, codebook, poses
from protoscene.networks.fat_voxels import FatVoxels, Taught, code_loss, likely, said_poses
from protoscene.networks.hypernet import FieldGenerator, mixed_cells
from protoscene.neural import CodedField
from protoscene.routing import route

ROOM = torch.zeros(4, 32, 32, 32)
ROOM[:, 10:22, 8:20, 12:25] = torch.linspace(0.2, 1, 13)
ROOM[3] = (ROOM[3] > 0).float()
VECTORS = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


def fat_voxels(net: FatVoxels) -> None:
    cells = net(ROOM[None])
    cell = torch.tensor([[0, 1, 2, 0], [0, 0, 1, 2]], device="cpu")
    taught = Taught(cell, cell[:, 1], cell[:, 0] + 0.5, cell[:, 1:] / 10, cell[:, 0] + 1.0)
    torch.stack(list(code_loss(cells, taught).values())).sum().backward()
    said_poses(cells, likely(cells, 0.01)[0], 0.1, (0.0, 0.0, 0.0))


def fields(net: FieldGenerator) -> None:
    made = net(ROOM)
    finer = net.refined(made, ROOM.repeat_interleave(2, 1).repeat_interleave(2, 2)
                        .repeat_interleave(2, 3), mixed_cells(ROOM).repeat_interleave(2, 0)
                        .repeat_interleave(2, 1).repeat_interleave(2, 2))  # fmt: skip
    net.decode(finer, 2)


def capsules(net: CapsuleNet) -> None:
    windows = canonical(ROOM, poses(ROOM), 32)
    latents = net.encode(windows)
    net.decode(latents).sum().backward()
    codebook(VECTORS, 3)


def routed(_: None) -> None:
    route(VECTORS[0], VECTORS[0].argsort() % 3, VECTORS[1].argsort() % 4, 3)


def coded(book: Codebook) -> None:
    _, which = book(VECTORS)
    book.update(VECTORS, which)


CASES: list[tuple[Callable[[], object], Callable[..., None]]] = [
    (lambda: FatVoxels(3), fat_voxels),
    (lambda: FieldGenerator(8, 8), fields),
    (CapsuleNet, capsules),
    (lambda: None, routed),
    (lambda: Codebook(VECTORS[:4]), coded),
    (lambda: Field(8, 1, 2), lambda net: net(VECTORS[:, :3]).sum().backward()),
    (lambda: CodedField(8, 16), lambda net: net(VECTORS[:, None, :3], VECTORS).sum().backward()),
]


@pytest.mark.parametrize(("make", "use"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_nothing_is_made_on_another_device(
    make: Callable[[], object], use: Callable[..., None]
) -> None:
    made = make()
    with torch.device("meta"):
        use(made)
