"""Convolutions in C for CPUs, with the same bits everywhere; convolution.c has the rule that makes them so."""
