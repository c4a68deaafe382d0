"""One traced step as a graph, and gradients with one of its edges changed."""
