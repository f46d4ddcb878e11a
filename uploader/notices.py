"""What reaches the uploader's loop through its queue."""

from dataclasses import dataclass

from uploader.settling import Report


@dataclass(frozen=True, slots=True)
class Seen:
    """The watcher saw something at a path relative to incoming/."""

    name: str
    closed: bool = False
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Rescan:
    """Something may have been missed: look at everything soon."""


@dataclass(frozen=True, slots=True)
class ProbeNow:
    """A person wishes that a pause end now, by its probe."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A delivery, or a charge, has ended.

    Attributes:
        beside: how many were under way when it began, itself among them.
        large: it holds a large instance.
    """

    names: tuple[str, ...]
    begun: float
    probe: bool
    beside: int
    large: bool
    report: Report | None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Begin nothing new, and end."""
