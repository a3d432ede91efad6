"""Reading a study file: what is wrong in it is named with its line and the nearest valid key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from inoculate.core.errors import InputError, suggest
from inoculate.study.config import AttackChoice, DatasetConfig, Evaluation, Explanations, Partition, Study, Training


def load_study(path: Path) -> Study:
    """Read and validate a study file; raises `InputError` with file, line and the nearest valid key."""
    try:
        text = path.read_text()
        tree, value = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"study file {path} cannot be read ({error.strerror}): check the path") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{path}{where}: this is not YAML ({getattr(error, 'problem', 'unreadable')}): mend the line"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: a study file holds keys such as name, datasets and models: this one holds none")
    return validated(value, str(path), tree)


def validated(value: dict[str, Any], where: str, tree: Any = None) -> Study:
    """The study that `value` describes; raises `InputError` naming `where` and, given the YAML `tree`, the line."""
    try:
        return Study.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][:1] == ("methods",):  # as the schema calls those of the arms that have options
            first["loc"] = ("arms", *first["loc"][1:])
        line = "" if tree is None else f", line {_line(tree, first['loc'])}"
        raise InputError(f"{where}{line}: {_explain(first)}") from None


def _explain(error: Any) -> str:
    """One of pydantic's errors as a sentence."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown key '{where}': {suggest(str(error['loc'][-1]), _keys_at(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"key '{where}' is missing: add it"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message} (got {error['input']!r})" if where and not isinstance(error["input"], dict) else message


def _keys_at(location: tuple[Any, ...]) -> tuple[str, ...]:
    """Valid keys of the part of the schema that `location` points into."""
    parts = {
        "datasets": tuple(DatasetConfig.model_fields),
        "attacks": tuple(AttackChoice.model_fields),
        "split": tuple(Partition.model_fields),
        "training": tuple(Training.model_fields),
        "evaluation": tuple(Evaluation.model_fields),
        "explanations": tuple(Explanations.model_fields),
    }
    whole = tuple(Study.model_fields)
    return parts.get(str(location[0]), whole) if location else whole


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
