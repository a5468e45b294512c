"""The report as one HTML file, which loads no other file and needs no network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

_PARTS = {kind: Path(__file__).with_name(f"page.{kind}") for kind in ("html", "css", "js")}


def page(contents: Mapping[str, Any]) -> str:
  """Returns a self-contained HTML page.

  Texts enter the page as data, never as HTML: the file contains them as JSON without `<`, and the
  script displays them as plain text.

  Args:
    contents: the report, from `contents`.
  """
  data = json.dumps(contents, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
  template, style, script = (path.read_text(encoding="utf-8") for path in _PARTS.values())
  parts = {"title": html.escape(contents["title"]), "style": style, "script": script}
  # The data comes last, as it may contain the name of another part.
  for name, text in {**parts, "plotly": get_plotlyjs(), "data": data}.items():
    template = template.replace(f"{{{{{name}}}}}", text)
  return template
