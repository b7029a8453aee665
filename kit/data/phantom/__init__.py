"""The embedded dataset: drawn phantoms in the original layouts of SLAKE and VQA-RAD."""
