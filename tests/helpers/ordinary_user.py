"""Commands as an ordinary user executes them: one to whom the permissions of files apply."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers.command import ROOT, Done

# prctl(2): take a capability out of the set that a new program may have.
PR_CAPBSET_DROP = 24
NUM_CAPABILITIES = 64
# Executes the commands that standard input lists, in turn, and prints how each one ended.
SCRIPT = """
import json, sys
from tests.helpers.command import isheep
commands = json.load(sys.stdin)
sys.stdin = None
print(json.dumps([isheep(*words) for words in commands]))
"""

_libc = ctypes.CDLL(None)


def drop_privileges() -> None:
    """Take away what lets root ignore the permissions of files, from the program that this process executes next.

    Root without its capabilities can still read the interpreter, wherever it is installed. Changes nothing for others.
    """
    for capability in range(NUM_CAPABILITIES):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def as_ordinary_user(
    commands: Sequence[Sequence[str | Path]], cwd: Path, environment: Mapping[str, str | None] | None = None
) -> list[Done]:
    """Execute commands of isheep in a process without privileges; return how each one ended.

    `environment` changes variables, and removes those that are None.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "ISHEEP_NO_REPORT": "1", **(environment or {})}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([list(map(str, words)) for words in commands]),
        capture_output=True,
        text=True,
        cwd=cwd,
        env={name: value for name, value in variables.items() if value is not None},
        preexec_fn=drop_privileges,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [Done(*values) for values in json.loads(process.stdout.splitlines()[-1])]
