"""Networks: hierarchical attribute CNNs, the baselines beside them, and their registry."""
