"""Compares the settings of a sweep: effects with intervals, tests, and a forest plot.

  python -m experiments.ablation results/bias
  python -m experiments.ablation results/cells results/more_seeds --base=cell=lstm,depth=1

Each value of each setting that varies is compared with the setting's base value, over pairs of runs
with the same seed that differ in this setting alone. Several folders count as one sweep. The
exit status is 0 if there is a comparison, and 2 otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.ablation import folders, tables
from experiments.ablation.effects import effects
from experiments.ablation.inference import AGGREGATES
from experiments.cli import command_line, flag_table, paths, plugins
from experiments.cli.flag_table import Flag
from experiments.cli.parsers import choice, integer
from experiments.plotting import figure_flags
from experiments.runtime import files
from experiments.sweep.records import origins, sweep_folder, united

_TABLES = ("csv", "md", "tex")


def _parse_base(text: str) -> dict[str, str]:
  """Parses `setting=value,setting=value`."""
  found: dict[str, str] = {}
  for part in text.split(","):
    name, equals, value = (word.strip() for word in part.partition("="))
    if not (name and equals and value):
      raise ValueError(f"base must be setting=value,setting=value, got '{text}'.")
    if name in found:
      raise ValueError(f"base must name each setting once, got {name} twice in '{text}'.")
    found[name] = value
  return found


TABLE = (
  Flag(
    "base",
    None,
    _parse_base,
    "Base values to compare with, as setting=value,setting=value. The base of any other setting is "
    "the first value in the sweep's flags.",
    "list",
  ),
  Flag(
    "lag",
    "largest",
    integer("lag", none="largest"),
    "Lag at which the decades lost are counted, or largest for the largest lag of all runs.",
  ),
  Flag(
    "aggregate",
    "mean",
    choice("aggregate", AGGREGATES),
    "How the differences of the seeds are aggregated: mean, or iqm for the interquartile mean.",
  ),
  figure_flags.WIDTH,
  figure_flags.FORMAT,
  Flag(
    "output_dir",
    None,
    str,
    "Folder for the tables and the figure; if not given, ablation in the first FOLDER.",
  ),
  *plugins.TABLE,
)


def define_flags() -> None:
  """Defines the flags of this command."""
  flag_table.define(TABLE)


def main(arguments: list[str]) -> None:
  """Prints the effects, and writes the tables and the figure."""
  with command_line.errors_in_one_line("a folder could not be read or written"):
    target, sources = _resolve(arguments)
    values = flags.FLAGS
    gradients, metrics, states = united.read(sources)
    abouts = [sweep_folder.read_sweep(folder) for folder in sources]
    configurations = [about["configuration"] for about in abouts]
    study = folders.study(gradients, metrics, states, configurations, values.lag)
    if not study.factors:
      raise ValueError("FOLDER must hold runs that differ in a setting, got one value of each.")
    found = effects(study, values.base, values.aggregate)
    if not found:
      raise ValueError(
        "FOLDER must hold runs of one seed that differ in one setting alone, got no such runs for "
        f"the base values {', '.join(f.values[0] for f in study.factors.values())}."
      )
    target.mkdir(parents=True, exist_ok=True)
    lines = tables.notes(found, study)
    tables.show(found, lines)
    # Imported here because loading matplotlib takes a second, which would delay error messages.
    from experiments.ablation.figure import forest
    from experiments.plotting import style

    files.write_text(target / "ablation.csv", tables.csv_text(found))
    files.write_text(target / "ablation.md", tables.markdown(found, lines))
    files.write_text(target / "ablation.tex", tables.latex(found, lines))
    style.save(forest(found, values.width), target, "ablation", values.format)
    origins.warn_if_mixed(abouts, {name: states[name] for name in study.runs})
  print("\n".join(str(target / name) for name in _names()))


def _names() -> list[str]:
  """Returns the names of the files that the command writes."""
  return [f"ablation.{kind}" for kind in (*_TABLES, *flags.FLAGS.format)]


def _resolve(arguments: Sequence[str]) -> tuple[Path, list[Path]]:
  """Returns the folder to write, and the folders to read."""
  if not arguments:
    raise ValueError("Name at least one FOLDER: python -m experiments.ablation FOLDER...")
  sources = list(dict.fromkeys(paths.path("FOLDER", text) for text in arguments))
  given = flags.FLAGS.output_dir
  target = sources[0] / "ablation" if given is None else paths.folder("--output_dir", given)
  files.check_no_links(target)
  for name in _names():
    files.check_replaceable(target / name)
  return target, sources


if __name__ == "__main__":
  define_flags()
  command_line.run(main)
