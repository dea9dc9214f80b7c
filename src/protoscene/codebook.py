"""Vectors that are one of K: the nearest code of a codebook that follows what is put into it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from protoscene.assign import DEAD


class Codebook(nn.Module):
    """K codes. Each vector becomes its nearest code (Euclidean); gradients pass straight through.

    Codes are no parameters: each is the mean of the vectors that chose it, the latest first (an
    exponential average with ``decay`` a call to :meth:`update`). Codes that are chosen less than
    ``DEAD`` of an even share become vectors at random (:meth:`restart`).
    """

    codes: Float[Tensor, "K d"]
    counts: Float[Tensor, " K"]
    sums: Float[Tensor, "K d"]

    def __init__(self, codes: Float[Tensor, "K d"], decay: float = 0.95) -> None:
        """Starts at ``codes``, a copy."""
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", codes.detach().clone())
        self.register_buffer("counts", torch.ones(len(codes)).to(codes))
        self.register_buffer("sums", codes.detach().clone())

    def __len__(self) -> int:
        return len(self.codes)

    def nearest(self, vectors: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The number of each vector's nearest code."""
        return torch.cdist(vectors, self.codes).argmin(dim=1)

    def forward(
        self, vectors: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """(codes in the place of the vectors, d/d vector = 1, which ones)."""
        which = self.nearest(vectors)
        return vectors + (self.codes[which] - vectors).detach(), which

    def update(self, vectors: Float[Tensor, "n d"], which: Int[Tensor, " n"]) -> None:
        """counts ← decay · counts + (1 − decay) · K / n · (how often each was chosen), sums the
        same of the vectors, codes ← sums / counts; a code that nobody chose stays."""
        vectors = vectors.detach()
        share = (1 - self.decay) * len(self) / max(len(vectors), 1)
        chosen = torch.zeros_like(self.counts).index_add_(0, which, torch.ones_like(vectors[:, 0]))
        total = torch.zeros_like(self.sums).index_add_(0, which, vectors)
        self.counts.mul_(self.decay).add_(share * chosen)
        self.sums.mul_(self.decay).add_(share * total)
        self.codes.copy_(self.sums / self.counts.clamp(min=1e-12)[:, None])

    def restart(self, vectors: Float[Tensor, "n d"], random: torch.Generator) -> int:
        """Dead codes become ``vectors`` drawn at random, with an even share each; how many."""
        dead = torch.nonzero(self.counts < DEAD)[:, 0]
        drawn = torch.randint(len(vectors), (len(dead),), generator=random).to(vectors.device)
        self.codes[dead] = self.sums[dead] = vectors.detach()[drawn]
        self.counts[dead] = 1.0
        return len(dead)


def perplexity(which: Int[Tensor, " n"], n_codes: int) -> float:
    """exp of the entropy of how often each code is chosen: how many are in even use."""
    share = torch.bincount(which, minlength=n_codes).double()
    share = share / share.sum().clamp(min=1)
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))
