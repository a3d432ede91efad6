"""A model behind an HTTP address: what it takes, what it refuses, and that images leave the machine only on request."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from itertools import count

import pytest
import torch
from model_forms import body, quarters
from servers import Answer, predictions, serving
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.models.loading import endpoint
from inoculate.models.loading.endpoint import Endpoint
from inoculate.models.loading.load import load_model

X = to_float(quarters(12).images)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)


def test_labels_logits_and_declared_probabilities_arrive_as_they_are() -> None:
    net = body()
    with torch.no_grad():
        logits = net(X)
    with serving(predictions(lambda x: net(x).argmax(1))) as (url, _):
        found = load_model(url)(X)
        assert found.dtype is torch.int64
        assert torch.equal(found, logits.argmax(1))
    with serving(predictions(net)) as (url, _):
        torch.testing.assert_close(load_model(url)(X), logits)
        assert torch.equal(load_model(url, outputs="labels")(X), logits.argmax(1))
    with serving(predictions(lambda x: net(x).softmax(1))) as (url, _):
        torch.testing.assert_close(load_model(url, outputs="probabilities")(X).softmax(1), logits.softmax(1))


def test_the_server_gets_the_images_unchanged_in_requests_of_the_batch_size() -> None:
    seen = []
    with serving(predictions(lambda x: seen.append(x) or x.flatten(1).sum(1).long())) as (url, sizes):
        Endpoint(url, batch_size=5)(X)
        assert sizes == [5, 5, 2]
    assert torch.equal(torch.cat(seen), X)


def test_requests_are_halved_where_the_server_says_that_they_are_too_large() -> None:
    def answer(x: Tensor) -> Answer:
        return (413, "") if len(x) > 3 else (200, json.dumps({"predictions": [0] * len(x)}))

    with serving(answer) as (url, sizes):
        model = Endpoint(url)
        assert model(X).tolist() == [0] * 12
        assert sizes == [12, 6, 3, 3, 3, 3]
        model(X[:6])
        assert sizes[6:] == [3, 3]


def test_a_busy_server_is_asked_again() -> None:
    number = count()
    with serving(lambda x: (503, "") if next(number) < 2 else (200, '{"predictions": [1]}')) as (url, sizes):
        assert Endpoint(url)(X[:1]).tolist() == [1]
        assert sizes == [1, 1, 1]
        number = count()
        with pytest.raises(InputError, match="answers 503"):
            Endpoint(url, retries=1)(X[:1])


BROKEN: list[tuple[Answer, str]] = [
    ((200, "<html>"), "does not reply with JSON"),
    ((200, b"\xff\xfe\x00"), "does not reply with JSON"),
    ((200, "[1, 2]"), 'without a list "predictions"'),
    ((200, '{"predictions": 3}'), 'without a list "predictions"'),
    ((200, '{"predictions": [1]}'), "1 predictions for 2 images"),
    ((200, '{"predictions": []}'), "0 predictions for 2 images"),
    ((200, '{"predictions": ["cat", "dog"]}'), "neither whole numbers nor lists"),
    ((200, '{"predictions": [[0.1, 0.9], [0.1]]}'), "neither whole numbers nor lists"),
    ((200, '{"predictions": [null, 1]}'), "neither whole numbers nor lists"),
    ((200, '{"predictions": [[[1.0]], [[2.0]]]}'), "shape"),
    ((400, '{"error": "give 3 channels"}'), "answers 400 (give 3 channels)"),
    ((500, "oops"), "answers 500"),
    ((307, ""), "answers 307"),
]


@pytest.mark.parametrize(("answer", "words"), BROKEN, ids=lambda each: str(each)[:30])
def test_a_reply_that_is_none_is_told_in_one_line(answer: Answer, words: str) -> None:
    with serving(lambda x: answer) as (url, sizes):
        with pytest.raises(InputError) as caught:
            Endpoint(url)(X[:2])
        assert len(sizes) == 1
    assert words in str(caught.value)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"), [("[1]", "[[0.1, 0.9]]"), ("[[1.0, 2.0]]", "[[1.0, 2.0, 3.0]]")], ids=["kind", "classes"]
)
def test_another_number_of_classes_later_is_refused(first: str, second: str) -> None:
    replies = iter((first, second))
    with serving(lambda x: (200, f'{{"predictions": {next(replies)}}}')) as (url, _):
        model = Endpoint(url)
        model(X[:1])
        with pytest.raises(InputError, match="at first and now gives"):
            model(X[:1])


def test_a_server_that_is_not_there_or_too_slow() -> None:
    with serving(predictions(lambda x: x)) as (url, _):
        pass
    with pytest.raises(InputError, match=r"gives no reply after 3 attempts .*refused"):
        Endpoint(url)(X[:1])
    with (
        serving(lambda x: time.sleep(0.5) or (200, "")) as (url, _),
        pytest.raises(InputError, match=r"gives no reply after 1 attempts .*timed out"),
    ):
        Endpoint(url, timeout=0.1, retries=0)(X[:1])


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/p",
        "http://192.0.2.1:80/p",
        "http://127.0.0.1.example.com/p",
        "http://127.0.0.1@example.com/p",
    ],
)
def test_images_stay_on_this_machine(url: str) -> None:
    for make in (load_model, Endpoint):
        with pytest.raises(InputError, match="not on this machine"):
            make(url)
    assert Endpoint(url, allow_remote=True).url == url


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/p", "http://localhost/p", "http://[::1]:80/p", "http://127.1.2.3/p"]
)
def test_these_are_on_this_machine(url: str) -> None:
    assert Endpoint(url).url == url


@pytest.mark.parametrize("make", [
    lambda: Endpoint("ftp://127.0.0.1/p"),
    lambda: Endpoint("file:///etc/passwd"),
    lambda: Endpoint("http:///p"),
    lambda: Endpoint("http://127.0.0.1:port/p"),
    lambda: Endpoint("http://127.0.0.1/p", timeout=0),
    lambda: Endpoint("http://127.0.0.1/p", retries=-1),
    lambda: Endpoint("http://127.0.0.1/p", batch_size=0),
    lambda: load_model("http://127.0.0.1/p", weights="weights.safetensors"),
])  # fmt: skip
def test_addresses_and_options_that_cannot_be_used(make: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:1")
    with serving(predictions(lambda x: x.flatten(1).sum(1).long() * 0)) as (url, _):
        assert Endpoint(url)(X[:2]).tolist() == [0, 0]


def test_it_cannot_be_copied() -> None:
    with pytest.raises(TypeError):
        copy.deepcopy(Endpoint("http://127.0.0.1/p"))
