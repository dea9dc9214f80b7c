"""The house and its rooms: who may import whom, and what no file may do."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "protoscene"

ORDER = re.findall(
    r"\w+",
    """errors files memory threads buffers lanes geometry boxes volume recording formats
sweep_conventions conventions check observe network_input packing prototypes decoders fields neural
placements motion assign codebook compose render losses
heatmap gains slots joint routing laid pursuit parts
scene layers surface edit sealed volume_file scene_json store ranks checkpoints training
records stages background propose follow crops register detail backdrop
pieces symmetry mirror paint colours shape start refine dictionary lidar discover
walls standing seams arrangement grouping undersides
labels targets samples networks model farm distil learn detect parse truth matching pose_errors
shape_errors score_pictures score score_table export
report viewer synth cli""",
)
"""A file imports only from those before it; a package (folder) counts as one."""

FORBIDDEN_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "base"}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
FORBIDDEN_IMPORTS |= {"yaml", "lxml", "jinja2", "pty", "code"}
FORBIDDEN_NAMES_FROM = {"torch": {"load"}, "numpy": {"load"}, "os": {"system", "popen"}}
"""Imported by themselves they would be called by a name that says nothing."""
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.jit.load", "torch.hub.load", "os.system"}
FORBIDDEN_CALLS |= {"os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
MOST_LINES = 400

SOURCES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = SOURCES + [
    path for name in ("examples", "benchmarks", "studies") for path in (ROOT / name).rglob("*.py")
]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of protoscene in a file whose package is ``package``."""
    for node in ast.walk(tree):
        names: list[list[str]] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            names = [[*base, alias.name] for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            names = [str(node.args[0].value).split(".")]
        for name in names:
            if name[0] == "protoscene" and len(name) > 1 and name[1] != "__version__":
                yield node.lineno, name[1]


def order_problems(path: Path, source: str) -> list[str]:
    own = room(path)
    if own not in ORDER:
        return [
            f"{own} has no place in the order: put it into ORDER (tests/test_layout.py) after "
            "everything that it imports and before everything that imports it"
        ]
    package = ["protoscene", *path.relative_to(PACKAGE).parts[:-1]]
    problems = []
    for line, other in imported_rooms(ast.parse(source), package):
        if other not in ORDER:
            problems.append(f"line {line}: imports {other}, which has no place in ORDER")
        elif other != own and ORDER.index(other) > ORDER.index(own):
            problems.append(f"line {line}: {own} imports {other}, which comes after it")
    return problems


def gate_problems(source: str, may_print: bool) -> list[str]:
    """What a file does that no file of protoscene may do."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        found = ""
        if isinstance(node, ast.Import):
            found = ", ".join(
                a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_IMPORTS
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = node.module if node.module.split(".")[0] in FORBIDDEN_IMPORTS else ""
            alone = FORBIDDEN_NAMES_FROM.get(node.module, set()) & {a.name for a in node.names}
            found = found or ", ".join(f"{node.module}.{name}" for name in sorted(alone))
        elif isinstance(node, ast.Call):
            found = forbidden_call(node, may_print)
        if found:
            problems.append(f"line {node.lineno}: {found}")
    return problems


def forbidden_call(call: ast.Call, may_print: bool) -> str:
    name = ast.unparse(call.func)
    keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
    if name in FORBIDDEN_CALLS:
        return name
    if name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
        return f"{name} without allow_pickle=False"
    if keywords.get("shell", "False") != "False":
        return "shell=True"
    if name.endswith((".extractall", ".unpack_archive")):
        return name
    return name if name == "print" and not may_print else ""


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_imports_only_from_those_above(path: Path) -> None:
    if path == PACKAGE / "__init__.py":  # resolves names on first use, imports nothing
        assert list(imported_rooms(ast.parse(path.read_text()), ["protoscene"])) == []
    else:
        assert order_problems(path, path.read_text()) == []


@pytest.mark.parametrize("path", PROGRAMS, ids=label)
def test_does_nothing_forbidden(path: Path) -> None:
    may_print = path not in SOURCES or room(path) == "cli"
    assert gate_problems(path.read_text(), may_print) == []


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_has_one_subject(path: Path) -> None:
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= MOST_LINES, f"{n_lines} lines: it has two subjects, give each its file"
    assert path.stem not in FORBIDDEN_NAMES, "name the file after its subject"


def test_no_tracked_file_names_a_folder_of_one_machine() -> None:
    # Spelt so that this file does not contain what it looks for.
    machine = re.compile(
        r"(?<![\w.~$}/-])/(?:" + "|".join(["work", "tmp", "home", "root"]) + r")/\w"
    )
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    problems = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or path.suffix in {".png", ".npz", ".safetensors"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        problems += [f"{name}: {found.group(0)}" for found in machine.finditer(text)]
    assert problems == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("from protoscene.scene import Scene", "geometry imports scene"),
        ("def f():\n    import protoscene.scene", "geometry imports scene"),
        ("from protoscene import scene", "geometry imports scene"),
        ("from . import scene", "geometry imports scene"),
        ("from .scene import Scene", "geometry imports scene"),
        ("importlib.import_module('protoscene.scene')", "geometry imports scene"),
        ("import protoscene.cupboard", "has no place in ORDER"),
        ("from protoscene.errors import Refused", ""),
        ("from protoscene import __version__", ""),
    ],
)
def test_the_order_is_seen(source: str, problem: str) -> None:
    problems = order_problems(PACKAGE / "geometry.py", source)
    assert problem in problems[0] if problem else problems == []


def test_a_new_file_is_told_where_to_go() -> None:
    assert "put it into ORDER" in order_problems(PACKAGE / "cupboard.py", "")[0]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "np.load(f)",
        "eval('1')",
        "np.load(f, allow_pickle=True)",
        "import yaml",
        "from torch import load",
        "from numpy import load as read",
        "torch.jit.load(f)",
        "os.popen(c)",
        "import lxml.etree",
        "run(c, shell=True)",
        "z.extractall()",
        "print(1)",
        "import marshal as m",
    ],
)
def test_the_gate_sees(source: str) -> None:
    assert gate_problems(source, may_print=False) != []


def test_the_gate_lets_the_rest_through() -> None:
    assert gate_problems("np.load(f, allow_pickle=False)\nprint(1)", may_print=True) == []
