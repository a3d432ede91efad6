"""Monitors: failures of adversarial training that its history shows, and the order of its rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

History = Sequence[dict[str, float]]

# Catastrophic overfitting: robust accuracy on validation images, while training accuracy has not fallen, is
COLLAPSE_RATIO = 0.5  # below this fraction of its best,
MIN_DROP = 0.1  # at least this far below it,
MIN_STANDARD_ERRORS = 2.5  # and by so many standard errors, because a small sample fluctuates.
# Label leaking: robust accuracy is
LEAK_RATIO = 0.25  # below this fraction of the training accuracy on adversarial images
LEAK_UPDATES = 50  # for so many updates: at first averaged weights and BatchNorm statistics lag behind.
BASELINE_MARGIN = 0.1  # of the majority-class baseline's error: a network above the baseline has removed more


def detect_failure(history: History) -> str | None:
    """The failure that the last round shows, in words; None for no failure, or if the training was not adversarial.

    A round's `accuracy` is that on the training examples as the method crafts them, `val_robust` that under
    `ShortEnsemble` on `val_n` validation images. *Catastrophic overfitting* (Wong et al. 2020, section 5.4): the first
    does not fall and the second drops, in a network that was above the majority-class baseline. *Label leaking*
    (Kurakin et al. 2017, section 4.2): the first is high and the second never was. A round during the growth of eps
    (`strength` below 1) cannot show the second. A network that has memorised few training images looks the same;
    `train_robust`, the robust accuracy on as many training images, distinguishes them.
    """
    if not history or "val_robust" not in history[-1]:
        return None
    last, best = history[-1], max(history, key=selection_key)
    if is_above_baseline(best) and _has_collapsed(last, best) and last["accuracy"] >= best["accuracy"]:
        return (
            f"catastrophic overfitting by update {last['update']:.0f}: accuracy on its own training examples went from "
            f"{best['accuracy']:.0%} to {last['accuracy']:.0%}, while under attack on validation images it fell from "
            f"{best['val_robust']:.0%} to {last['val_robust']:.0%}"
        )
    if may_leak_labels(history) and last.get("train_robust", 0.0) < LEAK_RATIO * last["accuracy"]:
        return (
            f"label leaking by update {last['update']:.0f}: {last['accuracy']:.0%} accuracy on its own training "
            f"examples and {last['val_robust']:.0%} under attack on validation images: the examples reveal their "
            "labels, or are too weak"
        )
    return None


def detect_failures(history: History) -> list[tuple[int, str]]:
    """Every failure of a whole training: the round's number from 1, and the message."""
    found = ((number, detect_failure(history[:number])) for number in range(1, len(history) + 1))
    return [(number, message) for number, message in found if message]


def failure_warnings(history: History, fallback: str | None) -> list[str]:
    """The failures of a training that they ended, or that continued with the method `fallback`."""
    found = []
    for place, (number, message) in enumerate(detect_failures(history)):
        continued = fallback is not None and place == 0 and number < len(history)
        found.append(f"{message}; training {f'continued with {fallback}' if continued else 'ended'}")
    return found


def may_leak_labels(history: History) -> bool:
    """Whether the last `LEAK_UPDATES` updates look like label leaking, as far as validation images can tell."""
    most = max(entry["val_robust"] for entry in history)
    since = history[-1]["update"]
    for number in reversed(range(len(history))):
        entry = history[number]
        high = entry["accuracy"] > max(0.5, entry["val_accuracy"] * 0.8)
        if not high or most >= LEAK_RATIO * entry["accuracy"] or entry.get("strength", 1.0) < 1:
            break
        since = history[number - 1]["update"] if number else 0
    return history[-1]["update"] - since >= LEAK_UPDATES


def is_above_baseline(entry: dict[str, float]) -> bool:
    """Whether the network of a round is clearly above the majority-class baseline on validation images."""
    baseline = entry.get("val_majority", 0.0)
    return entry["val_accuracy"] > baseline + BASELINE_MARGIN * (1 - baseline)


def selection_key(entry: dict[str, float]) -> tuple[bool, float, float]:
    """What orders the rounds of adversarial training; a constant prediction is robust, and comes last all the same."""
    robust = entry["val_certified"] if "val_certified" in entry else entry["val_robust"]
    return is_above_baseline(entry), robust, entry["val_accuracy"]


def best_round(history: History) -> int:
    """Index of the round with the highest validation accuracy, the lower loss deciding ties.

    Where robust or certified accuracy is known, it counts first, and networks above the majority-class baseline precede
    others.
    """

    def key(entry: dict[str, float]) -> tuple[object, ...]:
        is_known = "val_robust" in entry or "val_certified" in entry
        return *(selection_key(entry) if is_known else (entry["val_accuracy"],)), -entry["val_loss"]

    return max(range(len(history)), key=lambda i: key(history[i]))


def _has_collapsed(last: dict[str, float], best: dict[str, float]) -> bool:
    drop = best["val_robust"] - last["val_robust"]
    error = math.sqrt(best["val_robust"] * (1 - best["val_robust"]) / last["val_n"])
    return last["val_robust"] < COLLAPSE_RATIO * best["val_robust"] and drop > max(
        MIN_DROP, MIN_STANDARD_ERRORS * error
    )
