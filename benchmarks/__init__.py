"""The bench: volumes, prompts, metrics, scheduling and results. It knows no model."""
