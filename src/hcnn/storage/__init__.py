"""Durable files: atomic writes, locks, safetensors, checkpoints."""
