"""Wrong calls are type errors, and results have the types of their tasks."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_wrong_calls_are_type_errors():
    """Pyright finds an error in every line that is marked, and in no other."""
    check = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]

    done = subprocess.run(
        [*check, HERE / "wrong_calls.py"], cwd=HERE.parents[1], capture_output=True, text=True
    )

    report = json.loads(done.stdout)
    found = [(one["range"]["start"]["line"] + 1, one["message"]) for one in diagnostics(report)]
    assert found == []
    assert report["summary"]["filesAnalyzed"] == 1


def diagnostics(report):
    """Return what pyright complains about, hints left out."""
    return [one for one in report["generalDiagnostics"] if one["severity"] != "information"]
