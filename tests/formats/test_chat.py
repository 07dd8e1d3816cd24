"""Logs of chat agents: who said what becomes observations and actions, and what is wrong is one line."""

import json
import math

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from seqdec.cli.main import main
from seqdec.data.dataset import episode_at
from seqdec.data.schema import environment_of
from seqdec.data.source import file_identity
from seqdec.errors import DataError, UsageError
from seqdec.formats.chat import source
from seqdec.formats.load import load_dataset


def write(path, *conversations):
    path.write_text("".join(json.dumps(conversation) + "\n" for conversation in conversations))
    return path


def episodes_of(data):
    dataset = load_dataset(data)
    return [episode_at(dataset, index) for index in range(len(dataset))]


def said(*turns, **more):
    """A conversation of pairs: who, and what."""
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


def parts(episode):
    """Observations, actions, the final observation, rewards and the task of an episode."""
    steps = episode.steps
    rewards = steps["reward"].tolist()
    return [*steps["observation"]], [*steps["action"]], str(episode.final["observation"]), rewards, episode.text


CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"at": "Rome", "days": [1, 2]}'}}
OTHER = {"id": "b", "type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
BROKEN = {"function": {"name": "n", "arguments": "{no"}}
LOOK, ADD = '{"name": "look", "arguments": {"at": "Rome", "days": [1, 2]}}', '{"name": "add", "arguments": {"x": 1}}'


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        pytest.param(
            said(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("gpt", "Ciao")),
            (["Hi", "Bye"], ["Hello", "Ciao"], "", [0, 0], "Be kind."),
            id="openai",
        ),
        pytest.param(
            {"conversations": [
                {"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Ho"}, {"from": "observation", "value": "3"}], "system": "In short."},
            (["Hi"], ["Ho"], "3", [0], "In short.\n\nBe kind."),
            id="sharegpt",
        ),
        pytest.param(said(("assistant", "Hi"), ("assistant", "Ho")), (["", ""], ["Hi", "Ho"], "", [0, 0], ""),
                     id="begins with the assistant, who speaks twice"),
        pytest.param(said(("developer", "a"), ("system", ""), ("system", "b"), ("user", ""), ("assistant", "")),
                     ([""], [""], "", [0], "a\n\nb"), id="several systems, and empty texts"),
        pytest.param(said(("user", "a"), ("user", "b"), ("assistant", "c"), ("system", "d"), ("user", "e"),
                          ("model", "f")),
                     (["a\n\nb", "system: d\n\ne"], ["c", "f"], "", [0, 0], ""), id="several users, a late system"),
        pytest.param(said(("user", "a"), ("system", "b"), ("assistant", "c")), (["a\n\nsystem: b"], ["c"], "", [0], ""),
                     id="a system behind the user"),
        pytest.param(
            {"messages": [
                {"role": "user", "content": "Warm?"},
                {"role": "assistant", "content": "I look.", "tool_calls": [CALL, OTHER]},
                {"role": "tool", "tool_call_id": "b", "content": "2"},
                {"role": "tool", "tool_call_id": "a", "content": "31"},
                {"role": "assistant", "content": None, "tool_calls": [OTHER]},
                {"role": "tool", "tool_call_id": "b", "content": "5"},
                {"role": "tool", "tool_call_id": "b", "content": "6"},
                {"role": "assistant", "content": "Yes", "tool_calls": []},
                {"role": "function", "name": "look", "content": "7"}, {"role": "user", "content": "Thanks"}]},
            (["Warm?", "add: 2\n\nlook: 31", "5\n\n6"], [f"I look.\n{LOOK}\n{ADD}", ADD, "Yes"],
             "look: 7\n\nThanks", [0, 0, 0], ""),
            id="tools say their names where several speak",
        ),
        pytest.param(
            {"messages": [
                {"role": "assistant", "tool_calls": [{"name": "stop", "arguments": None}, BROKEN]},
                {"role": "assistant", "content": "", "function_call": {"name": "é", "arguments": "[]"}},
                {"role": "tool_response", "content": "x"}, {"role": "user", "content": "y"},
                {"role": "gpt", "content": "z"}]},
            (["", "", "tool_response: x\n\ny"],
             ['{"name": "stop", "arguments": {}}\n{"name": "n", "arguments": "{no"}',
              '{"name": "é", "arguments": []}', "z"],
             "", [0, 0, 0], ""),
            id="calls of other forms",
        ),
        pytest.param(
            said(("user", [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]),
                 ("assistant", [{"text": "d"}])),
            (["a\nb\nc"], ["d"], "", [0], ""), id="parts",
        ),
    ],
)  # fmt: skip
def test_a_conversation_becomes_an_episode(conversation, expected, tmp_path):
    (episode,) = episodes_of(f"chat:{write(tmp_path / 'log.jsonl', conversation)}")
    assert parts(episode) == expected
    assert episode.terminated and not episode.truncated


TWO = (("user", "a"), ("assistant", "b"), ("tool", "c"), ("assistant", "d"))


@pytest.mark.parametrize(
    ("of_all", "of_turns", "expected"),
    [
        ({}, {}, [0, 0]),
        ({"reward": 0.5}, {}, [0, 0.5]),
        ({"score": -3}, {}, [0, -3]),
        ({"success": True}, {}, [0, 1]),
        ({"success": False}, {1: {"score": 2}}, [2, 0]),
        ({"label": True}, {}, [0, 1]),
        ({"rewards": [1, 2.5]}, {}, [1, 2.5]),
        ({"rewards": 4}, {}, [0, 4]),
        ({"reward": None, "score": 7, "success": False, "label": "good"}, {}, [0, 7]),
        ({}, {1: {"reward": 1}, 3: {"success": True}}, [1, 1]),
        ({}, {1: {"reward": 1}, 2: {"reward": 0.25}}, [1.25, 0]),
        ({"reward": 10}, {3: {"reward": 1}}, [0, 11]),
    ],
)
def test_rewards_are_paid_at_the_turns_that_earn_them(of_all, of_turns, expected, tmp_path):
    conversation = said(*TWO, **of_all)
    for index, more in of_turns.items():
        conversation["messages"][index] |= more
    (episode,) = episodes_of(f"chat:{write(tmp_path / 'log.jsonl', conversation)}")
    assert episode.steps["reward"].tolist() == expected


GOOD = json.dumps(said(("user", "a"), ("assistant", "b"), success=True))


def spoiled(message=None, **more):
    return json.dumps(
        {"messages": [{"role": "user", "content": "a"}, message or {"role": "gpt", "content": "b"}], **more}
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "is no JSON (.*): write one object a line"),
        ("[1]", "is a JSON list: write one object a line"),
        ('{"messages": [], "messages": []}', "the key 'messages' is there twice"),
        ("[" * 99_999, "is no JSON (nested too deep)"),
        ("{}", "it has no messages: expected a list of them under 'messages' or 'conversations'"),
        ('{"messages": null}', "it has no messages"),
        ('{"messages": "hi"}', "messages holds a text: expected a list of objects"),
        ('{"conversations": ["hi"]}', "conversations holds a text: expected a list of objects"),
        ('{"messages": []}', "no message is the assistant's: an episode needs a turn of the assistant"),
        (json.dumps(said(("user", "a"), ("tool", "b"))), "no message is the assistant's"),
        (spoiled({"role": "robot", "content": "b"}), "messages[1]: its role is 'robot': expected one of system, "),
        (spoiled({"role": ["gpt"], "content": "b"}), "messages[1]: its role is "),
        (spoiled({"content": "b"}), "messages[1]: it has no role: expected one of system, "),
        (spoiled({"role": "assistant"}), "messages[1]: it has no content or value"),
        (spoiled({"role": "tool", "content": None}), "messages[1]: it has no content or value"),
        (spoiled({"role": "assistant", "content": 7}), "messages[1]: its content is a number: expected a text"),
        (spoiled({"from": "gpt", "value": {"a": 1}}), "messages[1]: its value is an object: expected a text"),
        (spoiled({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}),
         "messages[1]: its content has a part that is 'image_url': only parts that are texts are read"),
        (spoiled({"role": "user", "content": [7]}), "its content has a part that is 'a number'"),
        (spoiled({"role": "user", "content": [{"type": "text"}]}), "its content has a part that is 'text'"),
        (spoiled({"role": "gpt", "content": "b", "tool_calls": {"name": "a"}}), "tool_calls holds an object"),
        (spoiled({"role": "gpt", "content": "b", "tool_calls": [7]}), "tool_calls holds a number: expected a list of"),
        (spoiled({"role": "gpt", "content": "b", "tool_calls": [{}]}), "messages[1]: it calls a tool without a name"),
        (spoiled({"role": "gpt", "tool_calls": [{"function": "a"}]}), "messages[1]: it calls a tool without a name"),
        (spoiled({"role": "gpt", "content": "\ud800"}), "it holds '\\ud800', which is half a character"),
        (json.dumps(said(("user", "\udc00"), ("gpt", "b"))), "it holds '\\udc00', which is half a character"),
        (spoiled(system="\udfff"), "it holds '\\udfff', which is half a character"),
        (spoiled(system=7), "its system is a number: expected a text"),
        (spoiled(reward="much"), "its reward is 'much': expected a finite number, or true or false"),
        (spoiled(score={"a": 1}), "its score is an object: expected a finite number"),
        (spoiled(reward=math.nan), "its reward is 'nan': expected a finite number"),
        (spoiled(reward=-math.inf), "its reward is '-inf': expected a finite number"),
        (spoiled(reward=10**400), "its reward is '1000"),
        (spoiled(rewards=[1, 2]), "it has 2 rewards for 1 turns of the assistant: give one a turn"),
        (spoiled(rewards=["a"]), "its rewards is 'a': expected a finite number"),
        (spoiled({"role": "gpt", "content": "b", "label": "good"}), "messages[1]: its label is 'good'"),
        (spoiled({"role": "gpt", "content": "b", "rewards": [1]}), "its reward is a list of 1: expected one number"),
        (json.dumps({"messages": [{"role": "user", "content": "a", "reward": 1}, {"role": "gpt", "content": "b"}]}),
         "messages[0]: it has a reward before the first turn of the assistant, which would earn it"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_one_sentence_with_file_and_line(line, sentence, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(DataError) as caught:
        load_dataset(f"chat:{path}")
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3") and "\n" not in message and len(message) < 600
    assert all(part in message for part in sentence.split(".*")), message


def test_a_log_without_conversations_is_one_sentence(tmp_path):
    for content, sentence in (("", "it is empty"), (" \n\n", "it is empty"), ("[]", "is one JSON list")):
        (tmp_path / "log.jsonl").write_text(content)
        with pytest.raises(DataError, match=sentence):
            load_dataset(f"chat:{tmp_path / 'log.jsonl'}")
    parquet.write_table(pa.table({"messages": pa.array([], pa.list_(pa.string()))}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match="has no conversations: give at least one"):
        load_dataset(f"chat:{tmp_path / 'log.parquet'}")
    with pytest.raises(UsageError, match=r"'.*lgo.jsonl' is here; did you mean 'log.jsonl'"):
        load_dataset(f"chat:{tmp_path / 'lgo.jsonl'}")
    with pytest.raises(UsageError, match=r"chat has no option 'columns'; it takes split, config"):
        load_dataset(f"chat:{tmp_path / 'log.jsonl'}", columns={})


ODD = [
    "",
    "é",
    "مرحبا بالعالم",
    "a\u200bb\ufeff",
    "🙂👩‍👩‍👧",
    "\x00\x1b[2J\x7f",
    "tab\tnew\nline\r\n",
    "x" * 100_000,
    "\ufffe",
]


def test_any_text_comes_back_and_is_in_the_space(tmp_path):
    conversations = [said(("system", text), ("user", text), ("assistant", text), ("user", text)) for text in ODD]
    dataset = load_dataset(f"chat:{write(tmp_path / 'log.jsonl', *conversations)}", folder=tmp_path / "data")
    for index, text in enumerate(ODD):
        assert parts(episode_at(dataset, index)) == ([text], [text], text, [0], text)
    spec = environment_of(dataset)
    assert spec.id == "chat"
    for space in (spec.observation_space, spec.action_space):
        assert all(space.contains(text) for text in [*ODD, "take clean, brown shirt!"])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(texts, texts, st.floats(-1e3, 1e3, width=32)), min_size=1, max_size=4), last=texts)
def test_alternating_turns_come_back(tmp_path, turns, last):
    messages = []
    for observation, action, reward in turns:
        messages += [
            {"role": "user", "content": observation},
            {"role": "assistant", "content": action, "reward": reward},
        ]
    messages.append({"role": "user", "content": last})
    (episode,) = episodes_of(f"chat:{write(tmp_path / 'log.jsonl', {'messages': messages})}")
    observations, actions, rewards = (list(part) for part in zip(*turns, strict=True))
    assert parts(episode) == (observations, actions, last, rewards, "")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_line_holds_only_our_errors_come(tmp_path, data):
    scalars = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.sampled_from(["user", "gpt", "tool"])
    keys = [
        "role",
        "from",
        "content",
        "value",
        "tool_calls",
        "function_call",
        "function",
        "name",
        "arguments",
        "reward",
    ]
    keyed = st.sampled_from([*keys, "text", "type", "tool_call_id", "id"])
    anything = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keyed, inner, max_size=5)
    )
    whole = {"messages": st.lists(anything, max_size=3) | anything, "success": scalars, "system": anything}
    conversation = data.draw(st.fixed_dictionaries({}, optional=whole))
    try:
        load_dataset(f"chat:{write(tmp_path / 'log.jsonl', conversation)}")
    except DataError as error:
        assert str(tmp_path) in str(error)


def conversations(first=0):
    return [
        said(("system", "s"), ("user", f"question {index}"), ("assistant", f"answer {index}"), score=index % 3)
        for index in range(first, first + 5)
    ]


def test_files_of_a_folder_follow_one_another(tmp_path):
    for number in (10, 9):
        write(tmp_path / f"part-{number}.jsonl", *conversations(5 * number))
    episodes = episodes_of(f"chat:{tmp_path}")
    assert [episode.steps["action"][0] for episode in episodes] == [f"answer {index}" for index in range(45, 55)]
    (tmp_path / "part-9.jsonl").write_text(f"{GOOD}\n{{}}\n")
    with pytest.raises(DataError, match=r"part-9.jsonl, line 2: it has no messages"):
        load_dataset(f"chat:{tmp_path}")


def test_tables_of_conversations_equal_their_lines(tmp_path, monkeypatch):
    """Arrow gives all objects of a column the same keys: what others have is null, and means nothing."""
    rows = conversations()
    rows[1]["messages"][2] |= {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": 1}}}]}
    rows[2]["messages"][2] |= {"tool_calls": [{"id": "2", "function": {"name": "g", "arguments": {"y": [2]}}}]}
    rows[3]["messages"][2] |= {"content": None, "tool_calls": [{"id": "3", "function": {"name": "h"}}]}
    rows[0] |= {"success": None}  # a column of all rows, for `datasets` takes them from the first
    rows[4] |= {"score": None, "success": True}
    expected = [parts(episode) for episode in episodes_of(f"chat:{write(tmp_path / 'log.jsonl', *rows)}")]
    assert expected[1][1] == ['answer 1\n{"name": "f", "arguments": {"x": 1}}']
    dataset = datasets.Dataset.from_list(rows)
    dataset.to_parquet(tmp_path / "log.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(tmp_path / "splits")
    for name in ("log.parquet", "saved", "splits"):
        assert [parts(episode) for episode in episodes_of(f"chat:{tmp_path / name}")] == expected, name
    assert len(load_dataset(f"chat:{tmp_path / 'splits'}", split="test")) == 1
    spoilt = [*rows, {"messages": [{"role": "robot", "content": "a"}]}]
    datasets.Dataset.from_list(spoilt).to_parquet(tmp_path / "log.parquet")
    monkeypatch.setattr("seqdec.formats.table_formats.BLOCK_ROWS", 2)
    with pytest.raises(DataError, match=r"log.parquet, row 5: messages\[0\]: its role is 'robot'"):
        load_dataset(f"chat:{tmp_path / 'log.parquet'}")


def test_a_set_of_the_hub_is_read_as_files_are(tmp_path, monkeypatch):
    """The folder of a repository stands in for the Hub, which `datasets` would fetch it from."""
    (tmp_path / "user" / "set").mkdir(parents=True)
    write(tmp_path / "user" / "set" / "train.jsonl", *conversations())
    load = datasets.load_dataset_builder
    here = str(tmp_path / "user" / "set")
    monkeypatch.setattr("datasets.load_dataset_builder", lambda name, config: load(here, cache_dir=str(tmp_path / "c")))
    monkeypatch.setattr("seqdec.formats.open_table.is_hub_reachable", lambda: True)
    found = [parts(episode) for episode in episodes_of("chat:user/set")]
    assert found == [parts(episode) for episode in episodes_of(f"chat:{here}")]


def test_a_source_knows_how_many_there_are_and_what_it_depends_on(tmp_path):
    path = write(tmp_path / "log.jsonl", *conversations())
    found = source(path)
    assert found.num_episodes == 5
    assert found.identity["files"] == file_identity([path])
    assert [row["text"] for row in found.read()] == [row["text"] for row in found.read()] == ["s"] * 5


def test_a_log_that_pays_for_nothing_is_told(tmp_path, caplog):
    load_dataset(f"chat:{write(tmp_path / 'a.jsonl', said(('assistant', 'a'), success=True))}")
    assert not caplog.records
    load_dataset(f"chat:{write(tmp_path / 'b.jsonl', said(('assistant', 'a'), success=False))}")
    assert "b.jsonl pays for nothing: no conversation or turn has a reward, rewards, score" in caplog.text


def test_the_verb_converts_a_log_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "log.jsonl", *conversations())
    assert main(["data", "convert", "chat:log.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "environment    chat" in shown and "action         Text" in shown and "data: data/log" in shown
    assert len(load_dataset("data/log")) == 5
    assert main(["data", "convert", "chat:./log.jsonl"]) == 0
    assert "holds this already" in capsys.readouterr().out
    write(tmp_path / "log.jsonl", {"messages": 7})
    assert main(["data", "convert", "chat:log.jsonl", "--output", "data/b"]) == 65
    assert "log.jsonl, line 1: messages holds a number" in capsys.readouterr().err
    assert not (tmp_path / "data" / "b").exists()


def test_rewards_that_are_too_large_are_refused_as_everywhere(tmp_path):
    path = write(tmp_path / "log.jsonl", *conversations(), said(("assistant", "a"), reward=1e30))
    with pytest.raises(DataError, match=r"episode 5, step 0: reward is 1e\+30, too large to train on"):
        load_dataset(f"chat:{path}")
    assert np.isfinite(source(path).num_episodes)
