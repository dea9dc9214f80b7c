"""A frame made of two picture files: checked by its headers at once, read when it is asked for."""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protoscene.errors import Refused
from protoscene.formats.lens import Lens, undistorted
from protoscene.formats.pictures import colour_header, depth_header, read_colour, read_depth
from protoscene.formats.problems import Problems, kept
from protoscene.recording import Frame, Recording, View

MAX_FRAMES = 10**6


@dataclass(frozen=True, eq=False)
class PictureFrame(Frame):
    """A frame with what reading its files needs: lens, unit of integer depth, names of fields."""

    lens: Lens
    depth_unit: float
    no_return: int | None
    colour_field: str
    depth_field: str


@dataclass(frozen=True, eq=False)
class Listing:
    """What a layout found: its frames, and the files that describe them."""

    frames: Sequence[PictureFrame]
    described_by: Sequence[Path]


def recording_of(root: Path, listing: Listing, problems: Problems) -> Recording:
    """The recording of all frames whose headers are right; others are refused (or kept apart)."""
    if not listing.frames and not problems:
        raise Refused(root, "frames", "recording has 0 frames", expected="1 or more")
    good, alpha = [], []
    for frame in listing.frames:
        with kept(problems):
            if _inspect(frame):
                alpha.append(frame)
            good.append(frame)
    with kept(problems):
        _require_distinct_names(root, good)
    if alpha:
        text = f"the alpha channel of {len(alpha)} pictures is ignored"
        warnings.warn(f"{alpha[0].colour_file}: {text}", stacklevel=3)
    files = [*listing.described_by]
    for frame in good:
        files += [frame.colour_file, frame.depth_file]
    return Recording(root, list(good), read_frame, sha256=lambda: sha256_of(root, files))


def read_frame(frame: Frame) -> View:
    """The pinhole view of a frame: pictures decoded, verified, distortion undone."""
    assert isinstance(frame, PictureFrame)
    colour = read_colour(frame.colour_file, frame.colour_field)
    depth = read_depth(frame.depth_file, frame.depth_field, frame.depth_unit, frame.no_return)
    for pixels, file, field in (
        (colour, frame.colour_file, frame.colour_field),
        (depth, frame.depth_file, frame.depth_field),
    ):
        _require_size(frame.lens, pixels.shape[1], pixels.shape[0], file, field)
    colour, depth = undistorted(frame.lens, colour, depth)
    return View(frame.camera, frame.camera_name, frame.time, colour, depth)


def _inspect(frame: PictureFrame) -> bool:
    """Check both headers; whether the colour picture has an alpha channel."""
    colour = colour_header(frame.colour_file, frame.colour_field)
    depth = depth_header(frame.depth_file, frame.depth_field)
    if (depth.width, depth.height) != (colour.width, colour.height):
        got, expected = f"{depth.width}×{depth.height}", f"{colour.width}×{colour.height}"
        problem = "depth and colour pictures differ in size"
        raise Refused(frame.depth_file, frame.depth_field, problem, got, f"{expected} as colour")
    _require_size(frame.lens, colour.width, colour.height, frame.colour_file, frame.colour_field)
    return colour.has_alpha


def _require_size(lens: Lens, width: int, height: int, file: Path, field: str) -> None:
    if (width, height) != (lens.w, lens.h):
        got, expected = f"{width}×{height}", f"{lens.w}×{lens.h}"
        raise Refused(file, field, "picture size is not that of the intrinsics", got, expected)


def _require_distinct_names(root: Path, frames: Iterable[PictureFrame]) -> None:
    """Names that differ only in case or Unicode form are one file on some systems."""
    seen: dict[str, Path] = {}
    for frame in frames:
        for file, field in (
            (frame.colour_file, frame.colour_field),
            (frame.depth_file, frame.depth_field),
        ):
            folded = unicodedata.normalize("NFC", str(file)).casefold()
            other = seen.setdefault(folded, file)
            if other != file:
                got = other.relative_to(root)
                raise Refused(file, field, "name differs only in case or Unicode form", f"{got}")


def sha256_of(root: Path, files: Iterable[Path]) -> str:
    """Hash of the names and the contents of all files, in order of their names."""
    total = hashlib.sha256()
    for name, file in sorted({file.relative_to(root).as_posix(): file for file in files}.items()):
        try:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise Refused(file, "file", f"file cannot be read: {error.strerror}") from error
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def require_one_unit(times: Iterable[float], file: Path, field: str) -> None:
    """Refuse times of which some are plainly in another unit (thousands, millions of the others).

    Plainly: the times are uneven, and dividing the later ones by 10³, 10⁶ or 10⁹ makes them even.
    """
    sorted_times = np.unique(np.array(list(times), dtype=np.float64))
    gaps = np.diff(sorted_times)
    if len(gaps) < 3 or gaps.max() < 20 * gaps.min():
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(sorted_times[:-1] > 0, sorted_times[1:] / sorted_times[:-1], 0.0)
    for split in np.argsort(-ratio)[:4] + 1:
        if sorted_times[split] <= 0:
            continue
        unevenness = {}
        for scale in (1e3, 1e6, 1e9):
            mended = np.concatenate([sorted_times[:split], sorted_times[split:] / scale])
            gaps = np.diff(np.unique(mended.round(9)))
            unevenness[scale] = gaps.max() / gaps.min() if len(gaps) > 1 else np.inf
        scale = min(unevenness, key=lambda scale: unevenness[scale])
        if unevenness[scale] <= 5:
            problem = f"times look like a mix of units, a factor of {scale:g} apart"
            raise Refused(file, field, problem, got=f"{sorted_times[split]:.10g}")
