"""Takes a picture of a report with headless Chromium.

python -m tools.screenshot_report REPORT.html OUT.png [--width 1400] [--height 2000] [--dark]
"""

import argparse
import html
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from recjax.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
VIRTUAL_TIME_MS = 10_000  # of the page's clock, not of the wall's
MIN_WINDOW_WIDTH = 500  # px; Chromium lays out no narrower window, so a phone's page goes into a frame
FRAME = '<body style="margin:0"><iframe src="{address}" style="border:0;width:{width}px;height:{height}px"></iframe>'
TIMEOUT_S = 180


def find_browser() -> str:
    """Returns the path of a Chromium.

    Raises:
      UserError: none is on PATH.
    """
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    if not found:
        raise UserError(f"no headless browser: none of {', '.join(BROWSERS)} is on PATH; install Chromium")
    return found[0]


def run_browser(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Returns the finished browser: it loaded the page in a fresh profile and let its clock run."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [find_browser(), *FLAGS, f"--user-data-dir={profile}", f"--virtual-time-budget={VIRTUAL_TIME_MS}"]
        command += [*flags, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def screenshot(page: Path, picture: Path, width: int, height: int, dark: bool = False) -> None:
    """Writes a PNG of the top `height` pixels of the page.

    Raises:
      UserError: no such page, no browser, or the browser wrote no picture.
    """
    if not page.is_file():
        raise UserError(f"no report {str(page)!r}; give the path of a report.html")
    flags = [f"--screenshot={picture.resolve()}", f"--window-size={width},{height}"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    picture.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        address = html.escape(page.resolve().as_uri())
        frame.write_text(FRAME.format(address=address, width=width, height=height), encoding="utf-8")
        done = run_browser(frame if width < MIN_WINDOW_WIDTH else page, *flags)
    if not picture.is_file():
        raise UserError(
            f"{find_browser()} wrote no picture (exit code {done.returncode}): {done.stderr.strip()[-300:]}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1400, help="of the window, in pixels")
    parser.add_argument("--height", type=int, default=2000, help="of the window, in pixels")
    parser.add_argument("--dark", action="store_true", help="as a reader with a dark screen sees it")
    options = parser.parse_args(arguments)
    try:
        screenshot(options.report, options.picture, options.width, options.height, options.dark)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
