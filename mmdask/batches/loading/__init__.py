"""From row numbers to batches, within some memory: asked for, read together and ahead, given back."""
