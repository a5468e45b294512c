"""A headless browser that a test drives over the Chrome DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--no-first-run",
  "--hide-scrollbars",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--remote-debugging-pipe",
)


class Page:
  """A page of the browser.

  Attributes:
    events: the protocol's events so far, {"method": …, "params": …} each.
  """

  def __init__(self, commands, replies):
    self._commands, self._replies, self._session, self._id = commands, replies, None, 0
    self.events: list[dict[str, Any]] = []
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
    self._session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def call(self, method: str, **params: Any) -> Any:
    """Sends a command of the protocol, and returns its result."""
    self._id += 1
    message = {"id": self._id, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    self._commands.write(json.dumps(message).encode() + b"\0")
    self._commands.flush()
    while True:
      reply = self._read()
      if reply.get("id") == self._id:
        assert "error" not in reply, reply
        return reply["result"]

  def open(self, url: str) -> None:
    """Opens an address, and waits until the page has loaded."""
    self.call("Page.navigate", url=url)
    while not any(event["method"] == "Page.loadEventFired" for event in self.events):
      self._read()

  def run(self, script: str) -> Any:
    """Returns the value of a JavaScript expression; a promise is awaited."""
    reply = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
    assert "exceptionDetails" not in reply, reply["exceptionDetails"]
    return reply["result"].get("value")

  def resize(self, width: int, height: int) -> None:
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )

  def screenshot(self, path: Path) -> None:
    path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

  def _read(self) -> dict[str, Any]:
    data = bytearray()
    while (byte := self._replies.read(1)) != b"\0":
      assert byte, "the browser has ended"
      data += byte
    message = json.loads(data)
    if "method" in message:
      self.events.append(message)
    return message


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Page]:
  """Starts a browser, which keeps its own files in `folder`; skips the test if there is none."""
  browser = next(filter(None, map(shutil.which, BROWSERS)), None)
  if browser is None:
    pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
  commands, to_browser = os.pipe()
  from_browser, replies = os.pipe()
  # The browser reads commands from file descriptor 3, and writes replies to 4.
  line = f'exec "$0" "$@" 3<&{commands} 4>&{replies}'
  arguments = (browser, *OPTIONS, f"--user-data-dir={folder}", "about:blank")
  process = subprocess.Popen(
    ("bash", "-c", line, *arguments), pass_fds=(commands, replies), stderr=subprocess.DEVNULL
  )
  os.close(commands)
  os.close(replies)
  with open(to_browser, "wb") as writer, open(from_browser, "rb") as reader:
    try:
      yield Page(writer, reader)
    finally:
      process.kill()
      process.wait()
