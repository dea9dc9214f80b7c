"""What only a process of its own can tell: peak memory, and what the first call costs.

    python benchmarks/compose_alone.py first
    python benchmarks/compose_alone.py peak native '{"name": "W8", "n_placements": 8, …}'

Prints one JSON object. Imports only Python's own modules until it is asked for more.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def alone(*arguments: str, **environment: str) -> dict[str, float]:
    """What this file prints in a fresh process, with changes to the environment."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def first() -> dict[str, float]:
    """Seconds of the imports and of the first small calls; what numba compiled on import.

    torch imports its ``_dynamo`` when any custom operator is called first: told apart.
    """
    times = {"torch": _seconds(lambda: __import__("torch"))}
    times["numba"] = _seconds(lambda: __import__("numba"))
    from numba.core.event import install_recorder

    with install_recorder("numba:compile") as recorder:
        times["protoscene"] = _seconds(lambda: __import__("protoscene.compose"))
    from compose_contenders import native
    from compose_workloads import TINY

    times["dynamo"] = _seconds(lambda: __import__("torch._dynamo"))
    contender = native(TINY)
    times["forward"] = _seconds(contender.forward)
    times["forward_backward"] = _seconds(contender.forward_backward)
    times["again"] = _seconds(contender.forward_backward)
    return times | {"compiled_on_import": len(recorder.buffer)}


def peak(contender: str, workload: str) -> dict[str, float]:
    """MB while forward and backward run twice, in all and above the inputs (which hold the
    gradient to the result too); ``base`` is what the process holds before it has these."""
    from compose_contenders import CONTENDERS
    from compose_workloads import TINY, Workload

    CONTENDERS[contender](TINY).forward_backward()  # compiled, or read from the cache
    base = _resident("VmRSS")
    measured = CONTENDERS[contender](Workload(**json.loads(workload)))
    return {"base": base} | highest(measured.forward_backward)


def loss(workload: str, size: str, kind: str, folder: str) -> dict[str, float]:
    """MB while the fused loss and its gradients are made twice, in all and above the inputs."""
    from compose_losses import fused
    from compose_workloads import TINY, Workload

    fused(TINY, TINY.canvas, kind, Path(folder)).forward_backward()
    measured = fused(Workload(**json.loads(workload)), int(size), kind, Path(folder))
    return highest(measured.forward_backward)


def highest(function: Callable[[], object]) -> dict[str, float]:
    """Peak resident MB while ``function`` runs twice, and how much more that is than before.

    Not by getrusage: its peak counts what inputs took while they were made, and, before exec, the
    memory of the process that started this one.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    function()
    function()
    return {"peak": _resident("VmHWM"), "above": _resident("VmHWM") - before}


def _resident(field: str) -> float:
    """MB, from the system's own account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[field].split()[0]) * 1024 / 1e6


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    answers: dict[str, Callable[..., dict[str, float]]] = {
        "first": first,
        "peak": peak,
        "loss": loss,
    }
    print(json.dumps(answers[sys.argv[1]](*sys.argv[2:])))
