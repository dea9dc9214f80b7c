"""Which blobs are one thing: what crosses, jumps, hides, runs together or falls apart."""

from __future__ import annotations

import numpy as np
import pytest

from protoscene.follow import Appearance, Trail, follow, merge_fragments, part
from protoscene.propose import Blob, colour_bins, colour_histogram, join

RED, BLUE, GREEN = (200, 40, 30), (40, 50, 210), (50, 190, 60)
DIMS = (0.4, 0.3, 0.4)


def blob(
    instant: int, place: tuple[float, float], colour: tuple[int, int, int] = RED,
    dims: tuple[float, float, float] = DIMS, seed: int = 0, n: int = 300,
) -> Blob:  # fmt: skip
    """Points all through an upright box that stands at ``place`` on the ground, noisy colours."""
    rng = np.random.default_rng([seed, instant])
    points = (rng.random((n, 3)) - 0.5) * dims + [*place, dims[2] / 2]
    colours = np.clip(np.array(colour) + rng.normal(0, 12, (n, 3)), 0, 255).astype(np.uint8)
    pixels = np.stack([np.zeros(n, int), np.arange(n), np.full(n, instant)], axis=1)
    return Blob(instant, pixels, points, colours)


def times(n: int) -> tuple[float, ...]:
    return tuple(round(0.1 * i, 6) for i in range(n))


def paths_of(trails: list[Trail]) -> list[list[tuple[int, float, float]]]:
    """Per trail (instant, x, y) of its blobs' middles, in an order of their own."""
    return sorted(
        [
            (i, *np.round(b.points[:, :2].mean(axis=0), 6).tolist())
            for i, b in sorted(t.blobs.items())
        ]
        for t in trails
    )


def owner(path: list[tuple[int, float, float]], true: list) -> list[int]:
    """Whose true place each blob of a path is nearest to."""
    return [int(np.argmin([np.hypot(x - t(i)[0], y - t(i)[1]) for t in true])) for i, x, y in path]


CROSSINGS = {
    "side by side": (lambda i: (-1 + 0.1 * i, 0.25), lambda i: (1 - 0.1 * i, -0.25)),
    "at an angle": (lambda i: (-1 + 0.1 * i, 0.0), lambda i: (0.55, -1.0 + 0.1 * i)),
}


@pytest.mark.parametrize("second", [RED, BLUE], ids=["alike", "another colour"])
@pytest.mark.parametrize("where", CROSSINGS)
def test_things_that_cross_stay_themselves(where: str, second: tuple[int, int, int]) -> None:
    """By their velocity where they look alike, by that and their colour where they do not."""
    true, n = CROSSINGS[where], 21
    found = [[blob(i, true[0](i)), blob(i, true[1](i), second, seed=1)] for i in range(n)]
    trails = follow(found, times(n))
    assert len(trails) == 2
    for path in paths_of(trails):
        assert len(path) == n and len(set(owner(path, true))) == 1


def jumping(n: int, seed: int) -> list[np.ndarray]:
    """Three things at random places, at least 0.6 m apart, at each instant."""
    rng = np.random.default_rng(seed)
    places = []
    while len(places) < n:
        some = rng.uniform(-1.5, 1.5, (3, 2))
        apart = np.linalg.norm(some[:, None] - some, axis=-1) + 9 * np.eye(3)
        if apart.min() > 0.6:
            places.append(some)
    return places


@pytest.mark.parametrize("seed", range(3))
def test_things_that_jump_stay_themselves_by_their_colour(seed: int) -> None:
    places, n = jumping(12, seed), 12
    found = [
        [blob(i, tuple(places[i][k]), c, seed=k) for k, c in enumerate((RED, BLUE, GREEN))]
        for i in range(n)
    ]
    trails = follow(found, times(n))
    assert sorted(len(t.blobs) for t in trails) == [n, n, n]
    true = [lambda i, k=k: places[i][k] for k in range(3)]
    assert sorted(set(owner(p, true)).pop() for p in paths_of(trails)) == [0, 1, 2]
    assert all(len(set(owner(p, true))) == 1 for p in paths_of(trails))


def test_what_comes_later_tells_twins_apart_whose_first_looks_deceive() -> None:
    """At first each looks like the other does next; from then on they look alike."""
    true = (lambda i: (0.05 * i, 0.4), lambda i: (0.05 * i, -0.4))
    looks = [(RED, BLUE), (BLUE, RED), *[(GREEN, GREEN)] * 7]
    found = [[blob(i, t(i), c, seed=k) for k, (t, c) in enumerate(zip(true, colours, strict=True))]
             for i, colours in enumerate(looks)]  # fmt: skip
    trails = follow(found, times(len(found)))
    assert [len(set(owner(path, true))) for path in paths_of(trails)] == [1, 1]
    assert all(list(t.blobs) == sorted(t.blobs) == list(t.seen) for t in trails)


def test_order_of_blobs_within_an_instant_is_irrelevant() -> None:
    rng, places, n = np.random.default_rng(5), jumping(10, 7), 10
    found = [
        [blob(i, tuple(places[i][k]), c, seed=k) for k, c in enumerate((RED, BLUE, GREEN))]
        for i in range(n)
    ]
    mixed = [[some[k] for k in rng.permutation(3)] for some in found]
    assert paths_of(follow(found, times(n))) == paths_of(follow(mixed, times(n)))


def test_a_clock_that_runs_otherwise_changes_nothing() -> None:
    true = CROSSINGS["side by side"]
    found = [[blob(i, t(i), seed=k) for k, t in enumerate(true)] for i in range(21)]
    slow = tuple(100 + 7 * t for t in times(21))
    assert paths_of(follow(found, times(21))) == paths_of(follow(found, slow))


def test_what_was_away_comes_back_as_itself() -> None:
    """Hidden for three instants behind another; its velocity goes on."""
    n = 16

    def there(i: int) -> tuple[float, float]:
        return (-0.8 + 0.1 * i, 0.0)

    found = [[blob(i, (0.1, 0.7), BLUE, seed=1)] + [blob(i, there(i))] * (i not in (6, 7, 8))
             for i in range(n)]  # fmt: skip
    trails = follow(found, times(n))
    assert sorted(len(t.blobs) for t in trails) == [n - 3, n]


def test_another_thing_is_another_trail() -> None:
    """Of another colour and size, at the same place the instant after."""
    found = [[blob(i, (0, 0), RED)] for i in range(5)]
    found += [[blob(i, (0, 0), BLUE, (0.9, 0.8, 1.2))] for i in range(5, 10)]
    assert sorted(len(t.blobs) for t in follow(found, times(10))) == [5, 5]


def test_nothing_found_makes_no_trails() -> None:
    assert follow([[] for _ in range(4)], times(4)) == []
    (trail,) = follow([[], [blob(1, (0, 0))], [], [blob(3, (0, 0))]], times(4))
    assert sorted(trail.blobs) == [1, 3] and trail.last == 3


def test_every_blob_is_in_exactly_one_trail() -> None:
    rng = np.random.default_rng(9)
    found = [
        [blob(i, tuple(rng.uniform(-2, 2, 2)), tuple(rng.integers(0, 255, 3)), seed=k)
         for k in range(rng.integers(0, 4))] for i in range(12)
    ]  # fmt: skip
    trails = follow(found, times(12))
    assert sum(len(t.blobs) for t in trails) >= sum(map(len, found))  # more where one was parted
    for i, some in enumerate(found):
        used = [t.blobs[i].points for t in trails if i in t.blobs]
        assert sum(map(len, used)) == sum(len(b.points) for b in some)


def test_a_blob_into_which_two_ran_is_parted() -> None:
    """They touch from instant 8 to 12, as one blob; the two trails go through."""
    n = 20
    gap = [max(0.42, abs(i - 10) * 0.12 + 0.2) for i in range(n)]

    def left(i: int) -> tuple[float, float]:
        return (-gap[i] / 2 + 0.03 * i, 0.0)

    def right(i: int) -> tuple[float, float]:
        return (gap[i] / 2 + 0.03 * i, 0.0)

    found = []
    for i in range(n):
        pair = [blob(i, left(i), RED), blob(i, right(i), BLUE, seed=1)]
        found.append([join(pair)] if gap[i] == 0.42 else pair)
    assert any(len(some) == 1 for some in found)
    trails = follow(found, times(n))
    assert sorted(len(t.blobs) for t in trails) == [n, n]
    for path in paths_of(trails):
        assert len(set(owner(path, [left, right]))) == 1
        off = [abs(x - (left, right)[owner(path, [left, right])[0]](i)[0]) for i, x, _ in path]
        assert max(off) < 0.05


def test_parting_gives_each_point_to_one_part() -> None:
    pair = [blob(0, (-0.25, 0)), blob(0, (0.25, 0), seed=1)]
    whole = join(pair)
    looks = np.stack([colour_histogram(b.colours) for b in pair])
    parts = part(whole, np.array([[-0.1, 0.05, 0.2], [0.2, 0, 0.2]]), looks)
    assert [len(p.points) for p in parts] == [300, 300]
    for a, b in zip(parts, pair, strict=True):
        np.testing.assert_array_equal(a.points, b.points)


def test_colour_parts_things_that_touch() -> None:
    """A long red thing and a short blue one, end to end: the middle between them is red."""
    x = np.linspace(-0.8, 0.4, 600)
    points = np.stack([x, 0.05 * np.sin(40 * x), 0.1 + 0 * x], axis=1)
    red = x < 0.1
    colours = np.where(red[:, None], [200, 40, 40], [40, 40, 200]).astype(np.uint8)
    whole = Blob(0, np.zeros((600, 3), np.int32), points, colours)
    looks = np.stack([colour_histogram(colours[red]), colour_histogram(colours[~red])])
    left, right = part(whole, np.array([[-0.35, 0, 0.1], [0.25, 0, 0.1]]), looks)
    assert (left.colours[:, 0] > 100).mean() > 0.98 and (right.colours[:, 2] > 100).mean() > 0.98
    plain = np.full_like(looks, np.sqrt(1 / looks.shape[1]))  # colours that say nothing
    blind = part(whole, np.array([[-0.35, 0, 0.1], [0.25, 0, 0.1]]), plain)
    assert (blind[1].colours[:, 2] > 100).mean() < 0.9


def test_a_colours_bin_holds_it() -> None:
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 51]], np.uint8)
    for colour, k in zip(colours, colour_bins(colours), strict=True):
        assert colour_histogram(colour[None])[k] == 1


def trail_of(blobs: list[Blob]) -> Trail:
    trail = Trail()
    for b in blobs:
        trail.add(b, Appearance.of(b))
    return trail


def test_pieces_that_move_together_are_one_thing() -> None:
    def pieces(i: int) -> tuple[Blob, Blob]:
        low = blob(i, (0.1 * i, 0.0), RED, (0.4, 0.3, 0.2))
        high = blob(i, (0.1 * i, 0.0), BLUE, (0.2, 0.2, 0.2), seed=1)
        return low, Blob(i, high.pixels + [1, 0, 0], high.points + [0, 0, 0.22], high.colours)

    both = [pieces(i) for i in range(10)]
    trails = [trail_of([low for low, _ in both]), trail_of([high for _, high in both[2:]])]
    (whole,) = merge_fragments(trails)
    assert sorted(whole.blobs) == list(range(10))
    assert [len(whole.blobs[i].points) for i in range(10)] == [300] * 2 + [600] * 8
    assert whole.seen[5].n_pixels == 600


def test_what_only_meets_or_stays_beside_is_not_merged() -> None:
    apart = [trail_of([blob(i, (0.1 * i, y), seed=int(y)) for i in range(10)]) for y in (0, 1)]
    assert len(merge_fragments(apart)) == 2
    passing = [trail_of([blob(i, (0.1 * i, 0.0)) for i in range(10)]),
               trail_of([blob(i, (0.9 - 0.1 * i, 0.31), seed=1) for i in range(10)])]  # fmt: skip
    assert len(merge_fragments(passing)) == 2


def test_neighbours_that_stand_or_pass_along_are_two_things() -> None:
    """Always near each other, but never moved; or moved, but at no constant distance."""
    still = [trail_of([blob(i, (0.0, y), seed=k) for i in range(12)])
             for k, y in enumerate((0, 0.31))]  # fmt: skip
    assert len(merge_fragments(still)) == 2
    long = (0.9, 0.3, 0.4)
    along = [
        trail_of([blob(i, (0.15 * i, 0.0), dims=long) for i in range(12)]),
        trail_of([blob(i, (0.15 * i - 0.85 + 0.155 * i, 0.31), BLUE, long, 1) for i in range(12)]),
    ]
    assert len(merge_fragments(along)) == 2


def test_appearance_is_of_the_blob() -> None:
    seen = Appearance.of(blob(0, (0.5, -0.2), n=4000))
    np.testing.assert_allclose(seen.centre, (0.5, -0.2, 0.2), atol=0.01)
    np.testing.assert_allclose(seen.extent, np.array(DIMS) * 0.96, atol=0.01)
    np.testing.assert_allclose(seen.size, [np.hypot(0.384, 0.288), 0.384], atol=0.01)
    assert seen.n_pixels == 4000
