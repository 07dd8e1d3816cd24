#!/usr/bin/env bash
# Asked against achieved after 20,000 steps, on Hopper's and HalfCheetah's mixed data: bash benchmarks/curves.sh FOLDER
# About an hour each on one core. Needs pip install "seqdec[mujoco]" and the data sets below MINARI_DATASETS_PATH.
set -euo pipefail
folder=${1:?give a folder}
export OMP_NUM_THREADS=1

curve() {
    local name=$1 run=$folder/$1
    shift
    python train.py --data "minari:mujoco/$name/mixed-v0" --output "$run" --backbone small --layout paired \
        --context-length 20 --steps 20000 --batch-size 64 --learning-rate 0.001 --schedule cosine \
        --eval-every 2000 --checkpoint-every 1000 --log-every 50 --seed 0
    python eval.py "$run" --target-return "$@" --episodes 20 --num-envs 20 --temperature 1 --output "$run/sampled"
    python eval.py "$run" --target-return "$@" --episodes 20 --num-envs 20 --temperature 0 --output "$run/likely"
    python - "$run" "$folder/$name.png" <<'PLOT'
import sys
from pathlib import Path

from seqdec.inference.plots import plot_report
from seqdec.evaluation import Report
from seqdec.storage import read_json

run = Path(sys.argv[1])
words = {"sampled": "sampled", "most likely": "likely"}
reports = {name: Report.from_json(read_json(run / word / "report.json")) for name, word in words.items()}
plot_report(reports, Path(sys.argv[2]))
PLOT
}

curve hopper 500 1200 1800 2600 3600
curve halfcheetah 2000 4000 6000 9000 12000
