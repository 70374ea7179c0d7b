"""Arrays as zarr v3: how they are kept, written, read and decoded."""
