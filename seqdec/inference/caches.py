"""Whether a decoder goes on from what it has read, tried out with transformers' own cache.

What cannot (a recurrent decoder whose state is no cache, a hybrid one whose states cannot be selected) reads everything
again at each step: slower, and the same.
"""

import copy
import logging

import torch
from torch import Tensor
from transformers import DynamicCache

from seqdec.inference.trials import tried_once
from seqdec.model.backbone import Backbone
from seqdec.model.probes import FOREIGN, probe_tokens, takes_positions_of

logger = logging.getLogger(__name__)


@tried_once
def continues(backbone: Backbone) -> bool:
    """Return whether a decoder gives the states of one reading if it goes on, also with some of the sequences."""
    name = backbone.source.name
    try:
        if _agrees(backbone):
            return True
    except FOREIGN as error:
        logger.debug("%s: %s", name, error)
    logger.warning(
        "%s cannot go on from what it has read as acting must (episodes end, plans fork): everything is read again for "
        "each token, which is slower", name,
    )  # fmt: skip
    return False


def _agrees(backbone: Backbone) -> bool:
    decoder, device = backbone.decoder, next(backbone.model.parameters()).device
    tokens = (probe_tokens(0, backbone.width) * backbone.embedding_scale).to(device)
    rows = torch.tensor([1, 1, 0], device=device)

    def read(tokens: Tensor, **options: object) -> Tensor:
        return decoder(inputs_embeds=tokens, **{"use_cache": True, **options}).last_hidden_state

    whole, cache = read(tokens, use_cache=False), DynamicCache(config=backbone.config)
    read(tokens[:, :4], past_key_values=cache)
    forked = copy.deepcopy(cache)
    pairs = [(whole[:, 4:], read(tokens[:, 4:], past_key_values=cache))]
    forked.batch_select_indices(rows)
    pairs.append((whole[rows, 4:], read(tokens[rows, 4:], past_key_values=forked)))
    if backbone.tokenizer is not None:  # rows of words read unequally many tokens at a time
        padded = torch.cat([tokens[:, :2], tokens[:, :3].flip(1), tokens[:, 2:]], 1)
        is_word = torch.tensor([[1, 1, 0, 0, 0, 1, 1, 1, 1]] * 2, device=device)
        places = {"position_ids": (is_word.cumsum(1) - 1).clamp(min=0)} if takes_positions_of(decoder) else {}
        states = read(padded, attention_mask=is_word, use_cache=False, **places)
        pairs.append((whole, states[:, is_word[0] == 1]))
    return all(torch.allclose(*pair, atol=1e-4, rtol=1e-3) for pair in pairs)
