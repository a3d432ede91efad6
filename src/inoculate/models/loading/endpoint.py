"""A model behind an HTTP address: images in, predictions out, and nothing else."""

from __future__ import annotations

import ipaddress
import json
import time
from http.client import HTTPException
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError, one_line
from inoculate.core.options import require_bool, require_count, require_positive

SCHEMES = ("http://", "https://")
BUSY = (429, 502, 503, 504)  # answers after which a request is sent again
TOO_LARGE = 413
PAUSE = 0.2  # seconds before the first retry, doubled before each further one
MOST_BYTES = 2**26  # of a reply


class Endpoint(nn.Module):
    """A classifier behind an HTTP address as a module: images (B×C×H×W in [0, 1]) to labels (B) or outputs (B×K).

    The protocol is the REST API of TensorFlow Serving and KServe (V1): `POST url` with the JSON
    `{"instances": [image, …]}`, each image nested lists C×H×W of numbers; the reply is `{"predictions": [each, …]}`, a
    whole number for each image (its label) or a list of K numbers (logits, or what `load_model(…, outputs=…)` says).
    No gradient passes through it, and it cannot be copied.

    Args:
        url: the address. One that is not on this machine is refused unless `allow_remote`.
        timeout: seconds to wait for a reply.
        retries: how often a request is sent again that got no reply, or one that says the server is busy.
        batch_size: images in a request at most; fewer where the server says that they are too many (413).
        allow_remote: whether the address may be on another machine.

    Raises `InputError` for an address or option that cannot be used; when it is called, for a server that is not there
    or replies with anything else.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        retries: int = 2,
        batch_size: int = 64,
        allow_remote: bool = False,
    ) -> None:
        super().__init__()
        require_positive(timeout=timeout)
        require_count(batch_size=batch_size)
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise InputError(f"retries {retries!r} is not usable: give a whole number of at least 0")
        require_bool(allow_remote=allow_remote)
        _check_address(url, allow_remote)
        self.url, self.timeout, self.retries, self.batch_size = url, timeout, retries, batch_size
        self.kind: tuple[str, int] | None = None  # of the first reply: what it holds, and how many numbers an image

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = []
        rest = list(torch.split(x.detach().float().cpu(), self.batch_size))
        while rest:
            images = rest.pop(0)
            predictions = self._ask(images)
            if predictions is None:  # too many at once
                self.batch_size = max(1, len(images) // 2)
                rest = list(torch.split(torch.cat([images, *rest]), self.batch_size))
            else:
                parts.append(self._tensor(predictions, len(images)))
        return torch.cat(parts).to(x.device) if parts else x.new_zeros(0, dtype=torch.int64)

    def extra_repr(self) -> str:
        return self.url

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("an endpoint cannot be copied")

    def _ask(self, images: Tensor) -> Any:
        """The predictions in the reply; None where the server says that several images are too many at once."""
        body = json.dumps({"instances": images.tolist()}).encode()
        try:
            reply = json.loads(self._send(body))
        except HTTPError as error:
            if error.code == TOO_LARGE and len(images) > 1:
                return None
            raise self._error(f"answers {error.code} ({_reason(error)})", "look into its log") from error
        except ValueError as error:
            raise self._error("does not reply with JSON", 'let it reply {"predictions": […]}') from error
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            raise self._error(
                f"gives no reply after {self.retries + 1} attempts ({one_line(OSError(cause))})",
                "start the server, or give it more time, Endpoint(url, timeout=…)",
            ) from error
        if not isinstance(reply, dict) or not isinstance(reply.get("predictions"), list):
            raise self._error('replies without a list "predictions"', 'let it reply {"predictions": […]}')
        return reply["predictions"]

    def _send(self, body: bytes) -> bytes:
        """The reply to a request, which is repeated where there was none."""
        request = Request(self.url, body, {"Content-Type": "application/json", "Accept": "application/json"})
        for attempt in range(self.retries + 1):
            try:
                with _opener().open(request, timeout=self.timeout) as reply:
                    found: bytes = reply.read(MOST_BYTES)
                return found
            except (OSError, HTTPException) as error:  # an HTTPError is an OSError
                if attempt == self.retries or (isinstance(error, HTTPError) and error.code not in BUSY):
                    raise
            time.sleep(PAUSE * 2**attempt)
        raise AssertionError

    def _tensor(self, predictions: list[Any], n: int) -> Tensor:
        """The predictions for `n` images as labels (n, int64) or outputs (n×K)."""
        if len(predictions) != n:
            raise self._error(f"gives {len(predictions)} predictions for {n} images", "let it give one for each image")
        labels = all(isinstance(each, int) for each in predictions)
        try:
            found = torch.tensor(predictions, dtype=torch.int64 if labels else torch.float32)
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise self._error(
                "gives predictions that are neither whole numbers nor lists of K numbers each", "mend its reply"
            ) from error
        if found.ndim > 2:
            raise self._error(f"gives predictions of the shape {tuple(found.shape)}", f"it must be {n} or {n}×K")
        kind = ("labels" if labels else "outputs", found[0].numel())
        self.kind = self.kind or kind
        if kind != self.kind:
            before, now = (f"{number} {what} an image" for what, number in (self.kind, kind))
            raise self._error(f"gave {before} at first and now gives {now}", "it must be the same model all the time")
        return found

    def _error(self, what: str, cure: str) -> InputError:
        return InputError(f"{self.url} {what}: {cure}")


def _check_address(url: str, allow_remote: bool) -> None:
    """Raise `InputError` for an address that is none, or is not on this machine though it must be."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{url} is not an address ({error}): write it like http://127.0.0.1:8000/predict") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{url} is not an address: write it like http://127.0.0.1:8000/predict")
    if not allow_remote and not _is_local(host):
        raise InputError(
            f"{url} is not on this machine: images are sent to 127.0.0.1, localhost or ::1 alone, unless you give "
            "Endpoint(url, allow_remote=True) as the model in Python"
        )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirect(HTTPRedirectHandler):
    """Images go to the address that was given, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> OpenerDirector:
    return build_opener(ProxyHandler({}), _NoRedirect)


def _reason(error: HTTPError) -> str:
    """What the reply to a refused request says."""
    try:
        said = json.loads(error.read(MOST_BYTES))["error"]
    except Exception:  # whatever it holds
        said = error.reason
    return one_line(ValueError(said))
