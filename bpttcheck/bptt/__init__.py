"""Backpropagation through time: any cell unrolled over a sequence and differentiated by hand."""
