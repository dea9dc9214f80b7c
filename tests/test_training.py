"""The training loop: what is killed and resumed is what was never disturbed, and nothing that is
not finite is ever stepped on or stored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import protoscene
from protoscene import checkpoints
from protoscene.errors import Failed, Refused
from protoscene.training import Training
from tiny_training import SETTINGS, a_module, held_out, loss, trained

PROGRAM = Path(__file__).parent / "tiny_training.py"
STEPS = [f"step-{step:08d}" for step in (30, 40)]


def files_of(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([t.detach().flatten() for t in module.state_dict().values()])


class Stopped(Exception):
    """Stands for whatever ends a run between two steps."""


def stopping_at(step: int) -> Any:
    def show(_stage: str, done: int, _total: int) -> None:
        if done == step:
            raise Stopped

    return show


def test_it_learns_and_keeps_the_best_average(tmp_path: Path) -> None:
    before = held_out(a_module().eval())
    module, fitted = trained(tmp_path / "run", settings=replace(SETTINGS, steps=150, every=50))
    assert fitted.steps == 150 and [row[0] for row in fitted.history] == [50, 100, 150]
    assert fitted.held_out == min(row[2] or np.inf for row in fitted.history) < before / 2
    assert held_out(module) == fitted.held_out
    assert not module.training


def test_the_last_two_checkpoints_are_kept_and_hold_no_place_or_time(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == STEPS
    for name, data in files_of(tmp_path / "run").items():
        assert str(tmp_path).encode() not in data and os.uname().nodename.encode() not in data
        if name.endswith(".json"):
            assert json.loads(data)["identity"]["learning_rate"] == 0.06


@pytest.mark.parametrize("stop", [1, 9, 10, 11, 25, 40])
def test_resumed_it_is_as_if_never_stopped(tmp_path: Path, stop: int) -> None:
    whole, fitted = trained(tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(tmp_path / "run", progress=stopping_at(stop))
    module, again = trained(tmp_path / "run")
    assert torch.equal(weights_of(module), weights_of(whole)) and again == fitted
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


def test_what_workers_prepare_is_the_same(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole")
    module, _ = trained(tmp_path / "run", workers=2)
    assert torch.equal(weights_of(module), weights_of(whole))


def test_no_global_random_state_is_read_or_changed(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, _ = trained(tmp_path / "one", workers=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002
    two, _ = trained(tmp_path / "two", workers=1)
    assert torch.equal(weights_of(one), weights_of(two))
    three, _ = trained(tmp_path / "three", settings=replace(SETTINGS, seed=4))
    assert not torch.equal(weights_of(one), weights_of(three))  # dropout


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_is_never_stepped_on(tmp_path: Path, bad: float, where: str) -> None:
    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_: Any, g: Tensor) -> Tensor:
            return g * bad

    step = 0

    def bad_loss(module: nn.Module, batch: Any) -> dict[str, Tensor]:
        nonlocal step
        terms = loss(module, batch)
        if step == 23:
            known = terms["absolute"]
            terms["absolute"] = known * bad if where == "loss" else Explodes.apply(known)
        step += 1
        return terms

    module = a_module()
    kept: list[Tensor] = []
    with pytest.raises(Failed, match="diverged at step 23: " + ("abs" if where == "loss" else "g")):
        trained(tmp_path / "run", module=module, loss=bad_loss,
                progress=lambda *_: kept.append(weights_of(module).clone()))  # fmt: skip
    assert torch.equal(weights_of(module), kept[-1]) and bool(kept[-1].isfinite().all())
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "step-00000010",
        "step-00000020",
    ]
    trained(tmp_path / "run")  # the last good state is whole


def test_a_held_out_loss_that_is_not_finite_leaves_the_checkpoints_before(tmp_path: Path) -> None:
    checks: list[float] = []

    def bad_check(module: nn.Module) -> float:
        checks.append(held_out(module))
        return checks[-1] if len(checks) < 4 else float("nan")

    with pytest.raises(Failed, match="step 40: the held-out loss is nan"):
        trained(tmp_path / "run", held_out=bad_check)
    kept = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert kept == ["step-00000020", "step-00000030"]


def test_what_cannot_be_stored_removes_nothing(tmp_path: Path) -> None:
    """However often a run that is not finite any more tries."""
    with pytest.raises(Stopped):
        trained(tmp_path / "run", progress=stopping_at(25))
    before = files_of(tmp_path / "run")
    for step in range(26, 30):
        entry = checkpoints.Checkpoint(
            format=checkpoints.FORMAT, version=1, files={}, step=step, identity={}, best_step=0,
            best_loss=None, history=[],
        )  # fmt: skip
        with pytest.raises(Failed, match="mean is not finite, not saved"):
            checkpoints.save_checkpoint(tmp_path / "run", entry, {"mean": torch.tensor([np.inf])})
    assert files_of(tmp_path / "run") == before


def test_parameters_that_are_not_finite_are_never_stored(tmp_path: Path) -> None:
    tensors = {"module.weight": torch.tensor([1.0, np.nan])}
    checkpoint = checkpoints.Checkpoint(
        format=checkpoints.FORMAT, version=1, files={}, step=1, identity={}, best_step=0,
        best_loss=None, history=[],
    )  # fmt: skip
    with pytest.raises(Failed, match=r"module\.weight is not finite"):
        checkpoints.save_checkpoint(tmp_path, checkpoint, tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"settings": replace(SETTINGS, learning_rate=0.02)},
         "learning_rate: is another than that of the interrupted run (got 0.02, expected 0.06)"),
        ({"settings": replace(SETTINGS, steps=41)}, "steps: is another"),
        ({"inputs": {"data": "b"}}, "data: is another than that of the interrupted run (got b, "),
        ({"inputs": {"data": "a", "more": 1}}, "more: is another"),
        ({"module": nn.Sequential(nn.Linear(6, 1))}, "module: is another"),
    ],
)  # fmt: skip
def test_another_run_is_refused_with_the_difference(
    tmp_path: Path, options: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path / "run", progress=stopping_at(10))
    before = files_of(tmp_path / "run")
    with pytest.raises(Refused) as refused:
        trained(tmp_path / "run", **options)
    assert refusal in str(refused.value)
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["__version__", "torch.__version__"])
def test_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path / "run", progress=stopping_at(10))
    monkeypatch.setattr(f"protoscene.checkpoints.{name}", "0.0.1")
    with pytest.raises(Refused, match=r"(torch|protoscene): is another .* \(got 0\.0\.1"):
        trained(tmp_path / "run")


def test_other_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path / "run", progress=stopping_at(10))
    n = torch.get_num_threads()
    torch.set_num_threads(n + 1)
    try:
        with pytest.raises(Refused, match="threads: is another"):
            trained(tmp_path / "run")
    finally:
        torch.set_num_threads(n)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(tmp_path / "run", progress=stopping_at(25))
    last = tmp_path / "run" / "step-00000020"
    data = bytearray((last / "state.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (last / "state.safetensors").write_bytes(data)
    with pytest.warns(UserWarning, match="was changed after .* going on from step-00000010"):
        module, _ = trained(tmp_path / "run")
    assert torch.equal(weights_of(module), weights_of(whole))
    for place in (tmp_path / "run").iterdir():
        (place / "checkpoint.json").write_bytes(b"{}")
    with pytest.raises(Refused, match=r"checkpoint\.json: checkpoint: Object missing"):
        trained(tmp_path / "run")


def test_it_ends_early_where_nothing_gets_better(tmp_path: Path) -> None:
    values = iter([5.0, 3.0, 4.0, 3.0, 6.0])
    settings = Training(steps=1000, every=4, patience=2, warm_up=0.0)
    options = {"settings": settings, "held_out": lambda _: next(values)}
    module, fitted = trained(tmp_path / "run", **options)
    assert (fitted.steps, fitted.best_step, fitted.held_out) == (16, 8, 3.0)
    again, same = trained(tmp_path / "run", **options)  # over already: no value is asked for
    assert same == fitted and torch.equal(weights_of(again), weights_of(module))


def test_the_rate_rises_and_falls() -> None:
    settings = Training(steps=100, warm_up=0.1, learning_rate=1.0)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3) and rates[-1] < 1e-3
    assert np.argmax(rates) in (9, 10) and all(np.diff(rates)[10:] < 0)


# Processes of their own


def begun(*arguments: object, said: Path, **options: Any) -> subprocess.Popen[str]:
    """A process whose output goes to the file ``said``."""
    source = str(Path(protoscene.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    with said.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, **options)


def ended(*arguments: object, said: Path) -> None:
    """Runs a process to its end, which must be a good one."""
    assert begun(*arguments, said=said).wait(300) == 0, said.read_text()


def wait_for(process: subprocess.Popen[str], line: str, said: Path) -> None:
    while line not in said.read_text():
        assert process.poll() is None, said.read_text()
        time.sleep(0.01)


def newest(run: Path) -> int:
    """The step of the last checkpoint."""
    return max(int(p.name.removeprefix("step-")) for p in run.glob("step-*"))


def run_of(out: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(out, allow_pickle=False) as found:
        return found["weights"], found["history"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("undisturbed")
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trained(place)
    finally:
        torch.set_num_threads(n)
    return place


def test_killed_and_resumed_it_gives_the_same_bytes(tmp_path: Path, undisturbed: Path) -> None:
    run, out, said = tmp_path / "run", tmp_path / "out.npz", tmp_path / "said.txt"
    process = begun(PROGRAM, run, out, "--workers", 1, "--pause", 0.1, said=said)
    wait_for(process, "learn 24 ", said)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert not out.exists()
    last = newest(run)
    assert 20 <= last < 40
    ended(PROGRAM, run, out, said=said)
    assert said.read_text().startswith(f"learn {last + 1} ")
    assert files_of(run) == files_of(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_and_leaves(tmp_path: Path, number: signal.Signals) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    process = begun(PROGRAM, run, tmp_path / "nothing", "--workers", 1, "--pause", 0.4,
                    said=said, start_new_session=True)  # fmt: skip
    wait_for(process, "learn 13 ", said)
    os.killpg(process.pid, number)  # as ctrl-C does: the workers get it too
    assert process.wait(60) in (-number, 1)
    *_, line = (line for line in said.read_text().splitlines() if line.startswith("learn "))
    assert newest(run) == int(line.split()[1]) < 40  # the step under way was the last one
    ends = time.monotonic() + 10
    while time.monotonic() < ends and alive(process.pid):
        time.sleep(0.1)
    assert not alive(process.pid)  # no worker is left


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    module = a_module()
    module[2] = nn.Identity()  # what dropout draws is each process's own
    _, alone = trained(tmp_path / "one", module=module)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-addr", "127.0.0.1",
              "--master-port", 29511 + os.getpid() % 2000]  # fmt: skip
    ended(*launch, PROGRAM, tmp_path / "two", tmp_path / "two.npz", "--plain", said=said)
    shared, history = run_of(tmp_path / "two.npz")
    np.testing.assert_allclose(shared, weights_of(module), rtol=0, atol=1e-5)
    np.testing.assert_allclose(history, np.array(alone.history, dtype=float), rtol=1e-5)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == STEPS
