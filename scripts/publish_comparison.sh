#!/bin/sh
# Compares all methods on the trained models of results/zoo: every method bare, with refits and with new norm statistics.
# Writes results/published/TASK. From the top of the checkout:
#   TASKS="smnist_small imdb_small" sh scripts/publish_comparison.sh        (PYTHON=... for another interpreter)
# $S5C_DATA holds MNIST and aclImdb, or they are downloaded. EXAMPLES of the test split are scored, always the same ones.
set -eu
PYTHON=${PYTHON:-.venv/bin/python}
RESULTS=${S5C_RESULTS:-results}
RATIOS=${RATIOS:-[0.3,0.5,0.6,0.7,0.8,0.9,0.95]}
EXAMPLES=${EXAMPLES:-5000}

arms() {
  "$PYTHON" -m s5c.reduce -m "checkpoint=$checkpoint" "name=${task}_comparison" "reduction.ratio=$RATIOS" \
    evaluation.latency=false evaluation.batch_size=250 "evaluation.test_examples=$EXAMPLES" reduction.save=false "$@"
}

for task in ${TASKS:-digits listops_small smnist_small imdb_small}; do
  for checkpoint in ${CHECKPOINTS:-zoo:${task}_s5}; do
    arms reduction=last,uniform_hinf,global_hinf,global_magnitude,lamp,random,aire,aire_greedy,bt,bt_tolerance,h2,lqo
    arms reduction=calibrated
    arms reduction=last,aire reduction.norm=recalibrate
    arms reduction=last,aire,bt_tolerance,h2,lqo reduction.refit=h2
    arms reduction=last,aire,bt_tolerance,h2,lqo reduction.refit=calibrated reduction.sequential=refit
    arms reduction=last,aire reduction.refit=calibrated reduction.sequential=refit reduction.norm=recalibrate
  done
  "$PYTHON" -m s5c.report "runs=$RESULTS/${task}_comparison" "output=results/published/${task}_comparison"
done
"$PYTHON" -m s5c.report published=true
