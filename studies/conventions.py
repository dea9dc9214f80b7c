"""Are wrong units and conventions noticed, and right ones left alone?

    python studies/conventions.py --results docs/results.md

Synthetic recordings of many settings (cameras, rigs, sizes, things, noise; small pictures), and
real ones if given, each as it is and with ten mistakes that people make: what `discover` and
`check` would say. A recording that one unmoved camera made says nothing of its poses and counts
apart. Needs the extra ``sim``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from results_page import write_between_markers
from scipy.spatial.transform import Rotation

from protoscene.conventions import AS_GIVEN, Fit, Reading, better_reading, fitted
from protoscene.formats import load
from protoscene.geometry import OPENCV_FROM_OPENGL, Camera, rigid_inverse
from protoscene.recording import Frame, Recording, View
from protoscene.synth import SynthSettings, write_recording

Pose = Callable[[np.ndarray], np.ndarray]
Depth = Callable[[np.ndarray], np.ndarray]
FLIP = OPENCV_FROM_OPENGL
OTHER_AXES = (1.0, -1.0, -1.0)


@dataclass
class Options:
    """Judges recordings as they are and with mistakes made in them."""

    data: Path = Path("build/conventions")
    """Folder of the synthetic recordings, made if missing."""
    first: int = 100
    """Of the synthetic recordings; constants were chosen on those before."""
    number: int = 64
    """Of synthetic recordings."""
    real: tuple[Path, ...] = ()
    """Folders of further recordings."""
    results: Path | None = None
    """A markdown file whose part between the study's markers is replaced by the table."""


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a recording, and the reading in which it would be right."""

    reading: Reading
    depth: float = 1.0
    """All depths are times this."""
    pose: Pose = lambda world_from_camera: world_from_camera
    mirrored: bool = False
    """Pictures are swapped left to right."""


def _moved(scale: float) -> Pose:
    factors = np.array([[1, 1, 1, scale]] * 3 + [[1, 1, 1, 1]])
    return lambda pose: pose * factors


MISTAKES = {
    "depths in millimetres": Mistake(Reading(scale=1e-3), depth=1e3),
    "depths 1000 times too small": Mistake(Reading(scale=1e3), depth=1e-3),
    "TUM's depths read as millimetres": Mistake(Reading(scale=0.2), depth=5.0),
    "translations in millimetres": Mistake(Reading(scale=1e3), pose=_moved(1e3)),
    "the other camera axes": Mistake(Reading(axes=OTHER_AXES), pose=lambda p: p @ FLIP),
    "camera_from_world": Mistake(Reading(inverted=True), pose=rigid_inverse),
    "camera_from_world, the other axes": Mistake(
        Reading(inverted=True, axes=OTHER_AXES), pose=lambda p: FLIP @ rigid_inverse(p) @ FLIP
    ),
    "pictures mirrored": Mistake(Reading(axes=(-1.0, 1.0, 1.0)), mirrored=True),
    "poses of a left-handed world": Mistake(
        Reading(axes=(1.0, -1.0, 1.0)),
        pose=lambda p: np.diag([1.0, -1.0, 1.0, 1.0]) @ p @ np.diag([1.0, -1.0, 1.0, 1.0]),
    ),
    "millimetres and the other axes": Mistake(
        Reading(1e-3, axes=OTHER_AXES), depth=1e3, pose=lambda p: p @ FLIP
    ),
}


def with_mistake(recording: Recording, mistake: Mistake) -> Recording:
    """The recording as somebody who made the mistake would have written it; nothing is copied."""

    def seen_by(camera: Camera) -> Camera:
        camera = replace(camera, world_from_camera=mistake.pose(camera.world_from_camera))
        return replace(camera, cx=camera.width - camera.cx) if mistake.mirrored else camera

    step = slice(None, None, -1 if mistake.mirrored else 1)
    frames = [replace(f, camera=seen_by(f.camera)) for f in recording.frames]
    return rewritten(recording, frames, lambda d: d[:, step] * np.float32(mistake.depth))


def shaken(recording: Recording, seed: int) -> Recording:
    """All poses badly calibrated: by 2 cm and 1° (standard deviations); a camera that stands still
    goes on to do so."""
    rng = np.random.default_rng(seed)
    errors: dict[bytes, np.ndarray] = {}
    frames = []
    for frame in recording.frames:
        pose = frame.camera.world_from_camera
        if pose.tobytes() not in errors:
            error = np.eye(4)
            error[:3, :3] = Rotation.from_rotvec(rng.normal(0, np.deg2rad(1), 3)).as_matrix()
            error[:3, 3] = rng.normal(0, 0.02, 3)
            errors[pose.tobytes()] = error
        pose = pose @ errors[pose.tobytes()]
        frames.append(replace(frame, camera=replace(frame.camera, world_from_camera=pose)))
    return rewritten(recording, frames, lambda depth: depth)


def rewritten(recording: Recording, frames: list[Frame], change: Depth) -> Recording:
    """The same pictures with other cameras and depths."""
    place = {(f.time, f.camera_name): i for i, f in enumerate(recording.frames)}

    def read(frame: Frame) -> View:
        view = recording.view(place[frame.time, frame.camera_name])
        return replace(view, camera=frame.camera, depth=change(view.depth))

    return Recording(recording.source, frames, read)


def settings_of(number: int) -> SynthSettings:
    """The ``number``-th of many different recordings."""
    rng = np.random.default_rng([number, 77])
    cameras = int(rng.choice([1, 2, 3, 4, 6]))
    return SynthSettings(
        seed=5000 + number, n_instants=int(rng.choice([4, 8, 12])), n_cameras=cameras, n_heldout=0,
        width=96, height=72, fov_deg=float(rng.uniform(50, 90)),
        rig="moving" if cameras == 1 else str(rng.choice(["fixed", "moving"])),
        time_step=float(rng.choice([0.1, 0.3, 1.0])), noise=bool(rng.random() < 0.8),
        noise_scale=float(rng.uniform(0.25, 2)), n_moving=int(rng.integers(1, 6)),
        n_parked=int(rng.integers(0, 5)), size=str(rng.choice(["large", "large", "small"])),
        area=float(rng.uniform(3.5, 5)),
    )  # fmt: skip


@dataclass
class Tally:
    """Of one kind of recording; ``expected``: how they should be read, None as given."""

    expected: Reading | None
    recordings: int = 0
    refused: int = 0
    right: int = 0
    """The expected reading was suggested."""
    least: float = np.inf
    """How many times worse the given reading was than the expected one, at least."""

    def add(self, recording: Recording) -> None:
        fits = fitted(recording)
        said = better_reading(fits)
        self.recordings += 1
        self.refused += said is not None
        self.right += said == self.expected
        if self.expected is not None:
            self.least = min(self.least, worse(fits[AS_GIVEN], fits[self.expected]))
        if said != self.expected:
            print(f"{recording.source}: {self.expected} expected, {said} said")


def worse(given: Fit, right: Fit) -> float:
    """How many times ``given`` is worse, in what tells most."""
    apart = given.off / max(right.off, 1e-3)
    return max(apart, given.contradiction / max(right.contradiction, 1e-3))


def markdown(tallies: dict[str, Tally], seconds: list[float]) -> str:
    lines = ["| recordings | number | refused | right suggestion | worse by at least |"]
    lines.append("|---" * 5 + "|")
    for name, t in tallies.items():
        rest = "– | –" if t.expected is None else f"{t.right} | {t.least:.1f}"
        lines.append(f"| {name} | {t.recordings} | {t.refused} | {rest} |")
    wrong = [t for t in tallies.values() if t.expected is not None]
    n, refused, right = (
        sum(getattr(t, field) for t in wrong) for field in ("recordings", "refused", "right")
    )
    lines.append(f"| **all mistakes** | {n} | {refused} ({refused / n:.1%}) | {right} | |")
    took = f"median {np.median(seconds):.2f} s, at most {max(seconds):.2f} s"
    return "\n".join([*lines, "", f"Processor time of a judgement, pictures read: {took}."])


def main(options: Options) -> None:
    options.data.mkdir(parents=True, exist_ok=True)
    folders = list(options.real)
    for number in range(options.first, options.first + options.number):
        folder = options.data / f"{number:03d}"
        if not folder.exists():
            write_recording(settings_of(number), folder)
        folders.append(folder / "recording")
    right = {
        name: Tally(None) for name in ("as they are", "badly calibrated", "one unmoved camera")
    }
    wrong = {name: Tally(mistake.reading) for name, mistake in MISTAKES.items()}
    seconds = []
    for folder in folders:
        recording = load(folder)
        begin = time.process_time()
        right["as they are"].add(recording)
        seconds.append(time.process_time() - begin)
        right["badly calibrated"].add(shaken(recording, len(seconds)))
        for name, mistake in MISTAKES.items():
            wrong[name].add(with_mistake(recording, mistake))
        first = [f for f in recording.frames if f.camera_name == recording.camera_names[0]]
        if np.ptp([f.camera.world_from_camera for f in first], axis=0).max() == 0:
            right["one unmoved camera"].add(rewritten(recording, first, lambda depth: depth))
    text = markdown({**right, **wrong}, seconds)
    print(text)
    if options.results is not None:
        write_between_markers(options.results, "conventions", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
