"""The studies of parts, at a size of seconds."""

from __future__ import annotations

from PIL import Image


def numbers(out: str, name: str) -> list[float]:
    """The row of a table, its first number of each cell."""
    line = next(line for line in out.splitlines() if line.startswith(f"| {name} |"))
    return [float(cell.split()[0]) for cell in line.strip("| ").split(" | ")[1:]]


def test_fat_voxels(study, tmp_path, capsys) -> None:
    fat_voxels = study("fat_voxels")
    options = fat_voxels.Options(
        rooms=(0,), lessons=(0,), tests=(0,), size=64, passes=2, steps=2, seeds=(0,), out=tmp_path
    )
    fat_voxels.main(options)
    found = numbers(capsys.readouterr().out, "search")
    assert found[0] > 0.6 and found[1] > 15  # a room that it learnt from, at 8 cm
    assert found[2] > 0.8 and 0 < found[5] < found[7]
    with Image.open(tmp_path / "fat_voxels.png") as picture:
        assert picture.size == (4 * 64, 64)


def test_routing(study, tmp_path, capsys) -> None:
    routing = study("routing")
    options = routing.Options(
        rooms=(0,), lessons=(0,), tests=(0,), steps=2, seeds=(0,), size=64, out=tmp_path
    )
    routing.main(options)
    out = capsys.readouterr().out
    by_product = out[out.index("| matrix product |") :].replace("| matrix product ", "")
    shot, routed = numbers(by_product, "one shot"), numbers(by_product, "routing, 3 rounds")
    assert 0 < routed[4] < shot[4]  # who competes, lays fewer
    assert routed[0] > 0.3
    assert out.count("| network |") == 5
    assert numbers(by_product, "matching pursuit")[0] >= shot[0]


def test_capsules(study, tmp_path, capsys) -> None:
    capsules = study("capsules")
    capsules.main(
        capsules.Options(rooms=(0,), tests=(1,), seeds=(0,), steps=2, size=64, out=tmp_path)
    )
    out = capsys.readouterr().out
    with_yaw, without = numbers(out, "place and yaw"), numbers(out, "place alone")
    assert with_yaw[0] == without[0] >= 1
    assert all(0 <= share <= 1 for share in with_yaw[1:7])
    assert "Turned by 90°" in out


def test_full_settings_are_larger(study) -> None:
    for name in ("fat_voxels", "routing", "capsules"):
        options = study(name).Options
        assert len(options(full=True).rooms) > len(options().rooms)
