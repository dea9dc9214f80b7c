"""Vector steps on RGBA: four voxels, sixteen numbers, at once, or one (``…_one``).

LLVM does not find these by itself: a voxel's first three lanes are to be multiplied by its fourth.
Each intrinsic reads and writes its arrays at an index (in numbers, unaligned) and is lowered by
LLVM to whatever the processor has. :mod:`protoscene.compose.columns` has the same steps in plain
loops, for numbers of channels other than four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FLAGS = ("contract", "reassoc", "nsz", "arcp")
FULL = 1 + 1e-6
"""The hard cap has slope 1 up to here: solid voxels, A = 1 up to rounding, can become thinner."""
NEXT_TO_NOTHING = 1e-30
"""Occupancy up to this is none: dividing by it would overflow."""
FOUR = 4
"""Voxels of a step."""


class Lanes:
    """The numbers of some voxels, of one float type, in LLVM's terms."""

    def __init__(self, context: Any, builder: Any, dtype: Any, voxels: int) -> None:
        self.context, self.builder = context, builder
        self.size = dtype.bitwidth // 8
        self.element = context.get_data_type(dtype)
        self.n = 4 * voxels
        self.occupancy = [4 * (lane // 4) + 3 for lane in range(self.n)]
        """For each lane the lane of its voxel's occupancy."""

    def with_occupancy_of(self, a: Any, b: Any) -> Any:
        """a's lanes, but b's for occupancies."""
        lanes = [lane if lane % 4 < 3 else self.n + lane for lane in range(self.n)]
        return self.shuffle(a, b, lanes)

    def pointer(self, array_type: Any, array: Any, index: Any, n: int = 0) -> Any:
        data = self.context.make_array(array_type)(self.context, self.builder, array).data
        vector = ir.VectorType(self.element, n or self.n)
        return self.builder.bitcast(self.builder.gep(data, [index]), vector.as_pointer())

    def load(self, pointer: Any) -> Any:
        value = self.builder.load(pointer)
        value.align = self.size
        return value

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, pointer).align = self.size

    def constant(self, value: float, n: int = 0) -> Any:
        number, n = ir.Constant(self.element, value), n or self.n
        return ir.Constant(ir.VectorType(self.element, n), [number] * n)

    def splat(self, number: Any) -> Any:
        vector = ir.VectorType(self.element, self.n)
        first = self.builder.insert_element(ir.Constant(vector, ir.Undefined), number, _i32(0))
        return self.shuffle(first, first, [0] * self.n)

    def shuffle(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), [_i32(k) for k in lanes])
        return self.builder.shuffle_vector(a, b, mask)

    def times(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=FLAGS)

    def plus(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=FLAGS)

    def index(self, value: int) -> Any:
        return ir.Constant(ir.IntType(64), value)

    def next(self, index: Any) -> Any:
        """The index of the next voxel."""
        return self.builder.add(index, self.index(4))

    def sum_of_voxel(self, a: Any) -> Any:
        """In every lane the sum of its voxel's four lanes."""
        for step in (1, 2):
            a = self.plus(a, self.shuffle(a, a, [lane ^ step for lane in range(self.n)]))
        return a


def _i32(value: int) -> Any:
    return ir.Constant(ir.IntType(32), value)


Body = Callable[[Lanes, Any, Any], None]


def _step(array: Any, arguments: Sequence[Any], body: Body, voxels: int = FOUR) -> Any:
    """(signature, code generator) of an intrinsic that returns nothing; ``body`` writes it."""
    signature = types.void(*arguments)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        body(Lanes(context, builder, array.dtype, voxels), signature.args, values)
        return context.get_dummy_value()

    return signature, generate


def _mix(v: Lanes, t: Any, a: Any) -> None:
    """out[o…] = Σₖ wₖ · premultiplied(voxels[iₖ…])"""
    total = None
    for k in range(4):
        rgba = v.load(v.pointer(t[2], a[2], a[3 + k]))
        share = v.with_occupancy_of(v.shuffle(rgba, rgba, v.occupancy), v.constant(1))
        term = v.times(v.times(rgba, v.splat(a[7 + k])), share)
        total = term if total is None else v.plus(total, term)
    v.store(total, v.pointer(t[0], a[0], a[1]))


@intrinsic
def mix(_context, out, o, voxels, i0, i1, i2, i3, w0, w1, w2, w3):
    i, f = types.int64, voxels.dtype
    return _step(voxels, (out, i, voxels, i, i, i, i, f, f, f, f), _mix)


@intrinsic
def mix_one(_context, out, o, voxels, i0, i1, i2, i3, w0, w1, w2, w3):
    i, f = types.int64, voxels.dtype
    return _step(voxels, (out, i, voxels, i, i, i, i, f, f, f, f), _mix, 1)


def _lerp(v: Lanes, t: Any, a: Any) -> None:
    """out[o…] += w0 · mixed[i…] + w1 · mixed[i + 4…]"""
    place = v.pointer(t[0], a[0], a[1])
    total = v.load(place)
    for index, weight in ((a[3], a[4]), (v.next(a[3]), a[5])):
        value = v.load(v.pointer(t[2], a[2], index))
        total = v.plus(total, v.times(value, v.splat(weight)))
    v.store(total, place)


@intrinsic
def lerp_one(_context, out, o, mixed, i, w0, w1):
    n, f = types.int64, mixed.dtype
    return _step(mixed, (out, n, mixed, n, f, f), _lerp, 1)


def _normalise(v: Lanes, t: Any, a: Any) -> None:
    """sums[o…], (Σ aᵢcᵢ, A), becomes (rgb, min(A, 1)); total[k…] = A."""
    place = v.pointer(t[0], a[0], a[1])
    value, one = v.load(place), v.constant(1)
    occupancy = v.shuffle(value, value, v.occupancy)
    of_voxels = v.shuffle(value, value, v.occupancy[::4])
    v.store(of_voxels, v.pointer(t[2], a[2], a[3], v.n // 4))
    there = v.builder.fcmp_ordered(">", occupancy, v.constant(NEXT_TO_NOTHING))
    rgb = v.builder.fdiv(value, v.builder.select(there, occupancy, one), flags=FLAGS)
    capped = v.builder.select(v.builder.fcmp_ordered("<", value, one), value, one)
    v.store(v.with_occupancy_of(rgb, capped), place)


@intrinsic
def normalise(_context, sums, o, total, k):
    return _step(sums, (sums, types.int64, total, types.int64), _normalise)


@intrinsic
def normalise_one(_context, sums, o, total, k):
    return _step(sums, (sums, types.int64, total, types.int64), _normalise, 1)


def _to_sums(v: Lanes, t: Any, a: Any) -> None:
    """The adjoint of normalise: the gradient g[i…] to canvas[j…], (rgb, α), becomes sums[o…] =
    (g / A, passed · gα − Σ g · rgb / A), with A = α, or total[k…] where α is capped. Also
    inverses[z…] = 1 / A, 0 where A is, and passed[z…] = dα/dA."""
    few = v.n // 4
    gradient = v.load(v.pointer(t[2], a[2], a[3]))
    canvas = v.load(v.pointer(t[4], a[4], a[5]))
    alpha, one = v.shuffle(canvas, canvas, v.occupancy[::4]), v.constant(1, few)
    total = v.load(v.pointer(t[6], a[6], a[7], few))
    total = v.builder.select(v.builder.fcmp_ordered(">=", alpha, one), total, alpha)
    there = v.builder.fcmp_ordered(">", total, v.constant(NEXT_TO_NOTHING, few))
    inverse = v.builder.fdiv(one, v.builder.select(there, total, one), flags=FLAGS)
    inverse = v.builder.select(there, inverse, v.constant(0, few))
    is_free = v.builder.fcmp_ordered("<=", total, v.constant(FULL, few))
    passed = v.builder.select(is_free, one, v.constant(0, few))
    v.store(inverse, v.pointer(t[8], a[8], a[10], few))
    v.store(passed, v.pointer(t[9], a[9], a[10], few))
    each = [lane // 4 for lane in range(v.n)]
    colour = v.times(gradient, v.shuffle(inverse, inverse, each))
    change = v.sum_of_voxel(v.with_occupancy_of(v.times(colour, canvas), v.constant(0)))
    kept = v.times(gradient, v.shuffle(passed, passed, each))
    occupancy = v.builder.fsub(kept, change, flags=FLAGS)
    v.store(v.with_occupancy_of(colour, occupancy), v.pointer(t[0], a[0], a[1]))


def _to_sums_types(sums: Any, gradient: Any, canvas: Any, total: Any, each: Any) -> Sequence[Any]:
    n = types.int64
    return (sums, n, gradient, n, canvas, n, total, n, each, each, n)


@intrinsic
def to_sums(_context, sums, o, gradient, i, canvas, j, total, k, inverses, passed, z):
    return _step(sums, _to_sums_types(sums, gradient, canvas, total, inverses), _to_sums)


@intrinsic
def to_sums_one(_context, sums, o, gradient, i, canvas, j, total, k, inverses, passed, z):
    return _step(sums, _to_sums_types(sums, gradient, canvas, total, inverses), _to_sums, 1)


def _spread(v: Lanes, t: Any, a: Any) -> None:
    """The adjoint of lerp: column[i…] += w0 · sums[o…], column[i + 4…] += w1 · sums[o…]"""
    value = v.load(v.pointer(t[2], a[2], a[3]))
    for index, weight in ((a[1], a[4]), (v.next(a[1]), a[5])):
        place = v.pointer(t[0], a[0], index)
        v.store(v.plus(v.load(place), v.times(value, v.splat(weight))), place)


@intrinsic
def spread_one(_context, column, i, sums, o, w0, w1):
    n, f = types.int64, sums.dtype
    return _step(sums, (column, n, sums, n, f, f), _spread, 1)


def _slope(v: Lanes, t: Any, a: Any) -> None:
    """d = sums[o…] · (mixed[i + 4…] − mixed[i…]), lane by lane;
    moments[0…4] += d, moments[4…8] += height · d."""
    low, high = (v.load(v.pointer(t[1], a[1], k)) for k in (a[2], v.next(a[2])))
    value = v.load(v.pointer(t[3], a[3], a[4]))
    change = v.times(value, v.builder.fsub(high, low, flags=FLAGS))
    first = v.index(0)
    for index, term in ((first, change), (v.next(first), v.times(change, v.splat(a[5])))):
        place = v.pointer(t[0], a[0], index)
        v.store(v.plus(v.load(place), term), place)


@intrinsic
def slope_one(_context, moments, mixed, i, sums, o, height):
    n, f = types.int64, sums.dtype
    return _step(sums, (moments, mixed, n, sums, n, f), _slope, 1)


def _unmix(v: Lanes, t: Any, a: Any) -> None:
    """The adjoint of mix, and mix itself with weights sₖ, in one pass. With adjoint = column[o…]
    and tₖ = its occupancy + Σ its colour · voxel k's colour,

        gradient[iₖ…] += w · sₖ · (αₖ · adjoint's colour, tₖ) if ``write``
        dots[16k…] += voxel k · tₖ, of which only the occupancy's lanes mean anything
        mixed[o…] = Σₖ sₖ · premultiplied(voxels[iₖ…])
    """
    adjoint, ones = v.load(v.pointer(t[3], a[3], a[4])), v.constant(1)
    presence, mixed = v.splat(a[13]), None
    for k in range(4):
        rgba, share = v.load(v.pointer(t[1], a[1], a[5 + k])), v.splat(a[9 + k])
        occupancy = v.shuffle(rgba, rgba, v.occupancy)
        total = v.sum_of_voxel(v.times(adjoint, v.with_occupancy_of(rgba, ones)))
        dots = v.pointer(t[14], a[14], v.index(16 * k))
        v.store(v.plus(v.load(dots), v.times(rgba, total)), dots)
        premultiplied = v.times(rgba, v.with_occupancy_of(occupancy, ones))
        term = v.times(premultiplied, share)
        mixed = term if mixed is None else v.plus(mixed, term)
        with v.builder.if_then(a[15]):
            place = v.pointer(t[0], a[0], a[5 + k])
            change = v.with_occupancy_of(v.times(adjoint, occupancy), total)
            change = v.times(change, v.times(share, presence))
            v.store(v.plus(v.load(place), change), place)
    v.store(mixed, v.pointer(t[2], a[2], a[4]))


def _unmix_types(gradient: Any, voxels: Any, mixed: Any, column: Any, dots: Any) -> Sequence[Any]:
    n, f = types.int64, voxels.dtype
    return (gradient, voxels, mixed, column, *[n] * 5, *[f] * 5, dots, types.boolean)


@intrinsic
def unmix(
    _context, gradient, voxels, mixed, column, o, i0, i1, i2, i3, s0, s1, s2, s3, w, dots, write
):
    return _step(voxels, _unmix_types(gradient, voxels, mixed, column, dots), _unmix)


@intrinsic
def unmix_one(
    _context, gradient, voxels, mixed, column, o, i0, i1, i2, i3, s0, s1, s2, s3, w, dots, write
):
    return _step(voxels, _unmix_types(gradient, voxels, mixed, column, dots), _unmix, 1)


def _transpose(v: Lanes, t: Any, a: Any) -> None:
    """Four rows of four numbers, out[o + j · pitch + k] = values[i + k · stride + j]."""
    rows, index = [], a[4]
    for _ in range(4):
        rows.append(v.load(v.pointer(t[3], a[3], index)))
        index = v.builder.add(index, a[5])
    low, high = (
        [v.shuffle(x, y, lanes) for x, y in (rows[:2], rows[2:])]
        for lanes in ((0, 4, 1, 5), (2, 6, 3, 7))
    )
    index = a[1]
    for pair in (low, high):
        for lanes in ((0, 1, 4, 5), (2, 3, 6, 7)):
            v.store(v.shuffle(*pair, lanes), v.pointer(t[0], a[0], index))
            index = v.builder.add(index, a[2])


@intrinsic
def transpose(_context, out, o, pitch, values, i, stride):
    n = types.int64
    return _step(values, (out, n, n, values, n, n), _transpose, 1)


@intrinsic
def prefetch(_context, voxels, i):
    """Ask the processor for the cache line of voxels[i]; harmless wherever it points."""

    def body(v: Lanes, t: Any, a: Any) -> None:
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        function = cgutils.get_or_insert_function(v.builder.module, kind, "llvm.prefetch.p0i8")
        place = v.builder.bitcast(v.pointer(t[0], a[0], a[1]), byte)
        v.builder.call(function, [place, _i32(0), _i32(3), _i32(1)])

    return _step(voxels, (voxels, types.int64), body)
