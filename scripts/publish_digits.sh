#!/bin/sh
# Runs everything behind results/published/digits again: three seeds of three digits experiments, about 15 minutes on
# two CPU cores. From the top of the checkout: sh scripts/publish_digits.sh (PYTHON=... for another interpreter).
set -eu
PYTHON=${PYTHON:-.venv/bin/python}
RATIOS='reduction.ratio=[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.75,0.8,0.9]'

"$PYTHON" -m s5c.train -m +experiment=digits_last seed=0,1,2 "$RATIOS"
"$PYTHON" -m s5c.train -m +experiment=digits_baselines seed=0,1,2
"$PYTHON" -m s5c.train -m +experiment=digits_small seed=0,1,2
"$PYTHON" -m s5c.train -m +experiment=digits_fast seed=0,1,2 reduction=last,global_magnitude,random
"$PYTHON" -m s5c.report 'runs=[results/digits_last,results/digits_small,results/digits_fast]' \
  output=results/published/digits
