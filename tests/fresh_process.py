"""Runs code in a separate interpreter, without the switches of this one's environment."""

import os
import subprocess
import sys


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FASTOPT_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def output(code: str, **environment: str) -> str:
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


INFO = "import json, fastopt; print(json.dumps(fastopt.info()))"
