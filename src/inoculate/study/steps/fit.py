"""Train one network for one arm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inoculate.artifacts.files import write_json
from inoculate.attacks.craft import AdvSet
from inoculate.core.rng import seed_for
from inoculate.data.augment import default_policy
from inoculate.data.dataset import Dataset
from inoculate.models.build import parameter_count
from inoculate.models.loading.checkpoints import ModelSpec, save_model
from inoculate.models.loading.fitting import load_into
from inoculate.models.loading.load import load_model
from inoculate.models.normalize import parse_normalize
from inoculate.study.arms import training_set
from inoculate.study.cell import Cell
from inoculate.study.inputs import Inputs
from inoculate.study.sections import TrainingConfig
from inoculate.study.steps.context import Context
from inoculate.training.checkpoint import BEST, CHECKPOINT
from inoculate.training.methods.base import standard
from inoculate.training.methods.names import NEEDS_NETWORK
from inoculate.training.methods.registry import get_method
from inoculate.training.plan import TrainingPlan
from inoculate.training.recipe import Recipe
from inoculate.training.samples import TrainingSet
from inoculate.training.trainer import fit


def make_fit(folder: Path, cell: Cell, context: Context, inputs: Inputs[Path]) -> None:
    """Train the cell's network into `folder`; an interrupted training resumes from there.

    The processes of a group train it together, and the main one writes it.
    """
    group = context.group
    if group.broadcast((folder / "history.json").is_file()):  # written last: only the manifest is missing
        return
    spec, plan = _model_spec(context, cell.model), plan_of(cell, context, inputs)
    network = spec.build(seed=context.seed)
    if cell.model in context.study.weights:
        load_into(network, context.study.weights[cell.model], classes=len(spec.class_names))
    network.to(context.device)
    history = fit(network, plan, folder, group=group, progress=context.progress)
    group.barrier()  # every process has read the best weights
    if not group.is_main:
        return
    save_model(folder, network, spec, arm=cell.arm, seed=context.seed, parameters=parameter_count(network))
    write_json(folder / "history.json", history)
    for leftover in (CHECKPOINT, BEST):
        (folder / leftover).unlink(missing_ok=True)


def plan_of(cell: Cell, context: Context, inputs: Inputs[Path]) -> TrainingPlan:
    """The training of the cell's arm."""
    return (_method_plan if cell.arm in context.study.methods else _data_plan)(cell, context, inputs)


def _data_plan(cell: Cell, context: Context, inputs: Inputs[Path]) -> TrainingPlan:
    """Ordinary training on the arm's own samples."""
    train, config = context.data.train, context.training
    samples = training_set(
        cell.arm, train, context.study.eps, seed=context.seed, balance=config.balance,
        adversarial=AdvSet.load(inputs.examples) if inputs.examples else None,
    )  # fmt: skip
    epoch = samples if config.budget == "epochs" else train
    recipe = recipe_of(config, len(epoch), "none" if cell.arm == "standard" else _policy(context))
    if config.budget == "passes" and cell.arm != "standard":
        recipe = _at_cost(recipe, config, passes=1.0)
    return TrainingPlan(samples, _validation(context), standard, recipe, context.seed)


def _method_plan(cell: Cell, context: Context, inputs: Inputs[Path]) -> TrainingPlan:
    """Training by a method on the clean training part, against the arm's own eps or the study's largest."""
    study, train, arm = context.study, context.data.train, context.study.methods[cell.arm]
    choice = get_method(arm.method, **arm.options)
    threat = study.threat_for(cell.arm)
    networks = tuple(load_model(path).to(context.device) for path in inputs.networks)
    if arm.method in NEEDS_NETWORK:
        alongside = _model_spec(context, study.surrogate).build(seed=seed_for(context.seed, "alongside"))
        networks = (alongside.to(context.device),)
    recipe = recipe_of(context.training, len(train), _policy(context))
    if context.training.budget == "passes":
        recipe = _at_cost(recipe, context.training, choice.passes)
    recipe = _with_updates(recipe, recipe.updates * arm.length)
    recipe = replace(choice.adapt(recipe), stop_on_failure=False)  # an alarm must not shorten one arm only
    method, validation = choice.begin(threat, networks), _validation(context)
    return TrainingPlan(TrainingSet.of(train), validation, method, recipe, context.seed, threat)


def recipe_of(config: TrainingConfig, size: int, augment: str) -> Recipe:
    """The training that the study's section `training` describes, with `size` samples in an epoch."""
    updates = config.epochs * -(-size // config.batch_size)
    updates = min(updates, config.max_updates or updates)
    return Recipe(
        updates=updates,
        rounds=min(config.rounds or config.epochs, updates),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        patience=config.patience,
        augment=augment,
        precision=config.precision,
        compile=config.compile,
    )


def _at_cost(recipe: Recipe, config: TrainingConfig, passes: float) -> Recipe:
    """As many updates of `passes` passes each as make `config.passes` times the standard arm's passes."""
    return _with_updates(recipe, recipe.updates * config.passes / passes)


def _with_updates(recipe: Recipe, updates: float) -> Recipe:
    """The same training with this number of updates, rounded, at least one."""
    whole = max(1, round(updates))
    return replace(recipe, updates=whole, rounds=min(recipe.rounds, whole))


def _validation(context: Context) -> Dataset:
    """The images on which a network is validated while it is trained."""
    val, images = context.data.val, context.training.val_images
    return val.limit(min(images, len(val)), seed=context.seed) if images else val


def _model_spec(context: Context, model: str) -> ModelSpec:
    study, data = context.study, context.data.train
    given = study.datasets[data.name].normalize
    return ModelSpec.fitting(
        model, data, study.stem, study.pretrained, None if given is None else parse_normalize(given)
    )


def _policy(context: Context) -> str:
    name = context.data.train.name
    return context.study.datasets[name].augment or default_policy(name)
