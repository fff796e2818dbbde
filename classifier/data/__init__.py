"""The data set as train, evaluate and export read it: annotations, images, and what an image file becomes."""
