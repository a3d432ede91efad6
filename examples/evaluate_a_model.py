"""Evaluate your own model: accuracy under attack, the images that fail, and a page for the browser."""

import torch
from torch import nn

import inoculate as ino

data = ino.load_data("digits", split="test", image_size=16)

# Any torch module from float images in [0, 1] (batch x channels x height x width) to logits.
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
model = ino.train(model, ino.load_data("digits", split="train", image_size=16), epochs=10).model

found = ino.evaluate(model, data, attacks=["fgsm", ino.PGD(steps=20)], threats=[ino.Threat("linf", 0.05)])
for row in found:
    print(f"{row.attack:6} eps {row.eps:.3f}: {row.accuracy:6.1%} [{row.ci_low:.1%}, {row.ci_high:.1%}] of {row.n}")

last = found.rows[-1]
broken = ~found.per_image[last].right & found.per_image[found.rows[0]].right
print(f"{last.attack} breaks {int(broken.sum())} images, first of all {broken.nonzero().flatten()[:5].tolist()}")

for check in found.checks:
    print({True: "ok   ", False: "ALARM", None: "-    "}[check.passed], check.name, "-", check.message)

found.save("example_evaluation")
print(found.report("example_evaluation/report.html"))
