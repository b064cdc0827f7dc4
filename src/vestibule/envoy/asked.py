"""A world that writes down what it is asked, so that it can be told later whether the answers are still the same.

A pure compiler cannot have used anything else: equal answers mean equal results.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar, cast

from vestibule.envoy.world import World

_MOST: Final = 200_000
"""Questions that are remembered; beyond it they are asked anew, which costs time and changes nothing."""

_NO_QUESTIONS: Final = frozenset({"compiled"})
"""What is kept of answers that were given to others, and asked for by each."""

_Made = TypeVar("_Made")


class Question:
    """A method's name with its arguments, or an attribute's name without; and what was answered."""

    __slots__ = ("answer", "given", "name")

    def __init__(self, name: str, given: tuple[Any, ...] | None, answer: Any) -> None:
        self.name = name
        self.given = given
        self.answer = answer

    def ask(self, world: World) -> Any:
        """Its answer in a world."""
        found = getattr(world, self.name)
        return found if self.given is None else found(*self.given)


class Part:
    """Something that was made of answers, and is the same for all who need it."""

    __slots__ = ("trace", "value")

    def __init__(self, value: Any, trace: Trace) -> None:
        self.value = value
        self.trace = trace


Trace = tuple[Question | Part, ...]
"""All that one compilation asked, itself or by its parts."""


class Questions:
    """What compilations ask of one world after another.  Many ask the same, which is answered once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[Any, ...] | None], Question] = {}
        self._parts: dict[Hashable, Part] = {}
        self._verdicts: dict[Question | Part, bool] = {}
        self._world: World | None = None

    def turn_to(self, world: World) -> None:
        """From now on this world is meant."""
        self._world = world
        self._verdicts = {}
        if len(self._known) + len(self._parts) > _MOST:
            self._known, self._parts = {}, {}

    def still_hold(self, trace: Trace) -> bool:
        """Whether the world answers everything as it was answered before."""
        verdicts = self._verdicts
        for question in trace:
            holds = verdicts.get(question)
            if holds is None:
                holds = verdicts[question] = self._holds(question)
            if not holds:
                return False
        return True

    def _holds(self, question: Question | Part) -> bool:
        assert self._world is not None
        if isinstance(question, Part):
            return self.still_hold(question.trace)
        found = question.ask(self._world)
        # An intent that was read anew is another one; to compare it would cost more than to compile.
        return found is question.answer or (question.name != "intent" and found == question.answer)

    def part(self, key: Hashable, make: Callable[[World], Any]) -> Part:
        """What ``make`` makes of the world, made anew only if the world answers what it asks otherwise than before."""
        assert self._world is not None
        known = self._parts.get(key)
        if known is None or not self.still_hold((known,)):
            asked = Asked(self._world, self)
            known = self._parts[key] = Part(make(cast(World, asked)), asked.trace)
        return known

    def noted(self, name: str, given: tuple[Any, ...] | None, answer: Any) -> Question:
        """A question, with the answer that it has now; the same object as before if both are the same."""
        known = self._known.get((name, given))
        if known is None or (known.answer is not answer and known.answer != answer):
            known = self._known[name, given] = Question(name, given, answer)
        return known


class Asked:
    """Stands in for a world: whatever is asked of it is asked of the world, and noted."""

    def __init__(self, world: World, questions: Questions) -> None:
        self._world = world
        self._questions = questions
        self._trace: dict[Question | Part, None] = {}

    def part(self, key: Hashable, make: Callable[[World], _Made]) -> _Made:
        """What ``make`` makes of the world; ``key`` says what that is, so that it is made once for many."""
        part = self._questions.part(key, make)
        self._trace[part] = None
        return cast(_Made, part.value)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._world, name)
        if name in _NO_QUESTIONS:
            return found
        if not callable(found):
            self._trace[self._questions.noted(name, None, found)] = None
            return found
        return self._noting(name, found)

    def _noting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*given: Any) -> Any:
            answer = method(*given)
            self._trace[self._questions.noted(name, given, answer)] = None
            return answer

        return ask

    @property
    def trace(self) -> Trace:
        """What was asked so far."""
        return tuple(self._trace)
