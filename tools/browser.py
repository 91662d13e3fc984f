"""A headless Chromium, spoken to over its DevTools protocol: pages as a phone, a dark screen or paper shows them.

The protocol runs over two pipes (--remote-debugging-pipe), so that no library for it and no port is needed.
Source of the protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
    "--host-resolver-rules=MAP * ~NOTFOUND",  # pages are whole: whatever they ask of a network is an error
    "--remote-debugging-pipe",
)
TIMEOUT_S = 120
FREE_DESCRIPTOR = 10  # from here on none of those that the browser expects its pipes at
# Chromium reads commands at descriptor 3 and writes answers to 4.
CONNECT = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find_browser() -> str:
    """Returns the path of a Chromium.

    Raises:
      UserError: none is on PATH.
    """
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    if not found:
        raise UserError(f"no headless browser: none of {', '.join(BROWSERS)} is on PATH; install Chromium")
    return found[0]


class Browser:
    """A browser with one page at a time, in a fresh profile; use it in a `with` statement.

    Attributes:
      problems: errors and refused requests of the pages that were opened.
    """

    def __init__(self) -> None:
        """Starts the browser; raises UserError where there is none."""
        self.problems: list[str] = []
        self._path, self._number, self._session = find_browser(), 0, ""

    def __enter__(self) -> Self:
        """Returns the started browser."""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (commands, self._write), (self._read, answers) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, FREE_DESCRIPTOR) for end in (commands, answers)]
        connect = [sys.executable, "-c", CONNECT, *map(str, theirs)]
        self._process = subprocess.Popen(
            [*connect, self._path, *FLAGS, f"--user-data-dir={self._profile.name}"],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands, answers, *theirs):
            os.close(end)
        self._unread = b""
        try:
            target = self._send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self._send(f"{domain}.enable")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the browser and removes its profile."""
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def open(
        self, page: Path, fragment: str = "", *, width: int = 1400, height: int = 1000, look: str = "light"
    ) -> None:
        """Opens a page and waits until its script says that it is ready.

        Args:
          page: a file.
          fragment: after the "#" of its address.
          width: of the window, in CSS pixels; below 600 it is a phone's.
          height: of the window.
          look: "light" or "dark", as the reader's system asks for.
        """
        phone = width < 600
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self._send("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.set_media("", look)
        self._send("Page.navigate", url="about:blank")
        self._send("Page.navigate", url=page.resolve().as_uri() + (f"#{fragment}" if fragment else ""))
        # A page without such a mark is ready when it is loaded.
        self.run(
            "new Promise((done) => { const look = () => document.readyState === 'complete' &&"
            " (!document.getElementById('plotly') || 'ready' in document.body.dataset)"
            " ? requestAnimationFrame(() => requestAnimationFrame(done)) : setTimeout(look, 20); look(); })"
        )

    def set_media(self, media: str, look: str = "light") -> None:
        """Shows the page as `media` ("screen", "print", "" for the usual) and in a look would show it."""
        features = [{"name": "prefers-color-scheme", "value": look}]
        self._send("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression in the page, awaited if it is a promise.

        Raises:
          RuntimeError: the script failed.
        """
        answer = self._send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "the script failed"))
        return answer["result"].get("value")

    def picture(self, clip: Sequence[float] | None = None) -> bytes:
        """Returns a PNG of the window, or of the part (x, y, width, height) of the page."""
        options: dict[str, Any] = {}
        if clip:
            names = ("x", "y", "width", "height")
            options = {"clip": dict(zip(names, clip, strict=True)) | {"scale": 1}, "captureBeyondViewport": True}
        return base64.b64decode(self._send("Page.captureScreenshot", format="png", **options)["data"])

    def paper(self) -> bytes:
        """Returns the page as a PDF on A4."""
        a4 = {"paperWidth": 8.27, "paperHeight": 11.69}
        return base64.b64decode(self._send("Page.printToPDF", printBackground=False, **a4)["data"])

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._read], [], [], TIMEOUT_S)
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError(f"{self._path} ended, or gave no answer for {TIMEOUT_S} s")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        """Keeps what a page complains of."""
        name, facts = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            details = facts["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif name == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning"):
            self.problems.append(" ".join(str(part.get("value", part)) for part in facts["args"]))
        elif name == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.problems.append(facts["entry"]["text"])
