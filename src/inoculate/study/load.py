"""Studies from files, from shipped names and from mappings; errors name the line and the nearest valid key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from inoculate.core.errors import InputError, suggest
from inoculate.core.options import require_count
from inoculate.study.config import Study, StudyError
from inoculate.study.sections import (
    AttackConfig,
    DatasetConfig,
    EvaluationConfig,
    ExplanationConfig,
    Partition,
    TrainingConfig,
)
from inoculate.study.shipped import shipped_studies

StudySource = Study | Mapping[str, Any] | str | os.PathLike[str]


def load_study(source: StudySource, *, limit: int | None = None) -> Study:
    """A validated study from a YAML file, the name of a shipped study, or a mapping with a study file's keys.

    limit: number of images, in place of the study's. Raises `InputError` with the file, the line and the nearest valid
    key.
    """
    if limit is not None:
        require_count(limit=limit)
        return load_study(source).model_copy(update={"limit": limit})
    if isinstance(source, Study):
        return source
    if isinstance(source, Mapping):
        return validate(dict(source), "study")
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"study {source!r} is none: give a file, the name of a shipped study, or a mapping")
    return _read(_find(source))


def _find(source: str | os.PathLike[str]) -> Path:
    """The file that a path or the name of a shipped study means; a bare name is a shipped one first."""
    shipped = shipped_studies()
    if isinstance(source, str) and source in shipped:
        return shipped[source]
    path = Path(source)
    if isinstance(source, str) and not path.suffix and path.name == source and not path.exists():
        raise InputError(f"study '{source}' is neither a file nor shipped: {suggest(source, tuple(shipped))}")
    return path


def _read(path: Path) -> Study:
    try:
        text = path.read_text(encoding="utf-8")
        tree, value = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"study file {path} cannot be read ({error.strerror}): check the path") from error
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{where}: this is not YAML ({error.problem}): correct the line") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: this is not YAML ({error}): give a study file") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: a study file holds keys such as name, datasets and models: this one holds none")
    return validate(value, str(path), tree)


def validate(value: dict[str, Any], where: str, tree: Any = None) -> Study:
    """The study that `value` describes; raises `InputError` naming `where` and the line in the YAML `tree`."""
    try:
        return Study.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][:1] == ("methods",):  # as the schema calls those of the arms that have options
            first["loc"] = ("arms", *first["loc"][1:])
        cause = first.get("ctx", {}).get("error")
        location = cause.location if isinstance(cause, StudyError) else first["loc"]
        if tree is not None:
            where = f"{where}, line {_line(tree, location)}"
        elif isinstance(cause, StudyError):  # other messages begin with their key
            where = f"{where}, {'.'.join(cause.location)}"
        raise InputError(f"{where}: {_explain(first)}") from None


def _explain(error: Any) -> str:
    """One of pydantic's errors as a sentence."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown key '{where}': {suggest(str(error['loc'][-1]), _keys_at(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"key '{where}' is missing: add it"
    message = str(error["msg"]).removeprefix("Value error, ").replace("valid tuple", "list")
    if isinstance(error["input"], dict):
        return f"{where}: {message}" if where and "ctx" not in error else message
    return f"{where}: {message} (got {error['input']!r})" if where else message


def _keys_at(location: tuple[Any, ...]) -> tuple[str, ...]:
    """Valid keys of the section that `location` points into."""
    sections = {
        "datasets": tuple(DatasetConfig.model_fields),
        "attacks": tuple(AttackConfig.model_fields),
        "split": tuple(Partition.model_fields),
        "training": tuple(TrainingConfig.model_fields),
        "evaluation": tuple(EvaluationConfig.model_fields),
        "explanations": tuple(ExplanationConfig.model_fields),
    }
    whole = tuple(Study.model_fields)
    return sections.get(str(location[0]), whole) if location else whole


def _line(node: Any, location: tuple[Any, ...]) -> int:
    """The line on which the value at `location` starts (its key's line, or the nearest enclosing one)."""
    line = int(node.start_mark.line) + 1
    for key in location:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(key)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            found = [(node.value[key], node.value[key])]
        else:
            found = []
        if not found:
            break
        line, node = int(found[0][0].start_mark.line) + 1, found[0][1]
    return line
