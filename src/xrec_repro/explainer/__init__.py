"""The collaborative adapter, its injection into a frozen language model, tuning and generation."""
