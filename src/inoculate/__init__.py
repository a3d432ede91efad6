"""Measure how image classifiers fail under adversarial attack, and harden them.

Names are imported on first use, so that commands which only read results start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {
    "Threat": "core.threat",
    "FGSM": "attacks.fgsm",
    "OneStepTarget": "attacks.one_step_target",
    "BIM": "attacks.bim",
    "PGD": "attacks.pgd",
    "MIFGSM": "attacks.mifgsm",
    "APGD": "attacks.apgd",
    "FAB": "attacks.fab",
    "DeepFool": "attacks.deepfool",
    "CarliniWagner": "attacks.carlini_wagner",
    "FMN": "attacks.fmn",
    "Square": "attacks.square",
    "AutoAttack": "attacks.autoattack",
    "sweep": "attacks.sweep",
    "craft": "attacks.craft",
    "AdvSet": "attacks.craft",
    "fast": "models.acceleration.fast",
    "evaluate": "evaluation.evaluate",
    "EvaluationOptions": "evaluation.evaluate",
    "Evaluation": "evaluation.result",
    "Check": "evaluation.checks",
    "PerSampleResult": "evaluation.per_sample",
    "minimal_eps": "evaluation.evaluate",
    "transfer": "evaluation.transfer",
    "TransferOptions": "evaluation.transfer",
    "TransferMatrix": "evaluation.result",
    "save_images": "evaluation.records",
    "write_records": "evaluation.records",
    "explain": "attribution.explain",
    "ExplainOptions": "attribution.explain",
    "Amounts": "attribution.explanation",
    "Row": "core.row",
    "load_data": "data.load",
    "Dataset": "data.dataset",
    "build_model": "models.build",
    "load_model": "models.loading.load",
    "InputError": "core.errors",
    "harden": "hardening.harden",
    "Hardened": "hardening.result",
    "HardeningOptions": "hardening.options",
    "run_study": "study.run",
    "StudyRun": "study.result",
    "write_report": "report.write",
    "Claim": "report.claims",
    "claims": "report.claims",
    "Table": "report.tables.table",
    "paper_tables": "report.tables.paper",
}
__all__ = sorted(_ROOMS)

if TYPE_CHECKING:
    from inoculate.attacks.apgd import APGD as APGD
    from inoculate.attacks.autoattack import AutoAttack as AutoAttack
    from inoculate.attacks.bim import BIM as BIM
    from inoculate.attacks.carlini_wagner import CarliniWagner as CarliniWagner
    from inoculate.attacks.craft import AdvSet as AdvSet
    from inoculate.attacks.craft import craft as craft
    from inoculate.attacks.deepfool import DeepFool as DeepFool
    from inoculate.attacks.fab import FAB as FAB
    from inoculate.attacks.fgsm import FGSM as FGSM
    from inoculate.attacks.fmn import FMN as FMN
    from inoculate.attacks.mifgsm import MIFGSM as MIFGSM
    from inoculate.attacks.one_step_target import OneStepTarget as OneStepTarget
    from inoculate.attacks.pgd import PGD as PGD
    from inoculate.attacks.square import Square as Square
    from inoculate.attacks.sweep import sweep as sweep
    from inoculate.attribution.explain import ExplainOptions as ExplainOptions
    from inoculate.attribution.explain import explain as explain
    from inoculate.attribution.explanation import Amounts as Amounts
    from inoculate.core.errors import InputError as InputError
    from inoculate.core.row import Row as Row
    from inoculate.core.threat import Threat as Threat
    from inoculate.data.dataset import Dataset as Dataset
    from inoculate.data.load import load_data as load_data
    from inoculate.evaluation.checks import Check as Check
    from inoculate.evaluation.evaluate import EvaluationOptions as EvaluationOptions
    from inoculate.evaluation.evaluate import evaluate as evaluate
    from inoculate.evaluation.evaluate import minimal_eps as minimal_eps
    from inoculate.evaluation.per_sample import PerSampleResult as PerSampleResult
    from inoculate.evaluation.records import save_images as save_images
    from inoculate.evaluation.records import write_records as write_records
    from inoculate.evaluation.result import Evaluation as Evaluation
    from inoculate.evaluation.result import TransferMatrix as TransferMatrix
    from inoculate.evaluation.transfer import TransferOptions as TransferOptions
    from inoculate.evaluation.transfer import transfer as transfer
    from inoculate.hardening.harden import harden as harden
    from inoculate.hardening.options import HardeningOptions as HardeningOptions
    from inoculate.hardening.result import Hardened as Hardened
    from inoculate.models.acceleration.fast import fast as fast
    from inoculate.models.build import build_model as build_model
    from inoculate.models.loading.load import load_model as load_model
    from inoculate.report.claims import Claim as Claim
    from inoculate.report.claims import claims as claims
    from inoculate.report.tables.paper import paper_tables as paper_tables
    from inoculate.report.tables.table import Table as Table
    from inoculate.report.write import write_report as write_report
    from inoculate.study.result import StudyRun as StudyRun
    from inoculate.study.run import run_study as run_study


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'inoculate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"inoculate.{_ROOMS[name]}"), name)
