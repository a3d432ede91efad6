"""The job `train`: train a classifier, in one process or in several."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

from torch import nn

from inoculate.artifacts.output import Output
from inoculate.core.errors import InputError
from inoculate.core.options import require_count
from inoculate.core.progress import Progress
from inoculate.core.threat import Threat, refuse_mask, require_threat, require_training_threat
from inoculate.data.load import DataLike
from inoculate.models.loading.checkpoints import MODEL_FOLDER
from inoculate.models.loading.inputs import fit_channels
from inoculate.models.loading.load import ModelLike
from inoculate.training.distributed import ProcessGroup, launch_device, process_group
from inoculate.training.methods.helpers import check_helpers, fallback_for
from inoculate.training.methods.registry import MethodLike, as_method
from inoculate.training.monitors import failure_warnings
from inoculate.training.options import TrainingOptions
from inoculate.training.plan import TrainingPlan, UpdateObserver, observe_updates
from inoculate.training.result import Training
from inoculate.training.task import TrainingTask, check_model, load_task, load_training_data
from inoculate.training.trackers import Tracker
from inoculate.training.trainer import fit


def train(
    model: ModelLike,
    data: DataLike | Mapping[str, DataLike],
    method: MethodLike = "standard",
    threat: Threat | None = None,
    *,
    epochs: int = 5,
    out: str | os.PathLike[str] | None = None,
    options: TrainingOptions = TrainingOptions(),  # noqa: B008
    progress: Progress | None = None,
) -> Training:
    """Train a classifier; validation images choose the round whose weights are kept.

    Under a launcher (`torchrun`, `accelerate launch`) the processes train one network together, and each returns it.

    Args:
        model: name of a network to build (timm or `small_cnn`), or an `nn.Module` (images in [0, 1], B×C×H×W → logits),
            of which a copy is trained.
        data: a data SPEC, whose test part is never used; or a `Dataset`, a pair (images, labels), a torch `Dataset` or
            a `DataLoader`, an eighth of which becomes validation data; or a mapping `{"train": …, "val": …}`.
        method: a name, an object such as `PGDAT(steps=3)`, or a `Defence` of yours.
        threat: what an adversarial method trains against, by default L∞ 8/255; `standard` ignores it.
        epochs: passes over the training data.
        out: folder for weights and history, where an interrupted training resumes and a finished one is read; by
            default nothing is kept.
        options: everything else.
        progress: called as `(what, updates done, updates in all)`.

    Raises `InputError` for a model, data or options that do not fit together, before anything is trained, and for a
    loss that is not finite.
    """
    require_count(epochs=epochs)
    chosen, threat = as_method(method, **options.method_options), require_threat(threat or Threat())
    refuse_mask(threat, "train")
    if chosen.is_adversarial:
        require_training_threat(threat)
    check_model(model)
    check_helpers(chosen.name, options.teacher, options.surrogates)
    fallback = fallback_for(chosen, options.fallback, threat)
    if out is not None:
        Output(Path(out), {}, MODEL_FOLDER).check(_paths(model, options), data, protected=("README.md",))
    elif options.tracker == "tensorboard":
        raise InputError("tracker tensorboard writes into the output folder: give one with out")
    with process_group(launch_device(model, options.device)) as group:
        with group.main_first():  # it decodes the images into the cache, from which the others read them
            train_data, val = load_training_data(data, options, progress if group.is_main else None)
        from_files = isinstance(data, str | os.PathLike)
        if from_files and isinstance(model, nn.Module):
            train_data, val = (fit_channels(part, model, options.reading) for part in (train_data, val))
        task = load_task(model, train_data, chosen, threat, epochs, options, group)
        task = replace(task, warnings=(*train_data.notes, *task.warnings)) if from_files else task
        plan = task.plan(val, options.seed, fallback)
        title = f"train {task.network.name} on {train_data.name}"
        observer = observe_updates(progress if group.is_main else None, title)
        if out is None:
            with group.temporary_folder() as folder:
                logs = _tracker(options.tracker, folder, task, group)
                return _run(task, plan, folder, logs, group, observer)
        module = model if isinstance(model, nn.Module) else None
        return _train_into(Output(Path(out), task.spec, MODEL_FOLDER), task, plan, module, options, group, observer)


def _train_into(
    output: Output,
    task: TrainingTask,
    plan: TrainingPlan,
    module: nn.Module | None,
    options: TrainingOptions,
    group: ProcessGroup,
    observer: UpdateObserver | None,
) -> Training:
    """Train and publish the result, or read it if this very training has finished before."""
    if group.broadcast(group.is_main and output.finished):
        return replace(Training.load(output.folder, module), reused=True)
    if group.is_main:
        output.work()  # its own check
    group.barrier()
    logs = _tracker(options.tracker, output.folder, task, group)
    found = _run(task, plan, output.work_folder, logs, group, observer)
    if group.is_main:
        output.publish(found.write, found.history)
    return found


def _run(
    task: TrainingTask,
    plan: TrainingPlan,
    work: Path,
    logs: Tracker | None,
    group: ProcessGroup,
    observer: UpdateObserver | None,
) -> Training:
    """Train, with checkpoints in `work`."""
    with nullcontext() if logs is None else closing(logs):
        history = fit(
            task.network.model, plan, work, group=group, progress=observer,
            after_round=None if logs is None else lambda entry: logs.log(entry, int(entry["update"])),
        )  # fmt: skip
    group.barrier()  # every process has read the best weights
    found = Training(task.network, history, task.facts, task.warnings)
    if not plan.recipe.stop_on_failure:
        return found
    kept = f"; the weights of update {found.best['update']:.0f} are kept"
    failures = [message + kept for message in failure_warnings(history, task.facts.get("fallback"))]
    return replace(found, warnings=(*task.warnings, *failures))


def _paths(model: ModelLike, options: TrainingOptions) -> list[str | os.PathLike[str]]:
    """What the job may read files from, which an output folder must not replace."""
    return [each for each in (model, *options.helpers) if isinstance(each, str | os.PathLike)]


def _tracker(name: str | None, folder: Path, task: TrainingTask, group: ProcessGroup) -> Tracker | None:
    return Tracker(name, folder / "logs", task.spec) if name and group.is_main else None
