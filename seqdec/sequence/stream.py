"""Windows of episodes that are read while training goes on, of which a buffer holds a part at a time.

    source    e0 e1 e2 e3 e4 e5 e6 e7 e8 e9  and again from e0
    step 0   [e0 e1 e2 e3]
    step 9         [e2 e3 e4 e5]                 the first to come is the first to go

Windows are drawn from the buffer as `Windows` draws them from a data set. What it holds is a function of the step, so
that resuming needs no memory of what was read: the stream is read forward to where the step has it. Over a whole pass
every episode is in the buffer equally long. The k-th of w processes reads every w-th episode from the k-th on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.episode import Row
from seqdec.data.source import Source, read_along
from seqdec.errors import DataError, StorageError, UsageError
from seqdec.sequence.draw import Draw
from seqdec.sequence.layout import Layout
from seqdec.sequence.windows import Count, Windows, concatenate

BLOCKS = 16  # in which a buffer is replaced: fewer read more at once, more make a batch slower


class StreamWindows:
    """The windows of a stream of episodes, which training takes as it takes those of a data set.

    What they are fitted by, `statistics()`, `returns` [episodes] and `lengths` [episodes], is of the first `buffer`
    episodes, on all processes alike. A stream that the buffers hold whole gives the very windows of its data set.

    Args:
        source: its episodes. Neighbours are trained on at about the same time, and the first ones stand for all in the
            statistics: an order by quality or task is to be shuffled before.
        layout: names the variables to gather and the length of a window; must fit the data's spaces.
        buffer: how many episodes a process holds at most; 16 or more are rounded down to a multiple of 16.
        reuse: how often a timestep is used, on average, each time that its episode passes through the buffer. Less
            reads more. An episode stays for one step at least, so a small buffer can use it more often.
        num_heldout: the first episodes, which become `heldout` and are never trained on.
        process_index: which of the processes this is.
        num_processes: how many share the stream, a part each.
        text: what the episodes are about, for those that do not say it themselves.

    Raises:
        UsageError: the layout does not fit the data, or a number is out of range.
        DataError: there are too few episodes, or one of those that are read now cannot be trained on.

    Example:
        >>> from seqdec import Episode, layout_from_spaces
        >>> from seqdec.data import environment_of
        >>> from seqdec.play import scripted_cartpole
        >>> dataset = scripted_cartpole(num_episodes=40)
        >>> spec = environment_of(dataset)
        >>> source = Source(spec, read=lambda: map(Episode.to_row, map(Episode.from_row, dataset)), identity={})
        >>> layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space)
        >>> windows = StreamWindows(source, layout, buffer=16, num_heldout=4)
        >>> windows.draw(step=0, seed=0, batch_size=8).gather()["observation"].shape
        torch.Size([8, 20, 4])
    """

    def __init__(
        self,
        source: Source,
        layout: Layout,
        *,
        buffer: int = 1024,
        reuse: float = 1.0,
        num_heldout: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        text: str = "",
    ):
        if buffer < 1:
            raise UsageError(f"a buffer of {buffer} episodes was asked for: give at least 1")
        if not 0 < reuse < math.inf:
            raise UsageError(f"reuse is {reuse}: it must be above 0")
        if num_heldout < 0:
            raise UsageError(f"{num_heldout} episodes shall be held out: give 0 or more")
        if not 0 <= process_index < num_processes:
            raise UsageError(f"process {process_index} of {num_processes}: they count from 0")
        self.layout, self.text, self.spec, self.reuse = layout, text, source.spec, reuse
        self.process_index, self.num_processes = process_index, num_processes
        self._source, self._num_heldout = source, num_heldout
        self._count: Count | None = None
        self._block_size, self._num_blocks = max(1, buffer // BLOCKS), min(buffer, BLOCKS)
        # the first episodes are held out
        stream = _Shard(source, 0)
        self.heldout = self._read(stream, range(num_heldout))
        if num_heldout and not stream.has(num_heldout):
            raise DataError(
                f"the stream has {_episodes(stream.length)}, too few to hold out {num_heldout}: hold out fewer"
            )
        # the next ones fill a buffer, by which models are fitted on all processes alike
        stream = _Shard(source, num_heldout)
        self._blocks = self._read_first(stream)
        self._windows: Windows | None = concatenate(list(self._blocks.values()))
        self._first_block: int | None = 0
        self.returns, self.lengths = self._windows.returns, self._windows.lengths
        self._is_first = True
        # a process begins again with its own part, unless that is the whole stream
        self._is_whole = not stream.has(self._num_blocks * self._block_size * num_processes)
        if stream.length is not None:
            if stream.length < num_processes:
                raise DataError(
                    f"the stream has {_episodes(stream.length)} to train on, fewer than the {num_processes} processes: "
                    "use fewer processes"
                )
            source = replace(source, num_episodes=num_heldout + stream.length)
        self._shard = stream
        if num_processes > 1:
            self._shard = _Shard(source, num_heldout + process_index, num_processes)
            self._blocks, self._first_block = {}, None

    def __len__(self) -> int:
        return len(self._held)

    def draw(self, step: int, seed: int, batch_size: int) -> Draw:
        """Bring the buffer to an optimizer step and draw windows of it.

        They are as many as all processes need, each of which has its own buffer and takes a part of its own draw.

        Raises:
            DataError: an episode that is read for this step cannot be trained on.
            StorageError: reading broke off.
        """
        self._move(self._block_of(step, batch_size))
        return self._held.draw(step, seed, batch_size)

    def statistics(self) -> dict[str, np.ndarray]:
        """Return the values that codecs are fitted to, by variable, of the first `buffer` episodes.

        Once the buffer has moved on, these are read again.
        """
        if self._is_first:
            return self._held.statistics()
        blocks = self._read_first(_Shard(self._source, self._num_heldout))
        return concatenate(list(blocks.values())).statistics()

    @property
    def _held(self) -> Windows:
        assert self._windows is not None, "the last step could not be drawn"
        return self._windows

    def _read_first(self, stream: "_Shard") -> dict[int, Windows]:
        """Return the blocks at the beginning of a stream, as many as a buffer holds or there are."""
        blocks = {}
        for block in range(self._num_blocks):
            windows = self._read(stream, self._places(block))
            if windows is not None:
                blocks[block] = windows
        if not blocks:
            raise DataError("the stream has no episodes: give at least one")
        return blocks

    def _places(self, block: int) -> range:
        return range(block * self._block_size, (block + 1) * self._block_size)

    def _read(self, stream: "_Shard", places: range) -> Windows | None:
        """Return the windows of the episodes that stand at these places of a stream; None where there are none."""
        rows = [row for place in places if (row := stream.at(place)) is not None]
        return self._windows_of(rows) if rows else None

    def _windows_of(self, numbered: Sequence[tuple[int, Row]]) -> Windows:
        """Return the windows of rows, which are checked as those of a data set are."""
        numbers, rows = [number for number, _ in numbered], [row for _, row in numbered]
        dataset = from_rows(rows, self.spec, numbers, fingerprint="stream")
        check(dataset, numbers, warns=0 in numbers)  # once for all blocks
        windows = Windows(dataset, self.layout, text=self.text, numbers=numbers)
        if self._count is not None:
            windows.count_tokens(self._count)
        return windows

    def count_tokens(self, count: Count) -> None:
        """Let windows have at most as many tokens as the layout allows, from now on; see `Windows.count_tokens`."""
        self._count = count
        for windows in (self.heldout, *self._blocks.values()):
            if windows is not None:
                windows.count_tokens(count)
        self._windows = concatenate(list(self._blocks.values())) if self._blocks else self._windows

    def _block_of(self, step: int, batch_size: int) -> int:
        """Return the first of the blocks that are in the buffer at a step."""
        if self._is_whole:
            return 0
        lengths, valid = self.lengths, np.minimum(self.lengths, self.layout.context_length)
        # a window is drawn by its timestep: episodes count by their length
        timesteps = batch_size / self.num_processes * (lengths * valid).sum() / lengths.sum()
        episodes = timesteps / (self.reuse * lengths.mean())
        return int(step * min(episodes / self._block_size, self._num_blocks))

    def _move(self, first: int) -> None:
        """Hold the blocks from this one on; old ones are let go before new ones are read."""
        if first == self._first_block:
            return
        self._windows, self._first_block, self._is_first = None, None, False
        if self._is_whole:
            self._blocks = self._read_first(self._shard)
        else:
            blocks = range(first, first + self._num_blocks)
            self._blocks = {block: windows for block, windows in self._blocks.items() if block in blocks}
            for block in blocks:
                if block not in self._blocks:
                    rows = [self._shard.around(place) for place in self._places(block)]
                    self._blocks[block] = self._windows_of(rows)
        self._windows = concatenate([self._blocks[block] for block in sorted(self._blocks)])
        self._first_block = first


class _Shard:
    """Every `stride`-th episode of a source from the `first` on, by place; it is read forward only, or anew.

    `length` is how many there are, None as long as nobody knows.
    """

    def __init__(self, source: Source, first: int, stride: int = 1):
        self._source, self._first, self._stride = source, first, stride
        self.length = None if source.num_episodes is None else len(range(first, source.num_episodes, stride))
        self._rows: Iterator[Row] | None = None
        self._next = 0
        self._latest: tuple[int, Row] | None = None

    def has(self, place: int) -> bool:
        """Say whether there is an episode at a place."""
        return (self.length is not None and place < self.length) or self.at(place) is not None

    def at(self, place: int) -> tuple[int, Row] | None:
        """Return the episode at a place and its number in the source, or None behind the last one.

        Raises:
            DataError: the source has not as many episodes as it said, or had before.
            StorageError: reading broke off.
        """
        if self._latest is None or self._latest[0] != place:
            rows, self._rows = self._rows, None  # one that fails cannot go on
            if rows is not None and place < self._next == self.length:
                next(rows, None)  # nothing may come after the last one
            if rows is None or place < self._next:
                rows, self._next = self._read(), 0
            row = next(islice(rows, place - self._next, None), None)
            if row is None:
                return None
            self._rows, self._next, self._latest = rows, place + 1, (place, row)
        return self._first + place * self._stride, self._latest[1]

    def around(self, place: int) -> tuple[int, Row]:
        """Return the episode at a place of the endless stream that begins again after its last episode."""
        row = self.at(place) if self.length is None else None  # which may learn the length
        if row is None:
            assert self.length is not None
            row = self.at(place % self.length)
        assert row is not None
        return row

    def _read(self) -> Iterator[Row]:
        """Read the episodes once, and learn or check how many there are."""
        count = 0
        try:
            for row in islice(read_along(self._source), self._first, None, self._stride):
                if count == self.length:
                    raise _changed("more")
                count += 1
                yield row
        except StorageError:
            raise
        except OSError as error:
            number = self._first + count * self._stride
            raise StorageError(f"the stream broke off before episode {number}: {error}") from error
        if self.length is not None and count < self.length:
            raise _changed("fewer")
        self.length = count


def _changed(amount: str) -> DataError:
    return DataError(
        f"the stream has {amount} episodes than its source says, or than it had before: it must stay the same while "
        "it is read"
    )


def _episodes(number: int | None) -> str:
    return f"{number} episode{'' if number == 1 else 's'}"
