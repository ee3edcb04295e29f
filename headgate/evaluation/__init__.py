"""How often a semantic cache would be wrong: pairs of questions, measured with a real embeddings model."""
