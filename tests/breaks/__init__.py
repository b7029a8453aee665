"""Single breaks of the code, each a mistake that one could make, with the tests that notice it."""

from breaks import (
    algorithm,
    audit,
    command,
    data,
    evaluation,
    launch,
    model,
    report,
    run,
    study,
    train,
)
from breaks.kind import Break

BREAKS: tuple[Break, ...] = (
    *algorithm.BREAKS,
    *model.BREAKS,
    *data.BREAKS,
    *evaluation.BREAKS,
    *report.BREAKS,
    *audit.BREAKS,
    *run.BREAKS,
    *train.BREAKS,
    *launch.BREAKS,
    *command.BREAKS,
    *study.BREAKS,
)
