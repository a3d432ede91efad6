"""The robustness card: a model's README for people and for the hub, with what was measured and what was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from inoculate.core.row import Row

ATTACKS = {
    "none": "clean images",
    "fgsm": "one gradient step",
    "pgd": "20 gradient steps from a random start",
    "autoattack": "four attacks, one of them without gradients (Croce and Hein 2020)",
    "autoattack_binary": "AutoAttack for two or three classes, without the DLR loss",
}
PIXELS = {"linf": "every pixel may change by up to eps", "l2": "the Euclidean length of the change is at most eps",
          "l1": "the sum of all changes is at most eps"}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What a card says beside its rows: names, how the network was trained, and how to load it, by command and call.

    `method` is the one that made the weights; "" where no training bettered those that the network came with.
    """

    title: str
    dataset: str
    digest: str
    network: str
    method: str
    norm: str
    eps: float
    training: str
    before: str
    load: str
    python: str
    seed: int
    versions: Mapping[str, str | None]
    warnings: Sequence[str] = ()
    exported: str = ""


def card(facts: Facts, before: Sequence[Row], after: Sequence[Row]) -> str:
    """Markdown with YAML front matter that the Hugging Face hub reads; every number comes from the rows."""
    return "\n".join(
        ["---", yaml.safe_dump(_front(facts, after), sort_keys=False, allow_unicode=True).strip(), "---", "",
         f"# {facts.title}", "", _summary(facts, after), "", "## Measured", "", *_table(before, after), "",
         *_how(facts, after), "", "## Training", "", facts.training, "",
         *(f"**Warning**: {w}." for w in facts.warnings), "",
         "## Use", "", "```", facts.load, "```", "", "```python", facts.python, "```",
         *([facts.exported] if facts.exported else []), "", *_limits(facts, after),
         "", *_asked_for(facts, after), ""]
    )  # fmt: skip


def _front(facts: Facts, rows: Sequence[Row]) -> dict[str, Any]:
    metrics = [
        {
            "type": "accuracy",
            "name": "Clean" if row.attack == "none" else f"Under {row.attack} ({row.norm}, eps {row.eps:.4g})",
            "value": round(row.accuracy, 4),
        }
        for row in rows
    ]  # fmt: skip
    results = {
        "task": {"type": "image-classification"},
        "dataset": {"name": facts.dataset, "type": facts.dataset, "split": "test"},
        "metrics": metrics,
    }
    return {
        "library_name": "inoculate",
        "pipeline_tag": "image-classification",
        "tags": [
            "adversarial-robustness",
            "image-classification",
            facts.network,
            *([facts.method] if facts.method else []),
        ],
        "model-index": [{"name": facts.title, "results": [results]}],
    }


def _summary(facts: Facts, rows: Sequence[Row]) -> str:
    clean, worst = rows[0], min(reversed(rows), key=lambda row: row.accuracy)
    made = f"hardened with `{facts.method}` against" if facts.method else "with the weights that it came with, under"
    return (
        f"{facts.network} for {facts.dataset}, {made} {facts.norm} eps {facts.eps:.4g} ({PIXELS[facts.norm]}, in units "
        f"of [0, 1]). {clean.accuracy:.1%} of the clean test images are right, and "
        f"{worst.accuracy:.1%} [{worst.ci_low:.1%}, {worst.ci_high:.1%}] under the strongest attack that was run "
        f"({worst.attack}, {worst.n} images)."
    )


def _table(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    earlier = {row.attack: row for row in before}
    lines = ["| attack | before | after | 95 % interval | images |", "|---|---|---|---|---|"]
    for row in after:
        old = f"{earlier[row.attack].accuracy:.1%}" if row.attack in earlier else "–"
        interval = f"[{row.ci_low:.1%}, {row.ci_high:.1%}]"
        name = "clean" if row.attack == "none" else row.attack
        lines.append(f"| {name} | {old} | **{row.accuracy:.1%}** | {interval} | {row.n} |")
    return lines


def _how(facts: Facts, rows: Sequence[Row]) -> list[str]:
    kinds = [f"`{row.attack}`: {ATTACKS[row.attack]}" for row in rows if row.attack in ATTACKS and row.attack != "none"]
    return [
        f"*Before* is {facts.before}. Attacks are white-box, crafted anew on each network, {facts.norm} eps "
        f"{facts.eps:.4g}, pixels in [0, 1]: {'; '.join(kinds)}. An image that is wrong clean counts as an error under "
        "every attack. Intervals are Wilson's over the test images; the luck of training (one seed) is not in them. "
        "The test images were used for these numbers alone: this training and the choice of weights saw others.",
    ]


def _limits(facts: Facts, rows: Sequence[Row]) -> list[str]:
    return [
        "## Limits",
        "",
        "- A number that survives these attacks is an upper bound on robustness, not a proof."
        + (
            " This AutoAttack gives up runs that look hopeless; `autoattack_thorough` does not."
            if any(row.attack.startswith("autoattack") for row in rows)
            else ""
        ),
        f"- It holds for {facts.norm} changes of at most eps {facts.eps:.4g}. Rotations, patches, other norms, larger "
        "changes and other images than the test images' kind were not measured.",
        "- An attacker who adapts to this network in particular may do better than attacks that are the same for all.",
    ]


def _asked_for(facts: Facts, rows: Sequence[Row]) -> list[str]:
    attacks = ", ".join(row.attack for row in rows if row.attack != "none")
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items() if version)
    return [
        "## What standards ask to be measured",
        "",
        "Where a number on this page may serve as evidence; it is no statement of conformity. AISVS as in the drafts "
        "of its version 1.0, whose sections have been renumbered since; the AI Act is Regulation (EU) 2024/1689.",
        "",
        "| asked for | on this page | not on this page |",
        "|---|---|---|",
        "| OWASP AISVS C11.2 (adversarial-example hardening): the model is evaluated against known attack techniques "
        f"of its modality | {attacks}, white-box, with eps, number of images and intervals | patches, physical "
        "attacks |",
        "| the same: adversarial training is configured reproducibly | method, every option, "
        f"seed {facts.seed} (`model.json`) and versions (below) | why this eps is the right one for your use |",
        "| the same: adaptive attacks, detection in operation, certified bounds | – | all three |",
        "| EU AI Act, article 15(1) and (3): levels of accuracy and their metrics are declared | clean accuracy, its "
        "data and interval | whether that level is appropriate for the purpose; groups and conditions in the data |",
        "| EU AI Act, article 15(4): resilience to errors and faults within the environment | – | sensor noise, shifts "
        "of the data, feedback loops, fallbacks |",
        "| EU AI Act, article 15(5): measures against inputs designed to make the model fail (adversarial examples) | "
        "the measure taken and what it changed, under attack | data and model poisoning, confidentiality attacks |",
        "",
        f"Data `{facts.dataset}`, content hash `{facts.digest}`, seed {facts.seed}; {versions}.",
    ]
