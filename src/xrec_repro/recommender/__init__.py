"""Collaborative embeddings: LightGCN trained with BPR, and its ranking metrics."""
