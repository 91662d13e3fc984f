"""Whether the extra `bench` is installed, which histograms and HTML reports need."""

import importlib.util

from recjax.errors import UserError

PACKAGES = {"plotly": "plotly", "hdrh": "hdrhistogram"}  # a module, and the package that has it


def require_bench_extra() -> None:
    """Raises UserError if a package of the extra is not installed."""
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"runs and their reports need {' and '.join(missing)}: pip install -e '.[bench]' in the repository"
        )
