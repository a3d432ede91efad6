"""A run's folder with everything a page can show, made by hand: two datasets, two networks, four arms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from report_samples import clean, row

from inoculate.artifacts.files import write_json
from inoculate.artifacts.rows import write_records, write_rows
from inoculate.attribution.explanation import Explanation, save_explanations
from inoculate.core.row import Row

MODELS, ARMS = ("resnet18", "resnet50"), ("standard", "augmented", "transferred", "duplicates")


def rows_of(dataset: str) -> list[Row]:
    rows = []
    for model in MODELS:
        for place, arm in enumerate(ARMS):
            rows.append(clean(model, arm, 90 + place, dataset=dataset))
            for size in (1, 2, 3):
                eps, label = size / 100, {"dataset": dataset, "n": 100}
                rows.append(row(model, arm, eps=eps, correct=60 - 10 * size, **label))
                rows.append(row(model, arm, "pgd", eps, 20 - 5 * size, n=40, dataset=dataset))
                if arm != "standard":
                    rows.append(
                        row(model, arm, eps=eps, correct=85 - size, protocol=f"transfer:{model}/standard", **label)
                    )
                if model != "resnet18":
                    rows.append(row(model, arm, eps=eps, correct=70, protocol="transfer:resnet18/standard", **label))
    return rows


def explained(dataset: str, model: str, arm: str, side: int = 16, shown: int = 3) -> Explanation:
    rng = np.random.default_rng(len(dataset + model + arm))
    said = {"predicted": 1, "confidence": 0.75}
    images = [
        {"row": i, "label": i % 2, "scale": 0.03, "change": 0.25, "clean": {"predicted": i % 2, "confidence": 0.99}}
        | {"adversarial": said}
        | ({} if arm == "standard" else {"replayed": {"predicted": i % 2, "confidence": 0.9}})
        for i in range(shown)
    ]
    margin = rng.uniform(-0.5, 4, 20).round(3)
    gradient = rng.uniform(20, 80, 20).round(3)
    facts = {
        "dataset": dataset, "model": model, "arm": arm, "seed": 0, "norm": "linf", "eps": 0.03, "attack": "fgsm",
        "classes": ["cat & <b>dog</b>", "dog"], "image_size": [side, side], "images": images, "steps": 8,
        "stability": {"measure": "1 − rank correlation", "attack": [0.2, 0.3, None, 0.5], "noise": [0.1, 0.1, 0.2, 0.2],
                  "misclassified": [True, False, True, True]},
        "fragility": {"margin": margin.tolist(), "gradient_norm": gradient.tolist(),
                      "estimate": (margin / gradient).round(6).tolist(),
                      "measured": [None if i == 3 else max(0.0, round(float(v), 6)) for i, v in
                                   enumerate(1.1 * margin / gradient)]},
    }  # fmt: skip
    arrays = {
        "clean": rng.integers(0, 256, (shown, side, side, 3), dtype=np.uint8),
        "perturbation": rng.choice(np.array([-127, 127], np.int8), (shown, side, side, 3)),
        "attribution": rng.integers(-127, 128, (shown, 2, side, side), dtype=np.int8),
        "grad_cam": rng.integers(0, 256, (shown, 2, side, side), dtype=np.uint8),
    }
    return Explanation(facts, arrays)


def whole_run(
    folder: Path,
    shown: int = 3,
    side: int = 16,
    datasets: tuple[str, ...] = ("mnist", "mnist large"),
    models: tuple[str, ...] = MODELS,
) -> Path:
    """Write the folder; with one dataset and one network it is quickly drawn."""
    rows = [each for dataset in datasets for each in rows_of(dataset) if each.model in models]
    write_rows(folder / "results.json", rows)
    write_records(folder / "records.npz", {each.key: np.arange(each.n) < each.correct for each in rows})
    arms = [arm for arm in ARMS if arm != "duplicates"]
    found = [explained(d, m, a, side, shown) for d in datasets for m in models for a in arms]
    save_explanations(folder, found)
    checks = [
        {"name": "eps = 0", "passed": True, "message": "nothing changes"},
        {"name": "gradients", "passed": False, "message": "masked"},
        {"name": "transfer", "passed": None, "message": "not checked"},
    ]
    write_json(folder / "checks.json", {"threat": {"norm": "linf", "eps": 0.03}, "checks": checks})
    history = [{"update": 10, "val_accuracy": 0.5}, {"update": 20, "val_accuracy": 0.8}]
    cells = [
        {"cell": f"{d}: train {m} ({a})", "kind": "fit", "dataset": d, "model": m, "arm": a, "seconds": 12.5,
         "history": history}
        for d in datasets for m in models for a in ARMS
    ]  # fmt: skip
    study = {
        "name": "both sizes",
        "datasets": {"mnist": {"image_size": 16}, "mnist large": {"source": "mnist", "image_size": 32}},
    }
    facts = {"study": study, "surrogates": dict.fromkeys(datasets, "resnet18"), "parameters": {}, "cells": cells}
    write_json(folder / "manifest.json", {**facts, "versions": {"torch": "2", "timm": None}, "machine": {}})
    return folder
