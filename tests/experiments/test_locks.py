"""One process at a time in a folder or a file, several after one another."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from records import record, write_result

from experiments.store import results
from experiments.store.locks import locked_file
from kprune.errors import UserError

ROOT = Path(__file__).parents[2]


def test_one_process_at_a_time(tmp_path):
    """Eight workers on one cell: the work is done once, and every worker finds it."""
    folder, working, done, found = tmp_path / "cell", [], [], []

    def work():
        with results.locked(folder):
            assert not working, "two at once"
            working.append(1)
            if results.finished(folder, {"seed": 0}) is None:
                time.sleep(0.02)
                done.append(write_result(folder, record()))
            found.append(results.finished(folder, {"seed": 0}))
            working.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 1 and len(found) == 8 and None not in found
    assert sorted(os.listdir(folder)) == ["predictions.npz", "result.json"]


def test_the_lock_outlives_folders_that_come_and_go(tmp_path):
    """Workers that leave nothing remove the folder under those that wait for it."""
    folder, working, entered = tmp_path / "a" / "b" / "c" / "d" / "e", [], []

    def work():
        for _ in range(20):
            with results.locked(folder):
                assert not working, "two at once"
                working.append(1)
                entered.append(1)
                working.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(entered) == 80 and os.listdir(tmp_path) == []


def test_several_processes_that_add_rows_to_a_file_lose_none(tmp_path):
    """Read, change, write: what one adds is not overwritten by what another had read before."""
    file = tmp_path / "rows.txt"
    code = (
        "import sys; from pathlib import Path; from experiments.store.locks import locked_file\n"
        "file = Path(sys.argv[1])\n"
        "for row in range(20):\n"
        "    with locked_file(file, 'mend it'):\n"
        "        rows = file.read_text() if file.exists() else ''\n"
        "        file.write_text(rows + f'{sys.argv[2]} {row}\\n')\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(file), name], cwd=ROOT) for name in "abc"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    rows = file.read_text().splitlines()
    assert sorted(rows) == sorted(f"{name} {row}" for name in "abc" for row in range(20))
    assert os.listdir(tmp_path) == ["rows.txt"]


def test_a_file_that_can_t_be_locked_is_one_line():
    with pytest.raises(UserError, match="/proc/none/rows.csv is not writable .*: give another"):
        with locked_file(Path("/proc/none/rows.csv"), "give another --output FILE"):
            pass
