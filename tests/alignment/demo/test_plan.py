"""The demo says what it will do."""

from alignment.demo.plan import describe_demo
from alignment.demo.scales import SCALES, STAGES, DemoConfig


def test_the_table_has_the_sizes_of_the_scale_and_a_forecast() -> None:
    scale = SCALES["cpu"]
    text = describe_demo(DemoConfig("out"), scale, done=2)
    assert (
        f"{scale.num_ranked_prompts * scale.num_candidates} videos of {scale.num_ranked_prompts} prompts"
        in text
    )
    assert f"{len(STAGES)}, 2 of them done" in text
    assert f"about {sum(scale.seconds.values()) / 60:.0f} minutes" in text
