"""Independent sources of derivatives: each sees a function and a point, never a backward pass."""
