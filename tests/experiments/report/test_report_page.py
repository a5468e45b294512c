"""Tests of the report in a browser: a hostile folder, figures, selection, table, two widths."""

from __future__ import annotations

import browser
import numpy as np
import pytest
import recorded
import reported
from matplotlib.image import imread
from reported import DIVERGED, FAILED, HOSTILE, IMAGE

from experiments.report import sources
from experiments.report.contents import contents
from experiments.report.page import page
from experiments.sweep.records import gathered

READY = """new Promise((done) => {
  const timer = setInterval(() => {
    const plots = [...document.querySelectorAll(".plot")];
    if (plots.length === 5 && plots.every((plot) => plot.querySelector(".main-svg"))) {
      clearInterval(timer);
      done();
    }
  }, 20);
})"""
LINES = """[...document.querySelectorAll(".plot")].map(
  (plot) => plot.data.filter((trace) => trace.hovertemplate).map(
    ({ name, x, y, line }) => ({ name, x, y, dash: line.dash, color: line.color })))"""
ROWS = """[...document.querySelectorAll("#runs tbody tr")].map(
  (row) => [...row.cells].map((cell) => cell.textContent))"""


def click(text, inside="body"):
  """Returns a script that clicks the button with this text."""
  return f"""[...document.querySelectorAll({inside!r} + " button")].find(
    (button) => button.textContent === {text!r}).click()"""


def choose(select, value):
  return f"""{{ const select = {select}; select.value = {value!r};
    select.dispatchEvent(new Event("change")); }}"""


def test_a_hostile_sweep_in_a_browser(tmp_path):
  folder = reported.hostile(tmp_path / "sweep")
  (tmp_path / "page.html").write_text(page(contents([sources.read(folder)])), encoding="utf-8")
  with browser.started(tmp_path / "user") as shown:
    shown.call(
      "Page.addScriptToEvaluateOnNewDocument",
      source="window.hit = () => { hits += 1; };window.hits = 0;",
    )
    shown.resize(1280, 1000)
    shown.open((tmp_path / "page.html").as_uri())
    shown.run(READY)
    check_texts(shown)
    check_lines(shown, folder)
    check_selection(shown)
    check_table(shown)
    for width in (1280, 400):
      shown.resize(width, 3000)
      shown.run("new Promise((done) => setTimeout(done, 300))")
      assert shown.run("document.documentElement.scrollWidth") == width
      shown.screenshot(tmp_path / f"{width}.png")
      # In the screenshot, the figures' first color is there, and inside the page.
      pixels = 255 * imread(tmp_path / f"{width}.png")[..., :3]
      orange = (np.abs(pixels - (230, 159, 0)).max(axis=-1) < 3).nonzero()[1]
      assert len(orange) > 100 and orange.max() < width - 10
    assert shown.run("hits") == 0
    methods = [event["method"] for event in shown.events]
    assert not {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"} & {
      *methods
    }
    requests = [e["params"]["request"]["url"] for e in shown.events if "request" in e["params"]]
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    assert sum(url.startswith("file") for url in requests) == 2  # it was loaded twice


def check_texts(shown):
  """Checks that markup in records is shown as text, also in the label of a line."""
  assert shown.run("document.querySelectorAll('img, b, i, iframe').length") == 0
  assert shown.run("document.scripts.length") == 3
  text = shown.run("document.body.innerText")
  assert "8 finished" in text and "1 diverged" in text and "1 failed" in text
  for wanted in (HOSTILE, f"gru{IMAGE}", DIVERGED, FAILED, "layers_0, time 3", f"{HOSTILE}."):
    assert wanted in shown.run("document.querySelector('#layout').textContent"), wanted
  assert "\\u202egnitirw\\x1b[2J\\x00" in shown.run("element('asked').textContent")
  shown.run("Plotly.Fx.hover(document.querySelector('.plot'), [{curveNumber: 8, pointNumber: 2}])")
  label = shown.run("document.querySelector('.hoverlayer').textContent")
  assert f"gru{IMAGE}, recurrent gain 2" in label and "lag 2" in label


def check_lines(shown, folder):
  """Checks the lines' values: medians over seeds, with the diverged run dotted and apart."""
  start, end, _, _, training = shown.run(LINES)
  assert [len(lines) for lines in (start, end, training)] == [5, 5, 5]
  gradients, metrics, _ = gathered.read(folder)
  runs = reported.FINISHED[:2]  # the first cell and gain; the second seed is the other run
  found = 10.0 ** np.median(gradients["log10_lag_norm"].sel(run=runs, layer=1, step=2), axis=0)
  (line,) = (line for line in end if line["name"] == "elman, recurrent gain 1, finished, 2 runs")
  assert line["x"] == [*range(recorded.T)]
  np.testing.assert_allclose(line["y"], found, rtol=0.003)
  (line,) = (line for line in training if line["name"].startswith("elman, recurrent gain 1, fin"))
  np.testing.assert_allclose(line["y"], np.median(metrics["loss"].sel(run=runs), axis=0), rtol=1e-6)
  (dotted,) = (line for line in end if line["dash"] == "dot")
  assert "diverged" in dotted["name"]
  assert dotted["y"] == [pytest.approx(0.1, rel=0.003)] * (recorded.T - 1) + [None]
  assert "Lines end where they reach 0" in shown.run("document.querySelector('.zeros').textContent")


def check_selection(shown):
  """Checks selection, legend, layer, scales, metric, and that the link keeps them."""
  shown.run(click("1", "#filters fieldset:nth-child(2)"))  # the recurrent gain
  assert {line["name"].split(", ")[1] for line in shown.run(LINES)[0]} == {"recurrent gain 1"}
  assert shown.run("element('selected').textContent") == "5 of 9 runs selected"
  assert len(shown.run(ROWS)) == 5
  shown.run(click("elman", "#legend"))
  assert [line["name"].split(",")[0] for line in shown.run(LINES)[0]] == [
    f"gru{IMAGE}".replace("<", "&lt;").replace(">", "&gt;")
  ]
  before = shown.run(LINES)[1][0]["y"]
  tools = "document.querySelectorAll('#figures section:nth-child({}) select')[{}]"
  shown.run(choose(tools.format(1, 0), "2"))
  assert shown.run(LINES)[1][0]["y"] != before
  shown.run(choose(tools.format(1, 2), "linear"))
  shown.run(choose(tools.format(3, 0), "held_out_loss"))
  axes = "['xaxis', 'yaxis'].map((axis) => document.querySelector('.plot').layout[axis].type)"
  assert shown.run(axes) == ["linear", "linear"]
  assert sum(y is not None for y in shown.run(LINES)[4][0]["y"]) == 1  # at the last step
  shown.events[:] = [e for e in shown.events if e["method"] != "Page.loadEventFired"]
  state = shown.run(LINES)
  shown.open(shown.run("location.href.split('#')[0] + '?again' + location.hash"))
  shown.run(READY)
  assert shown.run(LINES) == state
  shown.run(choose("element('lines')", "runs"))
  shown.run(click("elman", "#legend"))
  assert len(shown.run(LINES)[0]) == 5
  shown.run(choose("element('lines')", "pooled"))
  assert "elman, recurrent gain 1, finished, 2 runs" in [x["name"] for x in shown.run(LINES)[0]]
  shown.run(choose("element('dash')", "none"))
  shown.run(click("1", "#filters fieldset:nth-child(2)"))
  names = [line["name"] for line in shown.run(LINES)[0]]
  assert "elman, finished, 4 runs" in names and len(names) == 3


def check_table(shown):
  """Checks that the table of runs sorts by number, unknown values last, and filters."""
  header = "[...document.querySelectorAll('#runs th')].map((head) => head.textContent)"
  column = shown.run(header).index("final training loss (nats)")
  for is_up in (True, False):
    shown.run(f"document.querySelectorAll('#runs th button')[{column}].click()")
    texts = [row[column] for row in shown.run(ROWS)]
    assert texts[-1] == ""  # of the run that diverged
    losses = [float(text) for text in texts[:-1]]
    assert losses == sorted(losses, reverse=not is_up) and len({*losses}) > 4
  shown.run(
    "{ const box = document.querySelector('#runs input'); box.value = 'ELMAN finished';"
    "box.dispatchEvent(new Event('input')); }"
  )
  assert len(shown.run(ROWS)) == 4
