"""Demonstrations in MiniGrid: the bot that the package ships plays a level, and its episodes become a data set.

    pip install minigrid
    python examples/minigrid_bot.py --level BabyAI-GoToLocal-v0 --episodes 1000 --output data/gotolocal
    seqdec train --data data/gotolocal --layout behaviour_cloning

An observation is a grid of symbols, a direction and a mission in words. With --noise, the bot acts at random that
often, so that the demonstrations differ in how soon they are done, and a return can be asked for.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import gymnasium
import minigrid  # registers the levels
import numpy as np
from minigrid.utils.baby_ai_bot import BabyAIBot

from seqdec.data import describe, from_episodes, save
from seqdec.play.make import spec_of_env


def play(level: str, num_episodes: int, noise: float) -> Iterator[dict[str, object]]:
    """Yield what was collected in each episode; the bot finishes nearly all of them."""
    env = gymnasium.make(level)
    for seed in range(num_episodes):
        random = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed)
        bot, action = BabyAIBot(env.unwrapped), None
        share = noise * random.random()
        collected: dict[str, object] = {"observation": [observation], "action": [], "reward": []}
        terminated = truncated = False
        while not (terminated or truncated):
            action = bot.replan(action)
            if random.random() < share:
                action = int(random.integers(3))  # turn left, turn right, go on
            observation, reward, terminated, truncated, _ = env.step(action)
            for name, value in (("observation", observation), ("action", int(action)), ("reward", reward)):
                collected[name].append(value)
        ends = {"terminated": terminated, "truncated": truncated}
        yield {**collected, **ends, "metadata": {"seed": seed, "noise": share}}


def main() -> None:
    """Record, save and describe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", default="BabyAI-GoToLocal-v0")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--output", default="data/minigrid")
    given = parser.parse_args()
    spec = replace(spec_of_env(gymnasium.make(given.level)), requirements=("minigrid",), reference_returns=(0.0, 1.0))
    dataset = from_episodes(play(given.level, given.episodes, given.noise), spec)
    save(dataset, given.output)
    print(describe(dataset))


if __name__ == "__main__":
    assert minigrid.__version__
    main()
