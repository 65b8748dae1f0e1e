"""`vidalign demo`: the whole loop on the built-in model."""

from __future__ import annotations

from alignment.cli.next_command import show_next
from alignment.cli.show_report import show_report
from alignment.demo.scales import DemoConfig

HELP = "Run the whole loop on the built-in model and write a report."
EXAMPLE = "vidalign demo --output_dir runs/demo"
RESUME = "To go on:"
ARGUMENTS = (DemoConfig,)


def run(config: DemoConfig) -> None:
    """Runs the loop, or goes on with an interrupted one, and prints the result."""
    from alignment.demo.demo import Demo
    from reward.statistics import interval_text

    demo = Demo(config)
    report = demo.run()
    summary = demo.stages["evaluation"]["summary"]
    print(f"{'model':<8}{'adherence':<26}difference to base")
    for model, value in summary["adherence"].items():
        line = f"{model:<8}{value['mean']:.3f} {interval_text(value)}"
        difference = summary["difference_to_base"].get(model)
        if difference:
            found = f"{difference['mean']:+.3f} {interval_text(difference, signed=True)}"
            line = f"{line:<34}{found}: {difference['verdict']}"
        print(line)
    show_report(report, config.open)
    # The annotators of the demo are simulated; the labeling app shows what people would see.
    show_next("label", "serve", "--db", report.parent / "labels.db")
