"""The code that decides the content of each kind of artefact; its digest is part of the artefact's spec.

A change of this code makes artefacts of its kind anew, and whatever is made from them.
"""

from __future__ import annotations

from functools import lru_cache

from inoculate.artifacts.specs import code_digest

_CLASSIFIERS = ("core", "data", "models", "attacks")
_EVALUATION = (*_CLASSIFIERS, "evaluation")
_CONTEXT = ("study.steps.context", "training.distributed", "training.methods.names")

# Rooms and modules of the package, by kind of artefact.
CODE = {
    "split": ("core", "data", "study.steps.split"),
    "fit": (
        *_CLASSIFIERS,
        "certification",
        "training",
        "study.arm_names",
        "study.arms",
        "study.steps.context",
        "study.steps.fit",
    ),
    "craft": (*_CLASSIFIERS, *_CONTEXT, "study.steps.craft"),
    "evaluate": (*_EVALUATION, *_CONTEXT, "study.steps.evaluate"),
    "surrogate": (*_EVALUATION, *_CONTEXT, "study.steps.evaluate", "study.steps.surrogate"),
    "explain": (*_EVALUATION, "attribution", *_CONTEXT, "study.steps.evaluate", "study.steps.explain"),
}


@lru_cache
def code_of(kind: str) -> dict[str, str]:
    """The digest of every room and module that artefacts of this kind depend on, by name."""
    return {name: code_digest(f"inoculate.{name}") for name in CODE[kind]}
