"""Reading on is reading all at once, recorded or not, in every family."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import FAMILIES
from seqdec.inference.memory import Memory
from seqdec.inference.passes import pass_of
from seqdec.model.backbone import load_backbone
from sweep import save_tiny

OTHERS = ("mistral", "gemma3_text", "bloom")  # sliding windows, and places that cannot be given


def whole_states(backbone, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return backbone.model.eval()(inputs_embeds=tokens, use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_one_pass_whatever_is_read_at_a_time(family: str, family_folder):
    backbone = load_backbone(str(family_folder(family)))
    tokens = torch.randn(3, 23, 32)
    expected = whole_states(backbone, tokens)
    memory, begin = Memory(backbone, 3, 23), 0
    with torch.inference_mode():
        for size in (1, 3, 3, 7, 2, 1, 6):
            state = memory.read(tokens[:, begin : begin + size])
            begin += size
            torch.testing.assert_close(state, expected[:, begin - 1], atol=1e-5, rtol=1e-4)
    assert begin == 23


@pytest.mark.parametrize("family", FAMILIES)
def test_most_families_read_into_reserved_memory_by_a_recorded_pass(family: str, family_folder):
    made = pass_of(load_backbone(str(family_folder(family))))
    assert (made is None) == (family in OTHERS)
    assert made is None or made._run != made._forward, "the pass was not recorded"


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_selected_rows_go_on_as_they_would_have_alone(family: str, family_folder):
    backbone = load_backbone(str(family_folder(family)))
    tokens, rows = torch.randn(3, 12, 32), torch.tensor([2, 0, 2, 1])
    expected = whole_states(backbone, tokens)
    memory = Memory(backbone, 3, 12)
    with torch.inference_mode():
        memory.read(tokens[:, :5])
    memory.select(rows)
    with torch.inference_mode():
        memory.read(tokens[rows, 5:9])
        state = memory.read(tokens[rows, 9:])
    torch.testing.assert_close(state, expected[rows, -1], atol=1e-5, rtol=1e-4)


def test_a_forgotten_context_leaves_nothing_behind(backbone):
    tokens = torch.randn(2, 9, 32)
    expected = whole_states(backbone, tokens[:, 4:])
    memory = Memory(backbone, 2, 9)
    with torch.inference_mode():
        memory.read(tokens)
        memory.forget()
        memory.read(tokens[:, 4:7])
        state = memory.read(tokens[:, 7:])
    torch.testing.assert_close(state, expected[:, -1], atol=1e-5, rtol=1e-4)


def test_what_is_learned_after_the_recording_is_read(family_folder):
    backbone = load_backbone(str(family_folder("gpt2")))
    tokens = torch.randn(2, 4, 32)
    with torch.inference_mode():
        before = Memory(backbone, 2, 4).read(tokens).clone()
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = whole_states(backbone, tokens)[:, -1]
    with torch.inference_mode():
        after = Memory(backbone, 2, 4).read(tokens)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)


def test_dropout_is_never_recorded(family_folder):
    backbone = load_backbone(str(family_folder("gpt2")), dropout=0.5)
    backbone.model.train()
    tokens = torch.randn(2, 4, 32)
    with torch.inference_mode():
        Memory(backbone, 2, 4)
        assert backbone.model.training
        dropped = Memory(backbone, 2, 4).read(tokens).clone()
    expected = whole_states(backbone, tokens)[:, -1]
    with torch.inference_mode():
        found = Memory(backbone, 2, 4).read(tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(dropped, expected, atol=1e-2)


def test_recording_says_nothing():
    script = (
        "import torch; from seqdec import load_backbone; from seqdec.inference.memory import Memory; "
        "from seqdec.inference.passes import pass_of; "
        "backbone = load_backbone('small'); backbone.model.eval(); Memory(backbone, 1, 4); made = pass_of(backbone); "
        "print(made._run != made._forward)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.strip() == "True"


@pytest.mark.parametrize("family", ["mamba", "lfm2", "qwen3_5_text", "openai-gpt"])
def test_what_cannot_go_on_reads_everything_again_and_says_so(family: str, tmp_path: Path, caplog):
    """Recurrent and hybrid decoders: no rows of their states can be selected, or nothing is kept at all."""
    save_tiny(family, tmp_path)
    backbone = load_backbone(str(tmp_path), num_tokens=13)
    backbone.model.eval()
    tokens, rows = torch.randn(3, 12, backbone.width), torch.tensor([2, 0, 2, 1])
    expected = whole_states(backbone, tokens)
    with torch.inference_mode():
        memory = Memory(backbone, 3, 12)
        torch.testing.assert_close(memory.read(tokens[:, :5]), expected[:, 4], atol=1e-5, rtol=1e-4)
        memory.select(rows)
        torch.testing.assert_close(memory.read(tokens[rows, 5:9]), expected[rows, 8], atol=1e-5, rtol=1e-4)
        Memory(backbone, 1, 12)
    assert caplog.text.count("cannot go on from what it has read as acting must") == 1
