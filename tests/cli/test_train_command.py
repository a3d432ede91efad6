"""`inoculate train`: what it parses and prints."""

TRAIN = ["train", "--model", "small_cnn", "--data", "digits", "--limit", "40", "--batch-size", "20", "--epochs", "1"]


def test_a_training_is_summarised_and_found_again(call, tmp_path, capsys):
    out = tmp_path / "out"
    adversarial = ["--method", "fgsm_rs", "--eps", "0.1", "--option", "step=1", "--option", "average=0.9"]
    assert call(*TRAIN, *adversarial, "--tracker", "tensorboard", "--out", out) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: validation accuracy ")
    assert "under attack after 2 updates" in said
    assert call(*TRAIN, *adversarial, "--tracker", "tensorboard", "--out", out) == 0
    assert "has finished here before" in capsys.readouterr().out


def test_mistakes_are_one_line(call, tmp_path, capsys):
    for arguments, says in [
        (["--eps", "0.3"], "method standard has no eps and no norm"),
        (["--norm", "l2"], "method standard has no eps and no norm"),
        (["--option", "steps=1"], "method standard has no options"),
        (["--method", "pgd_at", "--option", "steps"], "write it like steps=7"),
        (["--method", "pgd_at", "--option", "steps=many"], "neither a number nor true or false"),
        (["--method", "pgd_at", "--eps", "0"], "no attack"),
        (["--precision", "fp16"], "precision 'fp16' is unknown"),
    ]:
        assert call(*TRAIN, *arguments, "--out", tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert says in said
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_only_the_first_process_calls_it_an_error(call, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, prefix in (("0", "error: "), ("1", "process 1: ")):
        monkeypatch.setenv("RANK", rank)
        assert call(*TRAIN, "--method", "pgdat", "--out", tmp_path) == 2
        assert capsys.readouterr().err.startswith(f"{prefix}method 'pgdat' is unknown")


def test_a_trained_folder_can_be_evaluated_and_reported(call, tmp_path, capsys):
    data = ["--data", "digits", "--image-size", "12"]
    train = ["train", "--model", "small_cnn", *data, "--limit", "100", "--epochs", "1", "--out", tmp_path]
    assert call(*train) == 0
    evaluate = ["evaluate", "--model", tmp_path, *data, "--limit", "20", "--attack", "fgsm", "--no-checks"]
    assert call(*evaluate) == 0
    assert "fgsm" in capsys.readouterr().out
    assert call("report", tmp_path) == 0
    assert "Validation accuracy" in (tmp_path / "report.html").read_text()
