"""What processes of their own bring to environments that are slow to step: python benchmarks/async_envs.py

Sixteen CartPoles of 60 steps, each step made slower by computing or by waiting, and the original Decision Transformer's
network on one thread. Steps per second of wall time: in turn, in processes, and in two halves that take turns.
"""

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from gymnasium.envs.classic_control import CartPoleEnv

import seqdec
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of

NUM_ENVS, NUM_STEPS = 16, 60


class Slow(CartPoleEnv):
    """A pole that never falls; a step computes or waits for a while."""

    def __init__(self, seconds: float, waits: bool):
        super().__init__()
        self.seconds, self.waits = seconds, waits

    def step(self, action):
        """Waste time, then step."""
        began = time.perf_counter()
        if self.waits:
            time.sleep(self.seconds)
        while time.perf_counter() - began < self.seconds:
            pass
        return super().step(action)[0], 1.0, False, False, {}


def main() -> None:
    """Measure, print a Markdown table."""
    torch.set_num_threads(1)
    dataset = seqdec.play.scripted_cartpole(num_episodes=4)
    spec = seqdec.data.environment_of(dataset)
    layout = seqdec.layout_from_spaces("multi_game", spec.observation_space, spec.action_space, context_length=20)
    model = seqdec.build_model(seqdec.Windows(dataset, layout), seqdec.load_backbone("small"))
    print("| a step of an environment | in turn | in processes | in processes, two halves |\n|---|---:|---:|---:|")
    for waits, ms in ((False, 0.1), (False, 1.0), (False, 5.0), (True, 1.0), (True, 5.0)):

        def make(ms: float = ms, waits: bool = waits) -> Guarded:
            return Guarded(Slow(ms / 1e3, waits), max_steps=NUM_STEPS)

        rates = []
        for sizes, asynchronous in (((16,), False), ((16,), True), ((8, 8), True)):
            envs = [batch_of([make] * size, asynchronous=asynchronous) for size in sizes]
            for turn in range(3):
                actors = [seqdec.Policy(model, 100.0) for _ in envs]
                began = time.perf_counter()
                seqdec.rollout(actors, envs, num_episodes=NUM_ENVS, seed=0)
                rate = NUM_ENVS * NUM_STEPS / (time.perf_counter() - began)
                rates = [*rates, rate] if turn == 0 else [*rates[:-1], max(rate, rates[-1])]
            for batch in envs:
                batch.close()
        word = "waits" if waits else "computes"
        print(f"| {word} for {ms:g} ms | {' | '.join(f'{rate:,.0f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
