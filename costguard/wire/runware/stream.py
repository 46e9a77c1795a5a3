"""A stream that answers tasks: frames in any split, order and detail -> results, and how each task ends.

A frame is read as any response is: it may hold an item or several, errors, or both. What it adds up to is kept
by result: figures are merged field by field, so that a later frame that says less takes nothing away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from costguard.tasks import Task
from costguard.wire import sse
from costguard.wire.dialect import Doubt, Ending, Judgement, Refused, Result, Success
from costguard.wire.runware import endings
from costguard.wire.runware.answers import WAITING, Envelope, Item, WireError, parse_response
from costguard.wire.runware.figures import Told

EVIDENCE_CHARS_MAX = 2_000
"""Characters of figures kept as evidence of a stream that was cut."""


def _repeats(told: Told, known: Told) -> bool:
    """Whether `told` says nothing that `known` does not say too."""
    return told.cost in (None, known.cost) and told.usage in (None, known.usage)


def _is_news(told: Told, known: Told) -> bool:
    """Whether `told` says something of which `known` says nothing at all."""
    return (known.cost is None and told.cost is not None) or (known.usage is None and told.usage is not None)


class _Growing:
    """One result of a stream as it grows."""

    __slots__ = ("has_final_figures", "has_text", "index", "is_finished", "seed", "told")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.seed: int | None = None
        self.told = Told()
        self.is_finished = False
        self.has_text = False
        self.has_final_figures = False

    def hear(self, item: Item) -> None:
        """One frame more of it."""
        self.told = self.told.merged(item.told)
        self.seed = item.seed if self.seed is None else self.seed
        self.has_text = self.has_text or item.worked
        if item.status != WAITING:  # what is under way is no end, whatever it tells
            self.is_finished = self.is_finished or item.finished
            self.has_final_figures = self.has_final_figures or not item.told.is_nothing

    def absorb(self, other: _Growing) -> None:
        """What was taken for another result is more of this one."""
        self.told = self.told.merged(other.told)
        self.seed = other.seed if self.seed is None else self.seed
        self.is_finished = self.is_finished or other.is_finished
        self.has_text = self.has_text or other.has_text
        self.has_final_figures = self.has_final_figures or other.has_final_figures

    @property
    def has_ended(self) -> bool:
        """It said why it ended, or what it cost."""
        return self.is_finished or self.has_final_figures

    def result(self) -> Result:
        """The result, as far as it was told."""
        return Result(self.index, self.seed, self.told.read())


class _Heard:
    """All that a stream said of one task that asked for `asked` results."""

    def __init__(self, asked: int) -> None:
        self.asked = asked
        self.results: list[_Growing] = []
        self.errors: list[WireError] = []
        self.frames = 0
        self.is_named = False
        self.text_length = 0
        self._indices: set[int] = set()
        # The one result of a task is that one, whatever index it is told with.
        self._is_indexed = asked > 1

    def hear(self, item: Item) -> None:
        """One frame, or one item of a frame."""
        self.is_named = True
        if item.told.is_empty and not item.worked and not item.finished:
            return  # a sign of life
        self.frames += 1
        self.text_length += item.text_length
        index = item.result_index if self._is_indexed else None
        if index is not None and index not in self._indices:
            self._indices.add(index)
            if len(self._indices) > self.asked:
                # More indices than results: they count the chunks.
                self._is_indexed, index = False, None
                self._collapse()
        self._result(item, index).hear(item)

    def _result(self, item: Item, index: int | None) -> _Growing:
        """The result that `item` is of, a new one if it is of none."""
        fitting = self._fitting(item.seed)
        if index is not None:
            found = next((result for result in fitting if result.index == index), None)
            if found is None:  # one that began without its index, or a new one
                begun = (result for result in fitting if result.index is None and not result.has_ended)
                found = next(begun, None) or self._began(index)
                found.index = index
            return found
        if not fitting:
            return self._began(None)
        last = fitting[-1]
        may_repeat = not item.finished or (self._indices and last.is_finished)
        if not item.worked and not item.told.is_empty and may_repeat:
            lacking = [result for result in fitting if result.is_finished and _is_news(item.told, result.told)]
            known = lacking or [result for result in fitting if _repeats(item.told, result.told)]
            if known:
                return known[0]
        if item.worked or item.finished:
            # Text after the end of a result begins the next one.
            return self._began(None) if last.is_finished and len(self.results) < self.asked else last
        return next((result for result in fitting if result.told.is_empty), last)

    def _fitting(self, seed: int | None) -> list[_Growing]:
        """The results that may be of `seed`: seeds that differ are different results."""
        return [result for result in self.results if None in (result.seed, seed) or result.seed == seed]

    def _began(self, index: int | None) -> _Growing:
        self.results.append(_Growing(index))
        return self.results[-1]

    def _collapse(self) -> None:
        """Put together, in order, what indices kept apart that are none."""
        apart, self.results = self.results, []
        for result in apart:
            result.index = None
            fitting = self._fitting(result.seed)
            begins = (result.has_text or result.is_finished) and len(self.results) < self.asked
            if not fitting or (begins and fitting[-1].is_finished):
                self.results.append(result)
            else:
                fitting[-1].absorb(result)

    def is_over(self) -> bool:
        """Every result that was asked for said why it ended."""
        return len(self.results) >= self.asked and all(result.is_finished for result in self.results)

    def ending(self, cut: str | None, further: Sequence[WireError]) -> Ending:
        """How the task ends. A cut stream is in doubt, unless each result had finished and told its exact total."""
        errors = [*self.errors, *further]
        doubtful = any(error.doubtful for error in errors)
        ended = [result for result in self.results if result.has_ended]
        is_whole = len(ended) == len(self.results)
        if ended and (cut is None or (is_whole and all(one.is_finished and one.told.has_total for one in ended))):
            # What did not come to its end is in doubt, whatever came whole beside it.
            short = len(ended) < self.asked
            missing = not is_whole or (short and (cut is not None or doubtful))
            reason = cut or f"{len(ended)} of {self.asked} results came whole"
            return Success(tuple([one.result() for one in ended]), missing, reason if missing else "")
        if errors and not self.frames and not doubtful:
            return Refused(endings.said(errors[0]))
        if errors:
            cut = f"error in the stream {errors[0].code}".strip()
        evidence: dict[str, object] = {"frames": self.frames, "text_length": self.text_length}
        if ended:
            evidence["figures"] = [one.told.raw()[:EVIDENCE_CHARS_MAX] for one in ended]
        return Doubt(cut or "the stream said nothing of the task", evidence, taken=self.is_named)


class Reader:
    """Listens to the stream that answers `tasks`. Never raises, keeps no text."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._parser = sse.EventParser()
        self._tasks = tasks
        self._heard = {task.uuid: _Heard(task.results) for task in tasks if task.billable}
        self._unnamed: list[WireError] = []
        self._events = 0
        self._whole: Envelope | None = None
        self._is_done = False

    @property
    def is_whole(self) -> bool:
        """True once nothing more can come: the end's mark did, or each result said why it ended and its exact total."""
        return self._is_done or all(
            heard.is_over() and all(result.told.has_total for result in heard.results) for heard in self._heard.values()
        )

    @property
    def has_heard(self) -> bool:
        """True once anything came that can be read."""
        return self._events > 0

    def feed(self, chunk: bytes) -> None:
        """One chunk of decoded bytes."""
        for event in self._parser.feed(chunk):
            self._hear(event)

    def judge(self, cut: str | None) -> Judgement:
        """How each task ends; see `Listener`."""
        for event in self._parser.end():
            self._hear(event)
        if self._events == 1 and self._whole is not None and not self._is_done:
            return endings.judge(self._tasks, 200, self._whole)  # no stream, but a whole response
        if self._is_done and (cut is None or len(self._heard) == 1 or all(map(_Heard.is_over, self._heard.values()))):
            cut = None  # whatever the reader did afterwards; of several tasks it may be the end of one
        elif cut is None:
            cut = "the stream ended without [DONE]"
        # Errors that name none of several tasks cast doubt on all, and prove nothing of any.
        further = [replace(error, doubtful=True) for error in self._unnamed]
        return Judgement({uuid: heard.ending(cut, further) for uuid, heard in self._heard.items()})

    def _hear(self, event: sse.Event) -> None:
        if sse.is_done(event.data):
            self._is_done = True
            return
        envelope = parse_response(event.data)
        if envelope is None:
            return
        self._events += 1
        self._whole = envelope if event.bare else None
        for error in envelope.errors:
            heard = self._of(error.task_uuid)
            if heard is not None:
                heard.errors.append(error)
            elif not error.task_uuid:
                self._unnamed.append(error)
        for item in envelope.items:
            heard = self._of(item.task_uuid)
            if heard is not None:
                heard.hear(item)
            elif not item.task_uuid and item.has_result:
                self._unnamed.append(WireError("", "", "", "", doubtful=True))  # nobody knows whose it is

    def _of(self, task_uuid: str) -> _Heard | None:
        """Some models stream an empty `taskUUID`: it means the one task there is."""
        if not task_uuid and len(self._heard) == 1:
            return next(iter(self._heard.values()))
        return self._heard.get(task_uuid)


def read_events(body: bytes) -> Envelope | None:
    """All that a whole body of events says, as one response; None if it holds no event that can be read."""
    parser = sse.EventParser()
    found = [parse_response(event.data) for event in (*parser.feed(body), *parser.end())]
    told = [envelope for envelope in found if envelope is not None]
    if not told:
        return None
    return Envelope(
        tuple(item for envelope in told for item in envelope.items),
        tuple(error for envelope in told for error in envelope.errors),
        tuple(details for envelope in told for details in envelope.details),
    )
