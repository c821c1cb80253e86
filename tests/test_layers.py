"""Who may import whom, so that `ipc` can be used alone and NATS can be looked up in one place."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imports(path: Path) -> set[str]:
    """Return the top-level packages that a module imports by absolute name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_ipc_stands_alone():
    """Importing ipc loads no part of jetq."""
    check = "import sys, ipc; sys.exit('jetq' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
    assert not [path for path in ROOT.glob("ipc/**/*.py") if "jetq" in imports(path)]


def test_only_the_connection_knows_the_client_library():
    """nats-py is imported in one module; its types stop there."""
    modules = [*ROOT.glob("ipc/**/*.py"), *ROOT.glob("jetq/**/*.py")]

    using = [str(path.relative_to(ROOT)) for path in modules if "nats" in imports(path)]

    assert sorted(using) == ["ipc/_client.py", "ipc/_connection.py"]


def test_jetq_uses_only_public_names_of_ipc():
    """What jetq needs of ipc is in `ipc.__all__`, or shared by command lines."""
    for path in ROOT.glob("jetq/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                public = node.module in ("ipc", "ipc.terminal")
                assert public or not node.module.startswith("ipc"), f"{path}: {node.module}"


def test_importing_jetq_is_free_of_side_effects():
    """An import connects to nothing and starts no thread."""
    check = "import threading, jetq; assert threading.active_count() == 1"

    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
