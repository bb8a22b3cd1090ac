"""`python -m pipeline …`, also installed as `xlm-align`: names the commands, nothing else."""

from __future__ import annotations

import typer

from data_prep.standard_output import DataCommand
from pipeline import command_line
from pipeline.commands import align, estimate, evaluate, finetune, run, score, show

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

for _name, _command in (
    ("align", align.align_command),
    ("evaluate", evaluate.evaluate_command),
    ("score", score.score_command),
    ("show", show.show_command),
    ("demo", show.demo_command),
    ("finetune", finetune.finetune_command),
    ("predict", finetune.predict_command),
    ("export", run.export_command),
    ("report", run.report_command),
    ("quickstart", run.quickstart_command),
    ("dry-run", estimate.dry_run_command),
    ("plan", estimate.plan_command),
):
    app.command(_name, cls=DataCommand)(_command)


def main() -> None:
    """Run a command; a user's mistake ends it with one line and exit code 1."""
    command_line.run(app)
