"""What a decoder can do while acting is tried out when it first acts, once, whatever threads ask."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch

from seqdec.model.backbone import Backbone
from seqdec.model.probes import evaluating

Outcome = TypeVar("Outcome")


def tried_once(trial: Callable[[Backbone], Outcome]) -> Callable[[Backbone], Outcome]:
    """Remember what came of a trial for each backbone, without gradients or dropout, and in full precision.

    Mixed precision would agree with nothing exactly.
    """
    known: WeakKeyDictionary[Backbone, Outcome] = WeakKeyDictionary()
    lock = threading.Lock()

    @wraps(trial)
    def outcome(backbone: Backbone) -> Outcome:
        with lock:
            if backbone not in known:
                device = next(backbone.model.parameters()).device.type
                with evaluating(backbone.model), torch.inference_mode(), torch.autocast(device, enabled=False):
                    known[backbone] = trial(backbone)
            return known[backbone]

    return outcome
