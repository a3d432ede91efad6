"""Measure how image classifiers fail under adversarial attack, and harden them.

Names are imported on first use, so that commands which only read results start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {
    "APGD": "attacks.apgd",
    "AutoAttack": "attacks.autoattack",
    "Attack": "attacks.base",
    "BIM": "attacks.bim",
    "CarliniWagner": "attacks.carlini_wagner",
    "AdvSet": "attacks.craft",
    "craft": "attacks.craft",
    "DeepFool": "attacks.deepfool",
    "FAB": "attacks.fab",
    "FGSM": "attacks.fgsm",
    "FMN": "attacks.fmn",
    "HopSkipJump": "attacks.hopskipjump",
    "MIFGSM": "attacks.mifgsm",
    "OneStepTarget": "attacks.one_step_target",
    "Patch": "attacks.patch",
    "PGD": "attacks.pgd",
    "RayS": "attacks.rays",
    "get_attack": "attacks.registry",
    "ShortEnsemble": "attacks.short_ensemble",
    "SigmaZero": "attacks.sigma_zero",
    "SparseRS": "attacks.sparse_rs",
    "Square": "attacks.square",
    "sweep": "attacks.sweep",
    "FixedPatch": "attacks.universal_patch",
    "ExplainOptions": "attribution.explain",
    "explain": "attribution.explain",
    "Amounts": "attribution.explanation",
    "Explanation": "attribution.explanation",
    "interval_bounds": "certification.bounds.margins",
    "margin_bounds": "certification.bounds.margins",
    "trace": "certification.bounds.tracing",
    "SmoothedCertificates": "certification.smoothing",
    "Smoothing": "certification.smoothing",
    "certify_smoothed": "certification.smoothing",
    "predict_smoothed": "certification.smoothing",
    "InputError": "core.errors",
    "Mask": "core.mask",
    "Row": "core.row",
    "Threat": "core.threat",
    "Outcome": "core.verdict",
    "Verdict": "core.verdict",
    "corrupt": "data.corruptions.corrupt",
    "Dataset": "data.dataset",
    "load_data": "data.load",
    "read_column": "data.metadata",
    "Preprocessing": "data.preprocessing",
    "CertificationOptions": "evaluation.certify",
    "certify": "evaluation.certify",
    "Check": "evaluation.checks",
    "Change": "evaluation.compare",
    "Comparison": "evaluation.compare",
    "compare": "evaluation.compare",
    "corruptions": "evaluation.corruptions",
    "EvaluationOptions": "evaluation.evaluate",
    "evaluate": "evaluation.evaluate",
    "minimal_eps": "evaluation.minimal_eps",
    "Exported": "evaluation.export",
    "export": "evaluation.export",
    "PerSampleResult": "evaluation.per_sample",
    "save_images": "evaluation.records",
    "write_records": "evaluation.records",
    "Evaluation": "evaluation.result",
    "TransferMatrix": "evaluation.result",
    "Movements": "evaluation.spatial",
    "spatial": "evaluation.spatial",
    "TransferOptions": "evaluation.transfer",
    "transfer": "evaluation.transfer",
    "PatchOptions": "evaluation.universal_patch",
    "UniversalPatch": "evaluation.universal_patch",
    "universal_patch": "evaluation.universal_patch",
    "VariantComparison": "evaluation.variant_comparison",
    "VariantOptions": "evaluation.variants",
    "evaluate_variants": "evaluation.variants",
    "harden": "hardening.harden",
    "HardeningOptions": "hardening.options",
    "Hardened": "hardening.result",
    "fast": "models.acceleration.fast",
    "AveragedLogits": "models.averaged_logits",
    "BPDA": "models.bpda",
    "bypass": "models.bpda",
    "identity": "models.bpda",
    "build_model": "models.build",
    "Endpoint": "models.loading.endpoint",
    "expected_preprocessing": "models.loading.inputs",
    "match_classes": "models.classes",
    "load_model": "models.loading.load",
    "PlayOptions": "playground.play",
    "open_session": "playground.play",
    "play": "playground.play",
    "Playground": "playground.serve",
    "Session": "playground.session",
    "main_figure": "report.notebook",
    "Claim": "report.claims",
    "claims": "report.claims",
    "verify_evidence": "report.evidence.pack",
    "write_evidence": "report.evidence.pack",
    "write_junit": "report.junit",
    "write_sarif": "report.sarif",
    "paper_tables": "report.tables.paper",
    "Table": "report.tables.table",
    "write_report": "report.write",
    "Study": "study.config",
    "load_study": "study.load",
    "StudyRun": "study.result",
    "run_study": "study.run",
    "Defence": "training.methods.adversarial",
    "ARD": "training.methods.ard",
    "CROWNIBP": "training.methods.crown_ibp",
    "EnsembleAT": "training.methods.ensemble",
    "FGSMPGI": "training.methods.fgsm_pgi",
    "FGSMRS": "training.methods.fgsm_rs",
    "FGSMRSThenPGD": "training.methods.fgsm_rs_then_pgd",
    "FreeAT": "training.methods.free",
    "Gaussian": "training.methods.gaussian",
    "IBP": "training.methods.ibp",
    "LiveSurrogate": "training.methods.live_surrogate",
    "MART": "training.methods.mart",
    "MTLIBP": "training.methods.mtl_ibp",
    "NFGSM": "training.methods.n_fgsm",
    "PGDAT": "training.methods.pgd_at",
    "get_method": "training.methods.registry",
    "RRM": "training.methods.rrm",
    "RSLAD": "training.methods.rslad",
    "SABR": "training.methods.sabr",
    "TRADES": "training.methods.trades",
    "TrainingOptions": "training.options",
    "Training": "training.result",
    "train": "training.train",
}
__all__ = sorted(_ROOMS)

if TYPE_CHECKING:
    from inoculate.attacks.apgd import APGD as APGD
    from inoculate.attacks.autoattack import AutoAttack as AutoAttack
    from inoculate.attacks.base import Attack as Attack
    from inoculate.attacks.bim import BIM as BIM
    from inoculate.attacks.carlini_wagner import CarliniWagner as CarliniWagner
    from inoculate.attacks.craft import AdvSet as AdvSet
    from inoculate.attacks.craft import craft as craft
    from inoculate.attacks.deepfool import DeepFool as DeepFool
    from inoculate.attacks.fab import FAB as FAB
    from inoculate.attacks.fgsm import FGSM as FGSM
    from inoculate.attacks.fmn import FMN as FMN
    from inoculate.attacks.hopskipjump import HopSkipJump as HopSkipJump
    from inoculate.attacks.mifgsm import MIFGSM as MIFGSM
    from inoculate.attacks.one_step_target import OneStepTarget as OneStepTarget
    from inoculate.attacks.patch import Patch as Patch
    from inoculate.attacks.pgd import PGD as PGD
    from inoculate.attacks.rays import RayS as RayS
    from inoculate.attacks.registry import get_attack as get_attack
    from inoculate.attacks.short_ensemble import ShortEnsemble as ShortEnsemble
    from inoculate.attacks.sigma_zero import SigmaZero as SigmaZero
    from inoculate.attacks.sparse_rs import SparseRS as SparseRS
    from inoculate.attacks.square import Square as Square
    from inoculate.attacks.sweep import sweep as sweep
    from inoculate.attacks.universal_patch import FixedPatch as FixedPatch
    from inoculate.attribution.explain import ExplainOptions as ExplainOptions
    from inoculate.attribution.explain import explain as explain
    from inoculate.attribution.explanation import Amounts as Amounts
    from inoculate.attribution.explanation import Explanation as Explanation
    from inoculate.certification.bounds.margins import interval_bounds as interval_bounds
    from inoculate.certification.bounds.margins import margin_bounds as margin_bounds
    from inoculate.certification.bounds.tracing import trace as trace
    from inoculate.certification.smoothing import SmoothedCertificates as SmoothedCertificates
    from inoculate.certification.smoothing import Smoothing as Smoothing
    from inoculate.certification.smoothing import certify_smoothed as certify_smoothed
    from inoculate.certification.smoothing import predict_smoothed as predict_smoothed
    from inoculate.core.errors import InputError as InputError
    from inoculate.core.mask import Mask as Mask
    from inoculate.core.row import Row as Row
    from inoculate.core.threat import Threat as Threat
    from inoculate.core.verdict import Outcome as Outcome
    from inoculate.core.verdict import Verdict as Verdict
    from inoculate.data.corruptions.corrupt import corrupt as corrupt
    from inoculate.data.dataset import Dataset as Dataset
    from inoculate.data.load import load_data as load_data
    from inoculate.data.metadata import read_column as read_column
    from inoculate.data.preprocessing import Preprocessing as Preprocessing
    from inoculate.evaluation.certify import CertificationOptions as CertificationOptions
    from inoculate.evaluation.certify import certify as certify
    from inoculate.evaluation.checks import Check as Check
    from inoculate.evaluation.compare import Change as Change
    from inoculate.evaluation.compare import Comparison as Comparison
    from inoculate.evaluation.compare import compare as compare
    from inoculate.evaluation.corruptions import corruptions as corruptions
    from inoculate.evaluation.evaluate import EvaluationOptions as EvaluationOptions
    from inoculate.evaluation.evaluate import evaluate as evaluate
    from inoculate.evaluation.export import Exported as Exported
    from inoculate.evaluation.export import export as export
    from inoculate.evaluation.minimal_eps import minimal_eps as minimal_eps
    from inoculate.evaluation.per_sample import PerSampleResult as PerSampleResult
    from inoculate.evaluation.records import save_images as save_images
    from inoculate.evaluation.records import write_records as write_records
    from inoculate.evaluation.result import Evaluation as Evaluation
    from inoculate.evaluation.result import TransferMatrix as TransferMatrix
    from inoculate.evaluation.spatial import Movements as Movements
    from inoculate.evaluation.spatial import spatial as spatial
    from inoculate.evaluation.transfer import TransferOptions as TransferOptions
    from inoculate.evaluation.transfer import transfer as transfer
    from inoculate.evaluation.universal_patch import PatchOptions as PatchOptions
    from inoculate.evaluation.universal_patch import UniversalPatch as UniversalPatch
    from inoculate.evaluation.universal_patch import universal_patch as universal_patch
    from inoculate.evaluation.variant_comparison import VariantComparison as VariantComparison
    from inoculate.evaluation.variants import VariantOptions as VariantOptions
    from inoculate.evaluation.variants import evaluate_variants as evaluate_variants
    from inoculate.hardening.harden import harden as harden
    from inoculate.hardening.options import HardeningOptions as HardeningOptions
    from inoculate.hardening.result import Hardened as Hardened
    from inoculate.models.acceleration.fast import fast as fast
    from inoculate.models.averaged_logits import AveragedLogits as AveragedLogits
    from inoculate.models.bpda import BPDA as BPDA
    from inoculate.models.bpda import bypass as bypass
    from inoculate.models.bpda import identity as identity
    from inoculate.models.build import build_model as build_model
    from inoculate.models.classes import match_classes as match_classes
    from inoculate.models.loading.endpoint import Endpoint as Endpoint
    from inoculate.models.loading.inputs import expected_preprocessing as expected_preprocessing
    from inoculate.models.loading.load import load_model as load_model
    from inoculate.playground.play import PlayOptions as PlayOptions
    from inoculate.playground.play import open_session as open_session
    from inoculate.playground.play import play as play
    from inoculate.playground.serve import Playground as Playground
    from inoculate.playground.session import Session as Session
    from inoculate.report.claims import Claim as Claim
    from inoculate.report.claims import claims as claims
    from inoculate.report.evidence.pack import verify_evidence as verify_evidence
    from inoculate.report.evidence.pack import write_evidence as write_evidence
    from inoculate.report.junit import write_junit as write_junit
    from inoculate.report.notebook import main_figure as main_figure
    from inoculate.report.sarif import write_sarif as write_sarif
    from inoculate.report.tables.paper import paper_tables as paper_tables
    from inoculate.report.tables.table import Table as Table
    from inoculate.report.write import write_report as write_report
    from inoculate.study.config import Study as Study
    from inoculate.study.load import load_study as load_study
    from inoculate.study.result import StudyRun as StudyRun
    from inoculate.study.run import run_study as run_study
    from inoculate.training.methods.adversarial import Defence as Defence
    from inoculate.training.methods.ard import ARD as ARD
    from inoculate.training.methods.crown_ibp import CROWNIBP as CROWNIBP
    from inoculate.training.methods.ensemble import EnsembleAT as EnsembleAT
    from inoculate.training.methods.fgsm_pgi import FGSMPGI as FGSMPGI
    from inoculate.training.methods.fgsm_rs import FGSMRS as FGSMRS
    from inoculate.training.methods.fgsm_rs_then_pgd import FGSMRSThenPGD as FGSMRSThenPGD
    from inoculate.training.methods.free import FreeAT as FreeAT
    from inoculate.training.methods.gaussian import Gaussian as Gaussian
    from inoculate.training.methods.ibp import IBP as IBP
    from inoculate.training.methods.live_surrogate import LiveSurrogate as LiveSurrogate
    from inoculate.training.methods.mart import MART as MART
    from inoculate.training.methods.mtl_ibp import MTLIBP as MTLIBP
    from inoculate.training.methods.n_fgsm import NFGSM as NFGSM
    from inoculate.training.methods.pgd_at import PGDAT as PGDAT
    from inoculate.training.methods.registry import get_method as get_method
    from inoculate.training.methods.rrm import RRM as RRM
    from inoculate.training.methods.rslad import RSLAD as RSLAD
    from inoculate.training.methods.sabr import SABR as SABR
    from inoculate.training.methods.trades import TRADES as TRADES
    from inoculate.training.options import TrainingOptions as TrainingOptions
    from inoculate.training.result import Training as Training
    from inoculate.training.train import train as train


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'inoculate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"inoculate.{_ROOMS[name]}"), name)
