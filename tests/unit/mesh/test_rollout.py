"""The table of rollouts: what follows from what."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.mesh.rollout import (
    PAUSED,
    TABLE,
    Event,
    Happening,
    Move,
    Phase,
    State,
    step,
    version_for,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
STEADY = State(good="v1", head="v1", since=NOW)
WAVE = frozenset({"a-1", "b-1"})


def after(state: State, *happenings: Event | Happening) -> State:
    for each in happenings:
        event = each if isinstance(each, Event) else Event(what=each, now=NOW)
        state = step(state, event).state
    return state


def offered(version: str, wave: frozenset[str] | None = None) -> Event:
    return Event(what=Happening.OFFERED, now=NOW, version=version, wave=wave)


def reverted(version: str) -> Event:
    return Event(what=Happening.REVERTED, now=NOW, version=version)


def failed(reason: str = "NACK") -> Event:
    return Event(what=Happening.FAILED, now=NOW, reason=reason)


def rolled_back(version: str) -> Event:
    return Event(what=Happening.ROLL_BACK, now=NOW, version=version, actor="ada", reason="slow")


def has(state: State, instance_id: str = "z-9") -> str | None:
    return version_for(state, instance_id)


def test_the_table_says_something_of_everything() -> None:
    assert set(TABLE) == set(Phase)
    for moves in TABLE.values():
        assert set(moves) == set(Happening)


def test_the_first_intent_of_all_is_good_at_once() -> None:
    state = after(State(), offered("v1"))
    assert (state.phase, state.good, state.trial) == (Phase.STEADY, "v1", None)


def test_without_waves_all_try_it_and_it_is_good_once_it_was_watched() -> None:
    trying = after(STEADY, offered("v2"))
    assert (trying.phase, has(trying)) == (Phase.REST, "v2")
    done = after(trying, Happening.WATCHED)
    assert (done.phase, done.good, done.trial, has(done)) == (Phase.STEADY, "v2", None, "v2")


def test_a_first_wave_tries_it_before_the_others() -> None:
    first = after(STEADY, offered("v2", WAVE))
    assert (has(first, "a-1"), has(first, "z-9")) == ("v2", "v1")
    rest = after(first, Happening.WATCHED)
    assert (rest.phase, has(rest, "a-1"), has(rest, "z-9")) == (Phase.REST, "v2", "v2")
    assert after(rest, Happening.WATCHED).good == "v2"


def test_instances_of_a_service_that_only_the_new_intent_has_do_not_wait() -> None:
    first = after(STEADY, offered("v2", WAVE))
    assert version_for(first, "new-1", is_known=False) == "v2"


@pytest.mark.parametrize("wave", [None, WAVE])
def test_what_fails_is_taken_back_from_all_and_not_tried_again(wave: frozenset[str] | None) -> None:
    refused = after(STEADY, offered("v2", wave), failed("a-1 refused a listener"))
    assert refused.phase is Phase.REFUSED
    assert (refused.failed, refused.reason) == ("v2", "a-1 refused a listener")
    assert {has(refused, each) for each in ("a-1", "z-9")} == {"v1"}
    assert after(refused, offered("v2", wave)) == refused


def test_a_failure_in_the_second_wave_takes_it_back_too() -> None:
    refused = after(STEADY, offered("v2", WAVE), Happening.WATCHED, failed())
    assert has(refused) == "v1"


def test_what_is_said_of_another_version_changes_nothing() -> None:
    trying = after(STEADY, offered("v3"))
    for what in (Happening.FAILED, Happening.WATCHED):
        assert after(trying, Event(what=what, now=NOW, version="v2")) == trying


def test_what_comes_after_a_refused_one_is_tried() -> None:
    refused = after(STEADY, offered("v2"), failed())
    assert has(after(refused, offered("v3"))) == "v3"
    assert after(refused, reverted("v1")).phase is Phase.STEADY


def test_a_newer_one_takes_the_place_of_one_that_is_tried_and_back_is_the_last_good() -> None:
    third = after(STEADY, offered("v2", WAVE), offered("v3", WAVE))
    assert (has(third, "a-1"), has(third)) == ("v3", "v1")
    assert has(after(third, failed()), "a-1") == "v1"


def test_an_operators_rollback_holds_until_the_source_changes() -> None:
    pinned = after(replace(STEADY, good="v2", head="v2"), rolled_back("v1"))
    assert (pinned.phase, pinned.actor, pinned.reason, pinned.failed) == (Phase.PINNED, "ada", "slow", "v2")
    assert has(pinned) == "v1"
    assert has(after(pinned, offered("v2"))) == "v1"
    assert has(after(pinned, offered("v3"))) == "v3"
    assert has(after(pinned, Happening.RESUME)) == "v2"


def test_while_paused_nothing_goes_on_but_back_works() -> None:
    first = after(STEADY, offered("v2", WAVE), Happening.PAUSE)
    assert after(first, Happening.WATCHED) == first
    held = after(first, offered("v3"))
    assert (has(held, "a-1"), has(held)) == ("v2", "v1")
    assert has(after(held, failed()), "a-1") == "v1"
    assert has(after(held, rolled_back("v1")), "a-1") == "v1"
    assert after(held, failed()).paused
    assert has(after(held, Happening.RESUME)) == "v3"
    assert after(held, reverted("v1"), Happening.RESUME).phase is Phase.STEADY


def test_promoting_gives_the_newest_to_all_and_asks_no_proxy() -> None:
    for state in (
        after(STEADY, offered("v2", WAVE)),
        after(STEADY, offered("v2")),
        after(STEADY, offered("v2"), failed()),
        after(STEADY, Happening.PAUSE, offered("v2")),
        after(STEADY, offered("v2", WAVE), rolled_back("v1")),
    ):
        promoted = after(state, Happening.PROMOTE)
        assert (promoted.phase, promoted.good, has(promoted)) == (Phase.STEADY, "v2", "v2")


@pytest.mark.parametrize("what", [Happening.RESUME, Happening.PROMOTE])
def test_an_operator_is_told_when_there_is_nothing_to_do(what: Happening) -> None:
    with pytest.raises(VestibuleError, match="VST3240"):
        after(STEADY, what)
    with pytest.raises(VestibuleError, match="VST3240"):
        after(STEADY, rolled_back("v1"))


VERSIONS = st.sampled_from(["v1", "v2", "v3", "v4"])
WAVES = st.sampled_from([None, WAVE, frozenset({"z-9"})])


@st.composite
def events(draw: st.DrawFn) -> tuple[Happening, str, frozenset[str] | None]:
    return draw(st.sampled_from(list(Happening))), draw(VERSIONS), draw(WAVES)


def happen(
    state: State, what: Happening, version: str, wave: frozenset[str] | None
) -> tuple[State, Move | None]:
    """As ``mesh.rolling`` would tell of it."""
    if what in (Happening.OFFERED, Happening.REVERTED):
        what = Happening.REVERTED if version == state.good else Happening.OFFERED
    said = None if what in (Happening.WATCHED, Happening.FAILED) else version
    event = Event(what=what, now=NOW, version=said, wave=wave, reason="because", actor="ada")
    try:
        result = step(state, event)
    except VestibuleError as error:
        assert error.code.code == "VST3240"  # noqa: PT017 - the only one, and it changes nothing
        return state, None
    return result.state, result.move


@given(st.lists(events(), max_size=30))
def test_no_proxy_is_ever_left_with_what_was_refused(
    story: list[tuple[Happening, str, frozenset[str] | None]],
) -> None:
    state, refused = State(), None
    for what, version, wave in story:
        before = state
        state, move = happen(state, what, version, wave)
        if move is Move.GO_BACK:
            refused = before.trial
        elif move in (Move.TRY, Move.ACCEPT, Move.PIN):
            # The source changed, or an operator asked for it.
            refused = None
        given_out = {version_for(state, each) for each in ("a-1", "b-1", "z-9")}
        assert refused is None or refused not in given_out
        assert given_out <= {state.good, state.trial}
        assert (state.trial is not None) == (state.phase in (Phase.FIRST, Phase.REST))
        assert bool(state.wave) <= (state.phase is Phase.FIRST)


@given(st.lists(events(), max_size=30))
def test_every_rollout_ends(story: list[tuple[Happening, str, frozenset[str] | None]]) -> None:
    state = State()
    for what, version, wave in story:
        state, _ = happen(state, what, version, wave)
    if state.paused:
        state, _ = happen(state, Happening.RESUME, "", None)
    for _ in range(2):
        state, _ = happen(state, Happening.WATCHED, "", None)
    assert state.trial is None
    assert len({version_for(state, each) for each in ("a-1", "b-1", "z-9")}) == 1


def test_watching_begins_anew_with_each_wave() -> None:
    first = after(STEADY, offered("v2", WAVE))
    later = NOW + timedelta(seconds=30)
    widened = step(first, Event(what=Happening.WATCHED, now=later)).state
    assert widened.since == later


def test_the_page_shows_this_table() -> None:
    words = {
        Move.NOTHING: "–",
        Move.TRY: "try",
        Move.WIDEN: "widen",
        Move.ACCEPT: "accept",
        Move.GO_BACK: "go back",
        Move.DROP: "drop",
        Move.PIN: "pin",
        Move.PAUSE: "pause",
        Move.RESUME: "resume",
        Move.NOT_NOW: "refuse",
    }
    rows = [["phase", *(each.value for each in Happening)]]
    rows += [
        [f"`{phase.value}`", *(words[moves[each]] for each in Happening)] for phase, moves in TABLE.items()
    ]
    rows += [["paused", *(words[PAUSED[each]] if each in PAUSED else "as above" for each in Happening)]]
    page = (Path(__file__).parents[3] / "docs" / "rollout.md").read_text()
    for row in rows:
        assert f"| {' | '.join(row)} |" in page
