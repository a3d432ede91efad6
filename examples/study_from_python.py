"""Run a study: networks x arms x attacks. Every step is stored and never computed twice."""

import inoculate as ino

study = {
    "name": "two-arms",
    "datasets": {"digits": {"image_size": 16}},
    "models": ["small_cnn"],
    "arms": ["standard", "pgd_at"],
    "surrogate": "small_cnn",
    "eps": [0.05, 0.1],
    "attacks": {"fgsm": {}, "pgd": {"steps": 10, "images": 50}},
    "training": {"epochs": 2},
    "explanations": False,
}
run = ino.run_study(study, out="example_study")
for row in run:
    print(f"{row.arm:9} {row.attack:5} eps {row.eps:.2f} {row.protocol:12} {row.accuracy:6.1%} of {row.n}")
print(run.report())
