"""The job `harden`: train a classifier to withstand attacks, and measure it before and after."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.output import Output
from inoculate.artifacts.versions import versions
from inoculate.core.modes import device_of
from inoculate.core.progress import Progress
from inoculate.core.results import hardest
from inoculate.core.threat import Threat
from inoculate.data.load import DataLike
from inoculate.data.preprocessing import as_size
from inoculate.evaluation.checks import Check
from inoculate.evaluation.evaluate import EvaluationOptions
from inoculate.evaluation.result import Evaluation
from inoculate.hardening.baseline import BASELINE, BASELINE_EPOCHS, baseline_network, measure_baseline
from inoculate.hardening.card import CardFacts, TrainingFacts
from inoculate.hardening.export import OnnxCheck, export_checked
from inoculate.hardening.masking import checks_of, masking_warnings
from inoculate.hardening.measure import attacked, measure
from inoculate.hardening.options import HardeningOptions
from inoculate.hardening.recipe import make_recipe, resolve_augment
from inoculate.hardening.result import Hardened
from inoculate.hardening.schedule import (
    Cost,
    Rung,
    Schedule,
    default_method,
    ladder_for,
    max_updates,
    schedule_budget,
    schedule_epochs,
    seconds_per_pass,
)
from inoculate.hardening.selection import keep_better_weights
from inoculate.hardening.task import Task, load_task
from inoculate.models.loading.checkpoints import MODEL_FOLDER
from inoculate.models.loading.load import ModelLike
from inoculate.training.checkpoint import BEST, History
from inoculate.training.distributed import ProcessGroup, launch_device, process_group
from inoculate.training.methods.registry import MethodLike
from inoculate.training.monitors import failure_warnings
from inoculate.training.plan import TrainingPlan, observe_updates
from inoculate.training.recipe import Recipe
from inoculate.training.trainer import check_divisible, fit


def harden(
    model: ModelLike,
    data: DataLike | Mapping[str, DataLike],
    threat: Threat = Threat(),
    *,
    budget: str | float = "10m",
    method: MethodLike | None = None,
    out: str | os.PathLike[str] | None = None,
    options: HardeningOptions = HardeningOptions(),
    progress: Progress | None = None,
) -> Hardened:
    """Train a classifier to withstand attacks within `threat`, and measure it before and after on test images.

    Without a `method`, `budget` chooses it: the strongest one for which the time allows enough passes over the images.
    A trained network is never made worse on validation images: where no round of the training is better, its weights
    are kept, and `warnings` of the result say so. The delivered network is checked for masked gradients (`checks` of
    the result); where it fails a check, `warnings` say what could not be done. Under a launcher (`torchrun`,
    `accelerate launch`) the processes train one network together; the main one measures, and each returns the result.

    Args:
        model: a model SPEC, or your own module (images in [0, 1], B×C×H×W → logits), which is copied.
        data: a data SPEC, a `Dataset`, a pair (images, labels), a torch `Dataset` or a `DataLoader`; these are divided
            70/10/20 %. A mapping `{"train": …, "val": …, "test": …}` gives the parts. The test part is only measured.
        threat: what is trained against and measured; its eps is above 0.
        budget: training time, `"30m"` or seconds. The measurements before and after come on top.
        method: a name, an object such as `PGDAT(steps=3)`, or your own `Defence`. The budget, or `options.epochs`,
            then decides the number of updates.
        out: folder for weights, robustness card and rows. An interrupted run resumes there and a finished one is read.
            By default nothing is written.
        options: everything else.
        progress: called as `(what, done, total)`.

    Raises `InputError`, before anything is trained, for a model, data or options that do not fit together.
    """
    if out is not None:
        Output(Path(out), {}, MODEL_FOLDER).check(_paths(model, options), data)
    with process_group(launch_device(model, options.device)) as group:
        if group.size > 1:
            options = replace(options, device=group.device)
        with group.main_first():  # it decodes the images into the cache, from which the others read them
            task = load_task(model, data, threat, method, budget, options, progress if group.is_main else None)
        if out is None:
            with group.temporary_folder() as work:
                return _run(task, work, group, progress)
        output = Output(Path(out), task.spec | {"onnx": options.onnx}, MODEL_FOLDER, work_spec=task.spec)
        if group.broadcast(group.is_main and output.finished):
            finished = Hardened.load(output.folder, model if isinstance(model, nn.Module) else None)
            finished.model.to(device_of(task.network.model))
            return replace(finished, reused=True)
        if group.is_main:
            output.work()  # its own check
        group.barrier()
        hardened = replace(_run(task, output.work_folder, group, progress), folder=output.folder, run=output.run)
        if group.is_main:
            output.publish(hardened.write, hardened.history)
        return hardened


def _run(task: Task, work: Path, group: ProcessGroup, progress: Progress | None) -> Hardened:
    """Schedule, measure, train, choose the weights, measure again; `work` keeps what a resumed run need not repeat."""
    model, data, progress = task.network.model, task.data, progress if group.is_main else None
    schedule = _choose_schedule(task, work, group)
    update = schedule.method.begin(data.threat, task.helpers)  # raises now if something is missing
    recipe = _choose_recipe(task, schedule)
    plan = TrainingPlan(data.samples, data.val, update, recipe, data.seed, data.threat, task.fallback)
    check_divisible(plan, group)
    original = {name: value.clone() for name, value in model.state_dict().items()}
    before = measure_baseline(work, model, task.trained, data, recipe, group, progress)
    observer = observe_updates(progress, f"{schedule.method.name} on {data.train.name}")
    history = fit(model, plan, work / "after", group=group, progress=observer)
    group.barrier()  # every process has read the best weights
    kept = ""
    if task.trained and group.is_main:
        kept = keep_better_weights(model, original, work / "after" / BEST, data, history)
    trained = _Trained(schedule, recipe, history, original, group.broadcast(kept))
    if trained.kept:
        model.load_state_dict(original)
    found = None if before is None else _measured(task, trained, before, work, progress)
    shared: Hardened = group.broadcast(found and replace(found, network=None))  # type: ignore[assignment,arg-type]
    return replace(shared, network=task.network)


@dataclass(frozen=True, eq=False)
class _Trained:
    """How a network was trained; `kept` says why it has its `original` weights again, and is empty where it has not."""

    schedule: Schedule
    recipe: Recipe
    history: History
    original: Mapping[str, Tensor]
    kept: str


def _measured(task: Task, trained: _Trained, before: Evaluation, work: Path, progress: Progress | None) -> Hardened:
    """The result: the trained network measured, beside the measurements `before`."""
    model, data, options = task.network.model, task.data, task.options
    schedule, recipe, history, kept = trained.schedule, trained.recipe, trained.history, trained.kept
    failures = failure_warnings(history, options.fallback) if recipe.stop_on_failure else []
    arm = "standard" if kept else schedule.method.name
    surrogates = {} if kept else {BASELINE: baseline_network(work, model, trained.original, task.trained)}
    measuring = EvaluationOptions(
        surrogates=surrogates, keep_images=options.onnx, name=task.network.name, arm=arm, store=work / "store"
    )
    after = measure(model, data, measuring, "after", progress)
    onnx, check, strongest = None, None, attacked(after.rows)[-1]
    if options.onnx:
        onnx, check = export_checked(model, after.images[strongest], data.test.labels, strongest)
    training = _training_facts(task, schedule, recipe, history, kept_original=bool(kept))
    checks = checks_of(after)
    masked = masking_warnings(checks_of(before), checks, hardest(attacked(after.rows)))
    warnings = (*task.warnings, *failures, *([kept] if kept else []), *masked)
    per_image = {row: replace(each, images=None) for found in (before, after) for row, each in found.per_image.items()}
    return Hardened(
        network=task.network, threat=data.threat, before=before.rows, after=after.rows, history=history,
        per_image=per_image, facts=_card_facts(task, training, warnings, checks, check), run="", onnx=onnx,
        image_facts=after.image_facts, thumbnails=after.thumbnails,
    )  # fmt: skip


def _choose_schedule(task: Task, work: Path, group: ProcessGroup) -> Schedule:
    """Method and updates: as given, or what the budget allows by a timing that a resumed run finds in `work`."""
    data, images, batch_size, options = task.data, len(task.data.train), task.batch_size, task.options
    part = group.parts(batch_size, options.accumulate)[0]  # its own check
    if options.epochs is not None:
        return schedule_epochs(task.method or default_method(), options.epochs, images, batch_size)
    file = work / "pass.json"
    if not group.broadcast(file.is_file()):
        own = seconds_per_pass(task.network.model, data.samples, data.threat, part.stop - part.start, task.lr)
        seconds = group.mean({"seconds": own * options.accumulate})
        if group.is_main:
            write_json(file, seconds)
        group.barrier()
    cost = Cost(float(read_json(file)["seconds"]), images / batch_size)
    if task.method is not None:
        return schedule_budget(task.seconds, cost, [Rung(task.method, 0)])
    ladder = ladder_for(data.threat, task.network.model)
    return schedule_budget(task.seconds, cost, ladder, max_updates(data.threat, cost.updates_per_epoch))


def _choose_recipe(task: Task, schedule: Schedule) -> Recipe:
    timed = task.options.epochs is None
    epochs = task.options.epochs or schedule.updates * task.batch_size / len(task.data.train)
    augment = resolve_augment(task.options.augment, task.data.train, epochs)
    base = Recipe(
        schedule.updates, batch_size=task.batch_size, accumulate=task.options.accumulate, lr=task.lr, augment=augment
    )
    return make_recipe(schedule, task.data, base, timed=timed)


def _training_facts(
    task: Task, schedule: Schedule, recipe: Recipe, history: History, *, kept_original: bool
) -> TrainingFacts:
    return TrainingFacts(
        method=schedule.method.spec, fallback=task.options.fallback, updates=round(history[-1]["update"]),
        planned_updates=recipe.updates, batch_size=recipe.batch_size, images=len(task.data.train),
        val_images=round(history[-1]["val_n"]), optimizer=recipe.optimizer, lr=recipe.lr,
        augment=recipe.augment, reason=schedule.reason, kept_original=kept_original,
    )  # fmt: skip


def _card_facts(
    task: Task, training: TrainingFacts, warnings: tuple[str, ...], checks: Sequence[Check], onnx: OnnxCheck | None
) -> CardFacts:
    network, data = task.network, task.data
    return CardFacts(
        network=network.architecture, kind=network.kind, declared=network.declared, dataset=data.train.name,
        digest=data.train.digest, image_size=as_size(*data.test.image_size), norm=data.threat.norm, eps=data.threat.eps,
        seed=data.seed, baseline_epochs=0 if task.trained else BASELINE_EPOCHS, training=training,
        versions=versions(), warnings=warnings, checks=tuple(checks), data_arguments=task.data_arguments, onnx=onnx,
        reading=data.reading.spec,
    )  # fmt: skip


def _paths(model: ModelLike, options: HardeningOptions) -> list[str | os.PathLike[str]]:
    """What the job may read files from, which an output folder must not replace."""
    given = (model, options.weights, options.teacher, *options.surrogates)
    return [each for each in given if isinstance(each, str | os.PathLike)]
