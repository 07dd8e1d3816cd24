"""Tiny backbones of every family that read and predict texts, with a token for each byte."""

from pathlib import Path

import torch

from seqdec.model.backbone import Backbone, load_backbone


def load_with_bytes(backbone: Backbone, folder: Path) -> Backbone:
    """The family's own tiny architecture, with a tokenizer of single bytes beside it and a table as large."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    target = folder.parent / f"{folder.name}-bytes"
    if not target.exists():
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(folder)
        config.vocab_size = 256
        AutoModelForCausalLM.from_config(config).save_pretrained(target)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(target)
    return load_backbone(str(target), predicts_words=True)
