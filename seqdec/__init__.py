"""Finetune a pretrained transformer on trajectories, then prompt it to act."""

__version__ = "0.1.0"
