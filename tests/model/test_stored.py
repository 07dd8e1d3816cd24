"""Checkpoints whose stored tensors are not the weights: they are turned into weights, and saved as such, or refused."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, ByT5Tokenizer

from families import tiny_config
from seqdec.errors import DataError, UsageError
from seqdec.model.backbone import load_backbone, reload_backbone, save_backbone

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16], "fmt": "e4m3"}


def changed(folder: Path, target: Path, change=None, **config: object) -> Path:
    """Copy a checkpoint with other tensors, and other words in its configuration."""
    shutil.copytree(folder, target)
    if change is not None:
        weights = load_file(target / "model.safetensors")
        change(weights)
        save_file(weights, target / "model.safetensors", {"format": "pt"})
    written = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**written, **config}))
    return target


def in_float8(weights: dict[str, torch.Tensor]) -> None:
    """Store linear layers as DeepSeek and Qwen publish theirs: float8 in blocks, each with a scale."""
    for name in [name for name in weights if name.endswith("proj.weight")]:
        rows, columns = (size // 16 for size in weights[name].shape)
        blocks = weights[name].reshape(rows, 16, columns, 16)
        scale = blocks.abs().amax((1, 3), keepdim=True) / 448
        weights[name] = (blocks / scale).to(torch.float8_e4m3fn).reshape(weights[name].shape)
        weights[f"{name}_scale_inv"] = scale[:, 0, :, 0].contiguous()


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20") and find_spec("triton") is None,
    reason="older transformers read float8 by triton alone",
)
def test_float8_is_read_with_its_scale_and_saved_as_plain_weights(family_folder, tmp_path: Path):
    plain = parameters(load_backbone(str(family_folder("qwen3"))).model)
    folder = changed(family_folder("qwen3"), tmp_path / "fp8", in_float8, quantization_config=FP8)
    backbone = load_backbone(str(folder))
    for name, weight in parameters(backbone.model).items():
        torch.testing.assert_close(weight, plain[name], atol=0.005, rtol=0.07, msg=name)
    save_backbone(backbone, tmp_path / "saved")
    assert {tensor.dtype for tensor in load_file(tmp_path / "saved" / "model.safetensors").values()} == {torch.float32}
    again = reload_backbone(tmp_path / "saved")
    for name, weight in parameters(backbone.model).items():
        assert torch.equal(weight, parameters(again.model)[name]), name


def test_experts_in_four_bits_are_read_and_saved_as_plain_weights(tmp_path: Path):
    AutoModelForCausalLM.from_config(tiny_config("gpt_oss")).save_pretrained(tmp_path / "base")

    def in_four_bits(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, columns, rows = weights.pop(name).shape
            weights[f"{name}_blocks"] = torch.full((experts, rows, columns // 32, 16), 0x72, dtype=torch.uint8)
            weights[f"{name}_scales"] = torch.full((experts, rows, columns // 32), 126, dtype=torch.uint8)

    mxfp4 = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    folder = changed(tmp_path / "base", tmp_path / "mxfp4", in_four_bits, quantization_config=mxfp4)
    backbone = load_backbone(str(folder))
    experts = parameters(backbone.model)["layers.0.mlp.experts.down_proj"]
    # 0x72 is 2 and 7 in E2M1, which are 1 and 6; 126 is a half in E8M0
    assert sorted({*experts.flatten().tolist()}) == [0.5, 3.0]
    save_backbone(backbone, tmp_path / "saved")
    again = parameters(reload_backbone(tmp_path / "saved").model)
    assert all(torch.equal(weight, again[name]) for name, weight in parameters(backbone.model).items())


@pytest.mark.parametrize("has_config", [True, False])
def test_float8_without_its_scale_is_refused(has_config: bool, family_folder, tmp_path: Path):
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        in_float8(weights)
        for name in [name for name in weights if name.endswith("_scale_inv")]:
            del weights[name]

    config = {"quantization_config": FP8} if has_config else {}
    folder = changed(family_folder("qwen3"), tmp_path / "fp8", spoil, **config)
    with pytest.raises(DataError, match=r"has float8 weights without their scale, the first is 'model\.layers\.0\."):
        load_backbone(str(folder))


def test_a_scale_that_nobody_asks_for_is_no_weight(family_folder, tmp_path: Path):
    folder = changed(family_folder("qwen3"), tmp_path / "fp8", in_float8)  # its configuration tells nothing
    with pytest.raises(DataError, match="float8 weights without their scale"):
        load_backbone(str(folder))


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.bias", "model.layers.0.self_attn.new_norm.weight"])
def test_tensors_inside_of_known_modules_are_not_passed_over(name: str, family_folder, tmp_path: Path):
    folder = changed(family_folder("llama"), tmp_path / "x", lambda weights: weights.update({name: torch.ones(64)}))
    with pytest.raises(DataError, match="holds 1 tensors that its architecture does not know, the first is '.*layers"):
        load_backbone(str(folder))


@pytest.mark.parametrize("name", ["lm_head.weight", "score.weight", "mtp.0.norm.weight", "model.layers.2.norm.weight"])
def test_tensors_beside_the_decoder_are_left_where_they_are(name: str, family_folder, tmp_path: Path):
    folder = changed(family_folder("llama"), tmp_path / "x", lambda weights: weights.update({name: torch.ones(16, 32)}))
    load_backbone(str(folder))


def test_masks_that_old_checkpoints_stored_are_no_weights(family_folder, tmp_path: Path):
    def add(weights: dict[str, torch.Tensor]) -> None:
        weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
        weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)

    load_backbone(str(changed(family_folder("gpt2"), tmp_path / "x", add)))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "exl9"])
def test_quantized_checkpoints_are_one_sentence_with_the_plain_model(method: str, family_folder, tmp_path: Path):
    quantization = {"quant_method": method, "bits": 4, "load_in_4bit": method == "bitsandbytes"}
    folder = changed(family_folder("qwen3"), tmp_path / "x", quantization_config=quantization)
    (folder / "README.md").write_text("---\nbase_model:\n- Qwen/Qwen3-8B\nlicense: apache-2.0\n---\n")
    with pytest.raises(UsageError, match=rf"is quantized \({method}\).* it was made from, 'Qwen/Qwen3-8B'$"):
        load_backbone(str(folder))


def test_a_tokenizer_larger_than_the_table_is_refused(family_folder, tmp_path: Path):
    folder = shutil.copytree(family_folder("llama"), tmp_path / "x")
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder)
    with pytest.raises(UsageError, match=r"has 25\d words, its table of embeddings has 16 rows"):
        load_backbone(str(folder), vocabulary=True)


def test_a_token_that_was_added_without_an_embedding_is_refused_where_it_is_written(tmp_path: Path):
    config = tiny_config("llama")
    config.vocab_size = 259
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.add_tokens(["ball"])
    tokenizer.save_pretrained(tmp_path)
    vocabulary = load_backbone(str(tmp_path), vocabulary=True).vocabulary()
    assert vocabulary.decode(vocabulary.tokenize("go on")) == "go on"
    with pytest.raises(DataError, match="'to the ball' has the token 'ball', which .* has no embedding of"):
        vocabulary.tokenize("to the ball")


@pytest.mark.parametrize(
    "words",
    [
        {"num_attention_heads": 0}, {"num_hidden_layers": -1}, {"num_hidden_layers": None}, {"hidden_size": "x"},
        {"hidden_act": "os.system"}, {"dtype": "x"}, {"model_type": ["llama"]}, {"model_type": "none"},
        {"layer_types": 3}, {"rope_parameters": {"rope_type": "none"}}, {"quantization_config": "gptq"},
        {"text_config": 3}, {"vocab_size": 10**400},
    ],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_one_sentence(words: dict[str, object], family_folder, tmp_path: Path):
    folder = changed(family_folder("llama"), tmp_path / "x", **words)
    with pytest.raises((UsageError, DataError)) as error:
        load_backbone(str(folder), num_layers=1)
    assert "\n" not in str(error.value)


def test_an_adapter_is_named_as_such(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="is an adapter .* merge it into its model"):
        load_backbone(str(tmp_path))
