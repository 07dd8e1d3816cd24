"""Composite checkpoints: the language model inside is found by its configuration, cut, read and saved by itself."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from families import tiny_config
from seqdec.errors import UsageError
from seqdec.model.backbone import load_backbone, reload_backbone, save_backbone
from small_tokenizers import TOKENIZERS

FAMILIES = ("gemma3", "qwen2_5_vl", "smolvlm", "llava", "mistral3")
INNER = {"smolvlm": "text_model"}


@pytest.fixture(scope="module")
def composite(tmp_path_factory: pytest.TempPathFactory):
    """A tiny checkpoint of a composite family as it is published, with its head and a tokenizer."""
    root = tmp_path_factory.mktemp("composites")

    def folder(family: str) -> Path:
        if not (root / family).exists():
            torch.manual_seed(0)
            config = tiny_config(family)
            text = config.get_text_config()
            text.vocab_size, text.sliding_window = 400, 64
            AutoModelForImageTextToText.from_config(config).save_pretrained(root / family)
            TOKENIZERS["byte level"]().save_pretrained(root / family)
        return root / family

    return folder


def states(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(inputs_embeds=tokens, use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
def test_a_composite_checkpoint_gives_its_language_model(family: str, composite, tmp_path: Path):
    whole = AutoModel.from_pretrained(composite(family), dtype=torch.float32)
    tokens = torch.randn(2, 7, 32)
    expected = states(getattr(whole, INNER.get(family, "language_model")), tokens)
    backbone = load_backbone(str(composite(family)), num_tokens=31)
    assert torch.equal(states(backbone.model, tokens), expected)
    assert not any("vision" in name for name, _ in backbone.model.named_parameters())
    save_backbone(backbone, tmp_path)
    again = reload_backbone(tmp_path)
    assert torch.equal(states(again.model, tokens), expected)


@pytest.mark.parametrize("family", ["gemma3", "smolvlm"])
def test_layers_positions_and_freezing_are_those_of_the_language_model(family: str, composite):
    folder = str(composite(family))
    whole = load_backbone(folder).model.state_dict()
    first = load_backbone(folder, num_layers=1).model
    assert first.config.num_hidden_layers == 1
    assert all(torch.equal(tensor, whole[name]) for name, tensor in first.state_dict().items())
    with pytest.raises(UsageError, match="needs 513 positions, .* has 512"):
        load_backbone(folder, num_tokens=513)
    frozen = load_backbone(folder, freeze_layers=1)
    assert not any(parameter.requires_grad for parameter in frozen.decoder.layers[0].parameters())
    twin = load_backbone(folder, init="random").model.state_dict()
    assert {name: tensor.shape for name, tensor in twin.items()} == {name: whole[name].shape for name in whole}


@pytest.mark.parametrize("family", ["gemma3", "llava", "qwen3_vl"])
def test_words_are_predicted_by_the_head_of_the_composite(family: str, composite, tmp_path: Path):
    whole = AutoModelForImageTextToText.from_pretrained(composite(family), dtype=torch.float32).eval()
    if family == "qwen3_vl":
        with pytest.raises(UsageError, match="cannot predict words: .* 'qwen3_vl_text'"):
            load_backbone(str(composite(family)), predicts_words=True)
        return
    tokens = torch.tensor([[5, 9, 200, 17]])
    backbone = load_backbone(str(composite(family)), predicts_words=True)
    save_backbone(backbone, tmp_path)
    with torch.no_grad():
        expected = whole(input_ids=tokens).logits
        for model in (backbone.model, reload_backbone(tmp_path).model.eval()):
            torch.testing.assert_close(model(input_ids=tokens).logits, expected)
    assert backbone.vocabulary().logits is not None


def test_a_composite_without_a_language_model_of_its_own_is_refused(tmp_path: Path):
    AutoModel.from_config(tiny_config("mllama")).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no language model inside that stands by itself: mllama"):
        load_backbone(str(tmp_path))
