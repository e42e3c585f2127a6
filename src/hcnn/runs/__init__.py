"""Run folders: from a configuration to a result, and back."""
