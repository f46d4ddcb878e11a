"""How often something went otherwise than hoped, by a word of a fixed list. Nothing that goes well is counted here."""

import threading


class Tally:
    """Counts by word, since the process began. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def add(self, word: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[word] = self._counts.get(word, 0) + 1

    def counts(self) -> dict[str, int]:
        """All counts until now."""
        with self._lock:
            return dict(self._counts)
