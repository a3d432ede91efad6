"""PGD with accuracies: ours through the fast copy and exact, torchattacks, foolbox, and the least work it can be.

`python -m benchmarks.pgd [steps] [repeats] [cuda]`. Peers that are not installed are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import DEVICE, interleaved, numbers, report, seeded_images, trained_resnet18, white_box
from inoculate import PGD, Dataset, Threat, fast
from inoculate.models.classifier import Precision

COUNT, BATCH = (256, 128) if DEVICE == "cpu" else (8192, 1024)
EPS = 8 / 255


def main(steps: int = 10, repeats: int = 3) -> None:
    model = trained_resnet18(eps=EPS).requires_grad_(False)  # a favour to the peers: no gradients of weights
    images, labels = seeded_images(COUNT)
    split = Dataset.from_tensors(images, labels, classes=[str(i) for i in range(10)])
    x_all, y_all = (images.float() / 255).to(DEVICE), labels.to(DEVICE)
    batches = list(zip(x_all.split(BATCH), y_all.split(BATCH), strict=True))
    attack = PGD(steps=steps)

    def ours(precision: Precision) -> float:
        return white_box(model, split, attack, [Threat("linf", EPS)], BATCH, precision)[0]

    def judged(craft: Callable[[Tensor, Tensor], Tensor]) -> float:
        right = 0
        for x, y in batches:
            x_adv = craft(x, y)
            with torch.no_grad():
                right += int((model(x_adv).argmax(1) == y).sum())
        return right / COUNT

    quickest = fast(model)

    def limit() -> float:
        """As many input gradients of the fast copy, and nothing else."""
        for x, y in batches:
            for _ in range(steps):
                leaf = x.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(quickest(leaf), y, reduction="sum"), leaf)
        return float("nan")

    work: dict[str, Callable[[], float]] = {
        "evaluate": lambda: ours("fast"),
        "evaluate, exact": lambda: ours("exact"),
        "limit: gradients only": limit,
    }
    try:
        import torchattacks

        peer = torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=steps)
        work["torchattacks"] = lambda: judged(peer)
    except ImportError:
        print("  torchattacks is not installed")
    try:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        other = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=steps)
        work["foolbox"] = lambda: judged(lambda x, y: other(wrapped, x, y, epsilons=EPS)[1])
    except ImportError:
        print("  foolbox is not installed")
    for name, run in work.items():  # the warm-up too
        print(f"  {name:22} accuracy {100 * run():5.1f} %")
    title = f"PGD-{steps} with accuracies, ResNet-18, {COUNT} images of 32×32, batches of {BATCH}"
    report(title, interleaved(work, repeats), "evaluate", COUNT)


if __name__ == "__main__":
    main(*numbers())
