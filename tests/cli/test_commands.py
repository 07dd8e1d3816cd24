"""The verbs that read, stream and mix data, from words to files: each word reaches what it names."""

import json
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from pyarrow import parquet

import lerobot_sets as lerobot
import table_files as table
from command_lines import HEAVY, errors_of, in_new_process, instead
from conftest import box_episodes, box_spec, discrete_episodes, discrete_spec
from dim_room import UNSEEN
from faults import Malice
from minari_sets import make_episodes, spoil, write_minari
from saved_sets import assert_same, file_times, flat_file
from seqdec import storage
from seqdec.cli import folders, options
from seqdec.cli.data import spec_of
from seqdec.cli.main import main
from seqdec.cli.train import Train, load_tasks
from seqdec.data.dataset import episode_at, from_episodes, save
from seqdec.data.description import describe
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of, lengths, returns
from seqdec.data.select import chosen, mix
from seqdec.formats.columns import Columns
from seqdec.formats.load import load_dataset
from seqdec.model.folder import load_policy
from seqdec.sequence.layout import Layout
from seqdec.spaces.spec import EnvironmentSpec

TINY = (
    "--backbone small --num-layers 1 --steps 2 --batch-size 4 --context-length 4 --log-every 1 --eval-every 0 "
    "--checkpoint-every 0 --episodes 2 --num-envs 2 --max-steps 9"
)


def run(words: str) -> None:
    assert main(words.split()) == 0


def weights(folder: Path) -> list[bytes]:
    """What a policy folder has learned."""
    return [path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))]


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl but for what depends on the clock."""
    return [{name: value for name, value in line.items() if "speed/" not in name} for line in metrics(folder)]


def keep(folder: Path, episodes: list[Episode], spec: EnvironmentSpec) -> Path:
    save(from_episodes(episodes, spec), folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets of two environments of vectors, of numbers, and of a room."""
    root = tmp_path_factory.mktemp("commands")
    run(f"data cartpole --output {root}/cartpole --episodes 8")
    run(f"data record Pendulum-v1 --output {root}/pendulum --episodes 4 --max-steps 12")
    run(f"data record seqdec-tests/Room-v0 --output {root}/room --episodes 8")
    run(f"data record seqdec-tests/DimRoom-v0 --output {root}/dim --episodes 8 --missing {UNSEEN}")
    keep(root / "box", box_episodes(12), box_spec())
    keep(root / "count", discrete_episodes(6), discrete_spec())
    return root


def test_words_of_data_hdf5_are_the_arguments_of_load_dataset(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    with h5py.File("pole.hdf5", "w") as file:
        file["observations"] = random.uniform(-0.1, 0.1, (24, 4)).astype(np.float32)
        file["actions"] = random.integers(0, 2, 24)
        file["rewards"], file["terminals"] = np.ones(24), np.arange(24) == 9
    run("data hdf5 pole.hdf5 --env CartPole-v1 --max-episode-steps 8")
    assert "data: data/pole" in capsys.readouterr().out, "the folder has the file's name"
    found = load_dataset("data/pole")
    assert lengths(found).tolist() == [8, 2, 8, 6]
    spec = environment_of(found)
    assert (spec.id, spec.max_episode_steps, spec.action_space) == ("CartPole-v1", 8, Discrete(2))
    assert_same(found, load_dataset("hdf5:pole.hdf5", spec=spec_of("CartPole-v1"), max_episode_steps=8))
    run("data hdf5 pole.hdf5 --output data/plain")
    assert environment_of(load_dataset("data/plain")).id is None


def test_words_of_data_table_are_its_columns(tmp_path: Path, monkeypatch, capsys):
    """A vector of columns, a Dict with an image, what is missing, what is kept, and what is not there."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"run": run, "x": step / 2, "y": float(run), "key": step % 2, "reward": 1.0, "fell": step == 2, "who": "me"}
        for run in range(5)
        for step in range(3)
    ]
    table.write(rows, Path("walk.csv"))
    run("data table walk.csv --episode run --observation x y --action key --terminated fell --keep who")
    columns = Columns("run", ["x", "y"], "key", terminated="fell", metadata=("who",))
    found = load_dataset("data/walk")
    assert_same(found, load_dataset("table:walk.csv", columns=columns))
    assert episode_at(found, 3).steps["observation"].tolist() == [[0, 3], [0.5, 3], [1, 3]]
    assert found["metadata.who"][:] == ["me"] * 5 and found["terminated"][:] == [True] * 5

    words = "data table walk.csv --episode run --observation x y --action key"
    run(f"{words} --terminated none --truncated none --text none --final none --output data/cut")
    assert load_dataset("data/cut")["truncated"][:] == [True] * 5
    assert "says of no episode how it ended" in capsys.readouterr().err

    images = np.arange(15 * 6, dtype=np.uint8).reshape(15, 2, 3)
    kind = pa.list_(pa.list_(pa.uint8()))
    gone = [index % 4 == 1 for index in range(15)]
    seen = pa.table({**pa.Table.from_pylist(rows).to_pydict(), "img": pa.array(images.tolist(), kind), "gone": gone})
    parquet.write_table(seen, "seen.parquet")
    words = "data table seen.parquet --episode run --terminated fell --action key --observation camera=img place=x,y"
    run(f"{words} --missing observation.place=gone observation.camera")
    found = load_dataset("data/seen")
    spec = environment_of(found)
    assert spec.observation_space == Dict(
        OrderedDict(camera=Box(0, 255, (2, 3), np.uint8), place=Box(-np.inf, np.inf, (2,)))
    )
    assert spec.missing == ("observation.camera", "observation.place")
    second = episode_at(found, 1)  # rows 3, 4 and 5 of the table
    assert second.steps["missing.observation.place"].tolist() == [[False] * 2, [False] * 2, [True] * 2]
    assert not second.steps["missing.observation.camera"].any()
    assert np.array_equal(second.steps["observation.camera"], images[3:6])


def test_words_of_data_lerobot_choose_cameras_sizes_and_episodes(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = {**lerobot.REWARDED, "observation.images.top": lerobot.camera(4, 6)}
    lerobot.write(Path("set"), lerobot.make_episodes(features), features, "v3.0")
    run("data lerobot set --cameras top --image-size 2 3 --episodes 2 0 --output data/small")
    small = load_dataset("data/small")
    assert_same(small, load_dataset("lerobot:set", cameras=["top"], image_size=(2, 3), episodes=[2, 0]))
    assert small["metadata.episode_index"][:] == [2, 0]
    assert environment_of(small).observation_leaves["observation.images.top"].shape == (2, 3, 3)
    run("data lerobot ./set --cameras skip")
    assert_same(load_dataset("data/set"), load_dataset("lerobot:set", cameras="skip"))


def test_data_minari_is_done_once_and_again_on_demand(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_minari(tmp_path / "tiny" / "set-v0", make_episodes(), change=spoil(0, "actions", [-3, 1.5]))
    said = errors_of("data minari tiny/set-v0", 65, capsys)
    assert "episode 0, step 0: action[0] is -3, outside Box(2) in [-1, 1] (1 of 4 episodes" in said
    assert "clip them with clip_actions=True (--clip-actions)" in said
    run("data minari tiny/set-v0 --clip-actions")
    before = file_times(tmp_path / "data" / "tiny-set-v0")
    assert "nothing to do" not in capsys.readouterr().out
    run("data minari minari:tiny/set-v0 --clip-actions")
    assert "data/tiny-set-v0 holds this already: nothing to do" in capsys.readouterr().out
    assert file_times(tmp_path / "data" / "tiny-set-v0") == before
    words = "data minari tiny/set-v0 --clip-actions --missing observation"
    assert "or other options" in errors_of(words, 2, capsys)
    run(f"{words} --replace")
    assert environment_of(load_dataset("data/tiny-set-v0")).missing == ("observation",)


def test_a_word_of_any_kind_is_converted_as_its_verb_does(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flat_file(tmp_path / "flat.hdf5", 60)
    run("data hdf5 flat.hdf5 --output data/verb")
    run("data convert hdf5:flat.hdf5")
    assert_same(load_dataset("data/flat"), load_dataset("data/verb"))
    capsys.readouterr()
    assert "data/flat is a data set already" in errors_of("data convert data/flat --output data/b", 2, capsys)
    assert "did you mean 'hdf5'" in errors_of("data convert hdf:flat.hdf5 --output data/b", 2, capsys)


def test_the_same_source_by_another_path_is_the_same_source(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    flat_file(tmp_path / "flat.hdf5", 60)
    (tmp_path / "walk.csv").write_text("run,observation,action,reward\na,0,1,1\na,0,2,0\nb,1,1,1\n")
    lerobot.write(tmp_path / "arm", lerobot.make_episodes())
    write_minari(tmp_path / "set-v0", make_episodes())
    monkeypatch.chdir(tmp_path / "here")
    for verb, name, more in (
        ("hdf5", "flat.hdf5", ""),
        ("table", "walk.csv", "--episode run"),
        ("lerobot", "arm", ""),
        ("minari", "set-v0", ""),
    ):
        run(f"data {verb} ../{name} {more} --output {tmp_path}/data/{verb}")
        assert "nothing to do" not in capsys.readouterr().out
        run(f"data {verb} {tmp_path}/here/../{name} {more} --output ../data/{verb}")
        assert "nothing to do" in capsys.readouterr().out
        shutil.copytree(tmp_path / name, name) if Path(f"../{name}").is_dir() else shutil.copy2(f"../{name}", name)
        assert main(f"data {verb} {name} {more} --output ../data/{verb}".split()) == 2
        assert "holds something else" in capsys.readouterr().err


def test_a_place_without_a_name_is_called_as_its_folder(tmp_path: Path, monkeypatch, root: Path):
    """ "." has no last part to name a picture, a run or a data set by."""
    lerobot.write(tmp_path / "arm", lerobot.make_episodes())
    monkeypatch.chdir(tmp_path / "arm")
    run("data lerobot .")
    assert len(load_dataset("data/arm")) == 4
    monkeypatch.chdir(tmp_path / "arm" / "data" / "arm")
    run("data show . --plot")
    run("data show ../arm/ --plot --output ..")
    assert Path("arm.png").is_file() and Path("../description.png").is_file()
    names = {".": "arm", "data/a.b": "a.b", "minari:a/b/c-v0": "b-c-v0", "hdf5:x.hdf5": "x", "task=table:t.csv": "task"}
    for place, name in names.items():
        assert folders.run_folder("", [place]) == Path("runs") / name


def test_show_describes_and_draws_into_a_folder_or_here(root: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    run(f"data show {root}/dim --plot")
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "picture: dim.png"
    run(f"data show {root}/dim --plot --output told")
    assert (tmp_path / "told" / "description.txt").read_text() in capsys.readouterr().out
    for path in (Path("dim.png"), Path("told/description.png")):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.rstrip().endswith(b"IEND\xaeB`\x82")
        width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
        assert (width, height) == (1344, 512), "8.4 x 3.2 inches of 160 dots"
    missing = describe(load_dataset(root / "dim")).fraction_missing
    assert set(missing) == set(UNSEEN.split()) and f"{missing['observation.camera']:.1%} of observation.camera" in shown


def test_strangers_words_are_inert_when_they_are_shown(tmp_path: Path, capsys):
    evil = "\x1b[2J\x07" + "x" * 900
    episodes = [replace(episode, text=evil, metadata={evil: evil}) for episode in box_episodes(2)]
    keep(tmp_path / "evil", episodes, replace(box_spec(), id=evil))
    capsys.readouterr()
    run(f"data show {tmp_path}/evil")
    shown = capsys.readouterr().out
    assert all(line.isprintable() and len(line) < 400 for line in shown.splitlines())


def test_output_problems_of_converting_are_found_before_anything_heavy_is_imported(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "manifest.json").write_text("{}")
    verbs = ["hdf5 a.hdf5", "table a.csv", "lerobot a", "minari a-v0"]
    code = (
        "import sys; from seqdec.cli.main import main\n"
        f"codes = [main(['data', *verb.split(), '--replace', '--output', name]) for verb in {verbs!r}"
        " for name in ('file', 'other', 'policy')]\n"
        f"print(set(codes), [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = in_new_process(code, cwd=tmp_path)
    assert done.stdout.strip() == "{2} []", done.stderr
    told = done.stderr.splitlines()
    assert len(told) == 12 and all(line.startswith("seqdec: ") and "another --output" in line for line in told)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            "table walk.csv --episode rn --observation x y --action key",
            2,
            "has no column 'rn' for the episode; did you mean 'run'?",
        ),
        ("table walk.csv --episode run --observation x z --action key", 2, "no column 'z' for the observation"),
        ("table walk.csv --episode run --observation x y --action keys", 2, "did you mean 'key'?"),
        ("table walk.csv --episode run --observation a=x y --action key", 2, "give all of them a key, or none"),
        ("table walk.csv --episode run --observation a=x a=y --action key", 2, "--observation gives 'a' twice"),
        ("table walk.csv --observation x y --action key", 65, "name the column that says of which episode it is"),
        ("table walk.cvs", 2, "no file or folder 'walk.cvs' is here; did you mean 'walk.csv'?"),
        ("table ragged.jsonl", 65, "line 2: column 'observation' has 1 entry at step 1, 2 before it"),
        ("table empty.jsonl", 65, "line 2: it has no steps: give each episode at least one"),
        ("table nan.jsonl", 65, "episode 1, step 1: observation[0] is nan (2 of 3 episodes are affected)"),
        ("table huge.jsonl", 65, "episode 0, step 0: reward is 1e+19, too large to train on (1 of 1"),
        ("table walk.pkl", 2, "is not opened: .pkl files can hold pickles, which run code when they are read"),
        ("hdf5 walk.pt", 65, "is or can hold a pickle, which runs code when it is opened: it is not read"),
        ("hdf5 wlak.hdf5", 2, "did you mean 'walk.hdf5'?"),
        (
            "hdf5 walk.hdf5 --missing observaton",
            2,
            "no leaf of the observation is called 'observaton'; did you mean 'observation'?",
        ),
        ("lerobot arm --image-size 96", 2, "--image-size has 1 numbers: give height and width"),
        ("lerobot arm --image-size inf 3", 2, "--image-size holds inf: give whole numbers"),
        ("lerobot arm --episodes nan", 2, "--episodes holds nan: give whole numbers"),
        ("lerobot arm --episodes 9", 2, "are numbered 0 to 3, '9' was asked for"),
        ("lerobot arm --cameras left", 2, "left"),
        ("lerobot tiny/away", 2, "cannot reach huggingface.co for 'tiny/away'"),
        ("table tiny/away --episode run", 2, "no file or folder 'tiny/away' is here, and fetching it from"),
        ("minari tiny/away-v0", 2, "MINARI_DATASETS_PATH"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(words, code, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "recorded"))
    Path("walk.csv").write_text("run,x,y,key,reward\na,0,1,1,1\na,0,2,0,1\n")
    lines = {
        "ragged": [[[[0.5, 1], [0, 1]], [0, 1], [1, 1]], [[[0.5, 1], [0]], [0, 1], [1, 1]]],
        "empty": [[[[0.5]], [1], [1.0]], [[], [], []]],
        "nan": [[[[0.5], [1]], [0, 1], [1, 1]], *[[[[0.5], [None]], [0, 1], [1, 1]]] * 2],
        "huge": [[[[0.5]], [1], [1e19]]],
    }
    for name, rows in lines.items():
        texts = [json.dumps(dict(zip(("observation", "action", "reward"), row, strict=True))) for row in rows]
        Path(f"{name}.jsonl").write_text("\n".join(texts) + "\n")
    for name in ("walk.pkl", "walk.pt"):
        Path(name).write_bytes(pickle.dumps(Malice(tmp_path / "sentinel")))
    if words.startswith("hdf5"):
        flat_file(Path("walk.hdf5"), 60)
    if words.startswith("lerobot arm"):
        lerobot.write(Path("arm"), lerobot.make_episodes())
    assert main(["data", *words.split(), "--output", "data/a"]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("seqdec: ")
    assert sentence in last
    assert not Path("data/a").exists() and not list(Path().glob("data/.tmp-*"))
    assert not Path("sentinel").exists()


def test_nan_can_be_dropped_by_word(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"observation": [[x], [1.0]], "action": [0, 1], "reward": [1, 1]} for x in (0.5, None, 0.25)]
    table.write(rows, Path("nan.jsonl"))
    run("data table nan.jsonl --on-nonfinite drop-episode")
    assert "dropped 1 of 3 episodes that hold nan or an infinity" in capsys.readouterr().err
    assert [episode_at(load_dataset("data/nan"), index).steps["observation"][0, 0] for index in (0, 1)] == [0.5, 0.25]


def test_an_extra_that_is_not_installed_is_named_with_the_way_around(root: Path, tmp_path: Path, capsys, monkeypatch):
    features = {**lerobot.FEATURES, "observation.images.top": lerobot.camera(dtype="video")}
    episodes = lerobot.make_episodes(features)
    lerobot.write(tmp_path / "set", episodes, features, video=lambda path, pixels: None)
    for name in ("av", "peft", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    words = f"data lerobot {tmp_path}/set --output {tmp_path}/data/set"
    assert 'pip install "seqdec[video]"' in errors_of(words, 2, capsys)
    run(f"{words} --cameras skip")
    train = f"train --data {root}/box --output {tmp_path}/a {TINY}"
    capsys.readouterr()
    for more, extra in (("--finetune lora", "lora"), ("--tracker trackio", "trackio")):
        assert main(f"{train} {more}".split()) == 2
        assert f'pip install "seqdec[{extra}]"' in capsys.readouterr().err.splitlines()[-1]


def test_two_tasks_are_trained_stopped_resumed_and_evaluated_by_name(root: Path, tmp_path: Path, capsys):
    words = f"train --data pole={root}/cartpole swing={root}/pendulum --weights 1 3 --prompt text"
    run(f"{words} {instead(TINY, '--steps 6')} --output {tmp_path}/unbroken")
    run(f"{words} {instead(TINY, '--steps 3')} --output {tmp_path}/a")
    run(f"train --output {tmp_path}/a --resume --steps 6")
    assert weights(tmp_path / "a" / "policy") == weights(tmp_path / "unbroken" / "policy")
    ends = [line for line in losses(tmp_path / "a") if line["step"] in (1, 2, 4, 5, 6)]
    assert ends == [line for line in losses(tmp_path / "unbroken") if line["step"] in (1, 2, 4, 5, 6)]
    config = storage.read_json(tmp_path / "a" / "config.json")
    assert list(config["data"]) == ["pole", "swing"] and config["data"]["pole"]["episodes"] == 8
    names = {name for line in metrics(tmp_path / "a") for name in line}
    assert names >= {
        *("train/loss_swing/action", "heldout/loss_pole/action", "heldout/loss_swing/return_to_go"),
        *("eval/return_pole/max", "eval/return_swing/max"),
    }
    capsys.readouterr()
    evaluate = f"eval {tmp_path}/a --episodes 2 --num-envs 2 --max-steps 9 --target-return max"
    assert "this policy has several tasks: name one of them (pole, swing)" in errors_of(evaluate, 2, capsys)
    assert "no task 'swin'; did you mean 'swing'?" in errors_of(f"{evaluate} --task swin", 2, capsys)
    for name, env_id in (("pole", "CartPole-v1"), ("swing", "Pendulum-v1")):
        run(f"{evaluate} --task {name}")
        assert env_id in capsys.readouterr().out
        assert (tmp_path / "a" / f"report-{name}.json").is_file() and (tmp_path / "a" / f"report-{name}.png").is_file()
    other = f"train --output {tmp_path}/a --resume --data pole={root}/cartpole swing={root}/cartpole"
    assert "was trained on other data" in errors_of(other, 2, capsys)


def test_windows_come_from_two_data_sets_by_their_weights(root: Path, tmp_path: Path):
    shifted = [
        replace(episode, steps={**episode.steps, "observation": episode.steps["observation"] + 1000})
        for episode in box_episodes(5, seed=3)
    ]
    keep(tmp_path / "far", shifted, box_spec())
    words = f"--data {root}/box {tmp_path}/far --weights 1 3 {TINY} --heldout-fraction 0"
    task = load_tasks(options.parse(Train, words.split()))[""]
    drawn = task.windows.draw(0, 0, 4000).gather()["observation"][:, 0, 0]
    assert abs((drawn > 500).double().mean() - 0.75) < 0.021, "three standard deviations of 4000 draws"
    run(f"train {words} --output {tmp_path}/a")
    config = storage.read_json(tmp_path / "a" / "config.json")
    assert config["flags"]["weights"] == ["1", "3"] and config["data"]["episodes"] == 17


def test_the_best_and_a_fraction_of_the_episodes_are_what_is_trained_on(root: Path, tmp_path: Path):
    dataset = load_dataset(root / "box")
    every = returns(dataset)
    for index, (words, parts) in enumerate(
        [
            ("--best 0.25", {"best": 0.25}),
            ("--fraction 0.5 --seed 3", {"fraction": 0.5, "seed": 3}),
            ("--best 0.5 --fraction 0.5", {"best": 0.5, "fraction": 0.5}),
        ]
    ):
        run(f"train --data {root}/box --output {tmp_path}/{index} {TINY} --heldout-fraction 0 {words}")
        model = load_policy(tmp_path / str(index) / "policy")
        rows = chosen(dataset, **parts)
        assert model.data.returns["min"] == pytest.approx(every[rows].min(), rel=1e-5)
        assert model.data.returns["max"] == pytest.approx(every[rows].max(), rel=1e-5)
        seen = np.concatenate([episode_at(dataset, row).steps["observation"] for row in rows.tolist()])
        assert model.codec("observation").embed_values.mean.numpy() == pytest.approx(seen.mean(0), abs=1e-5)  # pyright: ignore


def test_hidden_observations_teach_nothing_and_resume_exactly(tmp_path: Path):
    """With all of them hidden, other observations of the same mean and deviation give the very same run."""
    episodes = box_episodes(8)
    for name, sign in (("a", 1), ("b", -1)):
        turned = [
            replace(episode, steps={**episode.steps, "observation": sign * episode.steps["observation"]})
            for episode in episodes
        ]
        keep(tmp_path / name, turned, box_spec())
    words = f"{instead(TINY, '--steps 4')} --layout behaviour_cloning --heldout-fraction 0"
    for name in ("a", "b"):
        run(f"train --data {tmp_path}/{name} --output {tmp_path}/hidden-{name} {words} --mask-observation 1")
        run(f"train --data {tmp_path}/{name} --output {tmp_path}/half-{name} {words} --mask-observation 0.5")
    assert losses(tmp_path / "hidden-a") == losses(tmp_path / "hidden-b")
    assert losses(tmp_path / "half-a") != losses(tmp_path / "half-b")
    words = instead(words, "--steps 2")
    run(f"train --data {tmp_path}/a --output {tmp_path}/again {words} --mask-observation 0.5")
    run(f"train --output {tmp_path}/again --resume --steps 4")
    assert weights(tmp_path / "again" / "policy") == weights(tmp_path / "half-a" / "policy")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("{box} {count}", 2, "the first data set has observations Box(3), number 2 has Discrete(5): name their tasks"),
        ("{room} {dim}", 2, "in the first data set nothing may be missing, in number 2 observation.camera, "),
        ("{box} {dim} --weights 1", 2, "--weights has 1 numbers for 2 data sets: give one for each"),
        ("{box} --weights many", 2, "--weights is many: give numbers"),
        ("{box} {dim} --weights 1 -1", 2, "--weights is 1 -1: give numbers of 0 or more, not all 0"),
        ("a={box} b={count} --weights 0 0", 2, "--weights is 0 0: give numbers of 0 or more, not all 0"),
        ("a={box} b={count} --weights nan 1", 2, "--weights is nan 1: give numbers of 0 or more, not all 0"),
        ("a={box} {count}", 2, "--data names a task for some data sets only: name all of them, or none"),
        ("a={box} b={count} --env CartPole-v1", 2, "--env names one environment, the run has several tasks"),
        ("{box} --best 0", 2, "best is 0: give a share above 0 and at most 1"),
        ("{box} --fraction 1.5", 2, "--fraction is 1.5: give a number from 0 to 1"),
        ("{box} --prompt txt", 2, "prompt: no 'txt'; did you mean 'text'?"),
        ("{box} --fuse actions", 2, "fuse: no 'actions'; did you mean 'action'?"),
        (
            "{room} --prompt text --text-tokens 4",
            65,
            "observation.mission has a text of 14 tokens, there is room for 4",
        ),
        ("{box} --columns {columns}", 2, "--columns is for --streaming"),
        ("{box} --heldout-episodes 2", 2, "--heldout-episodes is for --streaming"),
        ("{box} --streaming", 2, "--streaming reads a source, not '"),
        ("table:{walk} {box} --streaming", 2, "--streaming reads one source as it comes"),
        ("table:{walk} --streaming --best 0.5", 2, "--streaming reads one source as it comes"),
        ("table:{walk} --streaming", 2, "has no column 'observation' for the observation"),
        ("table:{walk} --streaming --columns {columns} --heldout-episodes 5", 65, "too few to hold out 5"),
        ("table:{walk} --streaming --columns {wrong}", 2, "unknown key 'acton'; did you mean 'action'?"),
        ("table:{walk} --streaming --columns {walk}", 65, "is not valid JSON"),
        ("table:{walk} --streaming --columns {walk}x", 65, "no file "),
    ],
)
def test_what_cannot_be_trained_together_is_one_line(words, code, sentence, root: Path, tmp_path: Path, capsys):
    walk, columns, wrong = tmp_path / "walk.csv", tmp_path / "columns.json", tmp_path / "wrong.json"
    walk.write_text("run,x,key,reward\n" + "".join(f"{run},0,1,1\n" for run in "aabbccddee"))
    known = {"episode": "run", "observation": "x", "action": "key"}
    columns.write_text(json.dumps(known))
    wrong.write_text(json.dumps({"acton": "key"}))
    places = {name: root / name for name in ("box", "count", "room", "dim")}
    given = words.format(**places, walk=walk, columns=columns, wrong=wrong)
    assert main(f"train --output {tmp_path}/a {TINY} --data {given}".split()) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("seqdec: ") and sentence in last
    assert not (tmp_path / "a" / "config.json").exists(), "nothing of a run was begun"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"observation": 5}, "'5'"),
        ({"observation": {"observation.a": 5}}, "\"{'observation.a': 5}\""),
        ({"observation": [1]}, "'[1]'"),
        ({"action": None}, "'None'"),
        ({"episode": ["run"]}, "\"['run']\""),
        ({"reward": ["r"]}, "\"['r']\""),
        ({"metadata": "run"}, "'run'"),
        ({"missing": ["observation"]}, "\"['observation']\""),
        ({"missing": {"observation": 3}}, "\"{'observation': 3}\""),
    ],
)
def test_a_columns_file_with_a_value_of_another_type_is_refused_by_its_key(given, shown, tmp_path: Path, capsys):
    (tmp_path / "walk.csv").write_text("run,observation,action,reward\na,0,1,1\n")
    (tmp_path / "columns.json").write_text(json.dumps({"episode": "run", **given}))
    words = f"train --streaming --data table:{tmp_path}/walk.csv --columns {tmp_path}/columns.json {TINY}"
    said = errors_of(f"{words} --output {tmp_path}/a", 2, capsys)
    assert said.endswith(f"{tmp_path}/columns.json: {next(iter(given))} is {shown}: give names of columns")


def streamed(words: str, folder: Path) -> None:
    """Train six steps at a stretch, and three and three; both have the same weights."""
    run(f"train --streaming {words} {instead(TINY, '--steps 6')} --buffer 3 --output {folder}/unbroken")
    run(f"train --streaming {words} {instead(TINY, '--steps 3')} --buffer 3 --output {folder}/a")
    run(f"train --output {folder}/a --resume --steps 6")
    assert weights(folder / "a" / "policy") == weights(folder / "unbroken" / "policy")
    assert losses(folder / "a")[-1] == losses(folder / "unbroken")[-1]


def test_a_table_streams_by_a_file_of_columns_and_resumes_bit_for_bit(tmp_path: Path, capsys):
    episodes = table.make_episodes((3, 1, 7, 4, 9, 2, 5, 8, 6, 4))
    walk = table.write(table.flat_rows(table.step_rows(episodes)), tmp_path / "walk.csv")
    columns = tmp_path / "columns.json"
    columns.write_text(
        json.dumps({"episode": "run", "observation": ["x", "y"], "action": ["left", "right"], "metadata": ["seed"]})
    )
    words = f"--data table:{walk} --columns {columns}"
    streamed(f"{words} --heldout-episodes 2", tmp_path)
    assert "walk.csv: 10 episodes, read as they come; of the first 3" in capsys.readouterr().out
    assert {"heldout/loss_action", "train/loss_action"} <= {name for line in losses(tmp_path / "a") for name in line}
    model = load_policy(tmp_path / "a" / "policy")
    first = np.concatenate([episode.steps["observation"] for episode in episodes[2:5]])
    assert model.codec("observation").embed_values.mean.numpy() == pytest.approx(first.mean(0), abs=1e-5)  # pyright: ignore
    table.write(table.flat_rows(table.step_rows(episodes[:9])), walk)
    capsys.readouterr()
    assert main(f"train --output {tmp_path}/a --resume --steps 7".split()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "/a was trained on other data (source files was \"[['walk.csv', " in last and len(last) < 500


def test_a_minari_data_set_streams_and_resumes_bit_for_bit(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_minari(tmp_path / "tiny" / "set-v0", make_episodes((3, 1, 7, 4, 9, 2, 5)), env_spec=None)
    streamed("--data minari:tiny/set-v0 --heldout-episodes 1", tmp_path)
    for change, said in (
        ("--heldout-episodes 2", "--heldout-episodes was 1, is 2: go on without it"),
        ("--discount 0.5", "--discount was 1.0, is 0.5: go on without it"),
        ("--no-streaming --heldout-episodes 0", "was trained on other data (minari "),
    ):
        capsys.readouterr()
        assert main(f"train --output {tmp_path}/a --resume {change}".split()) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_bad_episode_of_a_stream_is_named_and_the_run_goes_on_once_it_is_mended(tmp_path: Path, capsys):
    rows = [
        {"run": run, "observation": [run / 10, step / 10], "action": step % 2, "reward": 1.0}
        for run in range(12)
        for step in range(4)
    ]
    spoilt = [dict(row) for row in rows]
    spoilt[9 * 4 + 2]["observation"] = [None, 0.5]
    (tmp_path / "columns.json").write_text('{"episode": "run"}')
    walk = tmp_path / "walk.jsonl"
    words = f"train --streaming --data table:{walk} --columns {tmp_path}/columns.json --buffer 4"
    words = f"{words} {instead(TINY, '--steps 30')}"
    table.write(spoilt, walk)
    assert main(f"{words} --output {tmp_path}/a".split()) == 65
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("seqdec: episode 9, step 2: observation[0] is nan (1 of 1 episodes are affected)")
    assert "the stream cannot be read on: saved after" in said[-2]
    assert len(storage.published(tmp_path / "a" / "checkpoints")) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("room", "--layout multi_game --prompt text target_return"),
        ("room", "--layout fused --fuse observation action --mask-observation 0.3"),
        ("dim", "--layout trajectory --prompt text"),
        ("dim", "--layout fused --fuse action --mask-observation 0.3"),
        ("dim", "--layout decision_transformer --head binned --fuse observation"),
    ],
)
def test_images_words_and_mixed_actions_go_from_flags_to_a_report(name, options, root: Path, tmp_path: Path, capsys):
    folder = tmp_path / "a"
    run(f"train --data {root}/{name} --output {folder} {TINY} {options}")
    run(f"eval {folder} --episodes 3 --num-envs 2 --target-return 1 --output {tmp_path}/out")
    capsys.readouterr()
    report = storage.read_json(tmp_path / "out" / "report.json")
    assert len(report["targets"][0]["episode_returns"]) == 3 and not report["targets"][0].get("failures")
    assert all(value is not None for line in metrics(folder) for value in line.values())
    layout = Layout.from_json(storage.read_json(folder / "policy" / "layout.json"))
    steady = ("observation.mission",) if name == "room" else ()  # what never changes stands in the prompt
    asked = options.split("--prompt ")[1].split() if "--prompt" in options else []
    assert layout.prompt_names == (*asked, *steady)
    together = [slot for slot in layout.step if len(slot) > 1]
    if "--fuse observation action" in options:
        assert len(together) == 1 and "return_to_go" in together[0] and len(together[0]) == 7
    elif "--fuse observation" in options:
        assert together == [("observation.camera", "observation.pose.0", "observation.pose.1")]
    said = errors_of(f"eval {folder} --text go --target-return 1 --episodes 1", 2, capsys) if not asked else ""
    assert "text in its prompt" in said or asked


def test_a_policy_with_a_text_is_told_what_to_do(root: Path, tmp_path: Path):
    words = f"{instead(TINY, '--steps 12')} --prompt text --learning-rate 1e-2"
    run(f"train --data {root}/room --output {tmp_path}/a {words}")
    found = []
    for index, text in enumerate(("open the door", "open the door", "go")):
        words = ["eval", f"{tmp_path}/a", "--episodes", "3", "--target-return", "1", "--output", f"{tmp_path}/{index}"]
        assert main([*words, "--text", text]) == 0
        found.append(storage.read_json(tmp_path / str(index) / "report.json")["targets"][0]["episode_returns"])
    assert found[0] == found[1] != found[2]


def test_a_policy_of_a_dim_room_acts_in_a_bright_one_and_not_the_other_way(root: Path, tmp_path: Path, capsys):
    for name in ("room", "dim"):
        run(f"train --data {root}/{name} --output {tmp_path}/{name} {TINY}")
    words = "--episodes 2 --num-envs 2 --target-return 1 --env seqdec-tests"
    run(f"eval {tmp_path}/dim {words}/Room-v0")
    capsys.readouterr()
    said = errors_of(f"eval {tmp_path}/room {words}/DimRoom-v0", 2, capsys)
    assert "all 2 episodes for target 1 failed, the first with: reset: observation." in said


def test_constant_entries_and_episodes_of_one_step_train_to_finite_numbers(tmp_path: Path, capsys):
    random = np.random.default_rng(0)
    rows = [
        {"run": run, "x": 3.5, "y": random.normal(), "z": 1e6, "key": 1, "reward": float(run)}
        for run in range(9)
        for _ in range(1 if run % 2 else 5)
    ]
    table.write(rows, tmp_path / "walk.csv")
    run(f"data table {tmp_path}/walk.csv --episode run --observation x y z --action key --output {tmp_path}/data/walk")
    dataset = load_dataset(tmp_path / "data" / "walk")
    assert lengths(dataset).tolist() == [5, 1, 5, 1, 5, 1, 5, 1, 5]
    for layout in ("trajectory", "fused"):
        words = f"{instead(TINY, '--steps 6')} --layout {layout}"
        run(f"train --data {tmp_path}/data/walk --output {tmp_path}/{layout} {words}")
        assert all(np.isfinite(value) for line in metrics(tmp_path / layout) for value in line.values())
        codec = load_policy(tmp_path / layout / "policy").codec("observation")
        assert codec.embed_values.std[[0, 2]].tolist() == [1.0, 1.0]  # pyright: ignore


def test_two_recordings_whose_metadata_differ_in_type_are_mixed_without_them(tmp_path: Path):
    for name, seed in (("a", 3), ("b", "three")):
        keep(tmp_path / name, [replace(e, metadata={"seed": seed, "by": "me"}) for e in box_episodes(3)], box_spec())
    merged, _ = mix([load_dataset(tmp_path / name) for name in ("a", "b")])
    assert len(merged) == 6 and [name for name in merged.column_names if "metadata" in name] == ["metadata.by"]
    run(f"train --data {tmp_path}/a {tmp_path}/b --output {tmp_path}/run {TINY}")


@pytest.mark.parametrize("slip", ["--data nope", "--data {data} --layout nope", "--data {data} --weights 1 2"])
def test_a_slip_in_the_words_is_told_before_torch_is_imported(slip, root):
    words = f"train --output {root / 'never'} {slip}".format(data=root / "pendulum").split()
    code = f"import sys; from seqdec.cli.main import main; print(main({words!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert "nope" in done.stderr or "--weights has 2 numbers" in done.stderr
