"""What a search is told, what it wrote down, and what came of it. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from twinkle_tune.errors import ConfigError
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.ops.space import Config
from twinkle_tune.outcome import Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How long a search looks, and how its best are raced.

    Attributes:
        budget: configs that are timed at most, known ones included; those that cannot run are not counted.
        race_all: a space of at most so many configs is timed whole and raced whole.
        finalists: of a larger space so many of the fastest are raced against the config used so far.
        patience: timings without a gain of 1% after which a search ends before its budget; None for three
            quarters of it, 60 at least.
        race: of the final race. Its ``min_gain`` is what a config must save over the one used so far.
        seed: of what is drawn at random.
        deadline_s: seconds that a search may take, its final race included; a config that was begun is finished. None
            for no limit.
    """

    budget: int = 60
    race_all: int = 60
    finalists: int = 6
    patience: int | None = None
    race: RaceSettings = field(default_factory=RaceSettings)
    seed: int = 0
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("budget", "finalists"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least 1")

    @property
    def patience_timings(self) -> int:
        """The patience as a number."""
        return max(60, self.budget * 3 // 4) if self.patience is None else self.patience


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStudy:
    """Where several workers share a search.

    Attributes:
        place: a file on a disk that they share, or the URL of a PostgreSQL server.
        worker: what this one is called, which decides what it draws; "" for a name that no other one has.
        workers: how many there are, if that is known: each times its share of the budget, and takes over from others
            only once it has heard nothing of them for a while.
    """

    place: str
    worker: str = ""
    workers: int | None = None

    def __post_init__(self) -> None:
        found = self.workers
        if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
            raise ConfigError(
                f"workers: got {found!r:.80}, expected at least 1, a whole number; leave it out where it is not known"
            )

    def share(self, timings: int) -> int:
        """Of so many timings, those of each worker."""
        return timings if self.workers is None else -(-timings // self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A config that was tried.

    Attributes:
        config: its values by name.
        how: who proposed it: "known" (the default, a neighbour's winner), "random", "child" (of two fast ones), "step"
            (next to a fast one) or "whole" (of a small space).
        time_us: microseconds of a call in one burst; None where it was refused. Decides what is tried next and who
            is in the final race, and nothing else.
        refused: stage and reason; None where it ran.
    """

    config: Config
    how: str
    time_us: float | None = None
    refused: Rejection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A config of the final race.

    Attributes:
        name: "original" for the config used so far, "config 1" for the fastest of the search.
        config: its values by name.
        times_us: microseconds of a call, one figure a round, paired by position with the original's.
        left: why it left the race, or was not let in; "" for the winner and the original.
    """

    name: str
    config: Config
    times_us: tuple[float, ...] = ()
    left: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What came of a search.

    Attributes:
        config: the winner; None where no config runs and is right: then the kernel must not be used.
        reason: why this one, in a sentence.
        ratio: its time over that of the config used so far, median over the paired rounds; 1.0 where that one stays.
        low, high: the interval of that median, at least 95% confidence.
        rounds: paired rounds behind the figure.
        size: configs in the space.
        timed: how many were timed.
        in_time: whether it ended by itself, not because its time was over.
        ended: why the search ended ("budget", "no gain in 40 timings", "whole space").
        tried: every config that was tried, in order.
        finalists: the final race.
        agreed: of a shared study, the winner that all workers go on with; None where no config is right.
    """

    config: Config | None
    reason: str
    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0
    rounds: int = 0
    size: int
    timed: int
    ended: str
    in_time: bool = True
    tried: tuple[Tried, ...] = ()
    finalists: tuple[Finalist, ...] = ()
    agreed: Config | None = None
