"""Write your own attack: any callable with this signature is an attack."""

from dataclasses import dataclass

import torch

import inoculate as ino


@dataclass(frozen=True)
class BestOfNoise:
    """The most harmful of `tries` random corners of the L-infinity ball."""

    tries: int = 10

    def __call__(self, model, x, y, threat, *, generator=None):
        best, worst = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        for _ in range(self.tries):
            sign = torch.randint(0, 2, x.shape, generator=generator, device=x.device) * 2 - 1
            x_adv = (x + threat.eps * sign).clamp(threat.low, threat.high)
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(model(x_adv), y, reduction="none")
            better = loss > worst
            best[better], worst[better] = x_adv[better], loss[better]
        return best


data = ino.load_data("digits", split="test", image_size=16)
model = ino.train("small_cnn", ino.load_data("digits", split="train", image_size=16), epochs=3).model
attacks = {"best of noise": BestOfNoise(), "fgsm": ino.FGSM()}
for row in ino.evaluate(model, data, attacks, [ino.Threat("linf", 0.1)], options=ino.EvaluationOptions(checks=False)):
    print(f"{row.attack:14} {row.accuracy:.1%}")
