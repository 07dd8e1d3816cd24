"""Running out of memory in training: said with what to change, never hidden, and the batch is never changed for it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from accelerate.utils.memory import should_reduce_batch_size

from seqdec.errors import UsageError


@contextmanager
def enough_memory(batch_size: int, context_lengths: Iterable[int]) -> Iterator[None]:
    """Say what takes less memory where there is not enough of it within the block, of a GPU or of the machine.

    Raises:
        UsageError: there is not.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_known = isinstance(error, MemoryError) or "std::bad_alloc" in str(error)
        if not is_known and not should_reduce_batch_size(error):
            raise
        length = max(context_lengths)
        smaller = [f"batch_size {batch_size // 2}"] * (batch_size > 1) + [f"context_length {length // 2}"] * (
            length > 1
        )
        raise UsageError(
            f"out of memory at batch_size {batch_size} x context_length {length}: try {', '.join(smaller)}, accumulate "
            "2 (the same batch in more parts), gradient_checkpointing, or finetune lora",
            option="batch_size",
        ) from error
