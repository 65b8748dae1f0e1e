"""`vidalign demo`: the whole loop on the built-in model."""

from __future__ import annotations

from alignment.demo_config import DemoConfig

HELP = "Run the whole loop on the built-in model and write a report."
EXAMPLE = "vidalign demo --output_dir runs/demo"
RESUME = "Run the same command again to go on."
ARGUMENTS = (DemoConfig,)


def run(config: DemoConfig) -> None:
    """Runs the loop, or goes on with an interrupted one, and prints the result."""
    from alignment.demo import Demo
    from reward.adherence.statistics import interval_text

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
    print(f"Report: {report}")
