"""The server under load: many requests, several at once, and hostile files. It neither fails nor grows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from playground_samples import OFFERED
from upload_samples import HOSTILE

from inoculate.playground.upload import LARGEST_FILE

httpx = pytest.importorskip("httpx", reason="httpx, which gradio brings, is not installed")
client = pytest.importorskip("gradio_client", reason="gradio is not installed: pip install 'inoculate[play]'")
PERIOD = 96  # of the requests: a multiple of the numbers of attacks and of the answers without attributions
SERVER = Path(__file__).parents[1] / "samples" / "playground_server.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """Address and process number of a server in a process of its own."""
    with subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.terminate()


def visitor(url: str) -> Any:
    return client.Client(url, verbose=False)


def memory(process: int) -> float:
    """Resident memory in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def ask(visit: Any, number: int) -> str:
    attack = list(OFFERED)[number % 3]
    found = visit.submit(attack, float(number % PERIOD), number % 4 == 0, api_name="/attack")
    found.result()
    assert all('class="answer"' in html for html in found.outputs()), found.outputs()
    return str(found.outputs()[-1])


def upload(visit: Any, file: Path) -> str:
    """The line that refuses a file; what is above Gradio's limit, its client does not send."""
    try:
        *_, status, _, _ = visit.predict(client.handle_file(str(file)), "fgsm", 25.5, False, api_name="/upload")
    except ValueError as error:
        return str(error)
    return unescape(str(status))


def test_two_hundred_requests_then_eight_at_once_fail_never_and_memory_is_flat(
    server: tuple[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    url, process = server
    visit = visitor(url)
    for number in range(40):
        ask(visit, number)
    before = memory(process)
    answers = [ask(visit, number) for number in range(200)]
    one_by_one = memory(process)
    assert answers[:PERIOD] == answers[PERIOD : 2 * PERIOD]
    visitors = [visitor(url) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        together = [*threads.map(lambda visit: [ask(visit, number) for number in range(25)], visitors)]
    assert all(each == answers[:25] for each in together)
    at_once = memory(process)
    with capsys.disabled():
        print(f"\nmemory: {before:.0f} MB, after 200 requests {one_by_one:.0f} MB, after 8 x 25 {at_once:.0f} MB")
    assert abs(one_by_one / before - 1) < 0.05
    assert abs(at_once / before - 1) < 0.05


def test_hostile_files_are_refused_and_the_server_goes_on(
    server: tuple[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, process = server
    visit, refused, used = visitor(url), dict[str, str](), list[float]()
    good = ask(visit, 4)
    for _ in range(3):  # the first time warms up
        for number, (kind, (make, words)) in enumerate(HOSTILE.items()):
            file = tmp_path / f"{number}.png"
            file.write_bytes(make())
            refused[kind] = upload(visit, file)
            assert words in refused[kind] or "exceeds the maximum file size" in refused[kind], kind
        used.append(memory(process))
    assert len(refused) == len(HOSTILE) >= 20
    assert all(len(line.strip().splitlines()) == 1 for line in refused.values())
    private = tmp_path / "private.png"
    private.write_bytes(b"private")
    request = {"data": [{"path": str(private), "meta": {"_type": "gradio.FileData"}}, "fgsm", 25.5, False]}
    event = httpx.post(f"{url}gradio_api/call/upload", json=request).json()["event_id"]
    assert "error" in httpx.get(f"{url}gradio_api/call/upload/{event}").text
    assert private.read_bytes() == b"private", "a file that was not uploaded is neither read nor deleted"
    large = {"files": ("large.png", bytes(LARGEST_FILE + 1))}
    assert httpx.post(f"{url}gradio_api/upload", files=large).status_code == 413
    assert ask(visit, 4) == good
    with capsys.disabled():
        print(
            f"\nmemory after each round of {len(HOSTILE)} hostile files: {', '.join(f'{each:.0f} MB' for each in used)}"
        )
    assert abs(used[2] / used[1] - 1) < 0.05
