"""The frame of every stage: checked inputs, whole outputs, signals, logging, one line for every error."""
