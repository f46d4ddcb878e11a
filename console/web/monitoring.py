"""For machines: /metrics in Prometheus' format, /healthz and /readyz. None of it says anything about a patient.

/healthz tells of the console alone, /readyz of the pipeline: 503 and in words what is missing. /metrics asks for the
bearer token `metrics_token` where that is set.
"""

import hmac
import threading
import time

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from common.config import Config
from console.activity import History
from console.metrics import Pipeline, Seen
from console.overview import Overview, look

_UNREADY = frozenset(("no-receiver", "no-uploader", "spool", "ledger", "disk-full"))
_FRESH_SECONDS = 1.0


def blueprint(config: Config, history: History) -> Blueprint:
    """The three of them.

    Args:
        config: the effective configuration.
        history: which something else has run.
    """
    pages = Blueprint("monitoring", __name__)
    overview = _Overviews(config)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Pipeline(lambda: Seen(overview.fresh(), history.totals())))
    token = config.console.metrics_token.encode()

    @pages.get("/metrics")
    def metrics() -> Response:
        shown = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if token and not hmac.compare_digest(shown, b"Bearer " + token):
            refused = _text("expected the bearer token of [console] metrics_token\n", 401)
            refused.headers["WWW-Authenticate"] = 'Bearer realm="Stowgate metrics"'
            return refused
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        answer = Response(encode(registry), content_type=content_type)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @pages.get("/healthz")
    def healthz() -> Response:
        return _text("the console is running\n")

    @pages.get("/readyz")
    def readyz() -> Response:
        missing = [trouble.text for trouble in overview.fresh().troubles if trouble.key in _UNREADY]
        if missing:
            return _text("".join(f"{text}\n" for text in missing), 503)
        return _text("instances are received and delivered\n")

    del metrics, healthz, readyz
    return pages


class _Overviews:
    """An overview that is a second old at most: whoever asks more often than that costs nothing more."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._seen: Overview | None = None
        self._at = 0.0

    def fresh(self) -> Overview:
        """It."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._at > _FRESH_SECONDS:
                self._seen = look(self._config)
                self._at = time.monotonic()
            return self._seen


def _text(text: str, status: int = 200) -> Response:
    answer = Response(text, status=status, content_type="text/plain; charset=utf-8")
    answer.headers["Cache-Control"] = "no-store"
    return answer
