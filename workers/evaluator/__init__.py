"""The exam: what a model answers to fixed questions, asked and scored by OpenCompass in an environment of its own."""
