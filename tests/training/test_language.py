"""A text that is read beside the episodes keeps the language, and changes nothing where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Text

from conftest import discrete_episodes, discrete_spec
from seqdec import EnvironmentSpec, Episode, Windows, build_model, layout_from_spaces, load_backbone, train
from seqdec.data.dataset import from_episodes
from seqdec.errors import DataError, UsageError
from seqdec.training.language import PIECE, Language, language_loss

ENGLISH = "the quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 60


def model_and_windows(preset: str = "multi_game"):
    steps = {"observation": np.array(["a door"] * 4, object), "action": np.array(["knock", "open"] * 2, object)}
    episodes = [Episode({**steps, "reward": np.ones(4)}, final="", terminated=True, truncated=False) for _ in range(8)]
    layout = layout_from_spaces(preset, Text(20), Text(20), context_length=4, numbers="words")
    windows = Windows(from_episodes(episodes, EnvironmentSpec(Text(20), Text(20))), layout)
    return build_model(windows, load_backbone("small", num_layers=1, dropout=0.0, predicts_words=True)), windows


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_text_is_learned_beside_the_episodes_and_its_perplexity_told_before_and_after(tmp_path: Path):
    path = tmp_path / "english.txt"
    path.write_text(ENGLISH)
    ends, logs = {}, {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model, windows = model_and_windows()
        words = {"language_text": path, "language_loss": weight} if weight else {}
        train(model, windows, out=tmp_path / str(weight), steps=60, batch_size=8, learning_rate=3e-3, **words)
        ends[weight] = Language.read(path, model, 1.0).perplexity(model)
        logs[weight] = lines(tmp_path / str(weight))
    told = [line["heldout/perplexity"] for line in logs[1.0] if "heldout/perplexity" in line]
    assert len(told) == 2 and told[1] == pytest.approx(ends[1.0]) and told[1] < told[0] / 5
    assert ends[1.0] < ends[0.0] / 3
    assert not any("train/loss_language" in line for line in logs[0.0])
    assert logs[1.0][-2]["train/loss_language"] < logs[1.0][1]["train/loss_language"]


def test_accumulated_parts_and_a_resumed_run_read_the_same_pieces(tmp_path: Path):
    path = tmp_path / "english.txt"
    path.write_text(ENGLISH)
    weights = {}
    for name, runs in {"whole": [(6, 1)], "parts": [(6, 4)], "resumed": [(3, 1), (6, 1)]}.items():
        for steps, accumulate in runs:
            model, windows = model_and_windows()
            train(
                model, windows, out=tmp_path / name, steps=steps, batch_size=8, accumulate=accumulate,
                language_text=path, language_loss=0.5, resume=(tmp_path / name).exists(), warmup_steps=0,
            )  # fmt: skip
        weights[name] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.equal(weights["resumed"], weights["whole"])
    torch.testing.assert_close(weights["parts"], weights["whole"], atol=1e-5, rtol=1e-4)


def test_the_loss_of_a_piece_is_the_models_own(tmp_path: Path):
    path = tmp_path / "english.txt"
    path.write_text(ENGLISH)
    model, _ = model_and_windows()
    model.eval()
    language = Language.read(path, model, 1.0)
    ids = language.draw(3, 0, 2)
    assert torch.equal(ids, language.draw(3, 0, 2)) and not torch.equal(ids, language.draw(4, 0, 2))
    assert ids.shape == (2, PIECE)
    assert model.vocabulary is not None
    labels = torch.cat([torch.full((2, 1), model.vocabulary.first), ids], 1)
    expected = model.backbone(input_ids=labels, labels=labels).loss * ids.numel()  # pyright: ignore
    torch.testing.assert_close(language_loss(model, ids), expected)


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path):
    model, _ = model_and_windows()
    with pytest.raises(DataError, match="is no text in UTF-8"):
        Language.read(tmp_path / "nothing.txt", model, 1.0)
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(DataError, match="has 9 tokens: at least 2560 are needed"):
        Language.read(tmp_path / "short.txt", model, 1.0)
    with pytest.raises(UsageError, match="language_loss is 0"):
        Language.read(tmp_path / "short.txt", model, 0.0)


def test_a_task_in_numbers_beside_one_in_words_is_refused_before_training(tmp_path: Path):
    (tmp_path / "english.txt").write_text(ENGLISH)
    model, windows = model_and_windows()
    spec, numbers = discrete_spec(), discrete_episodes(4)
    layout = layout_from_spaces("behaviour_cloning", spec.observation_space, spec.action_space, context_length=4)
    others = Windows(from_episodes(numbers, spec), layout)
    models = {"words": model, "numbers": build_model(others, model.backbone_source)}
    with pytest.raises(UsageError, match="only a model that predicts words keeps a language"):
        train(
            models, {"words": windows, "numbers": others}, out=tmp_path / "run", steps=4, batch_size=4,
            language_text=tmp_path / "english.txt",
        )  # fmt: skip
