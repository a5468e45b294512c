"""Tests of the page of hidden states: its file, and what a browser shows of it."""

from __future__ import annotations

import base64
import html.parser
import json
import shutil
import subprocess
import urllib.parse

import matplotlib.pyplot as plt
import numpy as np
import pytest
from browser import BROWSERS

from experiments.states import page as states_page
from experiments.states.page import page
from experiments.states.unit_search import Match
from experiments.states.unit_values import Quantity

OPTIONS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--window-size=1280,800",
)
RED, HALF, BLUE = "rgb(214, 96, 77)", "rgb(254, 255, 255)", "rgb(67, 147, 195)"

TEXT = "<script>alert(1)</script>\n\t&amp; \"'</title><!--\0é\u2028"
PIECES = [*TEXT, "<i>word</i> "]
T, REACH = len(PIECES), 4
SWING = np.linspace(-2, 2, T)


def made(units=2):
  """Returns a page on which unit 0 goes from −2 to 2, unit 1 from 2 to −2, and the gate is 0.5."""
  hidden = np.stack([SWING, -SWING, *([0 * SWING] * (units - 2))], axis=1)
  quantities = [
    Quantity("layer 1 hidden", hidden, gate=False),
    Quantity("layer 1 <b>gate", np.full((T, 1), 0.5), gate=True),
  ]
  saliency = np.tile(10.0 ** -np.arange(REACH), (T, 1))
  saliency[np.arange(REACH)[None] > np.arange(T)[:, None]] = np.nan
  matches = [Match("inside quotes", "layer 1 hidden", 1, 0.5, -0.25)]
  about = "of </script> & <i>text</i>"
  legends = {"inside quotes": "<i>in</i>"}
  data = ("character", PIECES, quantities, np.ones(T), saliency, matches, "m", "<i>r", legends)
  return page("<b>T", about, *data)


class Parsed(html.parser.HTMLParser):
  """The elements of an HTML page, each as [tag, attributes, text directly in the element]."""

  def __init__(self, text):
    super().__init__()
    self.elements, self._open = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append([tag, dict(attrs), ""])
    if tag not in ("meta", "input"):
      self._open.append(self.elements[-1])

  def handle_endtag(self, tag):
    while self._open and self._open.pop()[0] != tag:
      pass

  def handle_data(self, data):
    if self._open:
      self._open[-1][2] += data

  def by_id(self, name):
    return next(e for e in self.elements if e[1].get("id") == name)

  def characters(self):
    return [e for e in self.elements if "data-t" in e[1]]


def style(element):
  declarations = (part.partition(":") for part in element[1].get("style", "").split(";"))
  return {name.strip(): value.strip() for name, _, value in declarations if value}


@pytest.fixture
def browse(tmp_path):
  """`browse(option, script, **state)` returns the standard output of a browser on the page.

  The browser runs with the command-line `option`, executes `script` after the page's own script,
  and opens the link to `state`: q, the quantity; u, the unit; t, the token whose loss is traced.
  """
  browser = next(filter(None, map(shutil.which, BROWSERS)), None)
  if browser is None:
    pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
  path = tmp_path / "page.html"

  def run(option, script="", **state):
    path.write_text(f"{made()}<script>{script}</script>", encoding="utf-8")
    url = f"{path.as_uri()}#{urllib.parse.urlencode(state)}"
    command = [browser, *OPTIONS, f"--user-data-dir={tmp_path / 'user'}", option, url]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()

  return run


@pytest.fixture
def shown(browse):
  """`shown(script, **state)` returns the page as a browser shows it; see `browse`."""
  return lambda script="", **state: Parsed(browse("--dump-dom", script, **state))


def test_text_is_shown_verbatim_with_the_unit_of_the_link(shown):
  dom = shown(q="layer 1 hidden", u=0, t=6)
  characters = dom.characters()
  text = "".join(e[2] for e in characters)
  assert text.replace("\0", "") == "".join(PIECES).replace("\0", "")  # HTML cannot hold character 0
  assert [int(e[1]["data-t"]) for e in characters] == list(range(T))
  assert dom.by_id("about")[2] == "of </script> & <i>text</i>"
  assert dom.by_id("title")[2] == "<b>T"
  assert dom.by_id("rules")[2] == "<i>r"
  assert "<i>in</i>" in [e[2] for e in dom.elements]
  tags = [e[0] for e in dom.elements]
  assert tags.count("script") == 3 and tags.count("title") == 1
  assert not {"b", "i"} & set(tags)
  colors = [style(e)["background-color"] for e in characters]
  assert (colors[0], colors[-1]) == (RED, BLUE)
  # A bar has full height for the largest norm, half one decade below it, none two decades below.
  bars = [style(e).get("border-bottom-width") for e in characters]
  assert (bars[6], bars[5]) == ("10px", "5px")
  assert not any(bars[:5] + bars[7:])
  assert "chosen" in characters[6][1]["class"] and "next" in characters[7][1]["class"]
  assert "layer 1 hidden 0 is −1.5 after it" in dom.by_id("status")[2]
  assert "loss of 1.0 nats" in dom.by_id("status")[2]


def test_a_screenshot_goes_from_red_to_blue(browse, tmp_path):
  browse(f"--screenshot={tmp_path / 'page.png'}", q="layer 1 hidden", u=0)
  pixels = 255 * plt.imread(tmp_path / "page.png")[..., :3]

  def rows(color):
    """Returns the rows of the screenshot with at least 4 pixels of a color."""
    rgb = np.array([int(part) for part in color.removeprefix("rgb(").strip(")").split(",")])
    return np.flatnonzero((np.abs(pixels - rgb).max(axis=-1) < 4).sum(axis=1) >= 4)

  assert len(rows(RED)) > 8 and len(rows(BLUE)) > 8
  # The legend shows both colors; in the text below it, the last red row is above the last blue one.
  assert rows(RED)[-1] < rows(BLUE)[-1]


def test_the_link_selects_the_unit_and_the_best_match_is_the_default(shown):
  best = shown().characters()  # unit 1, which is the only match
  assert style(best[0])["background-color"] == BLUE
  gate = shown(q="layer 1 <b>gate", u=7, t=10**6).characters()  # there is no such unit or token
  assert {style(e)["background-color"] for e in gate} == {HALF}
  assert not any(style(e).get("border-bottom-width") for e in gate)


ACTIONS = """
const links = [];
const key = (name, on = document.body) =>
  on.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
for (const act of [
  () => element("following").click(),
  () => key("ArrowRight"),
  () => key("ArrowLeft"),
  () => spans[5].click(),
  () => { element("quantity").value = 1; element("quantity").dispatchEvent(new Event("change")); },
  () => element("matches").querySelector("button").click(),
  () => key("Escape"),
  () => { key("ArrowRight", element("text")); key("Enter", element("text")); },
  () => spans[0].click(),
  () => { element("unit").value = 99; element("unit").dispatchEvent(new Event("change")); },
]) {
  act();
  links.push(location.hash);
}
element("about").textContent = JSON.stringify(links);
"""


def test_mouse_and_keys_change_the_link(shown):
  dom = shown(ACTIONS, q="layer 1 hidden", u=0)
  states = [
    dict(urllib.parse.parse_qsl(link.removeprefix("#")))
    for link in json.loads(dom.by_id("about")[2])
  ]
  hidden, gate = "layer 1 hidden", "layer 1 <b>gate"
  assert [(s["q"], int(s["u"]), int(s.get("t", -1))) for s in states] == [
    (hidden, 1, -1),
    (hidden, 0, -1),
    (hidden, 1, -1),
    (hidden, 1, 5),
    (gate, 0, 5),
    (hidden, 1, 5),
    (hidden, 1, -1),
    (hidden, 1, 0),
    (hidden, 1, -1),
    (hidden, 1, -1),
  ]


def test_the_file_is_self_contained_and_holds_the_text_as_data():
  text = made()
  parsed = Parsed(text)
  for _, attributes, _ in parsed.elements:
    assert not {"src", "href"} & set(attributes)
  assert "default-src 'none'" in text
  assert "".join(json.loads(parsed.by_id("data")[2])["pieces"]) == "".join(PIECES)
  assert "<script>alert" not in text and "</title><!--" not in text


def test_values_are_rounded_to_a_255th_of_their_range():
  data = json.loads(Parsed(made()).by_id("data")[2])
  hidden, gate = data["quantities"]
  assert hidden["largest"] == [2, 2] and hidden["units"] == [0, 1]
  np.testing.assert_allclose(2 * (2 * unpacked(hidden)[0] / 255 - 1), SWING, atol=2 / 255)
  np.testing.assert_allclose(unpacked(gate)[0] / 255, 0.5, atol=0.5 / 255)
  assert data["saliency"]["largest"] == [1] * T


def test_a_page_for_too_many_units_keeps_those_of_the_matches(monkeypatch):
  monkeypatch.setattr(states_page, "MAX_VALUES", 2 * 3 * T)
  hidden, gate = json.loads(Parsed(made(units=9)).by_id("data")[2])["quantities"]
  assert hidden["units"] == [0, 1, 2] and hidden["total"] == 9 and gate["units"] == [0]
  monkeypatch.setattr(states_page, "MAX_VALUES", 1)
  hidden, _ = json.loads(Parsed(made(units=9)).by_id("data")[2])["quantities"]
  assert hidden["units"] == [1]
  np.testing.assert_allclose(2 * (2 * unpacked(hidden)[0] / 255 - 1), -SWING, atol=2 / 255)


def unpacked(quantity):
  values = np.frombuffer(base64.b64decode(quantity["values"]), np.uint8)
  return values.reshape(len(quantity["units"]), T).astype(float)
