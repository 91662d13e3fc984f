"""A run that takes turns: `turn_taker.py FILE LETTER WINDOWS... [fail]`; one process for each number of windows.

Each window is a line in the file: the letter at its begin and the letter at its end.
"""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.turns import await_turn


def measure(file: Path, letter: str, windows: int) -> None:
    for _ in range(windows):
        await_turn()
        with file.open("a") as output:
            output.write(f"{letter}(")
            output.flush()
            time.sleep(0.01)
            output.write(f"{letter})\n")


if __name__ == "__main__":
    path, name, *processes = sys.argv[1:]
    if processes[:2] == ["in", "here"]:
        measure(Path(path), name, int(processes[2]))
        sys.exit()
    for number in processes:
        if number == "fail":
            print("error: there is no data", file=sys.stderr)
            sys.exit(2)
        subprocess.run([sys.executable, __file__, path, name, "in", "here", number], check=True)
