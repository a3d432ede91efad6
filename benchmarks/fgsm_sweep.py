"""Clean accuracy and FGSM accuracy at three eps: ours, torchattacks, foolbox, ART and the least work it can be.

`python -m benchmarks.fgsm_sweep [repeats] [cuda]`. Peers that are not installed are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import DEVICE, interleaved, numbers, report, seeded_images, trained_resnet18, white_box
from inoculate import FGSM, Dataset, Threat, fast, sweep
from inoculate.models.classifier import Precision

EPSILONS = (0.01, 0.02, 0.03)
COUNT, BATCH = (512, 128) if DEVICE == "cpu" else (16384, 1024)
Accuracies = list[float]


def main(repeats: int = 5) -> None:
    model = trained_resnet18()
    images, labels = seeded_images(COUNT)
    x = (images.float() / 255).to(DEVICE)
    split = Dataset.from_tensors(images, labels, classes=[str(i) for i in range(10)])
    batches = list(zip(x.split(BATCH), labels.to(DEVICE).split(BATCH), strict=True))

    def ours(precision: Precision) -> Accuracies:
        return white_box(model, split, FGSM(), [Threat("linf", eps) for eps in EPSILONS], BATCH, precision)

    def swept() -> Accuracies:
        """Without the pass over the clean images that `evaluate` adds: what the peers do, and no more."""
        right, crafting = dict.fromkeys(EPSILONS, 0), fast(model)
        for part, truth in batches:
            for eps, x_adv in sweep(FGSM(), crafting, part, truth, Threat(), EPSILONS):
                with torch.no_grad():
                    right[eps] += int((model(x_adv).argmax(1) == truth).sum())
        return [count / COUNT for count in right.values()]

    def judged(craft: Callable[[float, torch.Tensor, torch.Tensor], torch.Tensor]) -> Accuracies:
        """Accuracy per eps with one call of a peer per eps and batch; they have no other way."""
        right = dict.fromkeys(EPSILONS, 0)
        for eps in EPSILONS:
            for part, truth in batches:
                x_adv = craft(eps, part, truth)
                with torch.no_grad():
                    right[eps] += int((model(x_adv).argmax(1) == truth).sum())
        return [count / COUNT for count in right.values()]

    def limit() -> Accuracies:
        """One input gradient and three forward passes per batch, nothing else."""
        right = dict.fromkeys(EPSILONS, 0)
        for part, truth in batches:
            leaf = part.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), truth, reduction="sum"), leaf)
            sign = gradient.sign()
            with torch.no_grad():
                for eps in EPSILONS:
                    x_adv = (part + eps * sign).clamp(0, 1)
                    right[eps] += int((model(x_adv).argmax(1) == truth).sum())
        return [count / COUNT for count in right.values()]

    work: dict[str, Callable[[], Accuracies]] = {
        "sweep": swept,
        "evaluate": lambda: ours("fast"),  # the clean accuracy too
        "evaluate, exact": lambda: ours("exact"),
        "limit": limit,
        **_peers(model, judged),
    }
    parameters = list(model.parameters())
    for parameter in parameters:  # a favour to the peers: no gradients of weights are computed
        parameter.requires_grad_(False)
    found = {name: run() for name, run in work.items()}  # the warm-up too
    for name, accuracies in found.items():
        print(f"  {name:18} accuracy " + "  ".join(f"{100 * a:5.1f} %" for a in accuracies))
        for a, b in zip(accuracies, found["evaluate, exact"], strict=True):
            if abs(a - b) > 0.005:
                raise SystemExit(f"{name} finds accuracy {a:.3f} where the exact attack finds {b:.3f}")
    seconds = interleaved(work, repeats)
    title = f"FGSM at {len(EPSILONS)} eps with accuracies, ResNet-18, {COUNT} images of 32×32, batches of {BATCH}"
    report(title, seconds, "sweep", COUNT)


def _peers(
    model: nn.Module, judged: Callable[[Callable[[float, torch.Tensor, torch.Tensor], torch.Tensor]], Accuracies]
) -> dict[str, Callable[[], Accuracies]]:
    peers: dict[str, Callable[[], Accuracies]] = {}
    try:
        import torchattacks

        peers["torchattacks"] = lambda: judged(lambda eps, x, y: torchattacks.FGSM(model, eps=eps)(x, y))
    except ImportError:
        print("  torchattacks is not installed")
    try:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        fgsm = foolbox.attacks.FGSM()
        peers["foolbox"] = lambda: judged(lambda eps, x, y: fgsm(wrapped, x, y, epsilons=eps)[1])
    except ImportError:
        print("  foolbox is not installed")
    try:
        from art.attacks.evasion import FastGradientMethod
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type=DEVICE.replace("cuda", "gpu")
        )

        def art(eps: float, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            attack = FastGradientMethod(classifier, eps=eps, batch_size=BATCH)
            return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(DEVICE)

        peers["ART"] = lambda: judged(art)
    except ImportError:
        print("  ART is not installed")
    return peers


if __name__ == "__main__":
    main(*numbers())
