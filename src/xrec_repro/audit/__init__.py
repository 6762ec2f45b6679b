"""What the papers print against what follows from their own tables and data. It reads no run."""
