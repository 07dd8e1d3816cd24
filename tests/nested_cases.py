"""How an episode of every kind of space may be written."""

MASKED = ("observation.joints", "observation.image", "observation.direction")
CASES = {
    "prompt": {"prompt": ("observation.mission", "text", "target_return")},
    "step": {"steady": False},
    "fused": {"preset": "fused", "prompt": ("text",), "steady": False},
    "missing": {"missing": MASKED, "prompt": ("observation.mission",)},
    "trajectory": {"preset": "trajectory", "fuse": ("observation", "action"), "missing": MASKED},
}
