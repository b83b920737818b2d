"""Python programs run as commands, each in a process forked from one that has imported what takes seconds to import.

`python tests/commands.py laboratory` is that one, or `... plain`, which has torch and transformers and nothing of this project:
it reads a command a line, and answers with its exit code.
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

import torch

ROOT = Path(__file__).parents[1]


def run_python(
    arguments: list[str], environment: dict[str, str], folder: Path = ROOT, imported: str = "laboratory"
) -> subprocess.CompletedProcess:
    """Return what `python ARGUMENTS` in a folder ends with and prints; `arguments` begin with a file, `-m MODULE` or `-c CODE`."""
    with tempfile.TemporaryDirectory() as told:
        printed = [os.path.join(told, name) for name in ("stdout", "stderr")]
        server = started(imported)
        server.stdin.write(json.dumps([list(map(str, arguments)), environment, str(folder), printed]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(Path(name).read_text() for name in printed))


def run_plain(code: str, folder: Path) -> str:
    """Return what code prints in a folder, where nothing of this project has been imported; it must not fail."""
    # Threads change the last bit, and other tests set them.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = run_python(["-c", code], environment, folder, "plain")
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def started(imported: str) -> subprocess.Popen:
    """Return this test process's own server."""
    caches = tempfile.TemporaryDirectory()
    own = {f"HF_{name}": os.path.join(caches.name, name) for name in ("HOME", "DATASETS_CACHE", "MODULES_CACHE")}
    server = subprocess.Popen(
        [sys.executable, __file__, imported],
        cwd=ROOT,
        env=os.environ | own | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(caches.cleanup)
    atexit.register(server.kill)
    return server


def serve(imported: str) -> None:
    """Run the commands that come in, one after the other."""
    import transformers.models.bert.modeling_bert  # noqa: F401

    if imported == "laboratory":
        import experiments.cell.runner
        import experiments.cell.saved  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(arguments: list[str], environment: dict[str, str], folder: str, printed: list[str]) -> None:
    """Be a command, to its end."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, name in enumerate(printed, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    kind = arguments.pop(0) if arguments[0] in ("-m", "-c") else ""
    program, *rest = arguments
    sys.argv = ["-c" if kind == "-c" else program, *rest]
    sys.path[0] = folder if kind else os.path.dirname(os.path.abspath(program))
    code = 0
    try:
        if kind == "-c":
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        elif kind == "-m":
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
    serve(sys.argv[1])
