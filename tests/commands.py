"""Python programs run as commands, each in a process forked from one that has imported what takes seconds to import.

`python tests/commands.py` is that one: it reads a command a line, and answers with its exit code.
"""

import atexit
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Return what `python ARGUMENTS` in the clone's root ends with and prints; `arguments` begin with a file or `-m MODULE`."""
    with tempfile.TemporaryDirectory() as folder:
        printed = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        server = started()
        server.stdin.write(json.dumps([arguments, environment, printed]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(Path(name).read_text() for name in printed))


@cache
def started() -> subprocess.Popen:
    """Return this test process's own server."""
    caches = tempfile.TemporaryDirectory()
    server = subprocess.Popen(
        [sys.executable, __file__],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": caches.name, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(caches.cleanup)
    atexit.register(server.kill)
    return server


def serve() -> None:
    """Run the commands that come in, one after the other."""
    import transformers.models.bert.modeling_bert  # noqa: F401

    import experiments.cell.runner
    import experiments.cell.saved  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(arguments: list[str], environment: dict[str, str], printed: list[str]) -> None:
    """Be a command, to its end."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, name in enumerate(printed, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    module = arguments[0] == "-m"
    program, *rest = arguments[module:]
    sys.argv = [program, *rest]
    code = 0
    try:
        if module:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as the interpreter does
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
