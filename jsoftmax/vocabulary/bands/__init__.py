"""Adaptive and differentiated softmax: bands of classes with class tables of their own width."""
