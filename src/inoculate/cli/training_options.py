"""Options of the commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from inoculate.cli.options import MODEL, OUTPUT, TRAINING, topic_option
from inoculate.training.methods.names import METHOD_ARMS

NewModel = Annotated[str, topic_option("--model", MODEL, "timm name such as resnet18, or small_cnn.")]
TrainableModel = Annotated[
    str,
    topic_option(
        "--model", MODEL, "timm name or small_cnn, a trained folder, package.module:factory, file.py:factory."
    ),
]
Stem = Annotated[
    str, topic_option("--stem", MODEL, "First layer of a new network: imagenet, or small for small images.")
]

Method = Annotated[
    str, topic_option("--method", TRAINING, f"standard, {', '.join(METHOD_ARMS[:-1])} or {METHOD_ARMS[-1]}.")
]
OptionalMethod = Annotated[
    str | None, topic_option("--method", TRAINING, "pgd_at, trades, mart, …; by default --budget chooses.")
]
MethodOptions = Annotated[
    list[str] | None,
    topic_option("--option", TRAINING, "An option of the method, such as steps=7, beta=6 or average=0.99. Repeatable."),
]
Teacher = Annotated[Path | None, topic_option("--teacher", TRAINING, "A robust trained folder, for ard and rslad.")]
Surrogates = Annotated[
    list[str] | None,
    topic_option("--surrogate", TRAINING, "For ensemble a trained folder (repeatable), for live_surrogate a network."),
]
Fallback = Annotated[
    str | None,
    topic_option("--fallback", TRAINING, "Method to continue with, once, after an alarm: pgd_at. It may take longer."),
]
OptionalEps = Annotated[
    str | None, topic_option("--eps", TRAINING, "What an adversarial method trains against [default: 8/255].")
]
OptionalNorm = Annotated[
    str | None, topic_option("--norm", TRAINING, "linf, l2 or l1, of an adversarial method [default: linf].")
]

Epochs = Annotated[int, topic_option("--epochs", TRAINING, "Passes over the training split.", min=1)]
OptionalEpochs = Annotated[
    int | None, topic_option("--epochs", TRAINING, "Passes over the training split, in place of a budget.", min=1)
]
Budget = Annotated[str, topic_option("--budget", TRAINING, "Training time: 90s, 30m or 1h30m.")]
LearningRate = Annotated[float | None, topic_option("--lr", TRAINING, "Peak learning rate.", min=1e-9)]
Augment = Annotated[str, topic_option("--augment", TRAINING, "Augmentation: none, digits, photos, shifts or auto.")]
TrainingPrecision = Annotated[
    str, topic_option("--precision", TRAINING, "auto (bf16 where the device is faster in it), bf16 or fp32.")
]
Accumulate = Annotated[int, topic_option("--accumulate", TRAINING, "Split each batch into this many parts.", min=1)]

TestImages = Annotated[
    int, topic_option("--test-images", OUTPUT, "Test images that are attacked for the card.", min=10)
]
Onnx = Annotated[bool, topic_option("--onnx", OUTPUT, "Write model.onnx and check it on adversarial images.")]
Certify = Annotated[
    bool,
    topic_option("--certify", OUTPUT, "Also prove accuracies before and after; without --method it trains ibp."),
]
Tracker = Annotated[
    str | None,
    topic_option("--tracker", OUTPUT, "tensorboard (OUT/logs; default if installed), mlflow, wandb or trackio."),
]
