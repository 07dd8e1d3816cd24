"""The language model inside a composite checkpoint, such as one that sees: its decoder alone is read and kept.

vision tower -> projector -> | language model | -> head        Gemma 3, Qwen-VL, SmolVLM, LLaVA, ...
                               kept              kept where words are predicted
"""

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

from seqdec.errors import UsageError

Loader = type[AutoModel] | type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]


def language_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the part of a configuration that describes the decoder; of a plain one all of it."""
    return config.get_text_config(decoder=True)


def loader_of(config: PretrainedConfig, *, predicts_words: bool) -> Loader:
    """Return what loads a checkpoint whole, with its output embeddings if words are to be predicted."""
    if not predicts_words:
        return AutoModel
    is_composite = language_config(config) is not config and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if is_composite else AutoModelForCausalLM


def random_model(config: PretrainedConfig, *, predicts_words: bool) -> PreTrainedModel:
    """Return a decoder of a configuration with random weights, with output embeddings if they are asked for."""
    kind = AutoModelForCausalLM if predicts_words else AutoModel
    return kind.from_config(language_config(config), dtype=torch.float32)


def language_model(
    model: PreTrainedModel, config: PretrainedConfig, name: str, *, predicts_words: bool
) -> PreTrainedModel:
    """Return the decoder inside a model that was loaded whole, with its output embeddings if they are asked for.

    Raises:
        UsageError: there is none, or it is of a kind that transformers knows no plain language model of.
    """
    language = language_config(config)
    if type(model.config) is type(language):  # a plain one
        return model
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel) and part is not model)
    decoder = next((part.base_model for part in parts if type(part.config) is type(language)), None)
    if not isinstance(decoder, PreTrainedModel) or type(language) not in MODEL_MAPPING:
        raise UsageError(f"backbone {name!r} has no language model inside that stands by itself: {config.model_type}")
    if not predicts_words:
        return decoder
    if type(language) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UsageError(
            f"backbone {name!r} cannot predict words: transformers has no plain language model of "
            f"{language.model_type!r}; it can read words, and predict numbers"
        )
    head, table = model.get_output_embeddings(), decoder.get_input_embeddings()
    assert head is not None
    language.tie_word_embeddings = head.weight is table.weight
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(language)
    setattr(whole, whole.base_model_prefix, decoder)
    whole.set_output_embeddings(head)
    return whole
