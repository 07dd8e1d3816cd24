"""What a layout earns after so many steps: python benchmarks/quality.py OUTPUT --data ... --layout fused --seed 0

Trains the original Decision Transformer's network (`small`) on windows of 64 x 20 timesteps, one thread, and stops at
each of --steps to play 20 episodes a target, from environment seeds 0 to 19: sampled, and by the most likely action.
Prints one JSON object a result. Needs `pip install "seqdec[mujoco]"` and the data sets below MINARI_DATASETS_PATH.
"""

import argparse
import json
import time

import numpy as np
import torch

import seqdec

BATCH, CONTEXT, EPISODES = 64, 20, 20


def main() -> None:
    """Train, stop at each mark, play, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--data", default="mujoco/hopper/mixed-v0")
    parser.add_argument("--layout", default="decision_transformer")
    parser.add_argument("--steps", type=int, nargs="+", default=[2000])
    parser.add_argument("--targets", type=float, nargs="+", default=[3600.0, 1800.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", default="constant", choices=["constant", "cosine"])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = seqdec.load_dataset(f"minari:{given.data}")
    spec = seqdec.data.environment_of(dataset)
    layout = seqdec.layout_from_spaces(given.layout, spec.observation_space, spec.action_space, context_length=CONTEXT)
    kept, held = seqdec.sequence.split_episodes(len(dataset), 0.1, 0)
    windows = seqdec.Windows(dataset, layout, episodes=kept)
    backbone = seqdec.load_backbone("small", seed=given.seed, num_tokens=layout.num_tokens)
    model = seqdec.build_model(windows, backbone, seed=given.seed)
    envs = seqdec.play.make_envs(spec, EPISODES)
    cpu = 0.0
    for steps in given.steps:
        began = time.process_time()
        seqdec.train(
            model,
            windows,
            out=given.output,
            steps=steps,
            batch_size=BATCH,
            learning_rate=given.learning_rate,
            schedule=given.schedule,
            seed=given.seed,
            log_every=100,
            heldout=windows.select(held),
            resume=True,
        )
        cpu += time.process_time() - began
        for temperature in given.temperatures:
            report = seqdec.evaluate(
                lambda target, warmth=temperature: seqdec.Policy(model, target, temperature=warmth, seed=given.seed),
                envs,
                targets=given.targets,
                num_episodes=EPISODES,
                seed=0,
                spec=spec,
                data_returns=model.data.returns,
            )
            for result in report.targets:
                row = {
                    "data": given.data, "layout": given.layout, "seed": given.seed, "steps": steps,
                    "cpu_seconds": round(cpu), "temperature": temperature, "asked": result.target_return,
                    "mean": round(result.mean, 1), "std": round(result.std, 1), "score": round(result.score or 0, 1),
                    "length": round(float(np.mean(result.episode_lengths)), 1),
                }  # fmt: skip
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
