#!/usr/bin/env bash
# The original Decision Transformer's network on 202,168 timesteps of Hopper: 10,000 steps of 64 windows x 20 timesteps.
# Needs the data set mujoco/hopper/mixed-v0 below MINARI_DATASETS_PATH, and `pip install "seqdec[mujoco]"`.
set -euo pipefail
for layout in decision_transformer fused; do
  run=runs/hopper-$layout
  seqdec train --data minari:mujoco/hopper/mixed-v0 --output "$run" --backbone small --layout "$layout" \
    --steps 10000 --batch-size 64 --context-length 20 --learning-rate 1e-3 --backbone-learning-rate 1e-3 \
    --schedule cosine --warmup-steps 100 --eval-every 2500 --episodes 4 --checkpoint-every 1000 --target-return 3600
  seqdec eval "$run" --target-return 1800 3600 --episodes 20 --num-envs 20 --output "$run/sampled"
  seqdec eval "$run" --target-return 1800 3600 --episodes 20 --num-envs 20 --temperature 0 --output "$run/mode"
done
