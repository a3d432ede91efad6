"""How a study trains its networks: ordinary arms, arms of prepared data, and arms of a method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inoculate.artifacts.files import write_json
from inoculate.attacks.craft import AdvSet
from inoculate.core.rng import seed_for
from inoculate.core.threat import Threat
from inoculate.data.augment import default_policy
from inoculate.models.build import parameter_count
from inoculate.models.loading.checkpoints import ModelSpec, save_model
from inoculate.models.loading.load import load_model
from inoculate.study.config import Training
from inoculate.training.methods.base import Method, standard
from inoculate.training.methods.names import NEEDS_NETWORK
from inoculate.training.methods.registry import get_method
from inoculate.training.samples import TrainingSet, training_set
from inoculate.training.trainer import BEST, CHECKPOINT, Recipe, fit

if TYPE_CHECKING:
    from inoculate.study.make import Job


def make_fit(folder: Path, job: Job, model: str, arm: str, examples: Path | None) -> None:
    """Train one network for one arm; an interrupted training in `folder` goes on."""
    study, train, seed, training = job.study, job.data.train, job.seed, job.training
    adversarial = AdvSet.load(examples) if examples else None
    samples = training_set(
        arm, train, study.eps, seed=seed, balance=training.balance, adversarial=adversarial
    )  # fmt: skip
    passes_over = train if training.budget != "epochs" else samples
    how = recipe(training, len(passes_over), "none" if arm == "standard" else _policy(job))
    if training.budget == "passes" and arm != "standard":
        how = _costing(how, training, 1.0)
    _fit(folder, job, model, arm, samples, standard, how)


def make_hardened(folder: Path, job: Job, model: str, arm: str, helpers: list[Path]) -> None:
    """Train one network by a method, against the study's largest eps or the arm's own, on the clean training part."""
    study, hardened = job.study, job.study.methods[arm]
    choice = get_method(hardened.method, **hardened.options)
    threat = study.threat_for(arm)
    networks = tuple(load_model(path).to(job.device) for path in helpers)
    if hardened.method in NEEDS_NETWORK:
        networks = (_spec(job, study.surrogate).build(seed=seed_for(job.seed, "alongside")).to(job.device),)
    how = recipe(job.training, len(job.data.train), _policy(job))
    if job.training.budget == "passes":
        how = _costing(how, job.training, choice.passes)
    how = replace(
        choice.adapt(_making(how, how.updates * hardened.length)), stop_on_failure=False
    )  # equal updates for all arms
    samples = training_set("standard", job.data.train, (), seed=job.seed)
    _fit(folder, job, model, arm, samples, choice.begin(threat, networks), how, threat)


def _costing(how: Recipe, training: Training, passes: float) -> Recipe:
    """As many updates of this cost as make `training.passes` times the standard arm's passes."""
    return _making(how, how.updates * training.passes / passes)


def _making(how: Recipe, updates: float) -> Recipe:
    """The same training with so many updates, rounded, and at least one."""
    whole = max(1, round(updates))
    return replace(how, updates=whole, rounds=min(how.rounds, whole))


def _fit(
    folder: Path,
    job: Job,
    model: str,
    arm: str,
    samples: TrainingSet,
    method: Method,
    how: Recipe,
    threat: Threat | None = None,
) -> None:
    if (folder / "history.json").is_file():  # written last: only the manifest was missing
        return
    seed, spec, val = job.seed, _spec(job, model), job.data.val
    if few := job.training.val_images:
        val = val.limit(min(few, len(val)), seed=seed)
    network = spec.build(seed=seed).to(job.device)
    history = fit(network, samples, val, method, how, seed=seed, folder=folder, progress=job.progress, threat=threat)
    save_model(folder, network, spec, arm=arm, seed=seed, parameters=parameter_count(network))
    write_json(folder / "history.json", history)
    for leftover in (CHECKPOINT, BEST):
        (folder / leftover).unlink(missing_ok=True)


def _spec(job: Job, model: str) -> ModelSpec:
    return ModelSpec.fitting(model, job.data.train, job.study.stem, job.study.pretrained)


def _policy(job: Job) -> str:
    name = job.data.train.name
    return job.study.datasets[name].augment or default_policy(name)


def recipe(t: Training, size: int, augment: str) -> Recipe:
    """What the training section `t` asks for with `size` samples an epoch."""
    updates = t.epochs * -(-size // t.batch_size)
    updates = min(updates, t.max_updates or updates)
    return Recipe(
        updates=updates,
        rounds=min(t.rounds or t.epochs, updates),
        batch_size=t.batch_size,
        optimizer=t.optimizer,
        lr=t.lr,
        weight_decay=t.weight_decay,
        schedule=t.schedule,
        patience=t.patience,
        augment=augment,
        precision=t.precision,
        compile=t.compile,
    )
