"""A row of results: every column that jobs write and reports read, with its type, meaning and unit.

A row describes one evaluated network: the unpruned one (`reduction` is `FULL`) or one of its reductions. It is a flat
mapping that survives JSON; `rows.jsonl` of a run and `table.csv` of a report hold it. Rows that were stored before a
column was added lack it, so readers ask with `get` for all that is not as old as rows are.

mypy knows the columns: a name that is none of them is an error, in `row["..."]` and, by the plugin
`.ci/columns_plugin.py`, in `row.get("...")`. A column whose name is put together is read with `value`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict, cast, get_type_hints

Numbers = Sequence[float]
Gaps = Sequence[float | None]
Settings = dict[str, Any]

SCHEMA = 2
"""Of rows written today; 1: settings added afterwards. `checkpoint_bytes` was the size of a folder before 2."""
FULL = "full"
"""The `reduction` of the row of the network that is reduced."""


class Row(TypedDict, total=False):
    """One evaluated network. A column that ends in `_full` is the same of the network that is reduced."""

    # What was reduced.
    schema: Annotated[int, "version of what rows mean; absent before 1"]
    task: Annotated[str, "name of the task"]
    source: Annotated[str, "where its data come from, and which they are"]
    other_data: Annotated[str | None, "fingerprint of the data if they are not those of the training"]
    model: Annotated[str, "family of layers: s5, s4d, dss, ..."]
    recipe: Annotated[str, "short checksum of what trainings share that differ in the seed alone"]
    experiment: Annotated[str, "name of the run, `name=`"]
    seed: Annotated[int | None, "seed of the training"]
    protocol: Annotated[str, "validation, or paper: checkpoints selected as the papers do"]
    selected_on: Annotated[str, "split that the checkpoint was selected on: validation or test"]
    classes: Annotated[int, "classes of the task"]
    metric: Annotated[str, "what networks are compared by, of tasks with targets: rmse, mae, r2 or fit"]
    outputs: Annotated[int, "targets of the task, instead of classes"]
    trained_id: Annotated[str, "checksum of the training"]
    parent: Annotated[str, "path or zoo name of the network that is reduced"]

    # What was done to it.
    reduction: Annotated[str, "preset, or `full` for the network as it is"]
    preset: Annotated[str | None, "preset that the settings started from"]
    arm: Annotated[str, "name of what decided the row: the preset and how its settings differ from it"]
    settings: Annotated[Settings, "every setting that decided the row but its target and seeds, nested keys with a dot"]
    differences: Annotated[Settings, "those that were not the preset's on the day"]
    method: Annotated[str, "method of the reduction"]
    allocation: Annotated[str | None, "how layers share the states that stay"]
    options: Annotated[Settings, "the method's own options"]
    reduction_seed: Annotated[int, "seed of the reduction"]
    target: Annotated[str, "what was asked for: its kind and value, such as `ratio 0.5`"]
    ratio: Annotated[float, "share of stored states to remove, as asked for; what came of it for other targets"]
    ratio_achieved: Annotated[float, "share of stored states removed"]
    params_asked: Annotated[float | None, "share of all trainable parameters to remove, as asked for"]
    params_achieved: Annotated[float, "share of all trainable parameters removed"]
    masked_only: Annotated[bool, "parameters are set to zero and nothing gets smaller"]
    refit: Annotated[str, "how outputs of what stays are solved again, or `none`"]
    refit_options: Annotated[Settings, "options of the refit that were given"]
    layer_sensitivity: Annotated[str, "what weighs the layers' scores, or `none`"]
    sequential: Annotated[str, "whether layers see the outputs of reduced layers before them: off, refit or reselect"]
    norm: Annotated[str, "normalisation statistics: keep or recalibrate"]
    readout: Annotated[str, "last linear map: keep or refit"]
    calibration: Annotated[Settings, "which sequences were looked at"]
    finetune: Annotated[Settings, "the training after the reduction"]
    rounds: Annotated[int, "rounds of reduction, each with its training"]
    max_drop: Annotated[float | None, "points of validation accuracy that the search for the ratio may lose"]
    notes: Annotated[list[str], "what has to be said of this reduction"]

    # What came out.
    val_accuracy: Annotated[float | None, "accuracy on the split of the selection, in [0, 1]; none without answers"]
    val_loss: Annotated[float | None, "mean negative log-likelihood there, nat; squared error of scaled targets"]
    test_accuracy: Annotated[float | None, "accuracy on the test split, in [0, 1]; none without answers"]
    test_loss: Annotated[float | None, "mean negative log-likelihood there, nat; squared error of scaled targets"]
    test_accuracy_full: Annotated[float | None, "accuracy of the network that is reduced, in [0, 1]"]
    agreement: Annotated[
        float | None, "share of test examples answered as by the network that is reduced; of targets the fit to its"
    ]
    val_rmse: Annotated[float | None, "root mean squared error on the split of the selection, unit of the targets"]
    val_mae: Annotated[float | None, "mean absolute error there, unit of the targets"]
    val_r2: Annotated[float | None, "coefficient of determination there, 1 at best"]
    val_fit: Annotated[float | None, "fit index there, 1 - |error| / |targets less their mean|"]
    test_rmse: Annotated[float | None, "root mean squared error on the test split, unit of the targets"]
    test_mae: Annotated[float | None, "mean absolute error there, unit of the targets"]
    test_r2: Annotated[float | None, "coefficient of determination there, 1 at best"]
    test_fit: Annotated[float | None, "fit index there, 1 - |error| / |targets less their mean|"]
    test_rmse_full: Annotated[float | None, "root mean squared error of the network that is reduced"]
    test_mae_full: Annotated[float | None, "mean absolute error of the network that is reduced"]
    test_r2_full: Annotated[float | None, "coefficient of determination of the network that is reduced"]
    test_fit_full: Annotated[float | None, "fit index of the network that is reduced"]
    test_examples: Annotated[int, "test examples scored"]
    test_skip: Annotated[int | None, "test examples left out before them"]
    correct_file: Annotated[str, "npz beside the row: which test examples each network got right, by its target"]
    points_lost_se: Annotated[float, "paired standard error of the accuracy lost, over test examples, points"]
    above_last: Annotated[float, "accuracy above plain LAST at the same target on the same network, points"]
    above_last_se: Annotated[float, "its paired standard error over test examples, points"]
    error_h2: Annotated[Numbers, "relative H2 error of every layer"]
    error_hinf: Annotated[Numbers, "relative H-infinity error of every layer"]
    error_bound: Annotated[Gaps, "a-priori bound on that, of methods that have one"]
    error_h2_quadratic: Annotated[Numbers, "relative H2 error of every layer with its gate as quadratic output"]
    output_bound: Annotated[float, "what no input moves the logits beyond, Euclidean norm"]

    # How large it is.
    states: Annotated[float, "stored states, all layers and channels"]
    states_full: Annotated[float, "stored states"]
    orders: Annotated[Numbers, "stored states of every layer"]
    orders_full: Annotated[Numbers, "stored states of every layer"]
    widths: Annotated[list[int], "states per channel of every layer, as the arrays have room for"]
    params: Annotated[float, "real parameters of the whole network"]
    params_full: Annotated[float, "real parameters of the whole network"]
    state_params: Annotated[float, "real parameters that belong to states: Lambda, Delta, B, C"]
    state_params_full: Annotated[float, "real parameters that belong to states"]
    macs: Annotated[float, "real multiply-accumulates of one forward pass of one sequence"]
    macs_full: Annotated[float, "real multiply-accumulates"]
    features: Annotated[float | None, "share of the features between the layers that was to be removed first"]
    bits: Annotated[int, "bits of a weight in matrices, 32 or fewer; poles and biases are float32"]
    bits_fit: Annotated[str, "how weights of few bits were rounded: nearest or calibrated"]
    array_bytes: Annotated[float, "the numbers of the weights, byte"]
    array_bytes_full: Annotated[float, "the numbers of the weights, byte"]
    safetensors_bytes: Annotated[float, "one safetensors file of the weights, byte"]
    safetensors_bytes_full: Annotated[float, "one safetensors file of the weights, byte"]
    checkpoint: Annotated[str | None, "path or zoo name, if the network is stored"]
    checkpoint_bytes: Annotated[float | None, "size of that file, byte; before schema 2 of a folder"]
    checkpoint_bytes_full: Annotated[float | None, "size of that file, byte"]

    # How long it takes. All of a measurement is there, or nothing.
    latency_ms: Annotated[float | None, "median time of the forward pass of a batch, ms"]
    latency_full_ms: Annotated[float | None, "the same of the network that is reduced, ms"]
    latency_quartiles_ms: Annotated[Numbers | None, "quartiles over the rounds, ms"]
    latency_batch_size: Annotated[int | None, "sequences in that batch"]
    latency_rounds: Annotated[int | None, "rounds, in which all networks took turns"]
    latency_device: Annotated[str | None, "device of the measurement"]
    speedup: Annotated[float | None, "ratio of the medians, both networks on the same backend"]
    speedup_quartiles: Annotated[Numbers | None, "quartiles of the ratio over the rounds"]
    speedup_best: Annotated[float | None, "ratio of the medians, each network on its best backend"]
    backend: Annotated[str | None, "implementation of the sequence operator"]
    temp_bytes: Annotated[float | None, "temporary memory of the compiled program, byte"]
    temp_bytes_full: Annotated[float | None, "temporary memory of the compiled program, byte"]
    load_others: Annotated[float | None, "share of all processors' time that other processes took, in [0, 1]"]
    seconds_reduction: Annotated[float, "time of the reduction, s"]
    seconds_calibration: Annotated[float, "time to measure on calibration sequences, s"]
    seconds_training: Annotated[float, "time of the training after the reduction, s"]

    # What a step costs where it runs. All of a measurement is there, or nothing.
    step_us: Annotated[float, "processor time of a step of the exported C file, one sample, median of the rounds, us"]
    step_quartiles_us: Annotated[Numbers, "quartiles over the rounds, us"]
    step_jax_us: Annotated[float, "time of a step in JAX, one sample, us"]
    step_macs: Annotated[float, "real multiply-accumulates of a step"]
    step_state_bytes: Annotated[float, "what is carried from step to step, byte"]
    step_ram_bytes: Annotated[float, "state and stack of a step in C, byte"]
    step_flash_bytes: Annotated[float | None, "code and constants of the C file, optimised for size, byte"]
    step_device: Annotated[str, "device of the measurement"]
    step_compiler: Annotated[str, "compiler of the measurement"]

    # Where it comes from.
    batch_size: Annotated[int, "sequences in a batch of the evaluation"]
    device: Annotated[str, "device of the evaluation"]
    command: Annotated[str, "command that gives the row again"]
    version: Annotated[str, "version of s5c"]
    git: Annotated[str, "commit, if the code was a checkout"]
    timestamp: Annotated[str, "start of the job, ISO 8601 with its time zone"]
    folder: Annotated[str, "folder of the run"]


class Averaged(Row, total=False):
    """Rows of several seeds as one: numbers are means, and `_sd` their sample standard deviation."""

    n: int
    seeds: list[int]
    points_lost: float | None
    points_lost_sd: float | None
    val_points_lost: float | None
    by_training: dict[str, float]
    test_accuracy_sd: float | None


def columns() -> dict[str, str]:
    """Returns the meaning of every column of a row, in order; of those that end in `_full` as they stand there."""
    hints = get_type_hints(Row, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


def value(row: Mapping[str, Any] | Row, key: str) -> Any:
    """Returns the value of a column whose name is not known before the program runs; None where there is none."""
    return cast(Mapping[str, Any], row).get(key)


def as_row(columns: Mapping[str, Any]) -> Row:
    """Returns what was read from a file, or put together key by key, as a row."""
    return cast(Row, columns)
