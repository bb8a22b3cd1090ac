"""`python -m pipeline …`, also installed as `xlm-align`: names the commands, nothing else."""

from __future__ import annotations

from typing import Any

import typer

from data_prep.standard_output import DataCommand
from pipeline import command_line
from pipeline.commands import (
    adapt,
    align,
    estimate,
    evaluate,
    finetune,
    generate,
    mine,
    project,
    run,
    score,
    show,
    symmetrize,
    xtreme,
)

ELSEWHERE = {
    "train": "./launch.sh train CONFIG",
    "pretrain": "./launch.sh train CONFIG",
    "check": "./launch.sh check --hostfile HOSTFILE",
    "setup": "./launch.sh setup",
    "test": "./launch.sh test",
    "benchmark": "python -m pipeline.benchmark",
    "experiments": "python -m pipeline.experiments EXPERIMENT.yaml",
    "tokenizer": "python -m data_prep tokenizer",
    "mono": "python -m data_prep mono",
    "parallel": "python -m data_prep parallel",
    "mix": "python -m data_prep mix",
    "inspect": "python -m data_prep inspect",
    "verify": "python -m data_prep verify",
    "sample": "python -m data_prep sample",
}
"""What one may look for here and is somewhere else."""


class Commands(typer.core.TyperGroup):
    """The commands of this package; one of another place is answered with what to type."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in ELSEWHERE and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"no such command {args[0]!r} here; it is `{ELSEWHERE[args[0]]}`")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

for _name, _command in (
    ("align", align.align_command),
    ("adapt", adapt.adapt_command),
    ("symmetrize", symmetrize.symmetrize_command),
    ("project", project.project_command),
    ("evaluate", evaluate.evaluate_command),
    ("score", score.score_command),
    ("score-text", score.score_text_command),
    ("mine", mine.mine_command),
    ("show", show.show_command),
    ("demo", show.demo_command),
    ("finetune", finetune.finetune_command),
    ("predict", finetune.predict_command),
    ("generate", generate.generate_command),
    ("xtreme", xtreme.xtreme_command),
    ("xtreme-check", xtreme.xtreme_check_command),
    ("xtreme-download", xtreme.xtreme_download_command),
    ("xtreme-sample", xtreme.xtreme_sample_command),
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
