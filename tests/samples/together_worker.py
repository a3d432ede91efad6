"""One of several processes that harden a network, or run a study, together.

Started by `tests/study/test_together.py`. Arguments: the folder for results, and the jobs (`harden`, `study`).
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from distributed_worker import KillableAT
from study_samples import tiny

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.registry import ATTACKS
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.hardening.harden import harden
from inoculate.hardening.options import HardeningOptions
from inoculate.hardening.result import Hardened
from inoculate.study.run import run_study
from inoculate.training import distributed

OPTIONS = HardeningOptions(epochs=2, batch_size=24, limit=72, image_size=8, test_images=10)
STUDY = tiny(
    models=["small_cnn"], surrogate="small_cnn", arms=["standard", "transferred"], attacks={"fgsm": {}}, limit=96
)
STUDY["training"] |= {"precision": "fp32"}


def run_harden(out: Path | None, options: HardeningOptions = OPTIONS) -> Hardened:
    """Two epochs of adversarial training on digits, with cheap measurements."""
    ATTACKS["autoattack"] = AutoAttack("quick", steps=2, targets=1, queries=5)
    return harden("small_cnn", "digits", Threat("linf", 0.1), method=KillableAT(), out=out, options=options)


def weights(model: torch.nn.Module) -> list[float]:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def describe(found: Hardened) -> dict[str, Any]:
    """What every process reports of a hardening."""
    rows = [(row.model, row.arm, row.attack, row.correct, row.n) for row in found]
    return {"rows": rows, "weights": weights(found.model), "reused": found.reused, "history": found.history}


def main(folder: Path, jobs: list[str]) -> dict[str, Any]:
    """What this process has seen."""
    facts: dict[str, Any] = {}
    if "harden" in jobs:
        facts["hardened"] = describe(run_harden(folder / "hardened"))
        facts["reused"] = describe(run_harden(folder / "hardened"))
    if "study" in jobs:
        found = run_study(STUDY, out=folder / "study")
        facts["rows"], facts["made"] = [(row.key, row.correct, row.n) for row in found], found.made
        try:
            run_study(STUDY, out=folder / "study", executor="processes:2")
        except InputError as error:
            facts["error"] = str(error)
    return facts


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.JOIN = timedelta(seconds=int(os.environ["JOIN"]))  # there is no launcher that would end one
    place = Path(sys.argv[1])
    (place / f"{os.environ['RANK']}.json").write_text(json.dumps(main(place, sys.argv[2:])))
