"""The embedded backbone: a real Qwen3-VL of a million parameters, trained on digits."""
