"""A server on this machine that answers as the protocol of `Endpoint` says, or as it does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor

Answer = tuple[int, bytes | str]


def predictions(predict: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Answer]:
    """Answers with what `predict` returns for the images."""
    return lambda x: (200, json.dumps({"predictions": predict(x).tolist()}))


@contextmanager
def serving(answer: Callable[[Tensor], Answer]) -> Iterator[tuple[str, list[int]]]:
    """The address of a server that answers requests by `answer(images)`, and how many images each request held."""
    sizes: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            x = torch.tensor(body["instances"])
            sizes.append(len(x))
            with torch.no_grad():
                status, text = answer(x)
            reply = text if isinstance(text, bytes) else text.encode()
            self.send_response(status)
            if status == 307:
                self.send_header("Location", "http://192.0.2.1/predict")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            with suppress(BrokenPipeError):  # a client that waits no longer
                self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/models/digits:predict", sizes
    finally:
        server.shutdown()
        server.server_close()
