"""The robustness card, rendered from facts and rows."""

from dataclasses import asdict, replace
from pathlib import Path

import yaml

from inoculate.core.row import Row
from inoculate.hardening.card import CardFacts, TrainingFacts, render_card
from inoculate.hardening.export import OnnxCheck

TRAINING = TrainingFacts(
    method={"method": "pgd_at", "steps": 2, "step": 0.25}, updates=8, planned_updates=8, batch_size=40, images=160,
    val_images=180, optimizer="adamw", lr=0.005, augment="none", reason="2 epochs, 8 updates", kept_original=False,
)  # fmt: skip
FACTS = CardFacts(
    network="small_cnn", kind="built", declared={}, dataset="digits", digest="abc", image_size=12, norm="linf", eps=0.1,
    seed=3, baseline_epochs=2, training=TRAINING, versions={"torch": "2.4", "timm": None},
    data_arguments=("--data", "digits"),
)  # fmt: skip


def rows(*correct, norm="linf", attacks=("none", "fgsm", "pgd", "autoattack")):
    return [
        Row.measured(
            dataset="digits", model="m", arm="a", attack=attack, norm=norm, eps=0.1, protocol="white-box",
            correct=count, n=100, seconds=0.0, seed=0,
        )
        for attack, count in zip(attacks, correct, strict=True)
    ]  # fmt: skip


BEFORE, AFTER = rows(90, 40, 30, 20), rows(85, 60, 50, 45)


def card(facts=FACTS, before=BEFORE, after=AFTER, folder="out"):
    return render_card(facts, before, after, Path(folder))


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0].strip()


def test_front_matter_holds_the_numbers_of_the_rows():
    front = yaml.safe_load(card().split("---\n")[1])
    result = front["model-index"][0]["results"][0]
    assert [metric["value"] for metric in result["metrics"]] == [0.85, 0.6, 0.5, 0.45]
    assert front["tags"][-2:] == ["small_cnn", "pgd_at"]


def test_every_row_stands_in_the_table_with_its_interval():
    table = section(card(), "Measured").splitlines()
    assert table[2].startswith("| clean | 90.0% | **85.0%** | [")
    assert table[5].startswith("| autoattack | 20.0% | **45.0%** | [")
    assert len([line for line in table if line.startswith("|")]) == 6


def test_what_early_termination_may_hide_stands_among_the_limits():
    assert "early termination hides" not in card()
    audited = [*AFTER[:3], replace(AFTER[3], audited=9, audited_broken=0, hidden=0.09)]
    words = "For `autoattack` early termination hides at most 9.0 points (0 of 9 fell under the full budget)."
    assert words in section(card(after=audited), "Limits")


def test_the_summary_names_the_strongest_attack():
    assert "45.0% [35.6%, 54.8%] under the strongest attack that was run (autoattack, 100 images)" in card()
    assert card().startswith("---\n")
    assert "\n# small_cnn for digits, hardened\n" in card()


def test_the_card_says_how_the_network_was_trained():
    text = section(card(), "Training")
    assert text.startswith("`pgd_at` (steps 2, step 0.25): 8 updates of 40 images out of 160, adamw")
    assert "peak learning rate of 0.005, augmentation none. The weights are those of the round" in text
    stopped = replace(FACTS, training=replace(TRAINING, updates=4), warnings=("it overfitted", "eps is large"))
    text = section(card(stopped), "Training")
    assert "4 updates (of 8 planned)" in text
    assert text.endswith("**Warning**: it overfitted.\n\n**Warning**: eps is large.")


def test_kept_original_weights_are_not_called_hardened():
    text = card(replace(FACTS, baseline_epochs=0, training=replace(TRAINING, kept_original=True)))
    assert "hardened" not in text
    assert "with its original weights, under linf perturbations" in text
    assert "the network as it was given" in text
    assert "pgd_at" not in yaml.safe_load(text.split("---\n")[1])["tags"]


def test_limits_and_evidence_are_stated():
    text = card()
    for words in ("AISVS C11.2", "article 15(5)", "no statement of conformity", "not a proof", "Rotations, patches"):
        assert words in text, words
    assert text.endswith("Data `digits`, content hash `abc`, seed 3; torch 2.4.\n")


def test_a_card_names_only_attacks_that_were_run():
    few = ("none", "fgsm", "pgd")
    before, after = (rows(*correct, norm="l1", attacks=few) for correct in ((90, 40, 30), (85, 60, 50)))
    text = card(replace(FACTS, norm="l1"), before, after)
    assert "the sum of all changes is at most eps" in text
    assert "AutoAttack" not in text


def test_the_command_loads_model_and_data():
    text = section(card(folder="my models/out"), "Use")
    assert "inoculate evaluate --model 'my models/out' --data digits --attack autoattack --eps 0.1 --norm linf" in text
    assert "load_model('my models/out')" in text
    factory = replace(FACTS, kind="factory", network="mine.py:net", declared={"normalize": "0.5/0.1"})
    text = section(card(factory), "Use")
    assert "--model mine.py:net --weights out/weights.safetensors --normalize 0.5/0.1 --image-size 12" in text
    assert "load_model('mine.py:net', weights='out/weights.safetensors', normalize='0.5/0.1')" in text


def test_a_card_of_a_module_has_no_command():
    text = section(card(replace(FACTS, kind="module", network="Net")), "Use")
    assert "Hardened.load('out', network)" in text
    assert "inoculate evaluate" not in text


def test_the_onnx_check_is_reported():
    text = card(replace(FACTS, onnx=OnnxCheck("autoattack", images=100, correct=45, different=1, accuracy=0.46)))
    assert (
        "onnxruntime on the images of autoattack: 45 of 100 correct (45.0%; the network itself 46.0%), 1 predictions"
        in text
    )


def test_facts_survive_json():
    facts = replace(FACTS, onnx=OnnxCheck("pgd", 10, 5, 0, 0.5))
    assert CardFacts.from_json(asdict(facts)) == facts
