"""What a run remembers of what was measured before, contest by contest and of the whole model: journal and store."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from twinkle_tune.capture.block import Block
from twinkle_tune.capture.capture import Observation
from twinkle_tune.contest.call import digest_of
from twinkle_tune.peers import from_first, peers
from twinkle_tune.profile.outcomes import Outcomes, Stored, StoreDamagedError, StoreError
from twinkle_tune.profile.past import Question, is_lasting
from twinkle_tune.profile.schema import Contest
from twinkle_tune.profile.whole import WholeAnswer, WholeQuestion
from twinkle_tune.slot import Candidate
from twinkle_tune.source.digest import digest_code, digest_text
from twinkle_tune.terms import Terms
from twinkle_tune.tune.journal import Journal, JournalError
from twinkle_tune.version import TOOL
from twinkle_tune.workload import observe, target_of

Kept = TypeVar("Kept")


class Memory:
    """The journal and the store of a run, either of which there may be none of."""

    def __init__(self, journal: Journal | None, store: Outcomes | None) -> None:
        """``store`` is asked after ``journal``, and told only what holds in other runs too."""
        self.journal = journal
        self.store = store
        self.recalled: set[tuple[str, str, tuple[str, ...]]] = set()
        """Slot, workload and instances of the contests that were."""
        self.recalled_whole = 0
        """How many answers of the whole model were."""

    def recall(self, question: Question, observation: Observation) -> Contest | None:
        """The outcome of a contest that answers the question, as one of these calls; None if there is none.

        Raises:
            JournalError: the journal cannot be written.
            StoreDamagedError: what is in the store is not what was put there.
        """
        found = from_first("a past outcome", lambda: self._recalled(question))
        if found is None:
            return None
        self.recalled.add((observation.slot.name, observation.workload.key, observation.instances))
        timed_on = found.timed_on
        if timed_on is not None and timed_on.block and observation.block is not None:
            timed_on = replace(timed_on, path=observation.block.path)
        return replace(
            found,
            timed_on=timed_on,
            slot=observation.slot,
            instances=observation.instances,
            seen=observation.seen,
            workload=observation.workload,
        )

    def _recalled(self, question: Question) -> Contest | None:
        found = None if self.journal is None else self.journal.recall(question)
        if found is None and self.store is not None:
            stored = self._stored(question)
            if stored is not None:
                chosen = stored.contest.selection
                reason = f"{chosen.reason}; measured {stored.measured}, taken from the store"
                found = replace(stored.contest, selection=replace(chosen, reason=reason))
                if self.journal is not None:
                    self.journal.keep(question, found)
        return found

    def keep(self, question: Question, contest: Contest) -> None:
        """Remember a contest that was held.

        Raises:
            JournalError: the journal cannot be written. A store that cannot be used is a warning: the run goes on.
        """
        if self.journal is not None:
            self.journal.keep(question, contest)
        # A block that was to be timed and could not be may be timed another time.
        if self.store is not None and is_lasting(contest) and not (question.block and not contest.block):
            try:
                self.store.keep(question, contest)
            except StoreError as error:
                self._give_up(error)

    def recall_whole(self, question: WholeQuestion, *, counts: bool = True) -> WholeAnswer | None:
        """The answer to a question about the whole model; None if there is none.

        ``counts``: whether it is counted, and written down in the journal as well; else the run may not have begun.

        Raises:
            JournalError, StoreDamagedError: as :meth:`recall`.
        """
        found = from_first("a past answer", lambda: self._recalled_whole(question, counts=counts))
        self.recalled_whole += counts and found is not None
        return found

    def _recalled_whole(self, question: WholeQuestion, *, counts: bool) -> WholeAnswer | None:
        found = None if self.journal is None else self.journal.recall_whole(question)
        if found is None and self.store is not None:
            store = self.store
            found = self._asked(lambda: store.recall_whole(question))
            if found is not None and self.journal is not None and counts:
                self.journal.keep_whole(question, found)
        return found

    def keep_whole(self, question: WholeQuestion, answer: WholeAnswer, *, lasts: bool) -> None:
        """Remember an answer of the whole model; ``lasts``: for other runs as well.

        Raises:
            JournalError: as :meth:`keep`.
        """
        if self.journal is not None:
            self.journal.keep_whole(question, answer)
        if self.store is not None and lasts:
            try:
                self.store.keep_whole(question, answer)
            except StoreError as error:
                self._give_up(error)

    def _stored(self, question: Question) -> Stored | None:
        assert self.store is not None
        store = self.store
        return self._asked(lambda: store.recall(question))

    def _asked(self, recall: Callable[[], Kept | None]) -> Kept | None:
        try:
            return recall()
        except StoreDamagedError:
            raise
        except StoreError as error:
            self._give_up(error)
            return None

    def _give_up(self, error: StoreError) -> None:
        # Hours of measuring are not to end because a convenience fails.
        self.store = None
        warnings.warn(f"{error}; the rest of this run goes without it", stacklevel=3)


def memory_of(journal: Journal | None, store: Outcomes | None) -> Memory:
    """The memory of a run; of several processes that tune together rank 0's alone, which the others are told.

    Raises:
        JournalError: it is no journal.
        StoreError: it is no store.
    """
    if not (journal is None or isinstance(journal, Journal)):
        raise JournalError(f"journal: got {journal!r:.80}, expected a Journal; open it with Journal(path)")
    if not (store is None or isinstance(store, Outcomes)):
        raise StoreError(f"store: got {store!r:.80}, expected a Store; open it with Store(path)")
    those = peers()
    return Memory(journal, store) if those is None or those.rank == 0 else Memory(None, None)


def question_of(observation: Observation, candidates: Sequence[Candidate], terms: Terms, environment: str) -> Question:
    """The question that a contest answers; ``environment`` is the fingerprint."""
    original = observation.occurrence.original
    return Question(
        slot=observation.slot.name,
        workload=observation.workload.key,
        terms=terms,
        environment=environment,
        candidates=tuple((c.name, digest_of(c, observation.slot, original)) for c in candidates),
        tool=TOOL,
        block=_block_digest(observation.block) if terms.mode.compiles and observation.block is not None else "",
    )


def _block_digest(block: Block) -> str:
    """Of its code, its modules, the form of its call, and where the slot lies in it."""
    call = observe(target_of(type(block.module)), block.call.args, block.call.kwargs, block.module)
    codes = sorted({digest_code(type(part)) for part in block.module.modules()})
    return digest_text(call.key, repr(block.module), *codes, *block.places, str(block.calls))
