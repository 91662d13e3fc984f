"""Takes a picture of a report with headless Chromium.

python -m tools.screenshot_report REPORT.html OUT.png [--width 1400] [--height 2000] [--dark]
  [--fragment "variant=fp32&valid=1"] [--top "h2"]
"""

import argparse
import json
import sys
from pathlib import Path

from recjax.errors import UserError
from tools.browser import Browser


def screenshot(
    page: Path,
    picture: Path,
    width: int,
    height: int,
    dark: bool = False,
    fragment: str = "",
    top: str = "",
) -> None:
    """Writes a PNG of `height` pixels of the page.

    Args:
      page: the report.
      picture: the PNG.
      width: of the window, in pixels.
      height: of the picture, in pixels.
      dark: as a reader with a dark screen sees it.
      fragment: after the "#" of the page's address, such as its filters.
      top: CSS selector of the element that the picture begins with; empty: the top of the page.

    Raises:
      UserError: no such page, no such element, or no browser.
    """
    if not page.is_file():
        raise UserError(f"no report {str(page)!r}; give the path of a report.html")
    with Browser() as browser:
        browser.open(page, fragment, width=width, height=height, look="dark" if dark else "light")
        start = 0.0
        if top:
            found = browser.run(
                f"(() => {{ const found = document.querySelector({json.dumps(top)}); found?.scrollIntoView();"
                " return found ? found.getBoundingClientRect().top + scrollY : null; })()"
            )
            if found is None:
                raise UserError(f"--top={top}: nothing of {page} matches that CSS selector")
            start = float(found)
        # Plots are drawn once they are near the window, a frame after it got there.
        browser.run("new Promise((done) => setTimeout(done, 700))")
        browser.run("scrollTo(0, 0)")  # what sticks to the window's top would cover the picture's
        picture.write_bytes(browser.picture((0, max(0.0, start - 16 * bool(top)), width, height)))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1400, help="of the window, in pixels")
    parser.add_argument("--height", type=int, default=2000, help="of the picture, in pixels")
    parser.add_argument("--dark", action="store_true", help="as a reader with a dark screen sees it")
    parser.add_argument("--fragment", default="", help='after the "#" of the address, such as filters')
    parser.add_argument("--top", default="", metavar="SELECTOR", help="element that the picture begins with")
    options = parser.parse_args(arguments)
    try:
        screenshot(**{name if name != "report" else "page": value for name, value in vars(options).items()})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
