"""What a detector is taught: each returns named scalars, whose sum is to be minimised."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from protoscene.geometry import wrap_angle
from protoscene.networks.centernet import BINS, Prediction, bin_centres
from protoscene.samples import Sample

PLACE, SIZE, TURN, REST, KIND = 1.0, 1.0, 0.5, 1.0, 0.5
"""Weights beside that of the heat."""
Z_SCALE = 4.0
"""Heights are learnt in quarters of a metre: about a cell, as x and y are."""


def detection_loss(prediction: Prediction, sample: Sample) -> dict[str, Float[Tensor, ""]]:
    """``heat`` focal; ``place`` and ``size`` |difference| of centre (cells) and of log dimensions;
    ``turn`` cross-entropy of the yaw's bins, a yaw between two bins shared by both; ``rest``
    |difference| of those two bins' residuals; ``kind`` cross-entropy.

    Means over centres, by the samples' weights; 0 where nothing is to be learnt.
    """
    here = sample.weight > 0
    weight = sample.weight[here]
    total = weight.sum().clamp(min=1e-6)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum() / total

    box, place = _at(sample.box, here), _at(prediction.place, here)
    off = (place - box[:, :6]).abs()
    shares, residuals = yaw_targets(box[:, 6])
    log_turn = _at(prediction.turn, here).log_softmax(dim=1)
    rest = (_at(prediction.rest, here) - residuals).abs()
    kind = sample.kind[here]
    log_kind = _at(prediction.kind, here).log_softmax(dim=1)
    wrong_kind = -log_kind.gather(1, kind.clamp(min=0)[:, None])[:, 0] * (kind >= 0)
    return {
        "heat": focal(prediction.heat, sample.heat, sample.known),
        "place": PLACE * mean(off[:, 0] + off[:, 1] + Z_SCALE * off[:, 2]),
        "size": SIZE * mean(off[:, 3:].sum(dim=1)),
        "turn": TURN * mean(-(shares * log_turn).sum(dim=1)),
        "rest": REST * mean((shares * rest).sum(dim=1)),
        "kind": KIND * mean(wrong_kind),
    }


def focal(
    logit: Float[Tensor, "b y x"], heat: Float[Tensor, "b y x"], known: Float[Tensor, "b y x"]
) -> Float[Tensor, ""]:
    """−Σ known · [(1 − p)² log p where heat is 1, else (1 − heat)⁴ p² log(1 − p)] / Σ known where
    heat is 1 (at least 1), p the sigmoid of ``logit``: CenterNet's penalty-reduced focal loss."""
    p = logit.sigmoid()
    centre = heat >= 1
    right = (1 - p) ** 2 * F.logsigmoid(logit)
    wrong = (1 - heat) ** 4 * p**2 * F.logsigmoid(-logit)
    loss = -(known * torch.where(centre, right, wrong)).sum()
    return loss / (known * centre).sum().clamp(min=1)


def _at(values: Tensor, here: Tensor) -> Tensor:
    """(n, channels) of (b, channels, y, x) where ``here`` (b, y, x)."""
    return values.movedim(1, -1)[here]


def yaw_targets(yaw: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Per bin its share of the yaw (two bins beside it, linear) and its residual, in bins."""
    apart = wrap_angle(yaw[:, None] - bin_centres(yaw)) * (BINS / (2 * math.pi))
    return (1 - apart.abs()).clamp(min=0), apart
