"""Explanations from ids: Att2Seq, NRT, PETER and PETER+ (docs/baselines.md); the kinds stand beside this folder.

words: texts as numbers · reader: examples as tensors · recurrent, transformer: the networks · decoding: greedy, with
a state · fitting: losses for the one training loop · base: the method.
"""
