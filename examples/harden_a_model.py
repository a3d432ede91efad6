"""Harden a model and print its accuracies before and after."""

import inoculate as ino

threat = ino.Threat("linf", 0.1)
options = ino.HardeningOptions(epochs=2, image_size=16, test_images=20)
hard = ino.harden("small_cnn", "digits", threat, out="example_hardened", options=options)

for before, after in zip(hard.before, hard.after, strict=True):
    name = "clean" if after.attack == "none" else after.attack
    print(f"{name:12} {before.accuracy:6.1%} -> {after.accuracy:6.1%} [{after.ci_low:.1%}, {after.ci_high:.1%}]")
print("trained by", hard.method, "in", int(hard.history[-1]["update"]), "updates")
print(hard.card.splitlines()[-1])

model = ino.load_model("example_hardened")  # the same network, loaded from disk
data = ino.load_data("digits", split="test", image_size=16)
print(ino.evaluate(model, data, ["fgsm"], [threat]).rows[-1].accuracy)
