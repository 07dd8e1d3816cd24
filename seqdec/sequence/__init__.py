"""The order in which an episode is written, and batches of it: no parameters, no environments, no files.

    file -> rows      one an episode, memory-mapped columns of all timesteps (`data`)
         -> windows   r t t t T t t r      every timestep is the middle of one; long episodes weigh by length
         -> draw      the windows of a step: a function of the seed and the step
         -> facts     read in hindsight: the return, a goal that lies ahead, a demo of another episode, any unknown
         -> batch     {"observation": [B, K, ...], "action": ..., "goal": [B, 1, ...], "mask": [B, K]}, raw units
         -> tokens    start | prompt | demo | o R a  o R a ...     placed by `Layout.positions`, embedded by `model`

`layout` is the factorization of its `variable`s, `presets` name some; `gather` reads columns by index; `stream` has
windows of episodes that are read while training goes on; `noise` gives each sequence random numbers of its own.
"""

from typing import TYPE_CHECKING

from seqdec import door

if TYPE_CHECKING:
    from seqdec.sequence.layout import Layout
    from seqdec.sequence.presets import layout_from_spaces
    from seqdec.sequence.stream import StreamWindows
    from seqdec.sequence.variable import Variable
    from seqdec.sequence.windows import Windows, split_episodes

_HOMES = {
    "sequence.layout": ["Layout"],
    "sequence.presets": ["layout_from_spaces"],
    "sequence.stream": ["StreamWindows"],
    "sequence.variable": ["Variable"],
    "sequence.windows": ["Windows", "split_episodes"],
}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Layout", "StreamWindows", "Variable", "Windows", "layout_from_spaces", "split_episodes",
]  # fmt: skip
__getattr__ = door(__name__, _HOMES)
