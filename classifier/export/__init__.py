"""The model as ONNX: conversion, quantization, validation."""
