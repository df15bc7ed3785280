#!/bin/sh
# Runs everything behind results/published/{smnist_small,imdb_small,listops_small} and their models in results/zoo again:
# one seed, six methods, nine ratios each. $S5C_DATA holds MNIST and aclImdb, or they are downloaded.
# From the top of the checkout: sh scripts/publish_small.sh (PYTHON=... for another interpreter).
set -eu
PYTHON=${PYTHON:-.venv/bin/python}
METHODS=reduction=last,uniform_hinf,global_hinf,global_magnitude,lamp,random

for task in ${TASKS:-smnist_small imdb_small listops_small}; do
  "$PYTHON" -m s5c.train -m +experiment=${task}_last "$METHODS" evaluation.latency=false
  "$PYTHON" -m s5c.report runs=${S5C_RESULTS:-results}/${task}_last output=results/published/$task
  "$PYTHON" -m s5c.studies export ${task}_s5
done
