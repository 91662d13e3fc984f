"""What several test files assert in the same way."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def assert_one_line(error: str, *parts: str) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    for part in parts:
        assert part in error


def assert_help_is_light(module: str, option: str) -> None:
    """Asserts that the command's --help names the option and imports nothing that takes long."""
    code = f"""
import sys
from {module} import main
try:
    main(["--help"])
except SystemExit as exited:
    print("exit", exited.code, sorted({{"jax", "flax", "numpy", "rich", "scipy", "plotly"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: python -m {module}")
    assert option in done.stdout
    assert done.stdout.splitlines()[-1] == "exit 0 []"
