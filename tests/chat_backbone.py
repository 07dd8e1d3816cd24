"""Tiny random chat models: a tokenizer of bytes with a template, and a llama around it."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

BODY = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = BODY + ASK
MARKS = ["<s>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A token a byte, and marks; sequences begin with <s>."""
    words = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = template
    return fast


def make_backbone(folder: Path, template: str | None = CHATML, width: int = 32) -> str:
    """The folder of a tiny llama with this tokenizer; returns its name."""
    tokenizer = make_tokenizer(template)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), num_hidden_layers=2, hidden_size=width, num_attention_heads=2,
        intermediate_size=2 * width, bos_token_id=0, eos_token_id=2, max_position_embeddings=1024,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
