"""Write your own training method: what it trains on, and what it minimises."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import inoculate as ino


@dataclass(frozen=True)
class NoiseTraining:
    """Cross-entropy on images with random noise of size eps."""

    passes: float = 1  # the cost: forward-backward passes over the batch in one update
    loss_passes: float = 1  # how many of these passes the loss takes

    def examples(self, batch):
        noise = torch.randint(0, 2, batch.x.shape, generator=batch.generator) * 2 - 1
        return (batch.x + batch.threat.eps * noise.to(batch.x)).clamp(0, 1)

    def loss(self, batch, x_adv):
        logits = batch.model(x_adv)
        return F.cross_entropy(logits, batch.y), logits


threat = ino.Threat("linf", 0.1)
train, test = (ino.load_data("digits", split=part, image_size=16) for part in ("train", "test"))
for method in ("standard", NoiseTraining(), ino.get_method("pgd_at", steps=3)):
    trained = ino.train("small_cnn", train, method, threat, epochs=3)
    found = ino.evaluate(trained.model, test, ["pgd"], [threat], options=ino.EvaluationOptions(checks=False))
    clean, attacked = found
    print(f"{trained.method:14} clean {clean.accuracy:.1%}, PGD {attacked.accuracy:.1%}")
