"""The clock: what a training step costs, where it runs and how."""
