#!/usr/bin/env bash
# One command for each kind of space, from its data to what it came to: bash benchmarks/spaces.sh FOLDER
# Needs MINARI_DATASETS_PATH for CartPole and Pendulum (Minari data sets of published agents), and minigrid.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$repository/.venv/bin/python}
mkdir -p "$1" && cd "$1"
export PYTHONPATH=$repository
seqdec() { "$python" -m seqdec "$@"; }
timed() { local began=$SECONDS; echo "\$ $*"; "$@"; echo "[$((SECONDS - began)) s]"; }

echo "== Discrete actions: CartPole"
timed seqdec data minari classic/cartpole/mixed-v0 --output data/cartpole
timed seqdec train --data data/cartpole --output runs/cartpole --backbone small --layout fused --steps 1000 --batch-size 64 \
    --eval-every 0
timed seqdec eval runs/cartpole --target-return 50 150 300 500 --episodes 32 --num-envs 32

echo "== Box actions: Pendulum"
timed seqdec data minari classic/pendulum/mixed-v0 --output data/pendulum
timed seqdec train --data data/pendulum --output runs/pendulum --backbone small --layout fused --steps 2000 --batch-size 64 \
    --context-length 20 --eval-every 0
timed seqdec eval runs/pendulum --target-return -1200 -800 -400 -150 --episodes 32 --num-envs 32

echo "== Dict of an image, a direction and a mission in words: MiniGrid"
timed "$python" "$repository/examples/minigrid_bot.py" --episodes 20000 --output data/gotolocal
timed seqdec train --data data/gotolocal --output runs/gotolocal --backbone small --layout behaviour_cloning --steps 800 \
    --batch-size 64 --context-length 6 --text-tokens 24 --env minigrid:BabyAI-GoToLocal-v0 --eval-every 0
timed seqdec eval runs/gotolocal --env minigrid:BabyAI-GoToLocal-v0 --episodes 256 --num-envs 64

echo "== MultiDiscrete: three dials"
timed "$python" "$repository/examples/dials.py"
timed seqdec train --data data/dials --output runs/dials --backbone small --layout fused --steps 400 --batch-size 64 \
    --env examples.dials:Dials-v0 --eval-every 0
timed seqdec eval runs/dials --env examples.dials:Dials-v0 --target-return 15 30 45 58 --episodes 32 --num-envs 32

echo "== Two tasks around one backbone: CartPole and Pendulum"
timed seqdec train --data cartpole=data/cartpole pendulum=data/pendulum --weights 1 2 --output runs/two --backbone small \
    --layout fused --steps 3000 --batch-size 64 --context-length 20 --eval-every 0 --episodes 4
timed seqdec eval runs/two --task cartpole --target-return 50 150 300 500 --episodes 32 --num-envs 32
timed seqdec eval runs/two --task pendulum --target-return -1200 -800 -400 -150 --episodes 32 --num-envs 32
