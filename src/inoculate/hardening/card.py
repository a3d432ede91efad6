"""The robustness card: README.md of a hardened model, with what was measured and what was not."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml

from inoculate.core.results import early_termination_words, hardest
from inoculate.core.row import CERTIFIED, Row
from inoculate.data.preprocessing import Preprocessing, Size
from inoculate.evaluation.checks import Check
from inoculate.hardening.export import OnnxCheck
from inoculate.hardening.masking import failed_checks
from inoculate.hardening.measure import attacked
from inoculate.models.loading.checkpoints import WEIGHTS
from inoculate.training.methods.names import CERTIFIED as METHODS

TEMPLATES = Path(__file__).parent / "templates"
ATTACK_MEANING = {
    "fgsm": "one gradient step",
    "pgd": "20 gradient steps from a random start",
    "autoattack": "four attacks, one of them gradient-free (Croce and Hein 2020)",
    "autoattack_quick": "AutoAttack without FAB-T, with three targets and runs that end sooner",
    "autoattack_binary": "AutoAttack for two or three classes, without the targeted DLR loss",
    "autoattack_rand": "AutoAttack for random networks: two attacks, each step along the mean of 20 gradients",
}
NORM_MEANING = {
    "linf": "every pixel may change by up to eps",
    "l2": "the Euclidean length of the change is at most eps",
    "l1": "the sum of all changes is at most eps",
}


@dataclass(frozen=True)
class TrainingFacts:
    """How the weights were made. `method` holds every option; `reason` says why this method and length."""

    method: Mapping[str, Any]
    updates: int
    planned_updates: int
    batch_size: int
    images: int
    val_images: int
    optimizer: str
    lr: float
    augment: str
    reason: str
    kept_original: bool
    fallback: str | None = None


@dataclass(frozen=True)
class CardFacts:
    """All that a card says beside its rows, as JSON values.

    kind: how the network is rebuilt: by `build_model`, by a function of the user's (`network` is its SPEC, `declared`
    its outputs and normalisation), or by the user, whose own module it is. baseline_epochs: of standard training before
    the first measurement; 0 where the network was measured as given. data_arguments: how the command line loads the
    data; empty where it cannot. reading: how the images were read, the fields of `Preprocessing` that were said.
    checks: whether the delivered network's numbers can be trusted.
    """

    network: str
    kind: Literal["built", "factory", "module"]
    declared: Mapping[str, str]
    dataset: str
    digest: str
    image_size: Size
    norm: str
    eps: float
    seed: int
    baseline_epochs: int
    training: TrainingFacts
    versions: Mapping[str, str | None]
    warnings: tuple[str, ...] = ()
    data_arguments: tuple[str, ...] = ()
    onnx: OnnxCheck | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CardFacts:
        """The facts of which `dataclasses.asdict` made `value`."""
        onnx = value.get("onnx")
        nested = {
            "training": TrainingFacts(**value["training"]),
            "onnx": None if onnx is None else OnnxCheck(**onnx),
            "warnings": tuple(value["warnings"]),
            "data_arguments": tuple(value["data_arguments"]),
            "checks": tuple(Check(**each) for each in value.get("checks", ())),
        }
        return cls(**{**value, **nested})


def render_card(facts: CardFacts, before: Sequence[Row], after: Sequence[Row], folder: Path) -> str:
    """Markdown with the YAML front matter that the Hugging Face hub reads; every number comes from the rows.

    `before` and `after` hold the same attacks in the same order, clean first. `folder` is where the model is saved.
    """
    attacks = attacked(after)
    method = "" if facts.training.kept_original else str(facts.training.method["method"])
    title = f"{facts.network} for {facts.dataset}" + (", hardened" if method else "")
    return _template("card.md").render(
        facts=facts,
        training=facts.training,
        method=method,
        title=title,
        failed=failed_checks(facts.checks),
        check_words={True: "passed", False: "**failed**", None: "not made"},
        front=_front_matter(facts, title, method, after),
        clean=after[0],
        after=after,
        early_termination_words=early_termination_words,
        worst=hardest(attacks),
        proven=next((row for row in after if row.attack == CERTIFIED), None),
        validated="what interval bounds prove" if facts.training.method["method"] in METHODS else "`short_ensemble`",
        pairs=list(zip(before, after, strict=True)),
        attacks=[row.attack for row in attacks if row.attack != "none"],
        attack_meaning=ATTACK_MEANING,
        norm_meaning=NORM_MEANING[facts.norm],
        command=_command(facts, attacks[-1].attack, folder, certify=len(attacks) < len(after)),
        loading=_loading(facts, folder),
        folder=str(folder),
        versions=", ".join(f"{name} {version}" for name, version in facts.versions.items() if version),
    )


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined, autoescape=False,  # Markdown
    )  # fmt: skip
    filters: dict[str, Callable[[Any], str]] = {"percent": "{:.1%}".format, "short": _short, "repr": repr}
    environment.filters.update(filters)
    return environment.get_template(name)


def _short(value: Any) -> str:
    """A number to four digits, and anything else as it is."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.4g}" if number else str(value).lower() if isinstance(value, bool) else str(value)


def _front_matter(facts: CardFacts, title: str, method: str, rows: Sequence[Row]) -> str:
    metrics = [
        {
            "type": "accuracy",
            "name": _metric_name(row),
            "value": round(row.accuracy, 4),
        }
        for row in rows
    ]
    results = {
        "task": {"type": "image-classification"},
        "dataset": {"name": facts.dataset, "type": facts.dataset, "split": "test"},
        "metrics": metrics,
    }
    tags = ["adversarial-robustness", "image-classification", facts.network, *([method] if method else [])]
    front = {
        "library_name": "inoculate",
        "pipeline_tag": "image-classification",
        "tags": tags,
        "model-index": [{"name": title, "results": [results]}],
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()


def _metric_name(row: Row) -> str:
    if row.attack == "none":
        return "Clean"
    what = "Certified" if row.attack == CERTIFIED else f"Under {row.attack}"
    return f"{what} ({row.threats or f'{row.norm}, eps {row.eps:.4g}'})"


def _command(facts: CardFacts, attack: str, folder: Path, *, certify: bool) -> str:
    """The command that measures the network again; empty where the command line cannot load model or data."""
    if facts.kind == "module" or not facts.data_arguments:
        return ""
    model = ["--model", str(folder)]
    if facts.kind == "factory":
        declared = [part for name, value in facts.declared.items() for part in (f"--{name}", value)]
        size = Preprocessing.from_spec({"image_size": facts.image_size})
        reading = Preprocessing.from_spec(facts.reading).over(size).arguments
        model = ["--model", facts.network, "--weights", str(folder / WEIGHTS), *declared, *reading]
    threat = ["--eps", f"{facts.eps:.6g}", "--norm", facts.norm]
    return shlex.join(
        ["inoculate", "certify" if certify else "evaluate", *model, *facts.data_arguments, "--attack", attack, *threat]
    )


def _loading(facts: CardFacts, folder: Path) -> str:
    """The arguments with which `load_model` makes the network again."""
    if facts.kind == "built":
        return repr(str(folder))
    options = {"weights": str(folder / WEIGHTS), **facts.declared}
    return ", ".join([repr(facts.network), *(f"{name}={value!r}" for name, value in options.items())])
