"""Which observed instants follow from each other, which are wrong, and where a track jumps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from protoscene.geometry import wrap_angle
from protoscene.motion.model import USUAL_NOISE, Noise, Observed, observed

MOST_AT_ONCE = 3
"""Wrong instants in a row that are still passed over."""
BREAK = 20.0
"""What a break costs, in squared noises: what 3 coordinates reach by chance once in 6000 times."""
OUTLIER = 1.5 * BREAK
"""More than one break, so that a thing that jumps at every instant is not all outliers; less than
two, so that one wrong instant is not a part of its own."""
ACCELERATION = 2.0
"""m/s²: what walkers and slow wheels do; a hard stop is a few times that."""
TURN_ACCELERATION = 15.0
"""rad/s²."""


def breaks(
    times: Any,
    centre: Any,
    weight: Any = None,
    noise: Noise = USUAL_NOISE,
    speed: float = 1.0,
    acceleration: float = ACCELERATION,
) -> list[float]:
    """Times (s) between instants at which a track jumps.

    The cheapest account of the instants by dynamic programming: an instant that follows from the
    two kept before it costs its squared distance from their straight line, in units of what noise
    and ``acceleration`` (m/s²) leave open; the second of a part, its squared distance in units of
    noise and ``speed`` (m/s); passing over a wrong instant costs 30, beginning a new part 20.
    A jump stays, an outlier does not: one wrong instant makes no break (except as first or last).
    ``times``, ``centre``, ``weight`` as in :meth:`Motion.fit`; raises ValueError as it does.
    """
    seen = observed(times, centre, weight=weight)
    rows = (seen.weight > 0).nonzero()[:, 0].numpy()
    seconds, values = seen.times.numpy()[rows], seen.centre.numpy()[rows]
    links = _Links(seconds, values, noise.centre, acceleration, speed, turns=False)
    _, starts = _cheapest(links, BREAK)
    return [float(0.5 * (seconds[k - 1] + seconds[k])) for k in starts]


def followers(seen: Observed, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Masks (n,) of the instants whose centre, and whose yaw, follows from the others'.

    Where half of them do not, more is allowed until they do: what most do is not wrong.
    """
    weighted = (seen.weight > 0).numpy()
    masks = []
    for values, sigma, acceleration, turns in (
        (seen.centre, noise.centre, ACCELERATION, False),
        (seen.yaw[:, None], noise.yaw, TURN_ACCELERATION, True),
    ):
        some = values.numpy()[weighted]
        links = _Links(seen.times.numpy()[weighted], some, sigma, acceleration, math.inf, turns)
        links.allow_what_most_do()
        mask = weighted.copy()
        mask[weighted] = _cheapest(links, math.inf)[0]
        masks.append(mask)
    return masks[0], masks[1]


class _Links:
    """Squared distances of instants from where those kept before them lead, in noises."""

    def __init__(
        self,
        times: Float[np.ndarray, " n"],
        values: Float[np.ndarray, "n d"],
        noise: float,
        acceleration: float,
        speed: float,
        turns: bool,
    ) -> None:
        self.n = len(times)
        self.reach = MOST_AT_ONCE + 1
        shape = (self.reach + 1, self.reach + 1, self.n)
        self.third = np.full(shape, np.inf)
        """[a, b, j]: of j + b, given j − a and j."""
        self.second = np.full(shape[1:], np.inf)
        """[b, j]: of j + b, given j."""
        for b in range(1, min(self.reach, self.n - 1) + 1):
            after = times[b:] - times[:-b]
            step = _difference(values[b:], values[:-b], turns)
            variance = 2 * noise**2 + (speed * after) ** 2
            self.second[b, : self.n - b] = np.square(step).sum(axis=1) / variance
            for a in range(1, min(self.reach, self.n - 1 - b) + 1):
                before = (times[a:] - times[:-a])[: self.n - a - b]
                led = _difference(values[a:], values[:-a], turns)[: self.n - a - b]
                ratio = (after[a:] / before)[:, None]
                error = _difference(step[a:], ratio * led, turns)
                scatter = noise**2 * (1 + (1 + ratio[:, 0]) ** 2 + ratio[:, 0] ** 2)
                bend = 0.5 * acceleration * after[a:] * (before + after[a:])
                self.third[a, b, a : self.n - b] = np.square(error).sum(axis=1) / (
                    scatter + bend**2
                )
        self.dimensions = values.shape[1]

    def allow_what_most_do(self) -> None:
        direct = self.third[1, 1, 1:-1]
        if len(direct):
            self.third /= max(1.0, float(np.median(direct)) / self.dimensions)


def _difference(a: np.ndarray, b: np.ndarray, turns: bool) -> np.ndarray:
    return wrap_angle(a - b) if turns else a - b


def _cheapest(links: _Links, break_cost: float) -> tuple[Bool[np.ndarray, " n"], list[int]]:
    """Mask of the instants kept, and those of them at which another part begins."""
    n, reach = links.n, links.reach
    # cost[k, a]: k is kept, and so was k − a before it; a = 0: k begins a part.
    cost = np.full((n, reach + 1), np.inf)
    came_from = np.full((n, reach + 1, 2), -1)
    for k in range(n):
        cost[k, 0] = OUTLIER * k
        for b in range(1, min(reach, k) + 1):
            j = k - b
            skipped = OUTLIER * (b - 1)
            a = int(cost[j].argmin())
            if cost[j, a] + skipped + break_cost < cost[k, 0]:
                cost[k, 0], came_from[k, 0] = cost[j, a] + skipped + break_cost, (j, a)
            along = cost[j] + links.third[:, b, j]
            along[0] = cost[j, 0] + links.second[b, j]
            a = int(along.argmin())
            cost[k, b], came_from[k, b] = along[a] + skipped, (j, a)
    total = cost + OUTLIER * np.arange(n - 1, -1, -1)[:, None]
    k, a = map(int, np.unravel_index(int(total.argmin()), total.shape))
    kept = np.zeros(n, dtype=bool)
    starts: list[int] = []
    while True:
        kept[k] = True
        j, before = map(int, came_from[k, a])
        if j < 0:
            return kept, starts[::-1]
        if a == 0:
            starts.append(k)
        k, a = j, before
