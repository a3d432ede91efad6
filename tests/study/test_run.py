"""A whole study on real digits with two very small networks: artefacts, resuming, results."""

import json
import shutil

import pytest

from inoculate.artifacts.rows import read_rows
from inoculate.artifacts.store import Store
from inoculate.attacks.craft import AdvSet
from inoculate.attribution.explanation import Explained
from inoculate.cli import _guarded, app
from inoculate.study.load import load_study
from inoculate.study.plan import Cell, plan
from inoculate.study.run import Run, _Estimate

STUDY = """\
name: tiny
datasets:
  digits: {image_size: 32}
models: [test_resnet, test_efficientnet]
surrogate: most_vulnerable
eps: [0.02, 8/255]
attacks:
  fgsm: {}
  pgd: {steps: 2, step: 0.5, images: 20}
training: {epochs: 2, batch_size: 16, lr: 0.005}
explanations: false
limit: 200
"""
EXPLAINED = (
    STUDY.replace("explanations: false", "explanations: {images: 3, drift: 4, fragility: 6, steps: 4, search: 4}")
    .replace("[test_resnet, test_efficientnet]", "[test_resnet]\narms: [standard, transferred, duplicates]")
    .replace("most_vulnerable", "test_resnet")
)


class Notes:
    """A watcher that remembers which cells were made."""

    def __init__(self):
        self.made, self.found = [], []

    def begin(self, cell, number, total, left): ...

    def progress(self, done, total, facts): ...

    def end(self, cell, seconds, made, run):
        (self.made if made else self.found).append(cell)


def run_study(folder, text=STUDY, store=None):
    (folder / "study.yaml").write_text(text)
    study, notes = load_study(folder / "study.yaml"), Notes()
    run = Run(study, Store(store or folder / "store"))
    run.go(notes, plan(study))
    return run, notes


def numbers(rows):
    return {row.key: (row.correct, row.n) for row in rows}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    run, notes = run_study(folder)
    return folder, run, notes


def test_everything_planned_is_measured(finished):
    _, run, notes = finished
    assert not notes.found
    evaluations = [c for c in notes.made if c.kind == "evaluate"]
    eps_each = {c: 1 if c.attack == "none" else 2 for c in evaluations}
    own = {r.protocol for r in run.rows}
    assert len(run.rows) == sum(eps_each.values())
    assert "white-box" in own
    assert f"transfer:{run.surrogates['digits']}/standard" in own
    assert all(row.n == 40 for row in run.rows if row.attack in ("none", "fgsm"))
    assert all(row.n == 20 for row in run.rows if row.attack == "pgd")


def test_examples_of_several_steps_are_trained_on_and_belong_to_one_eps(tmp_path):
    text = STUDY.replace("[0.02, 8/255]", "[8/255]").replace("most_vulnerable", "test_resnet") + "transfer: mifgsm\n"
    text = text.replace("pgd: {steps: 2, step: 0.5, images: 20}", "mifgsm: {steps: 3, step: 0.5}")
    text += "arms: [standard, transferred]\n"
    run, notes = run_study(tmp_path, text)
    (crafted,) = [c for c in notes.made if c.kind == "craft" and c.attack == "mifgsm"]
    assert crafted.part == "train"
    examples = AdvSet.load(run.artefact(crafted))
    assert examples.provenance["eps"] == pytest.approx(8 / 255)
    assert 0.01 < (examples.direction.abs() < 127).float().mean() < 0.9, "neither FGSM's corners alone, nor nothing"
    readings = {(r.attack, r.protocol) for r in run.rows if r.arm == "transferred" and r.model == "test_efficientnet"}
    assert readings == {
        ("none", "white-box"), ("fgsm", "white-box"), ("mifgsm", "white-box"),
        ("fgsm", "transfer:test_efficientnet/standard"), ("fgsm", "transfer:test_resnet/standard"),
    }  # fmt: skip
    _, notes = run_study(tmp_path, text.replace("8/255", "4/255"))
    made = {(c.kind, c.arm, c.attack) for c in notes.made}
    assert ("craft", "standard", "mifgsm") in made, "what was found at another eps is not used"
    assert ("craft", "standard", "fgsm") not in made
    assert ("fit", "transferred", "") in made
    assert ("fit", "standard", "") not in made


def test_adversarial_accuracy_never_exceeds_clean(finished):
    _, run, _ = finished
    for row in run.rows:
        if row.attack != "none":
            clean = next(r for r in run.rows if (r.model, r.arm, r.attack) == (row.model, row.arm, "none"))
            assert not (run.records[row.key] & ~run.records[clean.key][: row.n]).any()


def test_run_again_computes_nothing(finished):
    folder, first, _ = finished
    run, notes = run_study(folder)
    assert not notes.made
    assert numbers(run.rows) == numbers(first.rows)


def test_another_eps_repeats_crafting_and_what_follows_only(finished):
    folder, _, _ = finished
    _, notes = run_study(folder, STUDY.replace("[0.02, 8/255]", "[0.02, 0.05]"))
    made = {(c.kind, c.arm) for c in notes.made}
    assert ("fit", "standard") not in made
    assert ("fit", "augmented") not in made
    assert ("fit", "transferred") in made
    assert ("evaluate", "standard") in made


def test_another_network_runs_its_own_cells_only(finished):
    folder, _, _ = finished
    named = STUDY.replace("most_vulnerable", "test_resnet")
    run_study(folder, named)
    _, notes = run_study(folder, named.replace("test_efficientnet]", "test_efficientnet, test_vit]"))
    assert {c.model for c in notes.made} == {"test_vit"}


def test_another_seed_gives_other_splits_and_numbers(finished):
    folder, first, _ = finished
    run, notes = run_study(folder, STUDY + "seeds: [1]\n")
    assert not notes.found
    assert {r.seed for r in run.rows} == {1}
    assert sorted(numbers(run.rows).values()) != sorted(numbers(first.rows).values())


def test_a_narrowed_attack_is_made_where_it_says_and_a_dataset_trained_as_it_says(finished):
    folder, first, _ = finished
    narrow = (
        "pgd: {steps: 2, step: 0.5, images: 20, eps: [8/255], models: [test_resnet], arms: [noise], datasets: [digits]}"
    )
    text = STUDY.replace("pgd: {steps: 2, step: 0.5, images: 20}", narrow)
    run, notes = run_study(folder, text)
    (row,) = (row for row in run.rows if row.attack == "pgd")
    assert (row.model, row.arm, row.eps) == ("test_resnet", "noise", 8 / 255)
    assert {cell.kind for cell in notes.made} == {"evaluate"}, "no network is trained again for it"
    assert numbers([row]).items() <= numbers(first.rows).items(), "alone at its eps it breaks what it broke among two"
    own = text.replace("{image_size: 32}", "{image_size: 32, training: {max_updates: 3, val_images: 10, rounds: 1}}")
    run, _ = run_study(folder, own)
    histories = [cell["history"] for cell in run.cells if cell["kind"] == "fit"]
    assert {(len(history), history[-1]["update"]) for history in histories} == {(1, 3)}
    assert all((10 * history[0]["val_accuracy"]) % 1 == 0 for history in histories)


def test_a_damaged_artefact_is_made_again(finished):
    folder, first, _ = finished
    # Other tests add artefacts of other studies to this store: the oldest is the first study's.
    victim = min((folder / "store" / "evaluate").glob("*/right.npy"), key=lambda path: path.stat().st_mtime_ns)
    victim.write_bytes(victim.read_bytes()[:-1])
    run, notes = run_study(folder)
    assert len(notes.made) == 1
    assert numbers(run.rows) == numbers(first.rows)


def test_another_split_in_the_same_store_is_refused(finished, monkeypatch):
    from inoculate.core.errors import InputError
    from inoculate.study import make

    folder, _, _ = finished
    real = make.partition
    monkeypatch.setattr(make, "partition", lambda labels, *, seed, **k: real(labels, seed=seed + 1, **k))
    with pytest.raises(InputError, match="give a new folder"):
        run_study(folder, STUDY.replace("steps: 2", "steps: 3"))


def test_several_seeds_share_one_surrogate(tmp_path):
    small = STUDY.replace("limit: 200", "limit: 120").replace("epochs: 2", "epochs: 1").replace("  pgd", "  # pgd")
    run, _ = run_study(tmp_path, small + "seeds: [0, 1]\narms: [standard, transferred]\n")
    protocols = {row.protocol for row in run.rows if row.arm == "standard"} - {"white-box"}
    assert protocols == {f"transfer:{run.surrogates['digits']}/standard"}


def test_interrupting_a_run_again_keeps_what_was_measured(finished):
    folder, first, _ = finished

    class Impatient(Notes):
        def begin(self, cell, number, total, left):
            if number == 3:
                raise KeyboardInterrupt

    (folder / "study.yaml").write_text(STUDY)
    study = load_study(folder / "study.yaml")
    run = Run(study, Store(folder / "store"))
    with pytest.raises(KeyboardInterrupt):
        run.go(Impatient(), plan(study))
    run.recall(plan(study))
    assert numbers(run.rows) == numbers(first.rows)
    assert len(run.rows) == len(first.rows)


def test_what_was_never_timed_makes_the_estimate_a_least(tmp_path):
    class Listener(Notes):
        def begin(self, cell, number, total, left):
            estimates.append((cell, left))

    estimates = []
    (tmp_path / "study.yaml").write_text(STUDY.replace("limit: 200", "limit: 60").replace("epochs: 2", "epochs: 1"))
    study = load_study(tmp_path / "study.yaml")
    Run(study, Store(tmp_path / "store")).go(Listener(), plan(study))
    assert estimates[0][1] is None
    assert estimates[1][1].unseen  # no attack has been timed yet
    assert not estimates[-1][1].unseen
    assert estimates[-1][1].seconds > 0


def test_a_standard_network_says_nothing_of_how_long_the_other_arms_take():
    first, second, third = (Cell("fit", "digits", 0, "resnet18", arm) for arm in ("standard", "fgsm_rs", "trades"))
    estimate = _Estimate([first, second, third])
    estimate.add(0, 10.0, made=True)
    assert estimate.left(1) == (0, True)
    estimate.add(1, 100.0, made=True)
    assert estimate.left(2) == (100.0, False)


def test_command_writes_the_whole_folder(finished, tmp_path, capsys):
    folder, first, _ = finished
    path = folder / "study.yaml"
    path.write_text(STUDY)
    arguments = ["study", "run", str(path), "--out", str(tmp_path / "out"), "--store", str(folder / "store")]
    assert _guarded(lambda: app(arguments, standalone_mode=False)) == 0
    said = capsys.readouterr().out
    for table in ("Table 1", "Table 2", "Table 3", "Table 4"):
        assert table in said
    for claim in "abcd":
        assert f"({claim})" in said
    names = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {"results.json", "tables.md", "tables.csv", "tables.tex", "manifest.json", "records.npz"} <= names
    assert "report.html" in names
    assert "report.html" in said
    assert any(n.endswith(".png") for n in names)
    assert any(n.endswith(".svg") for n in names)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    fields = "dataset model arm attack norm eps protocol accuracy correct n ci_low ci_high seed seconds"
    assert list(rows[0]) == fields.split()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["versions"]["torch"]
    assert manifest["study"]["seeds"] == [0]
    assert manifest["datasets"]["digits"]["digest"]
    assert numbers(read_rows(tmp_path / "out" / "results.json")) == numbers(first.rows)


def test_networks_are_explained_on_the_same_images_and_only_once(tmp_path, capsys):
    store = tmp_path / "store"
    run, notes = run_study(tmp_path, EXPLAINED, store)
    made = [cell for cell in notes.made if cell.kind == "explain"]
    assert [(cell.model, cell.arm) for cell in made] == [("test_resnet", "standard"), ("test_resnet", "transferred")]
    standard, transferred = (Explained.load(folder) for folder in run.explanations)
    assert (standard.key, transferred.key) == (
        ("digits", "test_resnet", "standard"), ("digits", "test_resnet", "transferred"),
    )  # fmt: skip
    shown = [image["row"] for image in standard.facts["images"]]
    assert 0 < len(shown) <= 3
    assert [image["row"] for image in transferred.facts["images"]] == shown
    assert all(image["clean"]["predicted"] == image["label"] for image in standard.facts["images"])
    assert all("replayed" in image for image in transferred.facts["images"])
    assert standard.facts["eps"] == 8 / 255
    assert len(standard.facts["fragility"]["measured"]) == 6
    # More images are explained anew; the networks stay as they are.
    more = EXPLAINED.replace("images: 3", "images: 2")
    _, notes = run_study(tmp_path, more, store)
    assert {cell.kind for cell in notes.made} == {"explain"}
    # The command finds all of it, and the page holds it.
    arguments = ["study", "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--store", str(store)]
    assert _guarded(lambda: app(arguments, standalone_mode=False)) == 0
    assert "nothing was computed again" in capsys.readouterr().out
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count('<article class="case"') == min(2, len(shown))
    assert "How near the errors are" in html
    shutil.rmtree(store)  # the run's folder stands without its store
    assert _guarded(lambda: app(["report", str(tmp_path / "out")], standalone_mode=False)) == 0
    assert (tmp_path / "out" / "report.html").read_text() == html
