"""Which row comes when: the orders of epochs, their random numbers, and where batches end."""
