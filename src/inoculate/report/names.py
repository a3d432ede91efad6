"""Names of networks as a page prints them: a file's name, not its whole path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from inoculate.attribution.explanation import Explanation
from inoculate.core.row import Row
from inoculate.report.run import RunRecord

_COMMON = {"model", "best", "last", "final", "weights", "checkpoint", "pytorch_model", "network"}


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The name to print for each; the whole name where two would be printed alike."""
    names = list(dict.fromkeys(names))
    short = {name: short_name(name) for name in names}
    alike = [name for name in names if list(short.values()).count(short[name]) > 1]
    return short | {name: name for name in alike}


def short_name(name: str) -> str:
    """The last part of a path, with its folder where the file is named like many; any other name as it is."""
    place, colon, factory = name.partition(":")
    if "/" not in name.replace("\\", "/") or name.startswith(("hf-hub:", "hf:", "http:", "https:")):
        return name
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..", "~")]
    if not parts:
        return name
    stem = parts[-1].partition(".")[0]
    kept = parts[-2:] if stem in _COMMON else parts[-1:]
    return "/".join(kept) + colon + factory


def with_short_names(run: RunRecord) -> RunRecord:
    """The run as a page shows it; networks of a study have names already."""
    found = [row.model for row in run.rows] + [each.key[1] for each in run.explanations]
    names = {} if run.is_study else short_names(found + [each.model for each in run.trainings])
    if all(name == short for name, short in names.items()):
        return run
    rows = {row: _renamed(row, names) for row in (*run.rows, *run.image_rows)}
    title = run.title
    for name, short in names.items():
        title = title.replace(name, short)
    return replace(
        run, title=title, rows=[rows[row] for row in run.rows], image_rows=[rows[row] for row in run.image_rows],
        records={rows[row].key: run.records[row.key] for row in run.rows if row.key in run.records},
        explanations=[Explanation({**e.facts, "model": names[e.key[1]]}, e.arrays) for e in run.explanations],
        trainings=[replace(each, model=names[each.model]) for each in run.trainings],
    )  # fmt: skip


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    kind, colon, source = row.protocol.partition(":")
    model, slash, arm = source.rpartition("/")
    protocol = f"{kind}:{names[model]}/{arm}" if colon and slash and model in names else row.protocol
    return replace(row, model=names.get(row.model, row.model), protocol=protocol)
