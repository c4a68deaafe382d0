"""JAX's gradients of a traced step, with noisy copies for their error bars."""
