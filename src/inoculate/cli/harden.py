"""`inoculate harden`: a model and images in, a hardened model with its robustness card out."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inoculate.artifacts.specs import fingerprint
from inoculate.cli.common import (
    BatchSize,
    Data,
    DataRoot,
    Device,
    ImageSize,
    Limit,
    Norm,
    Seed,
    check_out,
    finished,
    pick_device,
    warn_large_eps,
    writable,
)
from inoculate.cli.evaluate import Normalization, Outputs, warn_of
from inoculate.cli.hardening import (
    check_augment,
    check_export,
    check_onnx,
    export_checked,
    is_trained,
    keep_the_better,
    load_bench,
    load_network_for,
    measure,
    measure_before,
    policy_for,
    recipe_for,
    save_hardened,
    schedule_for,
    show_table,
    train_hardened,
    training_in_words,
    write_card,
)  # fmt: skip
from inoculate.cli.methods import (
    Eps,
    Fallback,
    Options,
    Surrogates,
    Teacher,
    check_help,
    fallback_for,
    helper_networks,
    parse_options,
    threat_of,
    warnings_of,
)
from inoculate.core.duration import parse_duration
from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "timm name or small_cnn (trained from scratch), a trained folder, package.module:factory or file.py:factory."
PEAK, PEAK_PLAIN = 2e-3, 5e-3  # of the learning rate; the second is small_cnn's


def harden(
    model: Annotated[str, typer.Option(help=MODEL)],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the hardened model and its card.")],
    eps: Eps = "8/255",
    norm: Norm = "linf",
    method: Annotated[str | None, typer.Option(help="pgd_at, fgsm_rs, trades, mart, …; or --budget chooses.")] = None,
    option: Options = None,
    budget: Annotated[str, typer.Option(help="Time for training: 30m chooses method and schedule for it.")] = "10m",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data, in place of a budget.")] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors file to load into the model.")] = None,
    pretrained: Annotated[bool, typer.Option(help="Start from timm's weights.")] = False,
    outputs: Outputs = "logits",
    normalize: Normalization = None,
    stem: Annotated[str, typer.Option(help="imagenet, or small for small images.")] = "imagenet",
    teacher: Teacher = None,
    surrogate: Surrogates = None,
    fallback: Fallback = None,
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    test_images: Annotated[int, typer.Option(min=10, help="Test images that are attacked for the card.")] = 500,
    batch_size: BatchSize = 128,
    lr: Annotated[float | None, typer.Option(min=1e-9, help="Peak rate [0.002; small_cnn 0.005].")] = None,
    augment: Annotated[str, typer.Option(help="none, digits, photos or shifts; auto: shifts for colours.")] = "auto",
    onnx: Annotated[bool, typer.Option(help="Write model.onnx too, and check it on the adversarial images.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Train a classifier to withstand attacks; write a folder that `evaluate` reads, and a card of what was measured.

    The test part is seen by the measurements alone. Run the same command again to go on after a stop.
    """
    from inoculate.artifacts.files import write_json
    from inoculate.artifacts.rows import write_rows
    from inoculate.models.checks import check_training
    from inoculate.models.loading.specs import identity
    from inoculate.models.small_cnn import SMALL_CNN
    from inoculate.training.methods.registry import get_method

    threat = threat_of(norm, eps)
    if method is None and option:
        raise InputError("--option is for a --method: name one, or leave both out")
    chosen = None if method is None else get_method(method, **parse_options(option))
    check_help(method or "harden without a --method", teacher, surrogate)
    fallback_method = (
        None if fallback is None else fallback_for(str(method), chosen is None or chosen.is_monitored, fallback, threat)
    )
    if onnx:
        check_onnx()
    check_out(out, data, [model, weights, teacher, *(surrogate or [])])
    parse_duration(budget)
    bench = load_bench(data, model, data_root, image_size, limit, test_images, threat, seed)
    batch_size = min(batch_size, len(bench.train))
    warn_large_eps([threat], bench.train)
    place, declared = pick_device(device), {} if outputs == "logits" else {"outputs": outputs}
    declared |= {} if normalize is None else {"normalize": normalize}
    network, spec, trained = load_network_for(model, bench.train, weights, pretrained, stem, declared, seed, place)
    warn_of(network, bench.val, seed)
    trained = is_trained(network, bench.train) if trained is None else trained
    check_training(network, bench.train, batch_size)
    if onnx:
        check_export(network, bench.train)
    check_augment(augment, bench.train)
    peak = lr or (PEAK_PLAIN if spec and spec.name == SMALL_CNN else PEAK) * (0.1 if trained else 1)
    helped = [identity(str(each)) for each in (teacher, *(surrogate or ()))]
    made_from = {
        "model": identity(model), "weights": weights and identity(str(weights)), "pretrained": pretrained,
        "stem": stem, "threat": asdict(threat), "method": None if chosen is None else chosen.spec,
        "budget": [budget, epochs], "data": [bench.train.digest, bench.test.digest], "helpers": helped,
        "batch_size": batch_size, "lr": peak, "augment": augment, "seed": seed,
    }  # fmt: skip
    made_from |= declared | ({"fallback": fallback} if fallback else {})
    run = fingerprint(made_from | {"onnx": onnx})
    if finished(out, run):
        return
    unfinished = writable(out / f".unfinished-{fingerprint(made_from)}")
    helpers = helper_networks(method or "", teacher, surrogate, bench.train, place, seed)
    schedule = schedule_for(unfinished, chosen, budget, epochs, network, bench, batch_size, peak)
    update = schedule.choice.begin(threat, helpers)  # what is missing is found now, not after the measurements
    typer.echo(f"{schedule.choice.name}: {schedule.reason}")
    augment = policy_for(augment, bench.train, epochs or schedule.updates * batch_size / len(bench.train))
    if augment == "shifts":
        typer.echo("augmentation: shifts, images moved and mirrored (letters and signs: --augment none)")
    before, earlier = measure_before(unfinished, network, trained, bench, batch_size, peak)
    recipe = recipe_for(schedule, bench, batch_size, peak, augment, in_time=epochs is None)
    start = {name: value.clone() for name, value in network.state_dict().items()} if trained else None
    history = train_hardened(unfinished, network, bench, update, recipe, model, fallback_method)
    warnings = warnings_of(history, fallback) if recipe.stop_on_failure else []
    kept_as_it_came = keep_the_better(unfinished, network, start, bench, recipe, history) if start else ""
    warnings += [kept_as_it_came] if kept_as_it_came else []
    where = ["--data", data, *(["--data-root", str(data_root)] if data_root else [])]
    kept: dict[str, Tensor] = {}
    after = measure(network, bench, model, "standard" if kept_as_it_came else schedule.choice.name, kept)
    show_table(before, after)
    facts: dict[str, Any] = {"threat": asdict(threat), "seed": seed, "data": bench.train.digest, "run": run}
    if not kept_as_it_came:
        facts |= {"method": schedule.choice.spec} | ({"fallback": fallback} if fallback else {})
    save_hardened(out, network, spec, model, declared, facts)
    exported = export_checked(out, network, bench, kept, after[-1]) if onnx else ""
    for message in warnings:
        typer.echo(f"warning: {message}", err=True)
    told = training_in_words(schedule, recipe, bench, history, bool(kept_as_it_came))
    method = "" if kept_as_it_came else schedule.choice.name
    write_card(out, model, spec, declared, bench, method, told, before, after, earlier, warnings, exported, where)
    write_rows(out / "results.json", [*before, *after])
    write_json(out / "history.json", history)
    shutil.rmtree(unfinished)
    typer.echo(f"{out}: weights, README.md (robustness card), results.json" + (", model.onnx" if onnx else ""))
