"""The language model at work: a decoder of fixed shape, and products that do not depend on the batch."""
